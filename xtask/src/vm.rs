//! `cargo xtask vm`: runs tests on other kernels in a virtual machine.

mod machine;
mod packages;

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use crate::command::{Profile, build, build_test};
use crate::setup::{self, Purpose};
use machine::{Job, quoted};

/// Run tests on other kernels in a virtual machine. Needs root and Debian.
///
/// On 6.12: a Docker Swarm with service addresses, the ingress mesh and an encrypted network. On 6.1: two hosts with
/// the programs as filters of a clsact qdisc. QEMU and the kernels are Debian packages that are unpacked in the target
/// directory, not installed. The machine is emulated, so the tests take minutes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernel to boot; can be repeated [default: 6.12-cloud and 6.1-cloud]
    #[arg(long, value_enum, value_name = "KERNEL")]
    kernel: Vec<Series>,
    /// Run only tests whose name contains this text
    filter: Option<String>,
    /// Run this shell command instead of the tests
    #[arg(long, value_name = "COMMAND", conflicts_with = "filter")]
    command: Option<String>,
}

/// A series of Debian's kernels.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Series {
    #[value(name = "6.1-cloud")]
    Cloud6_1,
    #[value(name = "6.12-cloud")]
    Cloud6_12,
    #[value(name = "6.12")]
    Full6_12,
}

impl Series {
    /// The package that depends on the newest kernel of the series.
    fn package(self) -> &'static str {
        match self {
            Self::Cloud6_1 => "linux-image-cloud-amd64",
            Self::Cloud6_12 => "linux-image-6.12-cloud-amd64",
            Self::Full6_12 => "linux-image-6.12-amd64",
        }
    }

    /// The module of its tests in the suite `vm`.
    fn tests(self) -> &'static str {
        match self {
            Self::Cloud6_1 => "two_hosts::",
            Self::Cloud6_12 | Self::Full6_12 => "swarm::",
        }
    }
}

pub(crate) fn task(args: &Args) -> Result<()> {
    setup::ensure_ready_for(Purpose::Test)?;
    let [daemon] = build(Profile::Debug, [("overlay-user", "overlay")])?;
    let tests = build_test("overlay-tests", "vm")?;
    let target = daemon.ancestors().nth(2).context("a binary is in a profile's directory")?;
    // virtiofsd needs paths without symbolic links.
    let target = fs::canonicalize(target)?;
    let cache = target.join("vm");
    fs::create_dir_all(&cache)?;
    // Concurrent runs would overwrite each other's files.
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    let qemu = packages::qemu(&cache)?;
    let kernels = if args.kernel.is_empty() { &[Series::Cloud6_12, Series::Cloud6_1] } else { args.kernel.as_slice() };
    let mut failed = Vec::new();
    for series in kernels {
        let start = Instant::now();
        let kernel = packages::kernel(series.package(), &cache)?;
        let filter = args.filter.as_deref().unwrap_or(series.tests());
        let command = match &args.command {
            Some(command) => command.clone(),
            None => command(&daemon, &tests, filter),
        };
        let job = Job {
            kernel: &kernel,
            command: &command,
            target: &target,
            memory_mib: 3072,
            cpus: 2,
            limit: Duration::from_secs(600),
        };
        let code = machine::run(&job, &qemu, &cache)?;
        let seconds = start.elapsed().as_secs();
        println!("vm: Linux {}: {} after {seconds} s", kernel.release, if code == 0 { "passed" } else { "failed" });
        if code != 0 {
            failed.push(kernel.release);
        }
    }
    ensure!(failed.is_empty(), "tests failed on Linux {}", failed.join(" and "));
    Ok(())
}

/// The shell command that runs the compiled tests with their daemon.
fn command(daemon: &PathBuf, tests: &PathBuf, filter: &str) -> String {
    let word = |path: &PathBuf| quoted(&path.to_string_lossy());
    format!("OVERLAY_BIN={} exec {} --test-threads=1 --nocapture {}", word(daemon), word(tests), quoted(filter))
}
