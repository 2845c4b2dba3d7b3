//! Comparison of two builds, round by round: ratios, their median and spread, and a verdict.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use super::{
    machine::Machine,
    report::number,
    results::{Better, Metric, P99, TIME},
    stats::Summary,
};

/// Resolution of the run time of a program, in nanoseconds: the kernel reports whole nanoseconds.
const RESOLUTION: f64 = 1.0;

/// One of the two builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Build {
    /// The build under test.
    New,
    /// The build to compare with.
    Old,
}

impl Build {
    /// Both builds in the order of a round: each is first in every other round.
    pub(super) const fn order(round: usize) -> [Self; 2] {
        if round.is_multiple_of(2) { [Self::New, Self::Old] } else { [Self::Old, Self::New] }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Old => "old",
        }
    }
}

/// The values of a row in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Round {
    new: Option<f64>,
    old: Option<f64>,
}

/// One figure of one path for both builds.
#[derive(Clone, Debug)]
pub(super) struct Row {
    case: String,
    metric: Metric,
    path: String,
    rounds: BTreeMap<usize, Round>,
}

impl Row {
    /// `udp64 packets over tc`.
    fn name(&self) -> String {
        format!("{} {} over {}", self.case, self.metric.name, self.path)
    }

    /// Ratio of the builds in a round: above 1 if the new one is better. `None` if a value is missing or not above 0.
    /// The time of a program can be below 0, because the time of an empty program is subtracted.
    fn ratio(&self, round: usize) -> Option<f64> {
        let Round { new, old } = self.rounds.get(&round)?;
        let (new, old) = (new.filter(|value| *value > 0.0)?, old.filter(|value| *value > 0.0)?);
        Some(match self.metric.better {
            Better::Higher => new / old,
            Better::Lower => old / new,
        })
    }

    fn ratios(&self) -> impl Iterator<Item = f64> {
        self.rounds.keys().filter_map(|round| self.ratio(*round))
    }

    fn summary(&self) -> Option<Summary> {
        Summary::of(self.ratios())
    }

    /// Median of the values of one build.
    fn median(&self, build: Build) -> Option<f64> {
        let values = self.rounds.values().filter_map(|round| match build {
            Build::New => round.new,
            Build::Old => round.old,
        });
        Summary::of(values).map(|summary| summary.median)
    }

    /// Whether the builds differ by at least the resolution of the clock.
    fn is_measurable(&self) -> bool {
        let difference = || Some((self.median(Build::New)? - self.median(Build::Old)?).abs());
        self.metric != TIME || difference().is_some_and(|nanoseconds| nanoseconds >= RESOLUTION)
    }

    /// p99 is shown and not judged: it depends on the machine as much as on the build.
    fn is_judged(&self) -> bool {
        self.metric != P99
    }
}

/// A row with its ratios, for `--json`.
impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_struct("Row", 7)?;
        row.serialize_field("case", &self.case)?;
        row.serialize_field("metric", &self.metric)?;
        row.serialize_field("path", &self.path)?;
        row.serialize_field("rounds", &self.rounds)?;
        let ratios: BTreeMap<_, _> =
            self.rounds.keys().filter_map(|round| Some((*round, self.ratio(*round)?))).collect();
        row.serialize_field("ratios", &ratios)?;
        row.serialize_field("ratio", &self.summary())?;
        row.serialize_field("judged", &self.is_judged())?;
        row.end()
    }
}

/// All measurements of two builds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) new: PathBuf,
    pub(super) old: PathBuf,
    /// A row with a median ratio below this is worse.
    pub(super) limit: f64,
    pub(super) rows: Vec<Row>,
    /// Failed measurements with their errors.
    pub(super) missing: Vec<String>,
}

impl Comparison {
    pub(super) fn new(new: PathBuf, old: PathBuf, limit: f64) -> Self {
        Self { new, old, limit, rows: Vec::new(), missing: Vec::new() }
    }

    pub(super) fn add(&mut self, case: &str, metric: Metric, path: &str, build: Build, round: usize, value: f64) {
        let found = self.rows.iter().position(|row| row.case == case && row.metric == metric && row.path == path);
        let index = found.unwrap_or_else(|| {
            let (case, path) = (case.to_owned(), path.to_owned());
            self.rows.push(Row { case, metric, path, rounds: BTreeMap::new() });
            self.rows.len() - 1
        });
        let round = self.rows[index].rounds.entry(round).or_default();
        *match build {
            Build::New => &mut round.new,
            Build::Old => &mut round.old,
        } = Some(value);
    }

