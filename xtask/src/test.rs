//! `cargo xtask test`: the tests of the workspace. The last lines of output are the test runner's summary.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::thread;

use anyhow::{Context as _, Result};

use crate::command::{cargo, check, line};
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
    /// Also run what only CI needs: the suites `upgrade` (with a second build of overlay), `soak` and `benchmark`, and the
    /// examples in the documentation
    #[arg(long)]
    full: bool,
    /// Arguments of `cargo nextest run`, which then selects from all tests: names to filter by, `-E <filter>`,
    /// `--no-capture`, …
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    nextest_args: Vec<OsString>,
}

pub(crate) fn task(args: &Args) -> Result<()> {
    setup::ensure_ready_for(Purpose::Test)?;
    let is_filtered = !args.nextest_args.is_empty();
    if args.full || is_filtered {
        other_build::build(&TESTED)?;
    }
    // The integration tests start the workspace's binaries, which are built with the tests so that both have the same
    // features. Debug profile: the daemon processes no packets, and the eBPF programs are always built in release.
    check(cargo().arg("build").args(TESTED).args(["--bins", "--tests"]))?;
    if args.full && !is_filtered {
        check(cargo().arg("test").args(TESTED).args(["--doc", "--quiet"]))?;
    }
    // Replaces this process, so that the runner's summary is the last output.
    let mut nextest = cargo();
    nextest.args(["nextest", "run"]).args(TESTED);
    if args.full || is_filtered {
        nextest.args(["--profile", "full"]);
    }
    if env::var_os(THREADS).is_none() {
        // Tests wait for timers and for the kernel about half of their time.
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        nextest.env(THREADS, (2 * cpus).to_string());
    }
    nextest.args(&args.nextest_args);
    Err(nextest.exec()).with_context(|| format!("cannot start {}", line(&nextest)))
}
