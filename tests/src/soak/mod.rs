//! The soak: mixed traffic, endpoints that come and go, daemons that are killed and hang, a wire that fails, for a long time.
//!
//! Ends with a verdict: nothing was lost but what an injected fault explains, and nothing leaked. What may be lost is
//! told by `event::Event::breaks`: packets from, to and within the host whose NIC was taken away, from that moment until the tables
//! of all hosts are true again. Everything else, the death of a daemon above all, costs no packet.
//!
//! Events are drawn from a seed, which is printed. Nothing has a name outside this process: however it ends, nothing is
//! left behind.

mod event;
mod leaks;
mod load;
mod report;
mod world;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::PathBuf,
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use fastrand::Rng;

use self::{
    event::Event,
    leaks::Leaks,
    load::{Outcome, Traffic},
    report::Report,
    world::{HOSTS, World},
};
use crate::{demo::signals, lab::overlay_binary};

/// Of the daemons in the soak: short, so that it is often over.
const DEADLINE: Duration = Duration::from_secs(5);
/// A packet that was under way when a fault was injected.
const UNDER_WAY: Duration = Duration::from_millis(250);

/// Soak overlay: mixed traffic, churn and random faults, and a verdict on what was lost and what leaked.
#[derive(Debug, Parser)]
#[command(name = "overlay-soak")]
struct Args {
    /// For how long.
    #[arg(long, value_name = "N", default_value_t = 30)]
    minutes: u64,
    /// For how long, instead of --minutes.
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    seconds: Option<u64>,
    /// Of an earlier run, whose events are to come again [default: a random one]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write the result as Markdown.
    #[arg(long, value_name = "FILE")]
    md: Option<PathBuf>,
    /// The `overlay` binary [default: the one next to this program, or $OVERLAY_BIN]
    #[arg(long, value_name = "PATH")]
    overlay: Option<PathBuf>,
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The `overlay` binary.
    pub overlay: PathBuf,
    /// For how long events are injected.
    pub duration: Duration,
    /// What they are drawn from.
    pub seed: u64,
}

/// How it ended.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What must not have happened; none: the soak is passed.
    pub failures: Vec<String>,
    /// The whole result, as Markdown.
    pub text: String,
}

