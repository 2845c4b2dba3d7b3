//! Programs that `cargo install` installs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Purpose;
use crate::command::{cargo, check, output};
use crate::ebpf_toolchain::at_least;

/// A program from the package registry.
pub(crate) struct CargoTool {
    pub(crate) package: &'static str,
    /// The program of the package.
    program: &'static str,
    /// The version to install.
    pub(crate) version: &'static str,
    /// The oldest accepted version.
    accepted: &'static str,
    /// Arguments for which the program prints `name 1.2.3 …` or `1.2.3`.
    version_args: &'static [&'static str],
    install_args: &'static [&'static str],
    /// Duration of the installation on two CPUs.
    pub(super) seconds: u32,
}

/// The linker for the BPF target: its last release that uses the compiler's LLVM.
pub(crate) const BPF_LINKER: CargoTool = CargoTool {
    package: "bpf-linker",
    program: "bpf-linker",
    version: "0.10.3",
    accepted: "0.10.3",
    version_args: &["--version"],
    install_args: &[],
    seconds: 40,
};

/// The test runner, without its self-update, which would need a C cryptography library.
const NEXTEST: CargoTool = CargoTool {
    package: "cargo-nextest",
    program: "cargo-nextest",
    version: "0.9.143",
    // As in .config/nextest.toml.
    accepted: "0.9.100",
    version_args: &["nextest", "--version"],
    install_args: &["--no-default-features", "--features", "default-no-update"],
    seconds: 60,
};

/// The builder of fuzzers. The crate that they link contains libFuzzer.
pub(crate) const FUZZ: CargoTool = CargoTool {
    package: "cargo-fuzz",
    program: "cargo-fuzz",
    version: "0.13.2",
    accepted: "0.13.0",
    version_args: &["--version"],
    install_args: &[],
    seconds: 20,
};

/// The maker of mutants of the daemon.
const MUTANTS: CargoTool = CargoTool {
    package: "cargo-mutants",
    program: "cargo-mutants",
    version: "27.1.0",
    accepted: "27.0.0",
    version_args: &["mutants", "--version"],
    install_args: FAST_BUILD,
    seconds: 40,
};

/// The check of dependencies: licences, duplicate versions, sources and advisories.
const DENY: CargoTool = CargoTool {
    package: "cargo-deny",
    program: "cargo-deny",
    version: "0.20.2",
    accepted: "0.20.2",
    version_args: &["--version"],
    install_args: FAST_BUILD,
    seconds: 60,
};

/// The check for dependencies that no crate uses.
const MACHETE: CargoTool = CargoTool {
    package: "cargo-machete",
    program: "cargo-machete",
    version: "0.9.2",
    accepted: "0.9.2",
    version_args: &["--version"],
    install_args: FAST_BUILD,
    seconds: 25,
};

/// The spell checker.
const TYPOS: CargoTool = CargoTool {
    package: "typos-cli",
    program: "typos",
    version: "1.52.0",
    accepted: "1.52.0",
    version_args: &["--version"],
    install_args: FAST_BUILD,
    seconds: 60,
};

/// For programs that run for a few seconds: an optimised build takes minutes longer.
const FAST_BUILD: &[&str] = &["--debug", "--config", "profile.dev.debug=false"];

/// The tools for `purpose`, besides the linker.
pub(super) fn needed_for(purpose: Purpose) -> &'static [&'static CargoTool] {
    match purpose {
        Purpose::Build | Purpose::Run | Purpose::Cluster | Purpose::Apps => &[],
        Purpose::Test | Purpose::Docker => &[&NEXTEST],
        Purpose::Fuzz => &[&NEXTEST, &FUZZ],
        Purpose::Mutants => &[&NEXTEST, &MUTANTS],
        Purpose::Ci => &[&NEXTEST, &DENY, &MACHETE, &TYPOS],
    }
}

impl CargoTool {
    pub(crate) fn is_installed(&self) -> bool {
        let text = output(Command::new(self.program).args(self.version_args)).unwrap_or_default();
        let version = text.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
        version.is_some_and(|version| at_least(version, self.accepted))
    }

    /// Compiles and installs the package into the user's cargo home.
    ///
    /// # Errors
    ///
    /// When cargo fails.
    pub(crate) fn install(&self) -> Result<()> {
        let mut install = cargo();
        install.args(["install", self.package, "--version", self.version, "--locked"]).args(self.install_args);
        // Keeps its artefacts out of the workspace's target directory.
        install.env_remove("CARGO_TARGET_DIR");
        check(&mut install).with_context(|| format!("cannot install {}", self.package))
    }
}

/// Whether bpf-linker finds a libLLVM in `llvm_dir`. It loads the library only when it links, and aborts without it.
pub(crate) fn bpf_linker_starts(llvm_dir: &Path) -> bool {
    let refusal = Command::new(BPF_LINKER.program)
        .env("LD_LIBRARY_PATH", llvm_dir)
        .args(["--target", "bpfel", "--output", "/dev/null", "/dev/null"])
        .output();
    // It has started if it exits because of the invalid input instead of being killed.
    refusal.is_ok_and(|refusal| refusal.status.code().is_some())
}
