//! The demo: two hosts with a container each, a daemon on each, real traffic, and the gain of the fast path.
//!
//! The hosts with the fast path are named, so that commands can enter them. A second, anonymous pair has the same setup
//! on the kernel path alone ("detached"). Both are measured in turn, in several rounds; a change is printed only when
//! the rounds agree on it.

mod cluster;
mod comparison;
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
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Parser;

use self::{
    pairs::{FastPair, KernelPair},
    report::{Load, Report},
};
use crate::{
    bench::machine::{CpuTime, Machine},
    lab::overlay_binary,
};

/// Time in which the use of the CPUs before the demo is measured.
const LOAD_TIME: Duration = Duration::from_millis(500);

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
    /// Number of rounds of the comparison; fewer than 5 are not compared.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
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
    let (machine, start) = (Machine::read()?, CpuTime::read()?);
    signals::sleep(LOAD_TIME);
    let before = CpuTime::read()?.since(start);
    console
        .print("Creating two hosts with one container each, and a second pair without overlay for comparison ...")?;
    let fast = FastPair::start(&overlay)?;
    let kernel = KernelPair::start()?;
    signals::check()?;

    console.print("Sending ICMP, TCP and small UDP both ways ...")?;
    let traffic = paths::send_both_ways(&fast)?;
    let rounds = args.rounds.into();
    console.print(format_args!("Comparing attached and detached programs, rounds: {rounds} ..."))?;
    let start = CpuTime::read()?;
    let compared = figures::compare(&fast.ends(), &kernel.ends(), rounds)?;
    let steal_during_percent = CpuTime::read()?.since(start).steal_percent;
    drop(kernel);

    let report = Report::new(traffic, compared, Load { machine, before, steal_during_percent });
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
