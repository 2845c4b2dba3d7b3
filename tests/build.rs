//! Compiles the benchmark's eBPF programs (`ebpf`) for the BPF target into `$OUT_DIR/overlay-tests-ebpf`; with the feature
//! `proof` also overlay's with that feature, into `$OUT_DIR/overlay-ebpf`.

#[path = "../xtask/src/ebpf_build.rs"]
mod ebpf_build;

fn main() {
    println!("cargo:rerun-if-changed=../overlay-ebpf/src/object.rs");
    ebpf_build::compile("overlay-tests-ebpf", "ebpf", &[]);
    if std::env::var_os("CARGO_FEATURE_PROOF").is_some() {
        println!("cargo:rerun-if-changed=../overlay-common/src");
        ebpf_build::compile("overlay-ebpf", "../overlay-ebpf", &["proof"]);
    }
}
