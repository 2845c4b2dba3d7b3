//! Finds a toolchain that can compile the eBPF programs.
//!
//! `cargo xtask setup` and the build scripts include this file, so that both accept the same toolchains. It uses std
//! only.

use std::env::{self, JoinPathsError};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Environment variable with the rustup toolchain to use instead of the two defaults.
pub(crate) const OVERRIDE: &str = "OVERLAY_EBPF_TOOLCHAIN";

/// The rustup name of Debian's compiler, which `cargo xtask setup` links.
pub(crate) const LINKED: &str = "overlay-ebpf";

/// LLVM major version of bpf-linker 0.10.3, which uses its C interface and reads no newer bitcode.
const LLVM_MAJOR: &str = "22";

/// A toolchain that supports `-Zbuild-std=core` and bpf-linker.
#[derive(Debug)]
pub(crate) struct EbpfToolchain {
    /// Its rustup name.
    pub(crate) name: String,
    /// Whether `-Z` flags work without `RUSTC_BOOTSTRAP=1`.
    pub(crate) is_nightly: bool,
    /// A directory with a libLLVM for bpf-linker, which searches `LD_LIBRARY_PATH`.
    pub(crate) llvm_dir: PathBuf,
}

impl EbpfToolchain {
    /// Variables for a cargo of this toolchain.
    ///
    /// # Errors
    ///
    /// When the search path of the libraries cannot be extended.
    pub(crate) fn environment(&self) -> Result<Vec<(&'static str, OsString)>, JoinPathsError> {
        const LIBRARIES: &str = "LD_LIBRARY_PATH";
        let rest = env::var_os(LIBRARIES).unwrap_or_default();
        let rest = env::split_paths(&rest).filter(|path| !path.as_os_str().is_empty());
        let mut variables = vec![(LIBRARIES, env::join_paths(std::iter::once(self.llvm_dir.clone()).chain(rest))?)];
        if !self.is_nightly {
            variables.push(("RUSTC_BOOTSTRAP", "1".into()));
        }
        Ok(variables)
    }
}

/// The toolchain in [`OVERRIDE`]; else [`LINKED`]; else `nightly`.
///
/// # Errors
///
/// One line per tried toolchain, with the missing part.
pub(crate) fn find(min_rustc: &str) -> Result<EbpfToolchain, Vec<String>> {
    let candidates = match env::var(OVERRIDE) {
        Ok(name) => vec![name],
        Err(_) => vec![LINKED.to_owned(), "nightly".to_owned()],
    };
    let mut lacks = Vec::new();
    for name in candidates {
        match probe(&name, min_rustc) {
            Ok(toolchain) => return Ok(toolchain),
            Err(lack) => lacks.push(format!("toolchain {name}: {lack}")),
        }
    }
    Err(lacks)
}

fn probe(name: &str, min_rustc: &str) -> Result<EbpfToolchain, String> {
    // `rustup run` never downloads a toolchain, `rustc +name` may.
    let rustc = |args: &[&str]| stdout(Command::new("rustup").args(["run", name, "rustc"]).args(args));
    let version = rustc(&["-vV"]).ok_or("rustup has no such toolchain")?;
    let field = |key: &str| version.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();

    let release = field("release:");
    if !at_least(release, min_rustc) {
        return Err(format!("is rustc {release}, older than {min_rustc}"));
    }
    let llvm = field("LLVM version:");
    if llvm.split('.').next() != Some(LLVM_MAJOR) {
        return Err(format!("has LLVM {llvm}, bpf-linker needs LLVM {LLVM_MAJOR}"));
    }
    let sysroot = rustc(&["--print", "sysroot"]).map(PathBuf::from).ok_or("does not print its sysroot")?;
    if !has_core_source(&sysroot) {
        return Err("has no source of the core library (component rust-src)".to_owned());
    }
    let llvm_dir = llvm_dir(&sysroot)
        .ok_or_else(|| format!("has no libLLVM {LLVM_MAJOR} for bpf-linker, nor has the toolchain that runs cargo"))?;
    Ok(EbpfToolchain { name: name.to_owned(), is_nightly: release.contains("nightly"), llvm_dir })
}

/// Whether the compiler at `sysroot` has the source that `-Zbuild-std=core` compiles.
pub(crate) fn has_core_source(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
}

/// Whether `version` (`1.96.0`, `1.97.0-nightly`, `1.96.0+dfsg1-1`) is at least `min`, by its numbers.
pub(crate) fn at_least(version: &str, min: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        let end = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].split('.').map_while(|part| part.parse().ok()).collect()
    };
    numbers(version) >= numbers(min)
}

/// `lib` of the toolchain itself (as in rustup's toolchains) or of the one that runs cargo (Debian's rustc has its
/// libLLVM in the system's directory, where bpf-linker could load another version).
fn llvm_dir(sysroot: &Path) -> Option<PathBuf> {
    let active = stdout(Command::new("rustc").args(["--print", "sysroot"])).map(PathBuf::from);
    [Some(sysroot.to_owned()), active].into_iter().flatten().map(|sysroot| sysroot.join("lib")).find(|lib| {
        lib.read_dir().is_ok_and(|entries| {
            entries.flatten().any(|entry| is_supported_llvm(entry.file_name().to_string_lossy().as_ref()))
        })
    })
}

/// `libLLVM.so.22.1-rust-1.95.0-stable`, `libLLVM-22-rust-1.95.0-stable.so`.
fn is_supported_llvm(file_name: &str) -> bool {
    file_name.strip_prefix("libLLVM").is_some_and(|rest| {
        let rest = rest.trim_start_matches(".so");
        rest.get(1..).is_some_and(|version| version.starts_with(LLVM_MAJOR))
    })
}

fn stdout(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(at_least("1.96.0", "1.95"));
        assert!(at_least("1.95.0", "1.95"));
        assert!(at_least("1.100.0-nightly", "1.95"));
        assert!(at_least("1.96.0+dfsg1-1~deb12u2", "1.95"));
        assert!(!at_least("1.85.0+dfsg3-1~deb12u3", "1.95"));
        assert!(!at_least("", "1.95"));
    }

    #[test]
    fn only_the_llvm_version_of_bpf_linker_is_supported() {
        assert!(is_supported_llvm("libLLVM-22-rust-1.95.0-stable.so"));
        assert!(is_supported_llvm("libLLVM.so.22.1-rust-1.95.0-stable"));
        assert!(!is_supported_llvm("libLLVM-14.0.6.so.1"));
        assert!(!is_supported_llvm("librustc_driver-22.so"));
        assert!(!is_supported_llvm("libLLVM"));
    }
}
