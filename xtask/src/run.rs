//! `cargo xtask run`: the two-host demo, or the daemon on this host.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{Profile, build};
use crate::setup::{self, Purpose};

const DAEMON: (&str, &str) = ("overlay-user", "overlay");
const DEMO: (&str, &str) = ("overlay-tests", "overlay-demo");

/// Show the fast path between two hosts (network namespaces), or run overlay on this host.
///
/// Without arguments after `--`: makes two hosts with a container each, sends traffic both ways with the programs attached
/// and detached, shows what it measured, and stays until Ctrl-C. With arguments after `--`: runs
/// `overlay <arguments>` here, for instance `cargo xtask run -- run --config x.toml`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// One round of the demo. Exits 0 only if both directions were carried by the fast path.
    #[arg(long, conflicts_with = "overlay_args")]
    once: bool,
    /// Instead: three hosts and an etcd of three members, networks and endpoints by command, the death and return of a
    /// host. Ends by itself; exits 0 only if all of it held.
    #[arg(long, conflicts_with_all = ["once", "overlay_args"])]
    cluster: bool,
    /// The last line on stdout is one JSON object with what the demo measured.
    #[arg(long, conflicts_with = "overlay_args")]
    json: bool,
    /// Arguments of `overlay`, which then runs on this host.
    #[arg(last = true)]
    overlay_args: Vec<OsString>,
}

pub(crate) fn task(args: &Args) -> Result<()> {
    let mut command = if args.overlay_args.is_empty() {
        setup::ensure_ready_for(if args.cluster { Purpose::Cluster } else { Purpose::Run })?;
        let [daemon, demo] = build(Profile::Release, [DAEMON, DEMO])?;
        let mut command = Command::new(demo);
        command.arg("--overlay").arg(daemon);
        for (option, given) in [("--once", args.once), ("--cluster", args.cluster), ("--json", args.json)] {
            command.args(given.then_some(option));
        }
        command
    } else {
        setup::ensure_ready_for(Purpose::Build)?;
        let [daemon] = build(Profile::Release, [DAEMON])?;
        let mut command = Command::new(daemon);
        command.args(&args.overlay_args);
        command
    };
    // In this process's place, so that signals and the exit code are the program's own.
    Err(command.exec()).with_context(|| format!("cannot start {command:?}"))
}
