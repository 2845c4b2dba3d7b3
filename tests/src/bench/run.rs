//! What is measured, in which order.

use std::{path::Path as FilePath, time::Duration};

use anyhow::{Result, bail};

use super::{
    Args,
    cases::{self, Case},
    paths::{Kind, Path, Workshop},
    results::Results,
};
use crate::lab::{private_bpffs, private_directory};

/// What the others are compared with.
const BASELINES: [&str; 2] = ["kernel", "bound-redirect"];

/// What was asked for.
#[derive(Debug)]
pub(super) struct Plan {
    cases: Vec<Case>,
    kinds: Vec<Kind>,
    rounds: usize,
    /// Of one measurement.
    duration: Duration,
}

impl Plan {
    pub(super) fn new(args: &Args) -> Result<Self> {
        let mut plan = Self {
            cases: cases::ALL.to_vec(),
            kinds: Kind::ALL.to_vec(),
            rounds: args.rounds.unwrap_or(if args.smoke { 1 } else { 5 }).max(1),
            duration: if args.smoke { Duration::from_millis(50) } else { Duration::from_secs(1) },
        };
        if args.quick {
            plan.cases = cases::QUICK.into_iter().filter_map(cases::named).collect();
            plan.kinds = cases::QUICK_PATHS.to_vec();
        }
        if !args.only.is_empty() {
            plan.cases.retain(|case| args.only.iter().any(|name| name == case.name));
            for name in &args.only {
                if cases::named(name).is_none() {
                    bail!("there is no case {name}; there are {}", cases::ALL.map(|case| case.name).join(", "));
                }
            }
        }
        Ok(plan)
    }

    /// Measures all of it. The calling thread gets mounts of its own.
    pub(super) fn measure(self, overlay: &FilePath) -> Result<Results> {
        let workshop = Workshop { overlay: overlay.to_owned(), pins: private_bpffs()?, files: private_directory()? };
        let mut results = Results::default();
        self.compare(&workshop, &mut results)?;
        Ok(results)
    }

    /// All cases on all paths.
    fn compare(&self, workshop: &Workshop, results: &mut Results) -> Result<()> {
        let mut paths = Vec::new();
        for kind in &self.kinds {
            paths.push(Path::start(*kind, kind.name(), workshop)?);
        }
        if self.kinds.contains(&Kind::Xdp) {
            results.note(
                "`xdp` needs `ethtool -K enp0s3 tx off` at both ends of a wire that is a veth: its TCP is checksummed and \
                 cut into segments before the wire in all cases, which a real NIC would not ask for.",
            );
        }
        for round in 0..self.rounds {
            eprintln!("round {} of {}", round + 1, self.rounds);
            let mut noseg = false;
            for case in &self.cases {
                if case.noseg != noseg {
                    noseg = case.noseg;
                    paths.iter().try_for_each(|path| path.segmentation(!noseg))?;
                }
                for path in paths.iter().filter(|path| case.applies_to(path.kind)) {
                    match case.measure(path, self.duration) {
                        Ok(values) => {
                            for (metric, value) in values {
                                results.add(case.name, metric, path.kind.name(), &BASELINES, round, value);
                            }
                        }
                        Err(error) => results.missed(format!("{} over {}: {error:#}", case.name, path.kind.name())),
                    }
                }
            }
            if noseg {
                paths.iter().try_for_each(|path| path.segmentation(true))?;
            }
        }
        Ok(())
    }
}
