//! `cargo xtask test`: every test of the workspace. The last lines of output are the test runner's summary.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::command::{cargo, check, line};
use crate::other_build;
use crate::setup::{self, Purpose};

/// The workspace without the eBPF programs, which have no tests for the host, and which the build scripts of
/// overlay-user and overlay-tests build for the BPF target.
const TESTED: [&str; 3] = ["--workspace", "--exclude", "overlay-*ebpf"];

/// Run all tests of the workspace. Needs root: most tests create network namespaces and load BPF programs.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Arguments of `cargo nextest run`: names to filter by, `-E <filter>`, `--no-capture`, … Without arguments, the
    /// examples in the documentation are tested as well.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    nextest_args: Vec<OsString>,
}

pub(crate) fn task(args: &Args) -> Result<()> {
    setup::ensure_ready_for(Purpose::Test)?;
    other_build::build(&TESTED)?;
    // The integration tests start the workspace's binaries, which are built with the tests so that both have the same
    // features. Debug profile: the daemon processes no packets, and the eBPF programs are always built in release.
    check(cargo().arg("build").args(TESTED).args(["--bins", "--tests"]))?;
    if args.nextest_args.is_empty() {
        check(cargo().arg("test").args(TESTED).args(["--doc", "--quiet"]))?;
    }
    // Replaces this process, so that the runner's summary is the last output.
    let mut nextest = cargo();
    nextest.args(["nextest", "run"]).args(TESTED).args(&args.nextest_args);
    Err(nextest.exec()).with_context(|| format!("cannot start {}", line(&nextest)))
}
