//! `--against`: another build of `overlay`, measured on all of overlay's paths in turn with this one.
//!
//! Of the other build nothing is used but its binary: its daemons load its programs and fill its maps. They are started with
//! `run --config FILE --pin-root DIR` and asked with `status --json` and `counters --json` (see
//! [`Daemon`](crate::lab::Daemon) and [`Path`]), which both builds have to understand; their programs are found at the
//! devices. No map is opened: its layout may be another.

use std::{path::Path as FilePath, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    cases::{Case, Wire},
    comparison::{Build, Comparison},
    paths::{Kind, Path, Workshop},
    results::TIME,
    test_run::{self, TestRuns, Times},
};
use crate::lab::{private_bpffs, private_directory};

/// What is measured of both builds.
pub(super) struct Selection {
    pub(super) cases: Vec<Case>,
    pub(super) kinds: Vec<Kind>,
    pub(super) test_run: Option<Times>,
    pub(super) rounds: usize,
    pub(super) duration: Duration,
}

/// A path by both builds. The hosts of one are idle while the other is measured.
struct Pair {
    new: Path,
    old: Path,
}

impl Pair {
    fn start(kind: Kind, label: &str, [new, old]: &[Workshop; 2]) -> Result<Self> {
        let start = |build: Build, workshop| Path::start(kind, &format!("{label}-{}", build.name()), workshop);
        Ok(Self { new: start(Build::New, new)?, old: start(Build::Old, old)? })
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

/// Measures both builds. The calling thread gets mounts of its own.
pub(super) fn measure(selection: &Selection, new: &FilePath, old: &FilePath, limit: f64) -> Result<Comparison> {
    let (pins, files) = (private_bpffs()?, private_directory()?);
    let workshops =
        [new, old].map(|overlay| Workshop { overlay: overlay.into(), pins: pins.clone(), files: files.clone() });
    let mut comparison = Comparison::new(new.into(), old.into(), limit);
    let pairs = if selection.cases.is_empty() { &[][..] } else { &selection.kinds };
    let pairs = pairs.iter().map(|kind| Pair::start(*kind, kind.name(), &workshops)).collect::<Result<Vec<_>>>()?;
    // With XDP, all programs are there.
    let programs = selection.test_run.map(|times| {
        let pair = Pair::start(Kind::Xdp, test_run::NAME, &workshops)?;
        let (new, old) = (TestRuns::open(&pair.new)?, TestRuns::open(&pair.old)?);
        anyhow::Ok((pair, [new, old], times))
    });
    let programs = programs.transpose()?;
    for round in 0..selection.rounds {
        eprintln!("round {} of {}", round + 1, selection.rounds);
        cases(selection, &pairs, round, &mut comparison)?;
        if let Some((_, runs, times)) = &programs {
            run_programs(runs, *times, round, &mut comparison);
        }
        eprint!("{}", comparison.round(round));
    }
    Ok(comparison)
}

/// Every case on every path, by one build right after the other.
fn cases(selection: &Selection, pairs: &[Pair], round: usize, comparison: &mut Comparison) -> Result<()> {
    let mut wire = Wire::Whole;
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
                    Err(error) => comparison.missed(format!("{} over {path}, {}: {error:#}", case.name, build.name())),
                }
            }
        }
    }
    if wire != Wire::Whole {
        pairs.iter().try_for_each(|pair| pair.set_wire(Wire::Whole))?;
    }
    Ok(())
}

/// Every program, by one build right after the other.
fn run_programs(runs: &[TestRuns; 2], times: Times, round: usize, comparison: &mut Comparison) {
    let [new, old] = runs;
    for index in 0..new.len() {
        let what = new.name(index);
        let mut measure = || {
            // The same for both, so that it makes no difference between them.
            let nothing = new.nothing(index, times)?;
            for build in Build::order(round) {
                let runs = if build == Build::New { new } else { old };
                let time = runs.program(index, times).with_context(|| build.name())?;
                comparison.add(test_run::NAME, TIME, what, build, round, time - nothing);
            }
            anyhow::Ok(())
        };
        if let Err(error) = measure() {
            comparison.missed(format!("{} {what}: {error:#}", test_run::NAME));
        }
    }
}
