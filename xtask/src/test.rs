//! `cargo xtask test`: the tests of the workspace. The last lines of output are the test runner's summary.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result};

use crate::command::{Profile, build, cargo, check, line};
use crate::docker::{self, Suite};
use crate::other_build;
use crate::previous_build;
use crate::setup::{self, Purpose};

/// The workspace without the eBPF programs, which have no tests for the host, and which the build scripts of
/// overlay-user and overlay-tests build for the BPF target.
pub(crate) const TESTED: [&str; 3] = ["--workspace", "--exclude", "overlay-*ebpf"];

/// The number of concurrent tests, in the environment of nextest.
const THREADS: &str = "NEXTEST_TEST_THREADS";

/// Run the tests of the workspace. Needs root: most tests create network namespaces and load BPF programs.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also run what only CI needs: the suites `upgrade` (with a second build of overlay), `soak` and `benchmark`, the
    /// examples in the documentation, and before all tests those of `--docker trixie` and `--release-daemon`
    #[arg(long)]
    full: bool,
    /// Run only the suite `swarm`, on the Docker of this Debian suite. Needs Debian
    #[arg(long, value_enum, value_name = "SUITE", conflicts_with = "full")]
    docker: Option<Suite>,
    /// Run the suites that start daemons with the release build, and change to it from the release build of the previous
    /// commit
    #[arg(long, conflicts_with_all = ["full", "docker"])]
    release_daemon: bool,
    /// Arguments of `cargo nextest run`, which then selects from all tests: names to filter by, `-E <filter>`,
    /// `--no-capture`, …
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    nextest_args: Vec<OsString>,
}

pub(crate) fn task(args: &Args) -> Result<()> {
    let is_filtered = !args.nextest_args.is_empty();
    let is_whole = args.full && !is_filtered;
    setup::ensure_ready_for(if is_whole || args.docker.is_some() { Purpose::Docker } else { Purpose::Test })?;
    if args.full || is_filtered && args.docker.is_none() && !args.release_daemon {
        other_build::build(&TESTED)?;
    }
    // The integration tests start the workspace's binaries, which are built with the tests so that both have the same
    // features. Debug profile: the daemon processes no packets, and the eBPF programs are always built in release.
    check(cargo().arg("build").args(TESTED).args(["--bins", "--tests"]))?;
    if is_whole {
        check(cargo().arg("test").args(TESTED).args(["--doc", "--quiet"]))?;
        check(&mut on_docker(Suite::Trixie, args)?)?;
        check(&mut with_release_daemon(args)?)?;
        check(&mut of_the_proof())?;
    }
    let mut nextest = match args.docker {
        Some(suite) => on_docker(suite, args)?,
        None if args.release_daemon => with_release_daemon(args)?,
        None => nextest((args.full || is_filtered).then_some("full"), args),
    };
    // Replaces this process, so that the runner's summary is the last output.
    Err(nextest.exec()).with_context(|| format!("cannot start {}", line(&nextest)))
}

/// The suite `swarm` on the Docker of another Debian suite.
fn on_docker(suite: Suite, args: &Args) -> Result<Command> {
    let (root, version) = docker::unpack(suite)?;
    eprintln!("test: the suite swarm on {version}");
    let mut nextest = nextest(Some("full"), args);
    nextest.env(docker::ROOT, root).args(["--test", "swarm"]);
    Ok(nextest)
}

/// The suites that start daemons, with the release build as users have it: without fault injection.
fn with_release_daemon(args: &Args) -> Result<Command> {
    let previous = previous_build::build()?;
    let [overlay] = build(Profile::Release, [("overlay-user", "overlay")])?;
    let mut nextest = nextest(Some("release-daemon"), args);
    nextest.env("OVERLAY_BIN", overlay).env("OVERLAY_PREVIOUS_BIN", previous);
    Ok(nextest)
}

/// The suite of the experiment of ADR 23, whose programs are not those of the product.
fn of_the_proof() -> Command {
    let mut nextest = cargo();
    nextest.args([
        "nextest",
        "run",
        "--profile",
        "full",
        "-p",
        "overlay-tests",
        "--features",
        "proof",
        "--test",
        "proof",
    ]);
    nextest
}

/// The test runner, with a profile of `.config/nextest.toml`.
fn nextest(profile: Option<&str>, args: &Args) -> Command {
    let mut nextest = cargo();
    nextest.args(["nextest", "run"]).args(TESTED);
    if let Some(profile) = profile {
        nextest.args(["--profile", profile]);
    }
    if env::var_os(THREADS).is_none() {
        // Tests wait for timers and for the kernel about half of their time.
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        nextest.env(THREADS, (2 * cpus).to_string());
    }
    nextest.args(&args.nextest_args);
    nextest
}
