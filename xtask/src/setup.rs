//! `cargo xtask setup`: makes this machine able to build, run and test overlay. Quick when it is already.

mod debian;
mod tools;

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

use crate::command::{check, output};
use crate::ebpf_toolchain::{self, LINKED, OVERRIDE};
use debian::Program;
use tools::CargoTool;

/// The program that builds and starts fuzzers.
pub(crate) const CARGO_FUZZ: &str = tools::FUZZ.package;

/// The oldest compiler that the workspace, and so the eBPF crate, accepts.
const MIN_RUSTC: &str = env!("CARGO_PKG_RUST_VERSION");

/// Install what is missing: an eBPF toolchain, bpf-linker, cargo-nextest, and the programs that tests and demo call; for
/// `ci` also cargo-deny, cargo-machete and typos.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to get ready for.
    #[arg(long = "for", value_enum, default_value_t = Purpose::Test)]
    purpose: Purpose,
}

/// What the machine is set up for. Up to `Test` each needs all that the one before it needs; `Fuzz` and `Ci` add to `Test`.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Purpose {
    /// Compile everything.
    Build,
    /// Start the demo, which calls traffic generators.
    Run,
    /// Start the demo of a cluster, or measure one: etcd too.
    Cluster,
    /// Run the tests.
    Test,
    /// Run the tests' programs and parsers under the fuzzer.
    Fuzz,
    /// Run all that .ci/run checks.
    Ci,
}

pub(crate) fn task(args: &Args) -> Result<()> {
    ensure_ready_for(args.purpose)?;
    if let Ok(toolchain) = ebpf_toolchain::find(MIN_RUSTC) {
        let bootstrap = if toolchain.is_nightly { "" } else { " with RUSTC_BOOTSTRAP=1" };
        eprintln!("setup: nothing is missing; toolchain {}{bootstrap} compiles the eBPF programs", toolchain.name);
    }
    Ok(())
}

/// Install what `purpose` needs and this machine lacks.
///
/// Debian packages are installed only by root on Debian. What rustup and cargo keep per user is installed in any case.
///
/// # Errors
///
/// When something is missing that cannot be installed from here: the error lists all of it, and the command to run.
pub(crate) fn ensure_ready_for(purpose: Purpose) -> Result<()> {
    let missing = Missing::survey(purpose);
    if missing.is_nothing() {
        return Ok(());
    }
    eprintln!("setup: missing:\n{}", missing.list());
    if let (Some(_), Ok(name)) = (&missing.toolchain, env::var(OVERRIDE)) {
        bail!("{OVERRIDE} names the toolchain {name}, which cannot compile eBPF: unset it, or mend that toolchain");
    }
    if !missing.packages().is_empty() {
        if !debian::can_install() {
            bail!("this needs packages that only root on Debian installs from here.\n{}", missing.advice());
        }
        debian::install(&missing.packages())?;
    }
    if missing.toolchain.is_some() {
        link_debian_toolchain()?;
    }
    for tool in &missing.tools {
        tool.install()?;
    }
    let missing = Missing::survey(purpose);
    ensure!(missing.is_nothing(), "installed without an error, but still missing:\n{}", missing.list());
    Ok(())
}

/// What a purpose needs and this machine lacks.
struct Missing {
    programs: Vec<&'static Program>,
    /// Why none of the toolchains will do, one line each.
    toolchain: Option<Vec<String>>,
    tools: Vec<&'static CargoTool>,
}

impl Missing {
    fn survey(purpose: Purpose) -> Self {
        let toolchain = ebpf_toolchain::find(MIN_RUSTC);
        let llvm_dir = toolchain.as_ref().ok().map(|toolchain| toolchain.llvm_dir.as_path());
        let mut tools = Vec::new();
        if !tools::BPF_LINKER.is_installed() || llvm_dir.is_some_and(|dir| !tools::bpf_linker_starts(dir)) {
            tools.push(&tools::BPF_LINKER);
        }
        tools.extend(tools::needed_for(purpose).iter().copied().filter(|tool| !tool.is_installed()));
        Self { programs: debian::missing_programs(purpose), toolchain: toolchain.err(), tools }
    }

    fn is_nothing(&self) -> bool {
        self.programs.is_empty() && self.toolchain.is_none() && self.tools.is_empty()
    }

    /// Debian packages to install, each once.
    fn packages(&self) -> Vec<&'static str> {
        let mut packages: Vec<_> = self.programs.iter().map(|program| program.package).collect();
        packages.dedup();
        if self.toolchain.is_some() && !debian_compiler_is_usable() {
            packages.extend(debian::COMPILER);
        }
        packages
    }

    fn list(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        lines.extend(self.programs.iter().map(|p| format!("- program {} (Debian package {})", p.name, p.package)));
        if let Some(lacks) = &self.toolchain {
            lines.push(format!("- a toolchain that compiles eBPF: rustc >= {MIN_RUSTC} with the source of core"));
            lines.extend(lacks.iter().map(|lack| format!("    {lack}")));
        }
        lines.extend(self.tools.iter().map(|tool| format!("- {} {}", tool.package, tool.version)));
        lines.join("\n")
    }

    /// The command that installs what setup may not. Setup itself does the rest.
    fn advice(&self) -> String {
        let packages = self.packages();
        if debian::is_debian() {
            let install = format!("apt-get update && apt-get install --no-install-recommends {}", packages.join(" "));
            return format!("Run:\n  su -c '{install}' && cargo xtask setup");
        }
        let mut steps = Vec::new();
        if !self.programs.is_empty() {
            let names: Vec<_> = self.programs.iter().map(|program| program.name).collect();
            steps.push(format!("Install with your distribution's package manager: {}", names.join(", ")));
        }
        if self.toolchain.is_some() {
            steps.push("Run:\n  rustup toolchain install nightly --component rust-src && cargo xtask setup".to_owned());
        }
        steps.join("\n")
    }
}

/// Debian's compiler is new enough and has its source beside it.
fn debian_compiler_is_usable() -> bool {
    let version = output(Command::new("/usr/bin/rustc").arg("-V")).unwrap_or_default();
    let release = version.split_whitespace().nth(1).unwrap_or_default();
    ebpf_toolchain::at_least(release, MIN_RUSTC)
        && ebpf_toolchain::has_core_source(Path::new("/usr"))
        && Path::new("/usr/bin/cargo").exists()
}

/// Make Debian's compiler known to rustup as the toolchain that overlay-user's build script looks for.
fn link_debian_toolchain() -> Result<()> {
    ensure!(
        debian_compiler_is_usable(),
        "/usr/bin/rustc is not {MIN_RUSTC} or newer with its source in /usr/lib/rustlib/src/rust"
    );
    check(Command::new("rustup").args(["toolchain", "link", LINKED, "/usr"]))
}
