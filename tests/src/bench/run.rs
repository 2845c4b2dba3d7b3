//! The plan of a run: cases, paths and their order.

use std::{fmt::Write as _, path::Path as FilePath, time::Duration};

use anyhow::{Result, ensure};

use super::{
    Args,
    against::{self, Selection},
    apps,
    cases::{self, Case, Wire},
    churn,
    comparison::Comparison,
    load,
    paths::{Environment, Kind, Path},
    results::Results,
    scale::{self, LEVELS, Level, Scale},
    swarm,
    test_run::{self, TestRuns, Times},
};
use crate::lab::{private_bpffs, private_directory};

/// The paths to compare with.
pub(super) const BASELINES: [&str; 2] = ["kernel", "bound-redirect"];

/// Cases without paths.
const OTHERS: [&str; 4] = [test_run::NAME, scale::NAME, load::NAME, churn::NAME];

/// Number of endpoints of `load`.
const ENTRIES: u32 = 100_000;

/// The plan of a run.
#[derive(Debug)]
pub(super) struct Plan {
    cases: Vec<Case>,
    kinds: Vec<Kind>,
    others: Vec<&'static str>,
    levels: &'static [Level],
    entries: u32,
    times: Times,
    rounds: usize,
    /// Of one measurement.
    duration: Duration,
}

impl Plan {
    pub(super) fn new(args: &Args) -> Result<Self> {
        let mut plan = Self {
            cases: cases::ALL.to_vec(),
            kinds: Kind::ALL.to_vec(),
            others: OTHERS.to_vec(),
            levels: &LEVELS,
            entries: ENTRIES,
            times: Times { single: 20_000, repeat: 1_000_000 },
            rounds: args.rounds.unwrap_or(5).max(1),
            duration: Duration::from_secs(1),
        };
        if args.smoke {
            plan.rounds = args.rounds.unwrap_or(1).max(1);
            plan.duration = Duration::from_millis(20);
            plan.cases.retain(|case| cases::SMOKE.contains(&case.name));
            plan.levels = &LEVELS[..2];
            plan.entries = 1_000;
            plan.times = Times { single: 100, repeat: 1_000 };
        }
        if args.quick {
            plan.cases = cases::QUICK.into_iter().filter_map(cases::named).collect();
            plan.kinds = cases::QUICK_PATHS.to_vec();
            plan.others.clear();
        }
        if args.against.is_some() {
            plan.kinds = Kind::OVERLAY.to_vec();
            // The other cases write maps in the layout of this build.
            plan.others = vec![test_run::NAME];
        }
        if !args.only.is_empty() {
            let others = plan.others.iter().copied();
            let known: Vec<&str> = cases::ALL.iter().map(|case| case.name).chain(others).collect();
            for name in &args.only {
                ensure!(known.contains(&name.as_str()), "unknown case {name}; the cases are {}", known.join(", "));
            }
            plan.cases.retain(|case| args.only.iter().any(|name| name == case.name));
            plan.others.retain(|other| args.only.iter().any(|name| name == other));
        }
        Ok(plan)
    }

    /// Runs the plan. The calling thread gets a private mount namespace.
    pub(super) fn measure(self, overlay: &FilePath) -> Result<Results> {
        let environment =
            Environment { overlay: overlay.to_owned(), pins: private_bpffs()?, files: private_directory()? };
        let mut results = Results::default();
        if !self.cases.is_empty() {
            self.compare(&environment, &mut results)?;
        }
        for other in &self.others {
            eprintln!("{other}");
            match *other {
                test_run::NAME => self.test_run(&environment, &mut results),
                scale::NAME => self.scale(&environment, &mut results),
                load::NAME => self.load(&environment, &mut results),
                _ => self.churn(&environment, &mut results),
            }
            .unwrap_or_else(|error| results.add_missing(format!("{other}: {error:#}")));
        }
        Ok(results)
    }

    /// Runs the plan for two builds. The calling thread gets a private mount namespace.
    pub(super) fn measure_against(self, new: &FilePath, old: &FilePath, limit: f64) -> Result<Comparison> {
        let Self { cases, kinds, others, times, rounds, duration, .. } = self;
        let test_run = others.contains(&test_run::NAME).then_some(times);
        against::measure(&Selection { cases, kinds, test_run, rounds, duration }, new, old, limit)
    }

