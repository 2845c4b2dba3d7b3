//! The benchmark: all paths between two containers, measured in turn.
//!
//! Every path has its own pair of hosts. All pairs exist at the same time; only the measured one has traffic. A round
//! measures every case on every path, one after the other, so that background load affects all paths alike. Ratios are
//! computed within a round. Client and server are pinned to one CPU each.
//!
//! All objects are anonymous: the kernel removes them when the process ends.

mod against;
mod apps;
pub(crate) mod cases;
mod churn;
mod comparison;
mod control;
mod live;
mod load;
pub(crate) mod machine;
mod paths;
mod plot;
mod programs;
mod record;
pub(crate) mod report;
pub(crate) mod results;
mod run;
mod scale;
pub(crate) mod stats;
mod swarm;
mod test_run;

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;

pub use self::programs::OBJECT;
use self::{control::Size, machine::Machine, record::Record, run::Plan};
use crate::lab::overlay_binary;

/// Measure overlay against the kernel's VXLAN and against paths without encapsulation (the upper bound).
#[derive(Debug, Parser)]
#[command(name = "overlay-bench")]
struct Args {
    /// Number of rounds [default: 5; 1 with --smoke]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Measure this case only; may be repeated
    #[arg(long, value_name = "CASE")]
    only: Vec<String>,
    /// Write all values of all rounds to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables to this file, as Markdown
    #[arg(long, value_name = "FILE")]
    md: Option<PathBuf>,
    /// Write the plots into this directory
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Write the ratios for later comparison with --quick
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "smoke"])]
    record: Option<PathBuf>,
    /// Measure a few cases and compare them with the ratios in the repository; fails when a ratio is worse
    #[arg(long, conflicts_with_all = ["only", "smoke"])]
    quick: bool,
    /// Measure everything once, with very short measurements; fails only when a measurement fails. The figures are not
    /// meaningful
    #[arg(long, conflicts_with = "only")]
    smoke: bool,
    /// Measure only a real Docker Swarm, with and without the fast path; fails when a target is missed
    #[arg(long, conflicts_with_all = ["only", "quick", "record", "svg"])]
    swarm: bool,
    /// Measure only one daemon in an etcd cluster of 1,000 nodes with 100 endpoints each; fails when a target is missed
    #[arg(long, conflicts_with_all = ["only", "quick", "record", "svg", "swarm", "against"])]
    control: bool,
    /// Measure only applications (Redis, memcached, nginx, PostgreSQL), and round trips on many flows at once
    #[arg(long, conflicts_with_all = ["only", "quick", "record", "swarm", "control", "against"])]
    apps: bool,
    /// The `overlay` binary [default: the one next to this program, or $OVERLAY_BIN]
    #[arg(long, value_name = "PATH")]
    overlay: Option<PathBuf>,
    /// Compare with another build of `overlay`, in turn on all of overlay's paths; fails when a ratio is below --limit
    #[arg(long, value_name = "PATH", conflicts_with_all = ["record", "svg", "swarm"])]
    against: Option<PathBuf>,
    /// With --against: the smallest accepted median ratio of new to old (1: equal; more is better)
    #[arg(long, value_name = "RATIO", default_value_t = LIMIT, requires = "against", value_parser = limit)]
    limit: f64,
}

/// Default of `--limit`.
const LIMIT: f64 = 0.98;

fn limit(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if ratio > 0.0 && ratio <= 2.0 => Ok(ratio),
        _ => Err("not a ratio between 0 and 2".to_owned()),
    }
}

