//! The recorded ratios of the repository, and the comparison of a run with them.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    machine::Machine,
    results::{Better, Results},
    stats::Ratio,
};

/// The recorded ratios, for `--quick`.
pub(super) const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/bench/recorded.json");

/// A ratio that is worse by more than this is a regression. The margin covers another machine and a shorter run.
pub(super) const MARGIN: f64 = 0.15;

/// The paths of overlay: only their ratios are compared.
const OVERLAY_PATHS: [&str; 2] = ["tc", "xdp"];

/// Figure, path, baseline.
type Ratios = BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>>;

/// Contents of [`FILE`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    machine: String,
    ratios: Ratios,
}

impl Record {
    /// All stated ratios of `results`.
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
            format!("cannot read {}; create it with `cargo xtask bench --record` on an idle machine", path.display())
        })?;
        serde_json::from_slice(&text).with_context(|| format!("cannot parse {}", path.display()))
    }

    /// Compares every ratio of `results` with the record.
    pub(super) fn compare(&self, results: &Results) -> Verdict {
        let mut verdict = Verdict::default();
        for_each_ratio(results, |figure, better, path, baseline, ratio| {
            let recorded = self.ratios.get(&figure).and_then(|paths| paths.get(path)?.get(baseline));
            let name = format!("{figure}, {path} to {baseline}");
            match (recorded, ratio) {
                (None, _) => verdict.unknown.push(format!("{name}: not on record")),
                (Some(_), Ratio::Refused { disagreement }) => {
                    verdict.unknown.push(format!("{name}: the rounds disagree by ±{:.0} %", disagreement * 100.0));
                }
                (Some(_), Ratio::TooFew(rounds)) => verdict.unknown.push(format!("{name}: too few rounds ({rounds})")),
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
        // p99 depends on the machine as much as on the path.
        if figure.metric == super::results::P99 {
            continue;
        }
        for path in OVERLAY_PATHS {
            for baseline in &figure.baselines {
                if let Some(ratio) = figure.ratio(path, baseline) {
                    call(figure.name(), figure.metric.better, path, baseline, ratio);
                }
            }
        }
    }
}

/// Comparison of a run with the record, one line for each ratio.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    fine: Vec<String>,
    worse: Vec<String>,
    /// Ratios without a record, or with rounds that are too few or disagree.
    unknown: Vec<String>,
}

impl Verdict {
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (title, lines) in [("Equal or better", &self.fine), ("Unknown", &self.unknown), ("WORSE", &self.worse)] {
            if !lines.is_empty() {
                let margin = MARGIN * 100.0;
                let _ = write!(text, "\n{title}, compared with the record (margin {margin:.0} %):\n  ");
                let _ = writeln!(text, "{}", lines.join("\n  "));
            }
        }
        text
    }

    /// # Errors
    /// When a ratio is worse, or when most ratios are unknown.
    pub(super) fn check(&self) -> Result<()> {
        let Self { fine, worse, unknown } = self;
        ensure!(worse.is_empty(), "ratios worse than the record: {}", worse.len());
        ensure!(
            fine.len() > unknown.len(),
            "too many ratios are unknown ({} of {}); run the benchmark on an idle machine",
            unknown.len(),
            fine.len() + unknown.len()
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
    fn run_within_the_margin_passes() {
        let verdict = record().compare(&results([1.8; 3], [0.66; 3]));
        assert!(verdict.check().is_ok(), "{verdict:?}");
        let better = record().compare(&results([4.0; 3], [0.1; 3]));
        assert!(better.check().is_ok(), "{better:?}");
    }

    #[test]
    fn fewer_packets_and_longer_round_trips_are_worse() {
        assert_eq!(record().compare(&results([1.6; 3], [0.6; 3])).worse.len(), 1);
        assert_eq!(record().compare(&results([2.0; 3], [0.7; 3])).worse.len(), 1);
        assert!(record().compare(&results([1.6; 3], [0.6; 3])).check().is_err());
    }

    #[test]
    fn disagreeing_rounds_are_unknown_and_many_unknown_ratios_fail() {
        let verdict = record().compare(&results([1.0, 2.0, 3.0], [0.6; 3]));
        assert_eq!((verdict.unknown.len(), verdict.worse.len(), verdict.fine.len()), (1, 0, 1));
        assert!(verdict.check().is_err());
    }
}
