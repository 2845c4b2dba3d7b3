//! The ratios that the repository has on record, and whether a run is worse.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    machine::Machine,
    results::{Better, Results},
    stats::Ratio,
};

/// What `--quick` compares with.
pub(super) const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/bench/recorded.json");

/// Another machine, and a shorter run: only what is worse than the record by more than this is a regression.
pub(super) const MARGIN: f64 = 0.15;

/// Those that are ours: the others' ratios say nothing about overlay.
const OURS: [&str; 2] = ["tc", "xdp"];

/// Figure, path, baseline.
type Ratios = BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>>;

/// What is in [`FILE`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    machine: String,
    ratios: Ratios,
}

impl Record {
    /// All ratios of `results` that the rounds agree on.
    pub(super) fn new(machine: &Machine, results: &Results) -> Self {
        let mut ratios = Ratios::new();
        for_each_ratio(results, |figure, _, path, baseline, ratio| {
            if let Some(ratio) = ratio.stated() {
                let rounded = (ratio * 1e3).round() / 1e3;
                ratios
                    .entry(figure)
                    .or_default()
                    .entry(path.to_owned())
                    .or_default()
                    .insert(baseline.to_owned(), rounded);
            }
        });
        Self { machine: machine.to_string(), ratios }
    }

    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| {
            format!("cannot read {}; `cargo xtask bench --record` of a quiet machine makes it", path.display())
        })?;
        serde_json::from_slice(&text).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Compares every ratio that is on record and that `results` should have.
    pub(super) fn judge(&self, results: &Results) -> Verdict {
        let mut verdict = Verdict::default();
        for_each_ratio(results, |figure, better, path, baseline, ratio| {
            let recorded = self.ratios.get(&figure).and_then(|paths| paths.get(path)?.get(baseline));
            let name = format!("{figure}, {path} to {baseline}");
            match (recorded, ratio) {
                (None, _) => verdict.open.push(format!("{name}: not on record")),
                (Some(_), Ratio::Refused { disagreement }) => {
                    verdict.open.push(format!("{name}: the rounds disagree by ±{:.0} %", disagreement * 100.0));
                }
                (Some(_), Ratio::TooFew(rounds)) => verdict.open.push(format!("{name}: {rounds} rounds only")),
                (Some(recorded), Ratio::Stated { median, .. }) => {
                    let worse = match better {
                        Better::Higher => median < recorded * (1.0 - MARGIN),
                        Better::Lower => median > recorded * (1.0 + MARGIN),
                    };
                    let line = format!("{name}: {median:.2}, on record {recorded:.2}");
                    if worse { &mut verdict.worse } else { &mut verdict.fine }.push(line);
                }
            }
        });
        verdict
    }
}

fn for_each_ratio(results: &Results, mut call: impl FnMut(String, Better, &str, &str, Ratio)) {
    for figure in &results.figures {
        // The slowest hundredth is as much the machine's as it is the path's.
        if figure.metric == super::results::P99 {
            continue;
        }
        for path in OURS {
            for baseline in &figure.baselines {
                if let Some(ratio) = figure.ratio(path, baseline) {
                    call(figure.name(), figure.metric.better, path, baseline, ratio);
                }
            }
        }
    }
}

/// How a run compares with the record, a line for each ratio.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    fine: Vec<String>,
    worse: Vec<String>,
    /// Nobody can say.
    open: Vec<String>,
}

impl Verdict {
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (title, lines) in [
            ("As on record, or better", &self.fine),
            ("Cannot be judged", &self.open),
            ("WORSE than on record", &self.worse),
        ] {
            if !lines.is_empty() {
                let _ = write!(text, "\n{title} (margin {:.0} %):\n  {}\n", MARGIN * 100.0, lines.join("\n  "));
            }
        }
        text
    }

    /// # Errors
    /// When something is worse, or when most of it cannot be judged.
    pub(super) fn check(&self) -> Result<()> {
        let Self { fine, worse, open } = self;
        ensure!(worse.is_empty(), "{} ratios are worse than on record", worse.len());
        ensure!(
            fine.len() > open.len(),
            "only {} of {} ratios can be judged; run it on a machine that does nothing else",
            fine.len(),
            fine.len() + open.len()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::{P50, PACKETS};

    fn results(udp64: [f64; 3], udp_rr: [f64; 3]) -> Results {
        let mut results = Results::default();
        for round in 0..3 {
            for (case, metric, values) in [("udp64", PACKETS, udp64), ("udp_rr", P50, udp_rr)] {
                results.add(case, metric, "kernel", &["kernel"], round, 1.0);
                results.add(case, metric, "tc", &["kernel"], round, values[round]);
            }
        }
        results
    }

    fn record() -> Record {
        let machine = Machine { cpu: String::new(), cpus: 2, memory_mib: 0, kernel: String::new(), load_before: 0.0 };
        Record::new(&machine, &results([2.0; 3], [0.6; 3]))
    }

    #[test]
    fn a_run_within_the_margin_passes() {
        let verdict = record().judge(&results([1.8; 3], [0.66; 3]));
        assert!(verdict.check().is_ok(), "{verdict:?}");
        let better = record().judge(&results([4.0; 3], [0.1; 3]));
        assert!(better.check().is_ok(), "{better:?}");
    }

    #[test]
    fn fewer_packets_and_a_longer_round_trip_are_worse() {
        assert_eq!(record().judge(&results([1.6; 3], [0.6; 3])).worse.len(), 1);
        assert_eq!(record().judge(&results([2.0; 3], [0.7; 3])).worse.len(), 1);
        assert!(record().judge(&results([1.6; 3], [0.6; 3])).check().is_err());
    }

    #[test]
    fn rounds_that_disagree_are_no_verdict_and_too_many_of_them_fail() {
        let verdict = record().judge(&results([1.0, 2.0, 3.0], [0.6; 3]));
        assert_eq!((verdict.open.len(), verdict.worse.len(), verdict.fine.len()), (1, 0, 1));
        assert!(verdict.check().is_err());
    }
}