    /// The figures in which overlay is slower than the kernel, one line each, and whether there are none.
    pub(super) fn verdict(results: &Results) -> (String, bool) {
        let mut slower = String::new();
        for figure in &results.figures {
            for (path, kernel) in
                Kind::OVERLAY.into_iter().filter_map(|kind| Some((kind.name(), kind.kernel()?.name())))
            {
                if let Some((low, high)) = figure.worse(path, kernel) {
                    let _ = writeln!(slower, "- {} over {path}: {low:.3}–{high:.3} of `{kernel}`", figure.name());
                }
            }
        }
        let is_empty = slower.is_empty();
        let verdict = if is_empty { "none\n" } else { &slower };
        (format!("\nSlower than the kernel (95 % interval of the rounds' ratios):\n\n{verdict}"), is_empty)
    }

    /// Measures a Docker Swarm instead.
    pub(super) fn measure_swarm(self, overlay: &FilePath) -> Result<Results> {
        swarm::measure(self.rounds, self.duration, overlay)
    }

    /// Measures applications instead.
    pub(super) fn measure_apps(self, smoke: bool, overlay: &FilePath) -> Result<Results> {
        apps::measure(self.rounds, smoke, overlay)
    }

    /// Measures all cases on all paths.
    fn compare(&self, environment: &Environment, results: &mut Results) -> Result<()> {
        let mut paths = Vec::new();
        for kind in &self.kinds {
            paths.push(Path::start(*kind, kind.name(), environment)?);
        }
        if self.kinds.contains(&Kind::Xdp) {
            results.note(
                "`xdp` needs `ethtool -K enp0s3 tx off` at both ends when the wire is a veth: TCP packets are \
                 checksummed and segmented in software before the wire in all cases. A real NIC does not need this.",
            );
        }
        results.note(
            "Client and server have one CPU each for throughput and packets, and share one CPU for round trips and \
             connections: in a virtual machine, waking another CPU can take longer than the round trip. Round trips \
             are times from request to response. `encap_pps` and `decap_pps` measure one direction on one CPU, with 64 \
             bytes of UDP payload per frame.",
        );
        for round in 0..self.rounds {
            eprintln!("round {} of {}", round + 1, self.rounds);
            let mut wire = Wire::SuperPackets;
            for case in &self.cases {
                if case.wire != wire {
                    wire = case.wire;
                    paths.iter().try_for_each(|path| path.set_wire(wire))?;
                }
                for path in paths.iter().filter(|path| case.applies_to(path.kind)) {
                    match case.measure(path, self.duration) {
                        Ok(values) => {
                            for (metric, value) in values {
                                results.add(case.name, metric, path.kind.name(), &BASELINES, round, value);
                            }
                        }
                        Err(error) => {
                            results.add_missing(format!("{} over {}: {error:#}", case.name, path.kind.name()));
                        }
                    }
                }
            }
            if wire != Wire::SuperPackets {
                paths.iter().try_for_each(|path| path.set_wire(Wire::SuperPackets))?;
            }
        }
        Ok(())
    }

    fn test_run(&self, environment: &Environment, results: &mut Results) -> Result<()> {
        let path = Path::start(Kind::Xdp, test_run::NAME, environment)?;
        let strict = Path::start(Kind::Strict, "strict", environment)?;
        let mut runs = TestRuns::open(&path)?;
        runs.add_checks(&strict)?;
        let learning = Path::start(Kind::Tc, "learning", environment)?;
        runs.add_learning(&learning)?;
        (0..self.rounds).try_for_each(|round| test_run::measure(&runs, self.times, round, results))
    }

    fn scale(&self, environment: &Environment, results: &mut Results) -> Result<()> {
        let scale = Scale::start(self.levels, environment)?;
        (0..self.rounds).for_each(|round| scale.measure(self.duration, round, results));
        Ok(())
    }

    fn load(&self, environment: &Environment, results: &mut Results) -> Result<()> {
        (0..self.rounds).try_for_each(|round| {
            load::tables(self.entries, environment, round, results)?;
            load::ports(environment, round, results)
        })?;
        for entries in [0, self.entries] {
            load::daemon(entries, environment, 0, results)?;
        }
        Ok(())
    }

    fn churn(&self, environment: &Environment, results: &mut Results) -> Result<()> {
        let path = Path::start(Kind::Tc, churn::NAME, environment)?;
        // Changes arrive in batches, a few per second: a shorter measurement would see none.
        let duration = self.duration.max(Duration::from_millis(200));
        results.note(
            "`churn`: the process that makes the changes is pinned to the CPU that the round trips do not use; the \
             daemon is not pinned. p99 is measured over one second each.",
        );
        (0..self.rounds).for_each(|round| churn::measure(&path, duration, round, results));
        Ok(())
    }
}
