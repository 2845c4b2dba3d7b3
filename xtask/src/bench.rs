//! `cargo xtask bench`: measures the fast path against the kernel path and against baselines without an overlay.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{Profile, build};
use crate::setup::{self, Purpose};

/// Measure the fast path against the kernel's VXLAN and against baselines without an overlay. Needs root.
///
/// Creates its own hosts (network namespaces). Needs an otherwise idle machine, and takes about 20 minutes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Number of rounds [default: 5]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Measure only this case; can be repeated. An unknown name lists all cases
    #[arg(long, value_name = "CASE")]
    only: Vec<OsString>,
    /// Write the results of every round as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<OsString>,
    /// Write the tables as Markdown
    #[arg(long, value_name = "FILE")]
    md: Option<OsString>,
    /// Write the plots into this directory
    #[arg(long, value_name = "DIR")]
    svg: Option<OsString>,
    /// Write the ratios that --quick compares with
    #[arg(long, value_name = "FILE")]
    record: Option<OsString>,
    /// Compare with another build of `overlay`: both are measured in turn on all paths of overlay. Fails if this build
    /// is worse
    #[arg(long, value_name = "PATH", conflicts_with_all = ["record", "svg", "swarm"])]
    against: Option<OsString>,
    /// With --against: the smallest accepted median ratio to the other build; more is better [default: 0.98]
    #[arg(long, value_name = "RATIO", requires = "against")]
    limit: Option<OsString>,
    /// Measure few cases, in less than 3 minutes. Fails if a ratio is worse than the one recorded in the repository
    #[arg(long)]
    quick: bool,
    /// Measure only a Docker Swarm with and without the fast path. Fails if a target is not reached
    #[arg(long, conflicts_with_all = ["only", "quick", "record", "svg"])]
    swarm: bool,
    /// Measure only a daemon in a cluster of 1,000 nodes with 100 endpoints each, in etcd. Fails if a target is not
    /// reached
    #[arg(long, conflicts_with_all = ["only", "quick", "record", "svg", "swarm", "against"])]
    control: bool,
    /// Measure only applications (Redis, memcached, nginx, PostgreSQL), and round trips on many flows at once
    #[arg(long, conflicts_with_all = ["only", "quick", "record", "swarm", "control", "against"])]
    apps: bool,
    /// Measure every case once and briefly. Fails only if a case cannot be measured; the results are meaningless
    #[arg(long)]
    smoke: bool,
}

pub(crate) fn task(args: &Args) -> Result<()> {
    setup::ensure_ready_for(match (args.swarm, args.control, args.apps) {
        // The tests' programs create the Swarm.
        (true, ..) => Purpose::Test,
        (_, true, _) => Purpose::Cluster,
        (.., true) => Purpose::Apps,
        _ => Purpose::Run,
    })?;
    // The results of a smoke test are not used, and the tests have compiled most of the debug build.
    let profile = if args.smoke { Profile::Debug } else { Profile::Release };
    let [daemon, bench] = build(profile, [("overlay-user", "overlay"), ("overlay-tests", "overlay-bench")])?;
    let mut command = Command::new(bench);
    command.arg("--overlay").arg(daemon);
    let given = [
        ("--quick", args.quick),
        ("--smoke", args.smoke),
        ("--swarm", args.swarm),
        ("--control", args.control),
        ("--apps", args.apps),
    ];
    for (option, given) in given {
        command.args(given.then_some(option));
    }
    if let Some(rounds) = args.rounds {
        command.arg("--rounds").arg(rounds.to_string());
    }
    for case in &args.only {
        command.arg("--only").arg(case);
    }
    let files = [
        ("--json", &args.json),
        ("--md", &args.md),
        ("--svg", &args.svg),
        ("--record", &args.record),
        ("--against", &args.against),
        ("--limit", &args.limit),
    ];
    for (option, value) in files {
        if let Some(value) = value {
            command.arg(option).arg(value);
        }
    }
    // Replaces this process, so that signals and the exit code are those of the program.
    Err(command.exec()).with_context(|| format!("cannot start {command:?}"))
}
