//! `--against`: another build of `overlay`, measured on all of overlay's paths in turn with this one.
//!
//! Only the binary of the other build is used: its daemons load its programs and fill its maps. Both builds must
//! support `run --config FILE --pin-root DIR`, `status --json` and `counters --json` (see
//! [`Daemon`](crate::lab::Daemon) and [`Path`]). The programs are found at the devices. No map is opened, because the
//! layout may differ.

use std::{path::Path as FilePath, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    cases::{Case, Wire},
    comparison::{Build, Comparison},
    paths::{Environment, Kind, Path},
    results::TIME,
    test_run::{self, TestRuns, Times},
};
use crate::lab::{private_bpffs, private_directory};

/// Cases and paths that are measured for both builds.
pub(super) struct Selection {
    pub(super) cases: Vec<Case>,
    pub(super) kinds: Vec<Kind>,
    pub(super) test_run: Option<Times>,
    pub(super) rounds: usize,
    pub(super) duration: Duration,
}

/// A path of both builds. The hosts of one are idle while the other is measured.
struct Pair {
    new: Path,
    old: Path,
}

impl Pair {
    /// The start order changes every two rounds, the measuring order every round: all four combinations occur.
    fn start(kind: Kind, label: &str, [new, old]: &[Environment; 2], round: usize) -> Result<Self> {
        let start = |build: Build| {
            let environment = if build == Build::New { new } else { old };
            Path::start(kind, &format!("{label}-{}", build.name()), environment)
        };
        let order = Build::order(round / 2);
        let [first, second] = [start(order[0])?, start(order[1])?];
        Ok(if order[0] == Build::New { Self { new: first, old: second } } else { Self { new: second, old: first } })
    }

    fn of(&self, build: Build) -> &Path {
        match build {
            Build::New => &self.new,
            Build::Old => &self.old,
        }
    }

    fn set_wire(&self, wire: Wire) -> Result<()> {
        [&self.new, &self.old].into_iter().try_for_each(|path| path.set_wire(wire))
    }
}

/// Measures both builds. The calling thread gets a private mount namespace.
pub(super) fn measure(selection: &Selection, new: &FilePath, old: &FilePath, limit: f64) -> Result<Comparison> {
    let (pins, files) = (private_bpffs()?, private_directory()?);
    let environments =
        [new, old].map(|overlay| Environment { overlay: overlay.into(), pins: pins.clone(), files: files.clone() });
    let mut comparison = Comparison::new(new.into(), old.into(), limit);
    for round in 0..selection.rounds {
        eprintln!("round {} of {}", round + 1, selection.rounds);
        // New hosts in each round: the addresses of programs and maps in memory change the figures by several percent.
        if !selection.cases.is_empty() {
            let start = |kind: &Kind| Pair::start(*kind, kind.name(), &environments, round);
            let pairs = selection.kinds.iter().map(start).collect::<Result<Vec<_>>>()?;
            cases(selection, &pairs, round, &mut comparison)?;
        }
        if let Some(times) = selection.test_run {
            // Only the XDP path has all programs.
            let pair = Pair::start(Kind::Xdp, test_run::NAME, &environments, round)?;
            run_programs(&[TestRuns::open(&pair.new)?, TestRuns::open(&pair.old)?], times, round, &mut comparison);
        }
        eprint!("{}", comparison.round(round));
    }
    Ok(comparison)
}

/// Measures every case on every path, one build right after the other.
fn cases(selection: &Selection, pairs: &[Pair], round: usize, comparison: &mut Comparison) -> Result<()> {
    let mut wire = Wire::SuperPackets;
    for case in &selection.cases {
        if case.wire != wire {
            wire = case.wire;
            pairs.iter().try_for_each(|pair| pair.set_wire(wire))?;
        }
        for pair in pairs.iter().filter(|pair| case.applies_to(pair.new.kind)) {
            let path = pair.new.kind.name();
            for build in Build::order(round) {
                match case.measure(pair.of(build), selection.duration) {
                    Ok(values) => values.into_iter().for_each(|(metric, value)| {
                        comparison.add(case.name, metric, path, build, round, value);
                    }),
                    Err(error) => {
                        comparison.add_missing(format!("{} over {path}, {}: {error:#}", case.name, build.name()));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Measures every program several times, the builds in turn. The fastest run counts; the others may have been
/// disturbed.
fn run_programs(runs: &[TestRuns; 2], times: Times, round: usize, comparison: &mut Comparison) {
    const TURNS: u32 = 4;
    let [new, old] = runs;
    let times = Times { single: times.single.div_ceil(TURNS), repeat: times.repeat.div_ceil(TURNS) };
    for index in 0..new.len() {
        let name = new.name(index);
        let mut measure = || {
            let (mut nothing, mut fastest) = (f64::INFINITY, [f64::INFINITY; 2]);
            for _ in 0..TURNS {
                nothing = nothing.min(new.nothing(index, times)?);
                for build in Build::order(round) {
                    let (runs, fastest) =
                        if build == Build::New { (new, &mut fastest[0]) } else { (old, &mut fastest[1]) };
                    *fastest = fastest.min(runs.program(index, times).with_context(|| build.name())?);
                }
            }
            for (build, time) in [Build::New, Build::Old].into_iter().zip(fastest) {
                comparison.add(test_run::NAME, TIME, name, build, round, time - nothing);
            }
            anyhow::Ok(())
        };
        if let Err(error) = measure() {
            comparison.add_missing(format!("{} {name}: {error:#}", test_run::NAME));
        }
    }
}
