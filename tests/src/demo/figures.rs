//! Throughput and latency as seen by an application.
//!
//! Sockets and CPUs are those of the benchmark: client and server on one CPU each for throughput, both on one CPU for
//! round trips and requests.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{
    comparison::{Comparison, Round, spread},
    pairs::Ends,
    signals,
};
use crate::{
    bench::{cases, stats::Summary},
    lab::traffic::{Cpus, HttpConnection, Ping, http_rate, iperf3, ping},
};

const UDP_TIME: Duration = Duration::from_millis(400);
const ROUND_TRIP_TIME: Duration = Duration::from_millis(250);
const HTTP_TIME: Duration = Duration::from_millis(250);
const PINGS: u16 = 100;

/// A measured figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Figure {
    /// In the JSON object.
    key: &'static str,
    /// In the table.
    title: &'static str,
    /// A number of events, which is not compared: it can be 0.
    is_count: bool,
}

const fn figure(key: &'static str, title: &'static str) -> Figure {
    Figure { key, title, is_count: false }
}

const fn count(key: &'static str, title: &'static str) -> Figure {
    Figure { key, title, is_count: true }
}

/// One measurement. `once` returns the values of `figures`, in their order.
struct Measure {
    figures: &'static [Figure],
    once: fn(&Ends<'_>) -> Result<Vec<f64>>,
}

const MEASURES: [Measure; 7] = [
    Measure {
        figures: &[figure("tcp_gbps", "TCP, one stream (Gbit/s)"), count("tcp_retransmits", "  retransmissions")],
        once: tcp,
    },
    Measure {
        figures: &[figure("udp_kpps", "UDP 64 B, received (kpps)")],
        once: |ends| benchmark_case("udp64", ends, UDP_TIME),
    },
    Measure {
        figures: &[figure("udp_rr_us", "UDP round trip (µs)")],
        once: |ends| benchmark_case("udp_rr", ends, ROUND_TRIP_TIME),
    },
    Measure {
        figures: &[figure("tcp_rr_us", "TCP round trip (µs)")],
        once: |ends| benchmark_case("tcp_rr", ends, ROUND_TRIP_TIME),
    },
    Measure { figures: &[figure("ping_us", "ping round trip (µs)")], once: echo },
    Measure {
        figures: &[figure("http_keep_alive_rps", "HTTP, keep-alive (req/s)")],
        once: |ends| http(HttpConnection::KeepAlive, ends),
    },
    Measure {
        figures: &[figure("http_close_rps", "HTTP, new connection (req/s)")],
        once: |ends| http(HttpConnection::Close, ends),
    },
];

fn tcp(ends: &Ends<'_>) -> Result<Vec<f64>> {
    let report = iperf3(ends.client, ends.server, ends.address, cases::bulk(1), Cpus::two())?;
    Ok(vec![report.gbps, report.retransmits as f64])
}

/// The first figure of a case of the benchmark; for round trips, the median.
fn benchmark_case(name: &str, ends: &Ends<'_>, duration: Duration) -> Result<Vec<f64>> {
    let case = cases::named(name).with_context(|| format!("the benchmark has no case {name}"))?;
    let values = case.between(ends.client, ends.server, ends.address, duration)?;
    Ok(values.into_iter().take(1).map(|(_, value)| value).collect())
}

fn echo(ends: &Ends<'_>) -> Result<Vec<f64>> {
    let interval = Duration::from_millis(1);
    let plan = Ping { count: PINGS, interval, cpu: Cpus::one().client, ..Ping::default() };
    let replies = ping(ends.client, ends.address, plan)?;
    ensure!(replies.received > 0, "{} does not answer {}", ends.address, ends.client.name());
    Ok(vec![replies.latency.percentile_us(50)])
}

fn http(connection: HttpConnection, ends: &Ends<'_>) -> Result<Vec<f64>> {
    let requests = http_rate(connection, ends.client, ends.server, ends.address, HTTP_TIME, Cpus::one())?;
    Ok(vec![requests.per_second()])
}

/// A figure of both sides, in all rounds. `Display` is its line of the table.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: &'static str,
    #[serde(skip)]
    title: &'static str,
    pub(super) attached: Summary,
    pub(super) detached: Summary,
    /// `None` for counts.
    #[serde(flatten)]
    pub(super) comparison: Option<Comparison>,
    rounds: Vec<Round>,
}

impl Row {
    fn new(figure: Figure, rounds: Vec<Round>) -> Result<Self> {
        let summary = |side: fn(&Round) -> f64| Summary::of(rounds.iter().map(side)).context("no rounds");
        let comparison = if figure.is_count {
            None
        } else {
            Some(Comparison::of(&rounds).with_context(|| format!("{}: no round has a ratio", figure.key))?)
        };
        Ok(Self {
            name: figure.key,
            title: figure.title,
            attached: summary(|round| round.attached)?,
            detached: summary(|round| round.detached)?,
            comparison,
            rounds,
        })
    }

