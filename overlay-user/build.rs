//! Compiles the eBPF programs (overlay-ebpf) for the BPF target into `$OUT_DIR/overlay-ebpf`.
//!
//! Plain `cargo build` gets them this way too. What it needs is installed by `cargo xtask setup`.

#[path = "../xtask/src/ebpf_build.rs"]
mod ebpf_build;

fn main() {
    println!("cargo:rerun-if-changed=../overlay-common/src");
    let features: &[&str] = if std::env::var_os("CARGO_FEATURE_LOG").is_some() { &["log"] } else { &[] };
    ebpf_build::compile("overlay-ebpf", "../overlay-ebpf", features);
}