/// Runs the soak. Exit codes: 0 passed, 1 not, 130 interrupted before the end.
#[must_use]
pub fn main() -> ExitCode {
    match execute(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<signals::Interrupted>() => ExitCode::from(130),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "overlay-soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(args: &Args) -> Result<()> {
    signals::install()?;
    let overlay = match &args.overlay {
        Some(path) => path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?,
        None => overlay_binary()?,
    };
    let duration = Duration::from_secs(args.seconds.unwrap_or(args.minutes * 60));
    let plan = Plan { overlay, duration, seed: args.seed.unwrap_or_else(|| fastrand::u64(..)) };
    eprintln!("seed {}", plan.seed);
    // On a thread of its own, which gets mounts of its own.
    let soaked = std::thread::spawn(move || soak(&plan)).join();
    let verdict = soaked.unwrap_or_else(|payload| std::panic::resume_unwind(payload))?;
    println!("{}", verdict.text);
    signals::check()?;
    if let Some(path) = &args.md {
        fs::write(path, &verdict.text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    ensure!(verdict.failures.is_empty(), "the soak is not passed:\n  {}", verdict.failures.join("\n  "));
    Ok(())
}

/// What was injected when, and until when it may explain losses.
#[derive(Debug)]
struct Injected {
    event: Event,
    from: Instant,
    /// All tables were true again.
    to: Instant,
}

/// Makes the hosts, injects events for the planned time (or until a signal asks to stop), and judges.
///
/// It gives the calling thread a mount namespace of its own.
///
/// # Errors
/// When the hosts cannot be made, or what has to be looked at cannot be.
pub fn soak(plan: &Plan) -> Result<Verdict> {
    let mut world = World::start(&plan.overlay, DEADLINE)?;
    let mut leaks = Leaks::begin(&world)?;
    let traffic = Traffic::start(&world)?;
    let start = Instant::now();
    let (mut injected, mut failures) = (Vec::new(), Vec::new());
    let mut rng = Rng::with_seed(plan.seed);
    while start.elapsed() < plan.duration && !signals::stopped() {
        let event = Event::draw(&mut rng, DEADLINE);
        eprintln!("{:>7.1} s  {event}", start.elapsed().as_secs_f64());
        let from = Instant::now();
        let said = format!("event {}, {event}", injected.len() + 1);
        let done = event.inject(&mut world).and_then(|()| world.settle());
        injected.push(Injected { event, from, to: Instant::now() });
        let looked = done.and_then(|_| traffic.goes_on()).and_then(|()| leaks.look(&world));
        match looked {
            Ok(left) => failures.extend(left.into_iter().map(|left| format!("{said}: {left}"))),
            // What comes after it would say nothing more.
            Err(error) => {
                failures.push(format!("{said}: {error:#}"));
                break;
            }
        }
        sleep(Duration::from_millis(rng.u64(200..1500)));
    }
    let lasted = start.elapsed();
    if failures.is_empty() {
        match world.restore().and_then(|()| leaks.look(&world)) {
            Ok(left) => failures.extend(left),
            Err(error) => failures.push(format!("{error:#}")),
        }
        failures.extend(leaks.grown());
    }
    let outcome = traffic.stop();
    let explained = judge(&outcome, &injected, &mut failures);
    let counted = counted(&world)?;
    failures.extend(counted.iter().filter_map(Counted::wrong));
    let lab = world.down()?;
    failures.extend(leaks.after_down(&lab)?);
    let report = Report { plan, lasted, injected: &injected, outcome: &outcome, explained, counted, leaks: &leaks };
    let text = report.markdown(&failures)?;
    Ok(Verdict { failures, text })
}

/// Adds what no fault explains to the failures. Returns, for each kind of traffic, how much a fault explains.
fn judge(outcome: &Outcome, injected: &[Injected], failures: &mut Vec<String>) -> Vec<usize> {
    let explains = |loss: &load::Loss, injected: &Injected| {
        let broken = injected.event.breaks().is_some_and(|host| loss.hosts.contains(&host));
        broken && loss.at + UNDER_WAY >= injected.from && loss.at <= injected.to
    };
    failures.extend(outcome.failures.iter().cloned());
    let mut explained = Vec::new();
    for tally in &outcome.tallies {
        if tally.wrong > 0 {
            failures.push(format!("{}: {} duplicates or wrong contents", tally.name, tally.wrong));
        }
        let is_explained = |loss: &&load::Loss| injected.iter().any(|injected| explains(loss, injected));
        let (known, unknown): (Vec<&load::Loss>, Vec<_>) = tally.lost.iter().partition(is_explained);
        explained.push(known.len());
        // By how many events had been injected when it was sent.
        let mut by_event = BTreeMap::<usize, u64>::new();
        for loss in unknown {
            let before = injected.partition_point(|injected| injected.from <= loss.at + UNDER_WAY);
            *by_event.entry(before).or_default() += 1;
        }
        for (number, lost) in by_event {
            let event = number.checked_sub(1).and_then(|index| injected.get(index));
            let after = event.map_or_else(String::new, |injected| format!(" after event {number}, {}", injected.event));
            failures.push(format!("{}: {lost} lost{after}", tally.name));
        }
    }
    explained
}

/// Packets by some reasons on a host, since its programs were attached.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    host: usize,
    encapsulated: u64,
    decapsulated: u64,
    by_xdp: u64,
    local: u64,
    /// Left to the kernel while no daemon was alive.
    stale: u64,
    unfinished: u64,
}

impl Counted {
    fn wrong(&self) -> Option<String> {
        let Self { host, unfinished, .. } = self;
        (*unfinished > 0).then(|| format!("node0{host}: {unfinished} packets were changed and could not be finished"))
    }
}

fn counted(world: &World) -> Result<Vec<Counted>> {
    let count = |host| {
        let daemon = world.daemon(host);
        Ok(Counted {
            host,
            encapsulated: daemon.packets("encap")?,
            decapsulated: daemon.packets("decap")?,
            by_xdp: daemon.packets("decap_xdp")?,
            local: daemon.packets("local")?,
            stale: daemon.packets("stale")?,
            unfinished: daemon.packets("unfinished")?,
        })
    };
    (1..=HOSTS).map(count).collect()
}
