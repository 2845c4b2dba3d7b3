//! `cargo xtask bench`: measures the fast path against the kernel's and against what no overlay can beat.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{Profile, build};
use crate::setup::{self, Purpose};

/// Measure the fast path against the kernel's VXLAN and against what no overlay can beat. As root.
///
/// Makes its own hosts (network namespaces); wants a machine that does nothing else, and takes about 20 minutes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often everything is measured [default: 5]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Measure this case only; may be given several times. A name that is none makes it list them
    #[arg(long, value_name = "CASE")]
    only: Vec<OsString>,
    /// Write everything that was measured, every round of it
    #[arg(long, value_name = "FILE")]
    json: Option<OsString>,
    /// Write the tables
    #[arg(long, value_name = "FILE")]
    md: Option<OsString>,
    /// Write the plots into this directory
    #[arg(long, value_name = "DIR")]
    svg: Option<OsString>,
    /// Write the ratios that --quick compares with
    #[arg(long, value_name = "FILE")]
    record: Option<OsString>,
    /// Another build of `overlay`: both are measured in turn on all of overlay's paths, and compared; fails when this one is
    /// worse
    #[arg(long, value_name = "PATH", conflicts_with_all = ["record", "svg", "swarm"])]
    against: Option<OsString>,
    /// With --against: the smallest median ratio to the other build that is not worse; more is better [default: 0.98]
    #[arg(long, value_name = "RATIO", requires = "against")]
    limit: Option<OsString>,
    /// Few cases, in less than 3 minutes; fails when a ratio is worse than the one recorded in the repository
    #[arg(long)]
    quick: bool,
    /// A real Docker Swarm with the fast path and without it, instead of all else; fails when a target is not reached
    #[arg(long, conflicts_with_all = ["only", "quick", "record", "svg"])]
    swarm: bool,
    /// 1,000 nodes with 100 endpoints each in a real etcd and a daemon that follows, instead of all else; fails when a
    /// target is not reached
    #[arg(long, conflicts_with_all = ["only", "quick", "record", "svg", "swarm", "against"])]
    control: bool,
    /// Everything once, for a moment: fails only when something cannot be measured. The figures mean nothing
    #[arg(long)]
    smoke: bool,
}

pub(crate) fn task(args: &Args) -> Result<()> {
    setup::ensure_ready_for(match (args.swarm, args.control) {
        // The Swarm is the tests'.
        (true, _) => Purpose::Test,
        (_, true) => Purpose::Cluster,
        _ => Purpose::Run,
    })?;
    // Nobody looks at what a smoke test measures, and the tests have compiled most of the debug build.
    let profile = if args.smoke { Profile::Debug } else { Profile::Release };
    let [daemon, bench] = build(profile, [("overlay-user", "overlay"), ("overlay-tests", "overlay-bench")])?;
    let mut command = Command::new(bench);
    command.arg("--overlay").arg(daemon);
    let given =
        [("--quick", args.quick), ("--smoke", args.smoke), ("--swarm", args.swarm), ("--control", args.control)];
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
    // In this process's place, so that signals and the exit code are the program's own.
    Err(command.exec()).with_context(|| format!("cannot start {command:?}"))
}
