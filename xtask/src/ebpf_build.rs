//! Compiles an eBPF package for the BPF target: what the build scripts of overlay-user and overlay-tests have in common.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::symlink,
    path::PathBuf,
};

use anyhow::{Context as _, Result, anyhow};
use aya_build::{Package, Toolchain};

#[path = "ebpf_toolchain.rs"]
mod ebpf_toolchain;

/// Compiles the package in `directory` (relative to the one of the build script) into `$OUT_DIR/<package>`, or ends the build
/// script with an error.
pub(crate) fn compile(package: &str, directory: &str, features: &[&str]) {
    // Without a backtrace, which would push the compiler's messages off the screen.
    if let Err(error) = try_compile(package, directory, features) {
        eprintln!("{error:#}");
        #[expect(clippy::disallowed_methods, reason = "nothing is to be dropped")]
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

    set_env("LD_LIBRARY_PATH", prepended("LD_LIBRARY_PATH", toolchain.llvm_dir.as_os_str())?);
    if !toolchain.is_nightly {
        set_env("RUSTC_BOOTSTRAP", "1");
    }
    // aya-build turns each line of the inner cargo's progress into a warning. Its compiler messages come another way.
    set_env("CARGO_TERM_QUIET", "true");
    set_env("CARGO_TERM_VERBOSE", "false");

    share_target_directory(package).context("cannot prepare the target directory of the eBPF programs")?;
    let built = Package { name: package, root_dir: directory, no_default_features: false, features };
    aya_build::build_ebpf([built], Toolchain::Custom(&toolchain.name))
        .with_context(|| format!("cannot build {package}; `cargo xtask setup` installs what its build needs"))
}

/// Puts a link to `ebpf` in the directory of the outer profile where aya-build keeps a target directory for each package and
/// set of features: otherwise each of them compiles `core` and aya-ebpf anew, for a minute or more and into 400 MB. The outer
/// cargo has that profile's lock, so no other build replaces what is made here before it is copied.
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

/// The value of the search path `name`, with `first` before the rest.
fn prepended(name: &str, first: &OsStr) -> Result<OsString> {
    let rest = env::var_os(name).unwrap_or_default();
    let rest = env::split_paths(&rest).filter(|path| !path.as_os_str().is_empty());
    env::join_paths(std::iter::once(first.into()).chain(rest)).with_context(|| format!("{name} cannot be extended"))
}

fn set_env(name: &str, value: impl AsRef<OsStr>) {
    // SAFETY: a build script has one thread until aya-build starts its own, after the last call.
    unsafe { env::set_var(name, value) };
}
