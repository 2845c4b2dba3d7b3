//! Throughput and latency as seen by an application.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::{pairs::Ends, signals};
use crate::lab::traffic::{Bulk, Cpus, Ping, Protocol, iperf3, ping, round_trips, udp_rate};

const UDP_TIME: Duration = Duration::from_millis(400);
const ROUND_TRIP_TIME: Duration = Duration::from_millis(250);
const TCP: Bulk = Bulk { streams: 1, seconds: 1, warm_up: 0 };
const PINGS: u16 = 50;

/// One set of figures, or the medians of several.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Figures {
    /// One TCP stream, Gbit/s.
    pub(super) tcp_gbps: f64,
    /// Datagrams of 64 bytes received by the application, thousands per second.
    pub(super) udp_kpps: f64,
    /// Median round trip of one byte over UDP, µs.
    pub(super) udp_rr_us: f64,
    /// The same over TCP.
    pub(super) tcp_rr_us: f64,
    /// Median round trip of an ICMP echo, µs.
    pub(super) ping_us: f64,
}

/// How one figure is measured, and how often. Many short measurements in turn spread background load over both sides.
struct Measure {
    times: usize,
    once: fn(&Ends<'_>, Cpus) -> Result<f64>,
}

/// In the order of [`Figures`].
const MEASURES: [Measure; 5] = [
    Measure { times: 3, once: |ends, cpus| Ok(iperf3(ends.client, ends.server, ends.address, TCP, cpus)?.gbps) },
    Measure {
        times: 5,
        once: |ends, cpus| Ok(udp_rate(ends.client, ends.server, ends.address, 64, UDP_TIME, cpus)?.received_kpps()),
    },
    Measure { times: 7, once: |ends, cpus| round_trip(Protocol::Udp, ends, cpus) },
    Measure { times: 7, once: |ends, cpus| round_trip(Protocol::Tcp, ends, cpus) },
    Measure {
        times: 7,
        once: |ends, _| {
            let plan = Ping { count: PINGS, interval: Duration::from_millis(1), ..Ping::default() };
            Ok(ping(ends.client, ends.address, plan)?.latency.percentile_us(50))
        },
    },
];

fn round_trip(protocol: Protocol, ends: &Ends<'_>, cpus: Cpus) -> Result<f64> {
    let latency = round_trips(protocol, ends.client, ends.server, ends.address, ROUND_TRIP_TIME, cpus)?;
    Ok(latency.percentile_us(50))
}

/// Measures both pairs in turn, every figure several times, and returns the medians.
pub(super) fn compare(attached: &Ends<'_>, detached: &Ends<'_>) -> Result<(Figures, Figures)> {
    let cpus = Cpus::two();
    let mut medians = [[0.0; MEASURES.len()]; 2];
    for (figure, measure) in MEASURES.iter().enumerate() {
        let mut values = [Vec::new(), Vec::new()];
        for time in 0..measure.times {
            // The first of the two finds cold caches, so the order alternates.
            for turn in 0..2 {
                let which = (time + turn) % 2;
                signals::check()?;
                values[which].push((measure.once)([attached, detached][which], cpus)?);
            }
        }
        for (medians, values) in medians.iter_mut().zip(values) {
            medians[figure] = median(values);
        }
    }
    let [attached, detached] = medians.map(Figures::from);
    Ok((attached, detached))
}

impl From<[f64; MEASURES.len()]> for Figures {
    fn from([tcp_gbps, udp_kpps, udp_rr_us, tcp_rr_us, ping_us]: [f64; MEASURES.len()]) -> Self {
        let round = |value: f64, digits: i32| (value * 10f64.powi(digits)).round() / 10f64.powi(digits);
        Self {
            tcp_gbps: round(tcp_gbps, 2),
            udp_kpps: round(udp_kpps, 1),
            udp_rr_us: round(udp_rr_us, 1),
            tcp_rr_us: round(tcp_rr_us, 1),
            ping_us: round(ping_us, 1),
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_value_or_the_mean_of_the_two_middle_values() {
        assert!((median(vec![9.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![9.0, 1.0, 2.0, 4.0]) - 3.0).abs() < 1e-9);
        assert!(median(Vec::new()).is_nan());
    }
}
