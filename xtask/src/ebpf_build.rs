//! Compiles an eBPF package for the BPF target. Shared by the build scripts of overlay-user and overlay-tests.

use std::{env, ffi::OsStr, fs, io, os::unix::fs::symlink, path::PathBuf};

use anyhow::{Context as _, Result, anyhow};
use aya_build::{Package, Toolchain};

#[path = "ebpf_toolchain.rs"]
mod ebpf_toolchain;

/// Compiles the package in `directory` (relative to the build script's) into `$OUT_DIR/<package>`, or exits the build
/// script with an error.
pub(crate) fn compile(package: &str, directory: &str, features: &[&str]) {
    // Without a backtrace, which would hide the compiler's messages.
    if let Err(error) = try_compile(package, directory, features) {
        eprintln!("{error:#}");
        #[expect(clippy::disallowed_methods, reason = "the build script has no destructors to run")]
        std::process::exit(1);
    }
}

fn try_compile(package: &str, directory: &str, features: &[&str]) -> Result<()> {
    // aya-build adds the package's directory itself.
    for file in ["xtask/src/ebpf_build.rs", "xtask/src/ebpf_toolchain.rs", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed=../{file}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    for name in [ebpf_toolchain::OVERRIDE, "RUSTUP_TOOLCHAIN"] {
        println!("cargo:rerun-if-env-changed={name}");
    }

    let toolchain = ebpf_toolchain::find(env!("CARGO_PKG_RUST_VERSION")).map_err(|lacks| {
        anyhow!("no toolchain can compile the eBPF programs; run `cargo xtask setup`\n  {}", lacks.join("\n  "))
    })?;

    for (name, value) in toolchain.environment().context("LD_LIBRARY_PATH cannot be extended")? {
        set_env(name, value);
    }
    // aya-build prints each line of the inner cargo's progress as a warning. Compiler messages are not affected.
    set_env("CARGO_TERM_QUIET", "true");
    set_env("CARGO_TERM_VERBOSE", "false");

    share_target_directory(package).context("cannot prepare the target directory of the eBPF programs")?;
    let built = Package { name: package, root_dir: directory, no_default_features: false, features };
    aya_build::build_ebpf([built], Toolchain::Custom(&toolchain.name))
        .with_context(|| format!("cannot build {package}; `cargo xtask setup` installs what its build needs"))
}

/// Replaces aya-build's target directory, one per package and set of features, by a link to `ebpf` in the directory of
/// the outer profile: otherwise each compiles `core` and aya-ebpf again, which takes a minute and 400 MB. The outer
/// cargo holds the profile's lock, so no other build replaces the artefacts before they are copied.
fn share_target_directory(package: &str) -> io::Result<()> {
    // `<profile>/build/<package>-<hash>/out`
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let own = out.join("aya-build/target");
    fs::create_dir_all(out.join("../../../ebpf"))?;
    fs::create_dir_all(&own)?;
    match fs::remove_dir_all(own.join(package)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => symlink("../../../../../ebpf", own.join(package)),
    }
}

fn set_env(name: &str, value: impl AsRef<OsStr>) {
    // SAFETY: a build script has one thread until aya-build starts its own, after the last call.
    unsafe { env::set_var(name, value) };
}
