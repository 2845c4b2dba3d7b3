//! Compiles the eBPF programs (overlay-ebpf) for the BPF target into `$OUT_DIR/overlay-ebpf`.
//!
//! Plain `cargo build` gets them this way too. What it needs is installed by `cargo xtask setup`.

#[path = "../xtask/src/ebpf_build.rs"]
mod ebpf_build;

fn main() {
    println!("cargo:rerun-if-changed=../overlay-common/src");
    let variable = |feature: &str| format!("CARGO_FEATURE_{}", feature.to_uppercase().replace('-', "_"));
    let is_on = |feature: &&str| std::env::var_os(variable(feature)).is_some();
    let features: Vec<&str> = ["log", "other-build"].into_iter().filter(is_on).collect();
    ebpf_build::compile("overlay-ebpf", "../overlay-ebpf", &features);
}
