//! Compiles the eBPF programs (overlay-ebpf) for the BPF target into `$OUT_DIR/overlay-ebpf`.
//!
//! Runs on every `cargo build`. `cargo xtask setup` installs the required toolchain.

#[path = "../xtask/src/ebpf_build.rs"]
mod ebpf_build;

fn main() {
    println!("cargo:rerun-if-changed=../overlay-common/src");
    let features: &[&str] = if std::env::var_os("CARGO_FEATURE_LOG").is_some() { &["log"] } else { &[] };
    ebpf_build::compile("overlay-ebpf", "../overlay-ebpf", features);
}
