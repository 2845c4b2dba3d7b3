//! What `cargo install` brings.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{cargo, check, output};
use crate::ebpf_toolchain::at_least;

/// A program from the package registry.
pub(crate) struct CargoTool {
    pub(crate) package: &'static str,
    /// The version that is installed when there is none, or an older one than `accepted`.
    pub(crate) version: &'static str,
    accepted: &'static str,
    /// What makes it print `name 1.2.3 …`.
    version_args: &'static [&'static str],
    install_args: &'static [&'static str],
}

/// The linker for the BPF target. This is its last release that uses the compiler's own LLVM.
pub(crate) const BPF_LINKER: CargoTool = CargoTool {
    package: "bpf-linker",
    version: "0.10.3",
    accepted: "0.10.3",
    version_args: &["--version"],
    install_args: &[],
};

/// The test runner, without its self-update, which would need a C cryptography library to be compiled.
pub(crate) const NEXTEST: CargoTool = CargoTool {
    package: "cargo-nextest",
    version: "0.9.143",
    // As in .config/nextest.toml.
    accepted: "0.9.100",
    version_args: &["nextest", "--version"],
    install_args: &["--no-default-features", "--features", "default-no-update"],
};

/// The builder of fuzzers: libFuzzer comes with the crate that they link.
pub(crate) const FUZZ: CargoTool = CargoTool {
    package: "cargo-fuzz",
    version: "0.13.2",
    accepted: "0.13.0",
    version_args: &["--version"],
    install_args: &[],
};

impl CargoTool {
    pub(crate) fn is_installed(&self) -> bool {
        output(Command::new(self.package).args(self.version_args))
            .is_some_and(|text| text.split_whitespace().nth(1).is_some_and(|version| at_least(version, self.accepted)))
    }

    /// Compile and install it into the user's cargo home.
    ///
    /// # Errors
    ///
    /// When cargo fails.
    pub(crate) fn install(&self) -> Result<()> {
        eprintln!("setup: compiling {} {}; this takes some minutes", self.package, self.version);
        let mut install = cargo();
        install.args(["install", self.package, "--version", self.version, "--locked"]).args(self.install_args);
        // Its build artefacts do not belong among the workspace's.
        install.env_remove("CARGO_TARGET_DIR");
        check(&mut install).with_context(|| format!("cannot install {}", self.package))
    }
}

/// Whether bpf-linker finds a libLLVM in `llvm_dir`. It looks for one only when it links, and aborts without.
pub(crate) fn bpf_linker_starts(llvm_dir: &Path) -> bool {
    let refusal = Command::new(BPF_LINKER.package)
        .env("LD_LIBRARY_PATH", llvm_dir)
        .args(["--target", "bpfel", "--output", "/dev/null", "/dev/null"])
        .output();
    // It must come as far as refusing the input, instead of being killed.
    refusal.is_ok_and(|refusal| refusal.status.code().is_some())
}
