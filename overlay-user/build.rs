//! Compiles the eBPF programs (overlay-ebpf) for the BPF target into `$OUT_DIR/overlay-ebpf`.
//!
//! Plain `cargo build` gets them this way too. What it needs is installed by `cargo xtask setup`.

use std::env;
use std::ffi::OsStr;

use anyhow::{Context as _, Result, anyhow};
use aya_build::{Package, Toolchain};

#[path = "../xtask/src/ebpf_toolchain.rs"]
mod ebpf_toolchain;

fn main() {
    // Without a backtrace, which would push the compiler's own words off the screen.
    if let Err(error) = build() {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
}

fn build() -> Result<()> {
    // aya-build adds overlay-ebpf's directory itself.
    for path in
        ["build.rs", "../xtask/src/ebpf_toolchain.rs", "../overlay-common/src", "../Cargo.toml", "../Cargo.lock"]
    {
        println!("cargo:rerun-if-changed={path}");
    }
    for name in [ebpf_toolchain::OVERRIDE, "RUSTUP_TOOLCHAIN"] {
        println!("cargo:rerun-if-env-changed={name}");
    }

    let toolchain = ebpf_toolchain::find(env!("CARGO_PKG_RUST_VERSION")).map_err(|lacks| {
        anyhow!("no toolchain can compile the eBPF programs; run `cargo xtask setup`\n  {}", lacks.join("\n  "))
    })?;

    set_env("LD_LIBRARY_PATH", prepended("LD_LIBRARY_PATH", toolchain.llvm_dir.as_os_str())?);
    if !toolchain.is_nightly {
        set_env("RUSTC_BOOTSTRAP", "1");
    }
    // aya-build turns each line of the inner cargo's progress into a warning. Its compiler messages come another way.
    set_env("CARGO_TERM_QUIET", "true");
    set_env("CARGO_TERM_VERBOSE", "false");

    let variable = |feature: &str| format!("CARGO_FEATURE_{}", feature.to_uppercase().replace('-', "_"));
    let is_on = |feature: &&str| env::var_os(variable(feature)).is_some();
    let features: Vec<&str> = ["bench", "log", "other-build"].into_iter().filter(is_on).collect();
    let package = Package {
        name: "overlay-ebpf",
        root_dir: concat!(env!("CARGO_MANIFEST_DIR"), "/../overlay-ebpf"),
        no_default_features: false,
        features: &features,
    };
    aya_build::build_ebpf([package], Toolchain::Custom(&toolchain.name))
        .context("cannot build overlay-ebpf; `cargo xtask setup` installs what its build needs")
}

/// The value of the search path `name`, with `first` before the rest.
fn prepended(name: &str, first: &OsStr) -> Result<std::ffi::OsString> {
    let rest = env::var_os(name).unwrap_or_default();
    let rest = env::split_paths(&rest).filter(|path| !path.as_os_str().is_empty());
    env::join_paths(std::iter::once(first.into()).chain(rest)).with_context(|| format!("{name} cannot be extended"))
}

fn set_env(name: &str, value: impl AsRef<OsStr>) {
    // SAFETY: a build script has one thread until aya-build starts its own, after the last call.
    unsafe { env::set_var(name, value) };
}
