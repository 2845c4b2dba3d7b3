//! `cargo xtask soak`: mixed traffic, churn and random kills for a long time, and a verdict.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{Profile, build};
use crate::setup::{self, Purpose};

/// Where the result of a whole run stands.
const RESULT: &str = "docs/soak.md";

/// Soak overlay: mixed traffic, endpoints that come and go, daemons that are killed and hang, a wire that fails. As root.
///
/// Makes its own hosts (network namespaces). Exits 0 only if nothing was lost but what an injected fault explains, and
/// nothing leaked. A whole run writes its result to docs/soak.md.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 30)]
    minutes: u64,
    /// For so short a time, instead; docs/soak.md stays as it is
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    seconds: Option<u64>,
    /// Of an earlier run, whose events are to come again [default: a random one]
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
    match args.seconds {
        Some(seconds) => command.arg("--seconds").arg(seconds.to_string()),
        None => command.arg("--minutes").arg(args.minutes.to_string()),
    };
    if let Some(seed) = args.seed {
        command.arg("--seed").arg(seed.to_string());
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let default = repository.filter(|_| args.seconds.is_none()).map(|root| root.join(RESULT).into_os_string());
    if let Some(file) = args.md.clone().or(default) {
        command.arg("--md").arg(file);
    }
    // In this process's place, so that signals and the exit code are the program's own.
    Err(command.exec()).with_context(|| format!("cannot start {command:?}"))
}
