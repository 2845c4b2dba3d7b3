//! The soak test: mixed traffic for a long time, while endpoints are added and removed, daemons crash and hang, and
//! NICs fail.
//!
//! The soak passes if every lost or reordered packet is explained by an injected event, no answer is wrong, and nothing
//! leaks. The events that explain losses are those with an `event::Event::lossy_host`: packets from, to and within that host, from the event until all
//! hosts have converged. All other events, a daemon crash among them, must cost no packet.
//!
//! Events are drawn from a seed, which is printed. All objects are anonymous: the kernel removes them when the process
//! ends.

mod event;
mod leaks;
mod load;
mod report;
mod testbed;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
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
    load::{Outcome, Request, Tally, Traffic, Wrong},
    report::Report,
    testbed::{HOSTS, Testbed},
};
use crate::{
    demo::signals,
    lab::{Fault, FaultyWire, Injector, overlay_binary},
};

/// Heartbeat deadline of the daemons: short, so that it expires often.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest time that a packet is in flight: an event explains losses sent this long before it.
const IN_FLIGHT: Duration = Duration::from_millis(250);

/// Run mixed traffic with churn and random faults, and report losses and leaks.
#[derive(Debug, Parser)]
#[command(name = "overlay-soak")]
struct Args {
    /// Duration in minutes.
    #[arg(long, value_name = "N", default_value_t = 30)]
    minutes: u64,
    /// Number of events, instead of --minutes.
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    events: Option<usize>,
    /// Seed of the events; the seed of an earlier run repeats its events [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write the report to this file, as Markdown.
    #[arg(long, value_name = "FILE")]
    md: Option<PathBuf>,
    /// The `overlay` binary [default: the one next to this program, or $OVERLAY_BIN]
    #[arg(long, value_name = "PATH")]
    overlay: Option<PathBuf>,
}

/// Parameters of a soak.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The `overlay` binary.
    pub overlay: PathBuf,
    /// How many events are injected.
    pub budget: Budget,
    /// Seed of the events.
    pub seed: u64,
}

/// How many events are injected.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    /// This number.
    Events(usize),
    /// As many as begin within this time.
    Time(Duration),
}

/// Result of a soak.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Failures; empty if the soak passed.
    pub failures: Vec<String>,
    /// The report, as Markdown.
    pub text: String,
}

/// Runs the soak. Exit codes: 0 passed, 1 failed, 130 interrupted.
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
    let time = Budget::Time(Duration::from_secs(args.minutes * 60));
    let budget = args.events.map_or(time, Budget::Events);
    let plan = Plan { overlay, budget, seed: args.seed.unwrap_or_else(|| fastrand::u64(..)) };
    eprintln!("seed {}", plan.seed);
    // `soak` gives its thread a private mount namespace.
    let soaked = std::thread::spawn(move || soak(&plan)).join();
    let verdict = soaked.unwrap_or_else(|payload| std::panic::resume_unwind(payload))?;
    println!("{}", verdict.text);
    signals::check()?;
    if let Some(path) = &args.md {
        fs::write(path, &verdict.text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    ensure!(verdict.failures.is_empty(), "the soak failed:\n  {}", verdict.failures.join("\n  "));
    Ok(())
}

/// An injected event, with the interval in which it explains losses.
#[derive(Debug)]
struct Injected {
    event: Event,
    from: Instant,
    /// When all hosts had converged.
    to: Instant,
}

/// Creates the hosts, injects the planned events or until a signal arrives, and returns the verdict.
///
/// The calling thread gets a private mount namespace.
///
/// # Errors
/// When the hosts cannot be created, or counters and resources cannot be read.
pub fn soak(plan: &Plan) -> Result<Verdict> {
    let mut testbed = Testbed::start(&plan.overlay, DEADLINE)?;
    let mut leaks = Leaks::begin(&testbed)?;
    let traffic = Traffic::start(&testbed)?;
    let start = Instant::now();
    let (mut injected, mut failures) = (Vec::new(), Vec::new());
    let mut rng = Rng::with_seed(plan.seed);
    let goes_on = |events: usize| match plan.budget {
        Budget::Events(planned) => events < planned,
        Budget::Time(planned) => start.elapsed() < planned,
    };
    while goes_on(injected.len()) && !signals::stopped() {
        let event = Event::draw(&mut rng, DEADLINE);
        eprintln!("{:>7.1} s  {event}", start.elapsed().as_secs_f64());
        let from = Instant::now();
        let title = format!("event {}, {event}", injected.len() + 1);
        let done = event.inject(&mut testbed).and_then(|()| testbed.wait_until_converged());
        injected.push(Injected { event, from, to: Instant::now() });
        let sampled = done.and_then(|_| traffic.wait_for_progress()).and_then(|()| leaks.sample(&testbed));
        match sampled {
            Ok(left) => failures.extend(left.into_iter().map(|left| format!("{title}: {left}"))),
            Err(error) => {
                failures.push(format!("{title}: {error:#}"));
                break;
            }
        }
        sleep(Duration::from_millis(rng.u64(200..1500)));
    }
    let lasted = start.elapsed();
    if failures.is_empty() {
        match testbed.restore().and_then(|()| leaks.sample(&testbed)) {
            Ok(left) => failures.extend(left),
            Err(error) => failures.push(format!("{error:#}")),
        }
        failures.extend(leaks.grown());
    }
    let outcome = traffic.stop();
    let explained = judge(&outcome, &injected, &mut failures);
    let counted = counted(&testbed)?;
    failures.extend(counted.iter().filter_map(Counted::failure));
    let lab = testbed.down()?;
    failures.extend(leaks.after_down(&lab)?);
    let report = Report { plan, lasted, injected: &injected, outcome: &outcome, explained, counted, leaks: &leaks };
    let text = report.markdown(&failures)?;
    Ok(Verdict { failures, text })
}

/// Runs the traffic of the soak without events, once for each of `faults`: one fault of a datagram on the wire of
/// node01. Returns the failures in each verdict.
///
/// The calling thread gets a private mount namespace.
///
/// # Errors
/// When the hosts cannot be created, or a fault is not injected.
pub fn controls(overlay: &Path, faults: &[Option<Fault>]) -> Result<Vec<Vec<String>>> {
    let testbed = Testbed::start(overlay, DEADLINE)?;
    let wire = FaultyWire::insert(&testbed.lab, 1)?;
    let control = |fault: &Option<Fault>| {
        let traffic = Traffic::start(&testbed)?;
        if let Some(fault) = fault {
            wire.inject(Injector::datagram(*fault, 20, load::LARGE.0));
            wire.wait_until_injected()?;
        }
        traffic.wait_for_progress()?;
        let mut failures = Vec::new();
        judge(&traffic.stop(), &[], &mut failures);
        Ok(failures)
    };
    faults.iter().map(control).collect()
}

/// Numbers of requests that events explain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Explained {
    lost: usize,
    reordered: usize,
}

