//! The demo: two hosts with a container each, one `overlay` daemon per host, real traffic, and what it gains.
//!
//! The hosts with the fast path have names, for people to look into. Beside them runs a pair that has none, set up the
//! same but carried by the kernel alone: "detached". The two are measured in turn, so that what else the machine does
//! meanwhile meets both.

mod carried;
mod cluster;
mod figures;
mod live;
mod pairs;
mod report;
pub(crate) mod signals;

use std::{
    fmt,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Parser;

use self::{
    pairs::{FastPair, KernelPair},
    report::Report,
};
use crate::lab::overlay_binary;

/// Show the fast path between two hosts (network namespaces) on this machine.
///
/// Sends traffic both ways with the programs attached and detached, shows what went which way and what it gains, and stays
/// up, with live counters, until Ctrl-C. Leaves nothing behind.
#[derive(Debug, Parser)]
#[command(name = "overlay-demo")]
struct Args {
    /// End after the table; exit 0 only if both directions were carried by the fast path.
    #[arg(long)]
    once: bool,
    /// Instead: three hosts and an etcd of three members, networks and endpoints by command, the death and return of a
    /// host. Ends by itself; exit 0 only if all of it held.
    #[arg(long, conflicts_with = "once")]
    cluster: bool,
    /// Print the table to standard error, and one JSON object as the last line of standard output.
    #[arg(long)]
    json: bool,
    /// The `overlay` binary [default: the one next to this program, or $OVERLAY_BIN]
    #[arg(long, value_name = "PATH")]
    overlay: Option<PathBuf>,
}

/// Runs the demo. Exit codes: 0 both directions were carried by the fast path (`--cluster`: all held), 1 they were not or something failed,
/// 130 interrupted before that was known.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.is::<signals::Interrupted>() => ExitCode::from(130),
        Err(error) => {
            let _ = writeln!(io::stderr(), "overlay-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    signals::install()?;
    let console = Console { to_stderr: args.json };
    let overlay = match &args.overlay {
        Some(path) => path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?,
        None => overlay_binary()?,
    };

    if args.cluster {
        return cluster::show(&overlay, args.json, &console).map(|()| true);
    }
    console.say("Making two hosts with a container each, and the same again without overlay to compare with ...")?;
    let fast = FastPair::start(&overlay)?;
    let kernel = KernelPair::start()?;
    signals::check()?;

    console.say("Sending ICMP, TCP and small UDP both ways ...")?;
    let carried = carried::send_both_ways(&fast)?;
    console.say("Measuring, attached and detached in turn ...")?;
    let (attached, detached) = figures::compare(&fast.ends(), &kernel.ends())?;
    drop(kernel);

    let report = Report::new(carried, attached, detached)?;
    console.say(format_args!("\n{report}"))?;
    if args.json {
        writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
    }
    if !args.once {
        live::show_until_stopped(&fast, &overlay, &console)?;
    }
    fast.stop()?;
    Ok(report.ok)
}

/// Where people's text goes.
struct Console {
    to_stderr: bool,
}

impl Console {
    /// One line, or more. An error, for instance because nobody reads any more, ends the demo.
    fn say(&self, text: impl fmt::Display) -> Result<()> {
        if self.to_stderr { writeln!(io::stderr(), "{text}") } else { writeln!(io::stdout(), "{text}") }
            .context("cannot print")
    }
}
