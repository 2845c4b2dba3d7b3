//! The results: per figure, per path, per round.

use std::collections::BTreeMap;

use serde::Serialize;

use super::stats::{self, Ratio, Summary};

/// Whether a higher or a lower value is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// A measured quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Metric {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) better: Better,
}

macro_rules! metrics {
    ($($constant:ident = $name:literal, $unit:literal, $better:ident;)+) => {
        $(pub(super) const $constant: Metric = Metric { name: $name, unit: $unit, better: Better::$better };)+
    };
}

metrics! {
    THROUGHPUT = "throughput", "Gbit/s", Higher;
    PACKETS = "packets", "kpps", Higher;
    P50 = "p50", "µs", Lower;
    P99 = "p99", "µs", Lower;
    CONNECTIONS = "connections", "1/s", Higher;
    REQUESTS = "requests", "1/s", Higher;
    CPU = "cpu", "µs per request", Lower;
    CHANGES = "changes", "1/s", Higher;
    TIME = "time", "ns", Lower;
    DURATION = "duration", "ms", Lower;
    MEMORY = "memory", "MiB", Lower;
}

/// One number for each path and round.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figure {
    pub(super) case: String,
    pub(super) metric: Metric,
    /// The paths to compare with.
    pub(super) baselines: Vec<String>,
    pub(super) series: Vec<Series>,
}

/// The values of one path.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Series {
    pub(super) path: String,
    pub(super) rounds: BTreeMap<usize, f64>,
}

impl Series {
    pub(super) fn summary(&self) -> Option<Summary> {
        Summary::of(self.rounds.values().copied())
    }
}

impl Figure {
    pub(super) fn series(&self, path: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.path == path)
    }

    /// Ratio of `path` to `baseline`; `None` if one of them was not measured, or both are the same.
    pub(super) fn ratio(&self, path: &str, baseline: &str) -> Option<Ratio> {
        (path != baseline).then_some(())?;
        Some(Ratio::of(&self.series(path)?.rounds, &self.series(baseline)?.rounds))
    }

    /// Summary of the ratios of all rounds of `path` to `baseline`, for plots; a path has the ratio 1 to itself.
    pub(super) fn relative(&self, path: &str, baseline: &str) -> Option<Summary> {
        Summary::of(stats::ratios(&self.series(path)?.rounds, &self.series(baseline)?.rounds))
    }

    /// The 95 % interval of the rounds' ratios of `path` to `baseline`, if `path` is worse in all of it.
    pub(super) fn worse(&self, path: &str, baseline: &str) -> Option<(f64, f64)> {
        let ratios = stats::ratios(&self.series(path)?.rounds, &self.series(baseline)?.rounds);
        let (low, high) = stats::interval(ratios)?;
        let is_worse = match self.metric.better {
            Better::Higher => high < 1.0,
            Better::Lower => low > 1.0,
        };
        is_worse.then_some((low, high))
    }

    /// `udp_rr p50`: case and metric.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.case, self.metric.name)
    }
}

/// All results, in the order of measurement.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Results {
    pub(super) figures: Vec<Figure>,
    /// Failed measurements with their errors.
    pub(super) missing: Vec<String>,
    /// Remarks on the figures, for the reader.
    pub(super) notes: Vec<String>,
}

impl Results {
    pub(super) fn add(&mut self, case: &str, metric: Metric, path: &str, baselines: &[&str], round: usize, value: f64) {
        let found = self.figures.iter().position(|figure| figure.case == case && figure.metric == metric);
        let index = found.unwrap_or_else(|| {
            let baselines = baselines.iter().map(ToString::to_string).collect();
            self.figures.push(Figure { case: case.to_owned(), metric, baselines, series: Vec::new() });
            self.figures.len() - 1
        });
        let series = &mut self.figures[index].series;
        let found = series.iter().position(|series| series.path == path);
        let index = found.unwrap_or_else(|| {
            series.push(Series { path: path.to_owned(), rounds: BTreeMap::new() });
            series.len() - 1
        });
        series[index].rounds.insert(round, value);
    }

    /// Records a failed measurement; repeated messages are kept once.
    pub(super) fn add_missing(&mut self, message: impl Into<String>) {
        let message = message.into();
        eprintln!("not measured: {message}");
        if !self.missing.contains(&message) {
            self.missing.push(message);
        }
    }

    pub(super) fn note(&mut self, note: &str) {
        if !self.notes.iter().any(|known| known == note) {
            self.notes.push(note.to_owned());
        }
    }

    pub(super) fn figure(&self, case: &str, metric: Metric) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.case == case && figure.metric == metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_kept_by_figure_path_and_round() {
        let mut results = Results::default();
        for round in 0..3 {
            results.add("udp64", PACKETS, "kernel", &["kernel"], round, 100.0);
            results.add("udp64", PACKETS, "tc", &["kernel"], round, 200.0 + round as f64);
        }
        let figure = results.figure("udp64", PACKETS).unwrap();
        assert_eq!(figure.series("tc").unwrap().summary().unwrap().median, 201.0);
        assert_eq!(figure.ratio("tc", "kernel").unwrap().stated(), Some(2.01));
        assert_eq!(figure.relative("tc", "kernel").map(|ratio| (ratio.min, ratio.max)), Some((2.0, 2.02)));
        assert_eq!(figure.relative("kernel", "kernel").map(|ratio| ratio.median), Some(1.0));
        assert_eq!(figure.ratio("kernel", "kernel"), None);
        assert_eq!(figure.ratio("xdp", "kernel"), None);
        assert_eq!(results.figure("udp64", P50).map(Figure::name), None);
    }

    #[test]
    fn path_is_worse_if_all_of_the_interval_is() {
        let mut results = Results::default();
        for (round, factor) in [0.97, 0.9, 0.95, 0.99, 0.96].into_iter().enumerate() {
            for (metric, value) in [(PACKETS, factor), (P50, 1.0 / factor)] {
                results.add("udp64", metric, "kernel", &["kernel"], round, 1.0);
                results.add("udp64", metric, "tc", &["kernel"], round, value);
            }
        }
        assert_eq!(results.figures[0].worse("tc", "kernel"), Some((0.9, 0.99)));
        assert_eq!(results.figures[1].worse("tc", "kernel"), Some((1.0 / 0.99, 1.0 / 0.9)));
        assert_eq!(results.figures[0].worse("kernel", "tc"), None);
        assert_eq!(results.figures[0].worse("xdp", "kernel"), None);
        results.add("udp64", PACKETS, "tc", &["kernel"], 2, 1.0);
        assert_eq!(results.figures[0].worse("tc", "kernel"), None);
    }

    #[test]
    fn repeated_failure_is_listed_once() {
        let mut results = Results::default();
        results.add_missing("tcp1 over xdp: no iperf3");
        results.add_missing("tcp1 over xdp: no iperf3");
        assert_eq!(results.missing.len(), 1);
    }
}
