//! `cargo xtask run`: the two-host demo, or the daemon on this host.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{Profile, build};
use crate::setup::{self, Purpose};

const DAEMON: (&str, &str) = ("overlay-user", "overlay");
const DEMO: (&str, &str) = ("overlay-tests", "overlay-demo");

/// Demonstrate the fast path between two hosts (network namespaces), or run overlay on this host.
///
/// Without arguments after `--`: creates two hosts with a container each, sends traffic in both directions with the
/// programs attached and detached, prints the results, and runs until Ctrl-C. With arguments after `--`: runs
/// `overlay <arguments>` on this host, for example `cargo xtask run -- run --config x.toml`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// End after the comparison. Exits 0 only if both directions took the fast path.
    #[arg(long, conflicts_with = "overlay_args")]
    once: bool,
    /// Demonstrate a cluster instead: three hosts and three etcd members, networks and endpoints created by command,
    /// the failure and restart of a host. Exits 0 only if every step succeeded.
    #[arg(long, conflicts_with_all = ["once", "overlay_args"])]
    cluster: bool,
    /// Print the results as one JSON object in the last line of stdout.
    #[arg(long, conflicts_with = "overlay_args")]
    json: bool,
    /// Arguments of `overlay`, which runs on this host.
    #[arg(last = true)]
    overlay_args: Vec<OsString>,
}

/// Builds with the profile of the tests: the next `cargo xtask test` uses the same build. The programs are always built in
/// release, and the daemon is not on the packet path.
pub(crate) fn task(args: &Args) -> Result<()> {
    let mut command = if args.overlay_args.is_empty() {
        setup::ensure_ready_for(if args.cluster { Purpose::Cluster } else { Purpose::Run })?;
        let [daemon, demo] = build(Profile::Debug, [DAEMON, DEMO])?;
        let mut command = Command::new(demo);
        command.arg("--overlay").arg(daemon);
        for (option, given) in [("--once", args.once), ("--cluster", args.cluster), ("--json", args.json)] {
            command.args(given.then_some(option));
        }
        command
    } else {
        setup::ensure_ready_for(Purpose::Build)?;
        let [daemon] = build(Profile::Debug, [DAEMON])?;
        let mut command = Command::new(daemon);
        command.args(&args.overlay_args);
        command
    };
    // Replaces this process, so that signals and the exit code are those of the program.
    Err(command.exec()).with_context(|| format!("cannot start {command:?}"))
}
