//! The benchmark: all paths from one container to another, measured in turn.
//!
//! Every path has a pair of hosts of its own. All stand side by side, and all but the one that is measured are idle. A
//! round measures every case on every path, one after the other, so that whatever else the machine does meets all paths
//! alike; what is compared is the values of one round. Client and server are pinned to one CPU each.
//!
//! Nothing has a name outside this process: however it ends, nothing is left behind.

mod against;
mod cases;
mod churn;
mod comparison;
mod control;
mod live;
mod load;
mod machine;
mod paths;
mod plot;
mod programs;
mod record;
mod report;
mod results;
mod run;
mod scale;
mod stats;
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
use self::{control::Extent, machine::Machine, record::Record, run::Plan};
use crate::lab::overlay_binary;

/// Measure overlay against the kernel's VXLAN and against what no overlay can beat.
#[derive(Debug, Parser)]
#[command(name = "overlay-bench")]
struct Args {
    /// How often every case is measured on every path [default: 5; 1 with --smoke]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Measure this case only; may be given several times
    #[arg(long, value_name = "CASE")]
    only: Vec<String>,
    /// Write everything that was measured, every round of it
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables
    #[arg(long, value_name = "FILE")]
    md: Option<PathBuf>,
    /// Write the plots into this directory
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Write the ratios that --quick compares with
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "smoke"])]
    record: Option<PathBuf>,
    /// Few cases, compared with what the repository has recorded; fails when something has become worse
    #[arg(long, conflicts_with_all = ["only", "smoke"])]
    quick: bool,
    /// Everything once, for a moment: fails only when something cannot be measured. The figures mean nothing
    #[arg(long, conflicts_with = "only")]
    smoke: bool,
    /// A real Docker Swarm with the fast path and without it, instead of all else; fails when a target is not reached
    #[arg(long, conflicts_with_all = ["only", "quick", "record", "svg"])]
    swarm: bool,
    /// 1,000 nodes with 100 endpoints each in a real etcd and a daemon that follows, instead of all else; fails when a
    /// target is not reached
    #[arg(long, conflicts_with_all = ["only", "quick", "record", "svg", "swarm", "against"])]
    control: bool,
    /// The `overlay` binary [default: the one next to this program, or $OVERLAY_BIN]
    #[arg(long, value_name = "PATH")]
    overlay: Option<PathBuf>,
    /// Another build of `overlay`: both are measured in turn on all of overlay's paths, and compared; fails when a ratio is
    /// below --limit
    #[arg(long, value_name = "PATH", conflicts_with_all = ["record", "svg", "swarm"])]
    against: Option<PathBuf>,
    /// With --against: the smallest median ratio of new to old that is not worse, where 1 is equal and more is better
    #[arg(long, value_name = "RATIO", default_value_t = LIMIT, requires = "against", value_parser = limit)]
    limit: f64,
}

/// What `--limit` is by default.
const LIMIT: f64 = 0.98;

fn limit(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if ratio > 0.0 && ratio <= 2.0 => Ok(ratio),
        _ => Err("not a ratio between 0 and 2".to_owned()),
    }
}

/// Runs the benchmark. Exit codes: 0 all was measured (`--quick`, `--against`: and nothing is worse), 1 not.
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
    // Before the work: a run is too long to be lost for a directory that is not there.
    let recorded = (args.quick && args.against.is_none()).then(|| Record::read(record::FILE.as_ref())).transpose()?;
    let (json, md) = (open(args.json.as_deref())?, open(args.md.as_deref())?);
    let record = open(args.record.as_deref())?;
    if let Some(directory) = &args.svg {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }

    let machine = Machine::look()?;
    eprintln!("{machine}");
    if let Some(old) = &args.against {
        let old = old.canonicalize().with_context(|| format!("cannot find {}", old.display()))?;
        return compare(args, plan, overlay, old, (machine, json, md));
    }
    // On a thread of its own, which has mounts of its own.
    let (swarm, control) = (args.swarm, args.control);
    let extent = if args.smoke { Extent::smoke() } else { Extent::whole(args.rounds.unwrap_or(3).max(1)) };
    let measure = move || match (swarm, control) {
        (true, _) => plan.measure_swarm(&overlay),
        (_, true) => control::measure(extent, &overlay),
        _ => plan.measure(&overlay),
    };
    let measured = std::thread::spawn(measure).join();
    let mut results = measured.unwrap_or_else(|payload| std::panic::resume_unwind(payload))?;
    let load_after = machine::load()?;
    results.notes.extend(machine.warning());

    let mut text = report::markdown(&machine, load_after, &results);
    let mut reached = true;
    if swarm || control {
        let verdict = if swarm { swarm::verdict(&results) } else { control::verdict(&results) };
        text += &verdict.0;
        reached = verdict.1 || args.smoke;
    }
    if args.smoke {
        // Nobody should read figures off a smoke test.
        eprintln!("{} figures were measured, {} were not", results.figures.len(), results.missing.len());
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
    ensure!(results.missing.is_empty(), "could not be measured:\n  {}", results.missing.join("\n  "));
    ensure!(reached, "a target was not reached");
    if let Some(recorded) = recorded {
        let verdict = recorded.judge(&results);
        print!("{}", verdict.text());
        verdict.check()?;
    }
    Ok(())
}

/// Measures two builds, prints the comparison and fails when the new one is worse.
fn compare(
    args: &Args,
    plan: Plan,
    new: PathBuf,
    old: PathBuf,
    (machine, json, md): (Machine, Option<File>, Option<File>),
) -> Result<()> {
    let limit = args.limit;
    // On a thread of its own, which has mounts of its own.
    let measured = std::thread::spawn(move || plan.measure_against(&new, &old, limit)).join();
    let comparison = measured.unwrap_or_else(|payload| std::panic::resume_unwind(payload))?;
    let load_after = machine::load()?;
    let text = comparison.markdown(&machine, load_after);
    if args.smoke {
        eprintln!("{} rows were measured, {} were not", comparison.rows.len(), comparison.missing.len());
    } else {
        print!("{text}");
    }
    write(md, &text)?;
    let all = serde_json::json!({ "machine": machine, "load_after": load_after, "comparison": comparison });
    write(json, &serde_json::to_string_pretty(&all)?)?;
    ensure!(comparison.missing.is_empty(), "could not be measured:\n  {}", comparison.missing.join("\n  "));
    ensure!(args.smoke || comparison.is_as_good(), "the new build is worse than the old one");
    Ok(())
}

/// Makes the directories on the way, too.
fn open(path: Option<&Path>) -> Result<Option<File>> {
    let Some(path) = path else { return Ok(None) };
    let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| File::create(path));
    made.map(Some).with_context(|| format!("cannot write {}", path.display()))
}

fn write(file: Option<File>, text: &str) -> Result<()> {
    match file {
        Some(mut file) => writeln!(file, "{}", text.trim_end()).context("cannot write the results"),
        None => Ok(()),
    }
}