/// Adds to the failures what no event explains: lost and reordered requests, duplicates and wrong contents. Returns what
/// events explain, for each kind of traffic.
fn judge(outcome: &Outcome, injected: &[Injected], failures: &mut Vec<String>) -> Vec<Explained> {
    failures.extend(outcome.failures.iter().cloned());
    let judge_one = |Tally { name, lost, wrong, .. }: &Tally| {
        let lost = explain(name, "lost", lost, injected, Event::lossy_host, failures);
        let Some(Wrong { reordered, duplicates, corrupt }) = wrong else { return Explained { lost, reordered: 0 } };
        let reordered = explain(name, "reordered", reordered, injected, Event::reordering_host, failures);
        for (kind, count) in [("duplicates", duplicates), ("wrong contents", corrupt)] {
            if *count > 0 {
                failures.push(format!("{name}: {kind}: {count}"));
            }
        }
        Explained { lost, reordered }
    };
    outcome.tallies.iter().map(judge_one).collect()
}

/// Adds the requests to the failures that no event explains. Returns the number of the others. An event explains the
/// requests from and to the host that `host_of` returns.
fn explain(
    traffic: &str,
    kind: &str,
    requests: &[Request],
    injected: &[Injected],
    host_of: fn(&Event) -> Option<usize>,
    failures: &mut Vec<String>,
) -> usize {
    let is_explained = |request: &&Request| {
        let explains = |injected: &Injected| {
            let overlaps = request.at + IN_FLIGHT >= injected.from && request.at <= injected.to;
            overlaps && host_of(&injected.event).is_some_and(|host| request.hosts.contains(&host))
        };
        injected.iter().any(explains)
    };
    let (known, unknown): (Vec<&Request>, Vec<_>) = requests.iter().partition(is_explained);
    // Key: number of events that had been injected when the packet was sent.
    let mut by_event = BTreeMap::<usize, u64>::new();
    for request in unknown {
        let before = injected.partition_point(|injected| injected.from <= request.at + IN_FLIGHT);
        *by_event.entry(before).or_default() += 1;
    }
    for (number, count) in by_event {
        let event = number.checked_sub(1).and_then(|index| injected.get(index));
        let after = event.map_or_else(String::new, |injected| format!(" after event {number}, {}", injected.event));
        failures.push(format!("{traffic}: {count} {kind}{after}"));
    }
    known.len()
}

/// Packets of a host by reason, since its programs were attached.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    host: usize,
    encapsulated: u64,
    decapsulated: u64,
    by_xdp: u64,
    local: u64,
    /// Passed to the kernel because the heartbeat deadline had expired.
    stale: u64,
    unfinished: u64,
}

impl Counted {
    fn failure(&self) -> Option<String> {
        let Self { host, unfinished, .. } = self;
        (*unfinished > 0)
            .then(|| format!("node0{host}: packets modified and then dropped (`unfinished`): {unfinished}"))
    }
}

fn counted(testbed: &Testbed) -> Result<Vec<Counted>> {
    let count = |host| {
        let daemon = testbed.daemon(host);
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
