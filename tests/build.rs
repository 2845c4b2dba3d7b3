//! Compiles the benchmark's eBPF programs (`ebpf`) for the BPF target into `$OUT_DIR/overlay-tests-ebpf`.

#[path = "../xtask/src/ebpf_build.rs"]
mod ebpf_build;

fn main() {
    println!("cargo:rerun-if-changed=../overlay-ebpf/src/object.rs");
    ebpf_build::compile("overlay-tests-ebpf", "ebpf", &[]);
}
