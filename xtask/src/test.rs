//! `cargo xtask test`: every test of the workspace. The last lines of output are the test runner's summary.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::command::{cargo, check, line};
use crate::other_build;
use crate::setup::{self, Purpose};

/// All of the workspace but the eBPF programs: those have no tests of their own for the host, and are built, for the BPF
/// target, by the build scripts of overlay-user and overlay-tests.
const TESTED: [&str; 3] = ["--workspace", "--exclude", "overlay-*ebpf"];

/// Run every test of the workspace. As root: most load BPF programs into network namespaces that they make.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Passed to `cargo nextest run`: names to filter by, `-E <filter>`, `--no-capture`, ... Without any, the examples in
    /// the documentation are tested too.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    nextest_args: Vec<OsString>,
}

pub(crate) fn task(args: &Args) -> Result<()> {
    setup::ensure_ready_for(Purpose::Test)?;
    other_build::build(&TESTED)?;
    // The integration tests start the workspace's binaries. Together with the tests, so that both are compiled once,
    // with the same features. Debug profile: the daemon sets up the packets' way and is not on it, and the programs
    // that are on it are always built in release.
    check(cargo().arg("build").args(TESTED).args(["--bins", "--tests"]))?;
    if args.nextest_args.is_empty() {
        check(cargo().arg("test").args(TESTED).args(["--doc", "--quiet"]))?;
    }
    // In this process's place: whatever the outcome, the runner's summary comes last.
    let mut nextest = cargo();
    nextest.args(["nextest", "run"]).args(TESTED).args(&args.nextest_args);
    Err(nextest.exec()).with_context(|| format!("cannot start {}", line(&nextest)))
}