/// Runs the benchmark. Exit codes: 0 all measurements succeeded, and overlay is nowhere slower than the kernel
/// (`--quick`, `--against`: and no ratio is worse), 1 otherwise.
#[must_use]
pub fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "overlay-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let overlay = match &args.overlay {
        Some(path) => path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?,
        None => overlay_binary()?,
    };
    let plan = Plan::new(args)?;
    // Files are opened before the run, so that a wrong path fails at once.
    let recorded = (args.quick && args.against.is_none()).then(|| Record::read(record::FILE.as_ref())).transpose()?;
    let (json, md) = (open(args.json.as_deref())?, open(args.md.as_deref())?);
    let record = open(args.record.as_deref())?;
    if let Some(directory) = &args.svg {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    }

    let machine = Machine::read()?;
    eprintln!("{machine}");
    if let Some(old) = &args.against {
        let old = old.canonicalize().with_context(|| format!("cannot find {}", old.display()))?;
        return compare(args, plan, overlay, old, (machine, json, md));
    }
    // The measuring thread gets a private mount namespace.
    let (swarm, control, apps, smoke) = (args.swarm, args.control, args.apps, args.smoke);
    let size = if smoke { Size::smoke() } else { Size::full(args.rounds.unwrap_or(3).max(1)) };
    let measure = move || match (swarm, control, apps) {
        (true, ..) => plan.measure_swarm(&overlay),
        (_, true, _) => control::measure(size, &overlay),
        (.., true) => plan.measure_apps(smoke, &overlay),
        _ => plan.measure(&overlay),
    };
    let measured = std::thread::spawn(measure).join();
    let mut results = measured.unwrap_or_else(|payload| std::panic::resume_unwind(payload))?;
    let load_after = machine::load()?;
    results.notes.extend(machine.warning());

    let mut text = report::markdown(&machine, load_after, &results);
    let verdict = match (swarm, control, apps) {
        (true, ..) => swarm::verdict(&results),
        (_, true, _) => control::verdict(&results),
        (.., true) => (String::new(), true),
        _ => Plan::verdict(&results),
    };
    text += &verdict.0;
    let reached = verdict.1 || args.smoke;
    if args.smoke {
        eprintln!("figures measured: {}, not measured: {}", results.figures.len(), results.missing.len());
    } else {
        print!("{text}");
    }
    write(md, &text)?;
    let all = serde_json::json!({ "machine": machine, "load_after": load_after, "results": results });
    write(json, &serde_json::to_string_pretty(&all)?)?;
    if let Some(directory) = &args.svg {
        plot::write(&results, directory)?;
    }
    write(record, &serde_json::to_string_pretty(&Record::new(&machine, &results))?)?;
    ensure!(results.missing.is_empty(), "not measured:\n  {}", results.missing.join("\n  "));
    ensure!(reached, "a target was missed");
    if let Some(recorded) = recorded {
        let verdict = recorded.compare(&results);
        print!("{}", verdict.text());
        verdict.check()?;
    }
    Ok(())
}

/// Measures two builds and prints the comparison.
///
/// # Errors
/// When the new build is worse.
fn compare(
    args: &Args,
    plan: Plan,
    new: PathBuf,
    old: PathBuf,
    (machine, json, md): (Machine, Option<File>, Option<File>),
) -> Result<()> {
    let limit = args.limit;
    // The measuring thread gets a private mount namespace.
    let measured = std::thread::spawn(move || plan.measure_against(&new, &old, limit)).join();
    let comparison = measured.unwrap_or_else(|payload| std::panic::resume_unwind(payload))?;
    let load_after = machine::load()?;
    let text = comparison.markdown(&machine, load_after);
    if args.smoke {
        eprintln!("rows measured: {}, not measured: {}", comparison.rows.len(), comparison.missing.len());
    } else {
        print!("{text}");
    }
    write(md, &text)?;
    let all = serde_json::json!({ "machine": machine, "load_after": load_after, "comparison": comparison });
    write(json, &serde_json::to_string_pretty(&all)?)?;
    ensure!(comparison.missing.is_empty(), "not measured:\n  {}", comparison.missing.join("\n  "));
    ensure!(args.smoke || comparison.is_as_good(), "the new build is worse than the old one");
    Ok(())
}

/// Creates a file and its missing parent directories.
fn open(path: Option<&Path>) -> Result<Option<File>> {
    let Some(path) = path else { return Ok(None) };
    let created = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| File::create(path));
    created.map(Some).with_context(|| format!("cannot write {}", path.display()))
}

fn write(file: Option<File>, text: &str) -> Result<()> {
    match file {
        Some(mut file) => writeln!(file, "{}", text.trim_end()).context("cannot write the results"),
        None => Ok(()),
    }
}