    /// Records a failed measurement; repeated messages are kept once.
    pub(super) fn add_missing(&mut self, message: String) {
        eprintln!("not measured: {message}");
        if !self.missing.contains(&message) {
            self.missing.push(message);
        }
    }

    /// The ratios of a round, one line each.
    pub(super) fn round(&self, round: usize) -> String {
        let lines = self.rows.iter().filter_map(|row| Some(format!("  {:.3} {}\n", row.ratio(round)?, row.name())));
        lines.collect()
    }

    /// Rows with a median ratio below the limit.
    fn worse(&self) -> Vec<(&Row, Summary)> {
        let rows = self.rows.iter().filter(|row| row.is_judged() && row.is_measurable());
        let known = rows.filter_map(|row| Some((row, row.summary()?)));
        known.filter(|(_, summary)| summary.median < self.limit).collect()
    }

    /// Rows without a ratio in any round.
    fn unknown(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.summary().is_none())
    }

    /// Whether no row is worse.
    pub(super) fn is_as_good(&self) -> bool {
        self.worse().is_empty()
    }

    /// The table and the verdict, as Markdown.
    pub(super) fn markdown(&self, machine: &Machine, load_after: f64) -> String {
        let mut text = format!("Measured on {machine}, after the run {load_after:.2}.\n");
        if let Some(warning) = machine.warning() {
            let _ = writeln!(text, "\n{warning}");
        }
        let _ = write!(
            text,
            "\nnew: `{}`\nold: `{}`\n\nA ratio above 1 means that the new build is better, also for times. The ratio \
             is the median of the ratios of all rounds.\n\n\
             | figure | path | new | old | ratio | smallest–largest | rounds |\n|---|---|---:|---:|---:|---:|---|\n",
            self.new.display(),
            self.old.display()
        );
        for row in &self.rows {
            let value = |build| row.median(build).map_or_else(|| "–".to_owned(), number);
            let (ratio, spread) = row.summary().map_or_else(
                || ("–".to_owned(), "–".to_owned()),
                |summary| (format!("{:.3}", summary.median), format!("{:.3}–{:.3}", summary.min, summary.max)),
            );
            let rounds: Vec<_> = row.ratios().map(|ratio| format!("{ratio:.3}")).collect();
            let _ = writeln!(
                text,
                "| {} {} ({}) | {} | {} | {} | {ratio} | {spread} | {} |",
                row.case,
                row.metric.name,
                row.metric.unit,
                row.path,
                value(Build::New),
                value(Build::Old),
                rounds.join(" ")
            );
        }
        for missing in &self.missing {
            let _ = write!(text, "\nNot measured: {}\n", missing.replace('\n', " "));
        }
        text + &self.verdict()
    }

    fn verdict(&self) -> String {
        let (worse, judged) = (self.worse(), self.rows.iter().filter(|row| row.is_judged()).count());
        let mut text = String::from("\n");
        let _ = if worse.is_empty() {
            writeln!(text, "No row of {judged} is below {}.", self.limit)
        } else {
            writeln!(text, "WORSE: rows below {}: {} of {judged}\n", self.limit, worse.len())
        };
        for (row, summary) in worse {
            let hint = if summary.max >= 1.0 { ", not in every round: repeat with more rounds" } else { "" };
            let (median, min, max) = (summary.median, summary.min, summary.max);
            let _ = writeln!(text, "- {}: {median:.3} ({min:.3}–{max:.3}{hint})", row.name());
        }
        for row in self.unknown() {
            let _ = writeln!(text, "- {}: unknown, no round has a ratio", row.name());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::{P50, PACKETS};

    /// One row for each metric; rounds of (new, old).
    fn comparison(rows: &[(Metric, &[(f64, f64)])]) -> Comparison {
        let mut comparison = Comparison::new("new".into(), "old".into(), 0.98);
        for (metric, rounds) in rows {
            for (round, (new, old)) in rounds.iter().enumerate() {
                comparison.add("case", *metric, "tc", Build::New, round, *new);
                comparison.add("case", *metric, "tc", Build::Old, round, *old);
            }
        }
        comparison
    }

    fn median(comparison: &Comparison) -> f64 {
        comparison.rows[0].summary().unwrap().median
    }

    #[test]
    fn each_build_is_first_in_every_other_round() {
        assert_eq!(Build::order(0), [Build::New, Build::Old]);
        assert_eq!(Build::order(1), [Build::Old, Build::New]);
        assert_eq!(Build::order(2), Build::order(0));
    }

    #[test]
    fn ratio_above_one_means_that_the_new_build_is_better() {
        assert_eq!(median(&comparison(&[(PACKETS, &[(220.0, 200.0)])])), 1.1);
        assert_eq!(median(&comparison(&[(P50, &[(10.0, 11.0)])])), 1.1);
        assert_eq!(median(&comparison(&[(P50, &[(20.0, 10.0)])])), 0.5);
    }

    #[test]
    fn median_of_the_ratios_ignores_a_machine_that_slows_down() {
        let drifting = comparison(&[(PACKETS, &[(100.0, 100.0), (50.0, 50.0), (24.0, 25.0)])]);
        assert_eq!(median(&drifting), 1.0);
        assert!(drifting.is_as_good());
        assert_eq!(drifting.round(2), "  0.960 case packets over tc\n");
    }

    #[test]
    fn only_rows_below_the_limit_are_listed() {
        let worse = comparison(&[
            (PACKETS, &[(97.0, 100.0), (97.5, 100.0), (99.0, 100.0)]),
            (TIME, &[(100.0, 98.0), (100.0, 98.0), (100.0, 98.0)]),
            (P50, &[(90.0, 100.0)]),
        ]);
        assert!(!worse.is_as_good());
        let text = worse.verdict();
        assert!(text.contains("WORSE: rows below 0.98: 1 of 3"), "{text}");
        assert!(text.contains("- case packets over tc: 0.975 (0.970–0.990)"), "{text}");
    }

    #[test]
    fn difference_below_the_clock_resolution_is_not_worse() {
        assert!(comparison(&[(TIME, &[(10.9, 10.0)])]).is_as_good());
        assert!(!comparison(&[(TIME, &[(11.1, 10.0)])]).is_as_good());
    }

    #[test]
    fn worse_row_with_one_better_round_has_a_hint() {
        let text = comparison(&[(PACKETS, &[(97.0, 100.0), (97.0, 100.0), (101.0, 100.0)])]).verdict();
        assert!(text.contains("0.970 (0.970–1.010, not in every round: repeat with more rounds)"), "{text}");
    }

    #[test]
    fn p99_is_shown_and_not_judged() {
        let slow = comparison(&[(P99, &[(200.0, 100.0)])]);
        assert!(slow.is_as_good());
        assert!(slow.verdict().contains("No row of 0 "));
        let machine =
            Machine { cpu: "a CPU".to_owned(), cpus: 2, memory_mib: 2048, kernel: "6.18".to_owned(), load_before: 0.0 };
        let text = slow.markdown(&machine, 0.1);
        assert!(text.contains("| case p99 (µs) | tc | 200 | 100 | 0.500 | 0.500–0.500 | 0.500 |"), "{text}");
    }

    #[test]
    fn rounds_without_both_values_have_no_ratio() {
        let mut half = Comparison::new("new".into(), "old".into(), 0.98);
        half.add("case", PACKETS, "xdp", Build::New, 0, 1.0);
        // Below the time of an empty program.
        half.add("case", TIME, "xdp", Build::New, 0, -1.0);
        half.add("case", TIME, "xdp", Build::Old, 0, 2.0);
        assert_eq!(half.rows.iter().map(|row| row.ratio(0)).collect::<Vec<_>>(), [None, None]);
        assert!(half.is_as_good());
        assert_eq!(half.verdict().matches("unknown").count(), 2);
    }

    #[test]
    fn json_has_every_round_and_its_ratio() {
        let json = serde_json::to_value(comparison(&[(PACKETS, &[(3.0, 2.0), (1.0, 2.0)])])).unwrap();
        let row = &json["rows"][0];
        assert_eq!((&row["rounds"]["0"]["new"], &row["rounds"]["1"]["old"]), (&3.0.into(), &2.0.into()));
        assert_eq!((&row["ratios"]["0"], &row["ratios"]["1"]), (&1.5.into(), &0.5.into()));
        assert_eq!((&row["ratio"]["median"], &json["limit"]), (&1.0.into(), &0.98.into()));
    }
}
