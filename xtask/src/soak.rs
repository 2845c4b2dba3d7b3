//! `cargo xtask soak`: mixed traffic, churn and random faults for a long time, with a verdict.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{Profile, build};
use crate::setup::{self, Purpose};

/// The result of a full run.
const RESULT: &str = "docs/soak.md";

/// Run a soak test: mixed traffic, endpoint churn, daemons that are killed or hang, link failures. Needs root.
///
/// Creates its own hosts (network namespaces). Exits 0 only if every lost packet is explained by an injected fault, and
/// no resource leaked. A full run writes its result to docs/soak.md.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Duration in minutes
    #[arg(long, value_name = "N", default_value_t = 30)]
    minutes: u64,
    /// Number of events instead of a duration; does not write docs/soak.md
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    events: Option<u64>,
    /// Seed of an earlier run, to repeat its events [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write the result to this file
    #[arg(long, value_name = "FILE")]
    md: Option<OsString>,
}

pub(crate) fn task(args: &Args) -> Result<()> {
    setup::ensure_ready_for(Purpose::Run)?;
    let [daemon, soak] = build(Profile::Release, [("overlay-user", "overlay"), ("overlay-tests", "overlay-soak")])?;
    let mut command = Command::new(soak);
    command.arg("--overlay").arg(daemon);
    match args.events {
        Some(events) => command.arg("--events").arg(events.to_string()),
        None => command.arg("--minutes").arg(args.minutes.to_string()),
    };
    if let Some(seed) = args.seed {
        command.arg("--seed").arg(seed.to_string());
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let default = repository.filter(|_| args.events.is_none()).map(|root| root.join(RESULT).into_os_string());
    if let Some(file) = args.md.clone().or(default) {
        command.arg("--md").arg(file);
    }
    // Replaces this process, so that signals and the exit code are those of the program.
    Err(command.exec()).with_context(|| format!("cannot start {command:?}"))
}