    /// A line of the table; the last column has no fixed width.
    pub(super) fn line(title: &str, attached: &str, detached: &str, change: &str) -> String {
        format!("{title:<28}{attached:>16}{detached:>16}  {change}").trim_end().to_owned()
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [attached, detached] = [&self.attached, &self.detached].map(spread);
        let change = self.comparison.map(|comparison| comparison.to_string()).unwrap_or_default();
        f.write_str(&Self::line(self.title, &attached, &detached, &change))
    }
}

/// Rows of the table, and the errors of measurements that are missing in them.
pub(super) struct Compared {
    pub(super) rows: Vec<Row>,
    pub(super) failed: Vec<String>,
}

/// Measures both pairs in turn: each figure of a round on one pair and immediately on the other.
///
/// # Errors
/// When a figure fails in all rounds, and when a signal arrives. On a busy machine, single measurements fail.
pub(super) fn compare(attached: &Ends<'_>, detached: &Ends<'_>, rounds: usize) -> Result<Compared> {
    let mut measured = MEASURES.map(|_| Vec::new());
    let mut failed = Vec::new();
    for round in 0..rounds {
        for (index, (measure, measured)) in MEASURES.iter().zip(&mut measured).enumerate() {
            signals::check()?;
            match in_turn(round + index, [attached, detached], measure.once) {
                Ok(values) => measured.push(values),
                Err(error) => failed.push(format!("{}, round {}: {error:#}", measure.figures[0].key, round + 1)),
            }
        }
    }
    signals::check()?;
    let mut rows = Vec::new();
    for (measure, measured) in MEASURES.iter().zip(&measured) {
        ensure!(!measured.is_empty(), "{}", failed.join("\n"));
        for (index, figure) in measure.figures.iter().enumerate() {
            let value = |[attached, detached]: &[Vec<f64>; 2]| Round {
                attached: attached.get(index).copied().unwrap_or(f64::NAN),
                detached: detached.get(index).copied().unwrap_or(f64::NAN),
            };
            rows.push(Row::new(*figure, measured.iter().map(value).collect())?);
        }
    }
    Ok(Compared { rows, failed })
}

/// Calls `measure` for both sides and returns the results in the order of `sides`. The order of the calls alternates
/// from turn to turn, so that an advantage of the first or second call affects both sides.
fn in_turn<S: Copy, T>(turn: usize, sides: [S; 2], mut measure: impl FnMut(S) -> Result<T>) -> Result<[T; 2]> {
    let [attached, detached] = sides;
    if turn.is_multiple_of(2) {
        Ok([measure(attached)?, measure(detached)?])
    } else {
        let detached = measure(detached)?;
        Ok([measure(attached)?, detached])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_alternate_in_order_and_keep_their_values() {
        let mut calls = Vec::new();
        for turn in 0..3 {
            let pair = in_turn(turn, ["attached", "detached"], |side| {
                calls.push(side);
                Ok((side, turn))
            });
            assert_eq!(pair.unwrap(), [("attached", turn), ("detached", turn)]);
        }
        assert_eq!(calls, ["attached", "detached", "detached", "attached", "attached", "detached"]);
    }

    #[test]
    fn row_shows_both_sides_and_the_change() {
        let rounds = |attached: [f64; 5], detached: [f64; 5]| {
            attached.into_iter().zip(detached).map(|(attached, detached)| Round { attached, detached }).collect()
        };
        let row = Row::new(figure("udp_kpps", "UDP"), rounds([200.0; 5], [100.0, 100.0, 90.0, 100.0, 100.0])).unwrap();
        let words: Vec<_> = row.to_string().split_whitespace().map(str::to_owned).collect();
        assert_eq!(words.join(" "), "UDP 200 ± 0 % 100 ± 10 % +100 % (+100 … +122 %)");

        let noisy = Row::new(figure("udp_kpps", "UDP"), rounds([1.0, 2.0, 1.0, 2.0, 1.0], [1.5; 5])).unwrap();
        assert!(noisy.to_string().ends_with("  too noisy to compare (rounds differ: -33 … +33 %)"), "{noisy}");
        let json = serde_json::to_value(&noisy).unwrap();
        assert_eq!((&json["comparable"], &json["change_percent"]), (&false.into(), &serde_json::Value::Null), "{json}");
        assert_eq!(json["rounds"][1], serde_json::json!({ "attached": 2.0, "detached": 1.5 }));

        let count = Row::new(count("tcp_retransmits", "sent again"), rounds([0.0; 5], [0.0, 3.0, 0.0, 0.0, 1.0]));
        let words: Vec<_> = count.unwrap().to_string().split_whitespace().map(str::to_owned).collect();
        assert_eq!(words.join(" "), "sent again 0 (0–0) 0 (0–3)");
    }

    #[test]
    fn cases_of_the_benchmark_exist_and_names_are_unique() {
        assert!(["udp64", "udp_rr", "tcp_rr"].iter().all(|name| cases::named(name).is_some()));
        let names: Vec<_> = MEASURES.iter().flat_map(|measure| measure.figures).map(|figure| figure.key).collect();
        assert!(names.iter().enumerate().all(|(index, name)| !names[index + 1..].contains(name)), "{names:?}");
    }
}
