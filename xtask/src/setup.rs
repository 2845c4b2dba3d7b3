//! `cargo xtask setup`: installs the programs that building, running and testing overlay needs.

mod debian;
mod services;
mod tools;

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

use crate::command::{check, output};
use crate::ebpf_toolchain::{self, LINKED, OVERRIDE};
use debian::Program;
use tools::CargoTool;

/// The program that builds and runs fuzzers.
pub(crate) const CARGO_FUZZ: &str = tools::FUZZ.package;

/// The minimum compiler version of the workspace.
pub(crate) const MIN_RUSTC: &str = env!("CARGO_PKG_RUST_VERSION");

/// Install missing programs: an eBPF toolchain, bpf-linker, cargo-nextest, and the programs that the tests and the demo
/// call; for `ci` also cargo-deny, cargo-machete and typos.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Purpose of the setup.
    #[arg(long = "for", value_enum, default_value_t = Purpose::Test)]
    purpose: Purpose,
}

/// Purpose of the setup. Up to `Docker` each includes the previous one; `Fuzz` and `Mutants` include `Test`, `Ci` includes
/// `Docker`, `Apps` includes `Run`.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Purpose {
    /// Compile everything.
    Build,
    /// Run the demo, with traffic generators.
    Run,
    /// Run or measure a cluster, with etcd.
    Cluster,
    /// Run the tests.
    Test,
    /// Run all tests: also the suite `swarm` with the Docker of other Debian suites.
    Docker,
    /// Run the fuzzers.
    Fuzz,
    /// Run the mutants.
    Mutants,
    /// Run .ci/run.
    Ci,
    /// Measure applications: Redis, memcached, nginx, PostgreSQL. Their services are not started.
    Apps,
}

pub(crate) fn task(args: &Args) -> Result<()> {
    ensure_ready_for(args.purpose)?;
    if let Ok(toolchain) = ebpf_toolchain::find(MIN_RUSTC) {
        let bootstrap = if toolchain.is_nightly { "" } else { " with RUSTC_BOOTSTRAP=1" };
        eprintln!("setup: nothing is missing; toolchain {}{bootstrap} compiles the eBPF programs", toolchain.name);
    }
    Ok(())
}

/// Installs the missing programs for `purpose`.
///
/// Debian packages are installed only as root on Debian. Toolchains of rustup and tools of cargo are installed for the
/// user.
///
/// # Errors
///
/// When programs are missing that setup cannot install: the error lists them, and the command to run.
pub(crate) fn ensure_ready_for(purpose: Purpose) -> Result<()> {
    let missing = Missing::survey(purpose);
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("setup: missing:\n{}", missing.list());
    eprintln!("setup: on two CPUs the installation takes about {} s", missing.seconds());
    if let (Some(_), Ok(name)) = (&missing.toolchain, env::var(OVERRIDE)) {
        bail!("{OVERRIDE}={name}: this toolchain cannot compile eBPF; unset the variable, or repair the toolchain");
    }
    if !missing.packages().is_empty() {
        if !debian::can_install() {
            bail!("setup installs packages only as root on Debian.\n{}", missing.advice());
        }
        step("installing Debian packages", || debian::install(&missing.packages()))?;
    }
    if missing.toolchain.is_some() {
        link_debian_toolchain()?;
    }
    for tool in &missing.tools {
        step(&format!("compiling {} {}", tool.package, tool.version), || tool.install())?;
    }
    let missing = Missing::survey(purpose);
    ensure!(missing.is_empty(), "installed without an error, but still missing:\n{}", missing.list());
    Ok(())
}

/// Runs one step of the installation, and prints its duration.
fn step(name: &str, install: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("setup: {name} ...");
    let start = Instant::now();
    install()?;
    eprintln!("setup: {name}: done in {} s", start.elapsed().as_secs());
    Ok(())
}

/// Missing programs for a purpose.
struct Missing {
    programs: Vec<&'static Program>,
    /// The defects of the toolchains, one line each.
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

    fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.toolchain.is_none() && self.tools.is_empty()
    }

    /// Debian packages to install, without duplicates.
    fn packages(&self) -> Vec<&'static str> {
        let mut packages: Vec<_> = self.programs.iter().map(|program| program.package).collect();
        packages.dedup();
        if self.toolchain.is_some() && !debian_compiler_is_usable() {
            packages.extend(debian::COMPILER);
        }
        packages
    }

    /// Expected duration of the installation.
    fn seconds(&self) -> u32 {
        let packages = self.packages();
        let apt = if packages.is_empty() { 0 } else { debian::UPDATE_SECONDS };
        let packages: u32 = packages.iter().map(|package| debian::seconds(package)).sum();
        apt + packages + self.tools.iter().map(|tool| tool.seconds).sum::<u32>()
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

    /// The command for packages that setup cannot install.
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

/// Whether Debian's compiler is new enough and has its source.
fn debian_compiler_is_usable() -> bool {
    let version = output(Command::new("/usr/bin/rustc").arg("-V")).unwrap_or_default();
    let release = version.split_whitespace().nth(1).unwrap_or_default();
    ebpf_toolchain::at_least(release, MIN_RUSTC)
        && ebpf_toolchain::has_core_source(Path::new("/usr"))
        && Path::new("/usr/bin/cargo").exists()
}

/// Links Debian's compiler into rustup as the toolchain of the build scripts.
fn link_debian_toolchain() -> Result<()> {
    ensure!(
        debian_compiler_is_usable(),
        "/usr/bin/rustc is not {MIN_RUSTC} or newer with its source in /usr/lib/rustlib/src/rust"
    );
    check(Command::new("rustup").args(["toolchain", "link", LINKED, "/usr"]))
}
