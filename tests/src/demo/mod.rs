//! The demo: two hosts with a container each, a daemon on each, real traffic, and the gain of the fast path.
//!
//! The hosts with the fast path are named, so that commands can enter them. A second, anonymous pair has the same setup
//! on the kernel path alone ("detached"). Both are measured in turn, so that background load affects both.

mod cluster;
mod figures;
mod live;
mod pairs;
mod paths;
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
/// Sends traffic both ways with the programs attached and detached, prints the packets by path and the gain, and stays
/// up, with live counters, until Ctrl-C. Removes everything that it created.
#[derive(Debug, Parser)]
#[command(name = "overlay-demo")]
struct Args {
    /// End after the table; exit 0 only if both directions used the fast path.
    #[arg(long)]
    once: bool,
    /// Instead: three hosts and an etcd cluster of three members, a network and endpoints created by command, failure
    /// and recovery of a host. Ends by itself; exit 0 only if all steps passed.
    #[arg(long, conflicts_with = "once")]
    cluster: bool,
    /// Print the table to standard error, and one JSON object as the last line of standard output.
    #[arg(long)]
    json: bool,
    /// The `overlay` binary [default: the one next to this program, or $OVERLAY_BIN]
    #[arg(long, value_name = "PATH")]
    overlay: Option<PathBuf>,
}

/// Runs the demo. Exit codes: 0 both directions used the fast path (`--cluster`: all steps passed), 1 otherwise,
/// 130 interrupted.
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
    console
        .print("Creating two hosts with one container each, and a second pair without overlay for comparison ...")?;
    let fast = FastPair::start(&overlay)?;
    let kernel = KernelPair::start()?;
    signals::check()?;

    console.print("Sending ICMP, TCP and small UDP both ways ...")?;
    let traffic = paths::send_both_ways(&fast)?;
    console.print("Measuring with the programs attached and detached in turn ...")?;
    let (attached, detached) = figures::compare(&fast.ends(), &kernel.ends())?;
    drop(kernel);

    let report = Report::new(traffic, attached, detached)?;
    console.print(format_args!("\n{report}"))?;
    if args.json {
        writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
    }
    if !args.once {
        live::show_until_stopped(&fast, &overlay, &console)?;
    }
    fast.stop()?;
    Ok(report.ok)
}

/// Destination of the text output.
struct Console {
    to_stderr: bool,
}

impl Console {
    /// Prints one or more lines. An error, such as a closed pipe, ends the demo.
    fn print(&self, text: impl fmt::Display) -> Result<()> {
        if self.to_stderr { writeln!(io::stderr(), "{text}") } else { writeln!(io::stdout(), "{text}") }
            .context("cannot print")
    }
}
