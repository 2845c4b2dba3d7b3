//! `cargo xtask test`: the tests of the workspace. The last lines of output are the test runner's summary.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result};

use crate::command::{cargo, check, line};
use crate::docker::{self, Suite};
use crate::other_build;
use crate::setup::{self, Purpose};

/// The workspace without the eBPF programs, which have no tests for the host, and which the build scripts of
/// overlay-user and overlay-tests build for the BPF target.
const TESTED: [&str; 3] = ["--workspace", "--exclude", "overlay-*ebpf"];

/// The number of concurrent tests, in the environment of nextest.
const THREADS: &str = "NEXTEST_TEST_THREADS";

/// Run the tests of the workspace. Needs root: most tests create network namespaces and load BPF programs.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also run what only CI needs: the suites `upgrade` (with a second build of overlay), `soak` and `benchmark`, the
    /// suite `swarm` on the Docker of Debian 13, and the examples in the documentation
    #[arg(long)]
    full: bool,
    /// Run only the suite `swarm`, on the Docker of this Debian suite. Needs Debian
    #[arg(long, value_enum, value_name = "SUITE", conflicts_with = "full")]
    docker: Option<Suite>,
    /// Arguments of `cargo nextest run`, which then selects from all tests: names to filter by, `-E <filter>`,
    /// `--no-capture`, …
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    nextest_args: Vec<OsString>,
}

pub(crate) fn task(args: &Args) -> Result<()> {
    let is_filtered = !args.nextest_args.is_empty();
    let is_complete = args.full && !is_filtered;
    let docker = if is_complete { Some(Suite::Trixie) } else { args.docker };
    setup::ensure_ready_for(if docker.is_some() { Purpose::Full } else { Purpose::Test })?;
    if args.full || is_filtered && args.docker.is_none() {
        other_build::build(&TESTED)?;
    }
    // The integration tests start the workspace's binaries, which are built with the tests so that both have the same
    // features. Debug profile: the daemon processes no packets, and the eBPF programs are always built in release.
    check(cargo().arg("build").args(TESTED).args(["--bins", "--tests"]))?;
    if is_complete {
        check(cargo().arg("test").args(TESTED).args(["--doc", "--quiet"]))?;
    }
    let with_docker = docker.map_or(Ok(()), |suite| test_with_docker(suite, &args.nextest_args));
    if args.docker.is_some() {
        return with_docker;
    }
    let mut nextest = nextest(args.full || is_filtered);
    nextest.args(&args.nextest_args);
    if with_docker.is_err() {
        return check(&mut nextest).and(with_docker);
    }
    // Replaces this process, so that the runner's summary is the last output.
    Err(nextest.exec()).with_context(|| format!("cannot start {}", line(&nextest)))
}

/// Runs the suite `swarm` on the Docker of another Debian suite.
fn test_with_docker(suite: Suite, nextest_args: &[OsString]) -> Result<()> {
    let (root, version) = docker::unpack(suite)?;
    eprintln!("test: the suite swarm on {version}");
    let tested = check(nextest(true).env(docker::ROOT, root).args(["--test", "swarm"]).args(nextest_args));
    tested.with_context(|| format!("the suite swarm on {version}"))
}

/// The test runner, over all tests or those of its default profile.
fn nextest(is_full: bool) -> Command {
    let mut nextest = cargo();
    nextest.args(["nextest", "run"]).args(TESTED);
    if is_full {
        nextest.args(["--profile", "full"]);
    }
    if env::var_os(THREADS).is_none() {
        // Tests wait for timers and for the kernel about half of their time.
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        nextest.env(THREADS, (2 * cpus).to_string());
    }
    nextest
}
