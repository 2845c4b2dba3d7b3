//! `--control`: 1,000 nodes with 100 endpoints each in a real etcd, and the daemon of one of them.
//!
//! Many concurrent clients register the nodes and keep their leases. The initial endpoints are written in large
//! transactions, the changes one by one, like a daemon does. The daemon is measured in two clusters of this size: in
//! one all endpoints are relevant for its node, in the other its node is in a few networks only.

mod changes;
mod nodes;
mod watch;

use std::{fmt::Write as _, fs, path::Path, time::Duration, time::Instant};

use anyhow::{Context, Result, ensure};
use overlay_user::testing::apply::Maps;

use self::nodes::{Nodes, Shape};
use super::{
    load::resident_mib,
    results::{Better, CHANGES, DURATION, MEMORY, Metric, P50, P99, Results},
};
use crate::lab::{Daemon, Etcd, Lab, private_bpffs, private_directory};

/// Targets for every cluster: case, metric, bound.
const TARGETS: [(&str, Metric, f64); 4] = [
    ("initial_sync", DURATION, 3_000.0),
    ("commit_to_map", P99, 100_000.0),
    ("daemon_memory", MEMORY, MEGABYTES_150),
    ("changes_followed", CHANGES, 950.0),
];
/// 150 MB in MiB.
const MEGABYTES_150: f64 = 150e6 / 1_048_576.0;

/// Size of the measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Nodes, including the node under test.
    pub(super) nodes: u32,
    /// Endpoints of each node.
    pub(super) endpoints: u32,
    /// Changes per second.
    pub(super) rate: u32,
    /// Duration of the changes.
    pub(super) time: Duration,
    /// Number of initial syncs.
    pub(super) rounds: usize,
}

impl Size {
    /// The documented limits.
    pub(super) fn full(rounds: usize) -> Self {
        Self { nodes: 1_000, endpoints: 100, rate: 1_000, time: Duration::from_secs(20), rounds }
    }

    /// A small cluster for `--smoke`.
    pub(super) fn smoke() -> Self {
        Self { nodes: 25, endpoints: 10, rate: 100, time: Duration::from_secs(1), rounds: 1 }
    }
}

/// Measures both clusters.
pub(super) fn measure(size: Size, overlay: &Path) -> Result<Results> {
    let (pins, files) = (private_bpffs()?, private_directory()?);
    let mut results = Results::default();
    results.note(
        "One etcd member (files in memory), its clients and the daemon share this machine. 50 concurrent clients \
         register the nodes and make the changes with the same transactions as daemons; the initial endpoints are \
         written 32 per transaction. `initial_sync` is the time from the start of the process until it is ready, with \
         all entries in the maps and in the kernel's FDB and neighbour tables. `commit_to_map` is the time from etcd's \
         response to the client until the map has the change. `daemon_memory` is the resident memory after the \
         changes, `peak` its maximum.",
    );
    for shape in Shape::ALL {
        if let Err(error) = one(shape, size, overlay, [&pins, &files], &mut results) {
            results.add_missing(format!("{}: {error:#}", shape.name()));
        }
    }
    Ok(results)
}

/// Measures one cluster.
fn one(shape: Shape, size: Size, overlay: &Path, [pins, files]: [&Path; 2], results: &mut Results) -> Result<()> {
    let name = shape.name();
    // In memory: the disks of test machines differ by orders of magnitude.
    let etcd = Etcd::start_in(1, files)?;
    let lab = Lab::builder(2).build()?;
    let host = lab.host(1);
    etcd.join(host, 1)?;
    // The VTEPs of all other nodes are behind one gateway.
    host.try_script("ip route add 172.16.0.0/12 via 192.168.1.10 dev enp0s3")?;
    eprintln!("{name}: registering {} nodes with {} endpoints each", size.nodes, size.endpoints);
    let nodes = Nodes::register(&etcd, host, shape, size)?;
    results.add("registration", DURATION, name, &[], 0, milliseconds(nodes.took));
    let relevant = nodes.relevant();
    results.note(&format!(
        "`{name}`: {} of {} endpoints, behind {} VTEPs, are relevant for the node under test.",
        relevant.endpoints,
        size.nodes * size.endpoints,
        relevant.vteps,
    ));

    let pin_root = pins.join(name);
    let urls = etcd.urls().join(",");
    let address = host.address().to_string();
    let arguments = ["--store", "etcd", "--etcd", &urls, "--node", &address, "--node-name", host.name()];
    for round in 0..size.rounds {
        eprintln!("{name}: initial sync {} of {}", round + 1, size.rounds);
        let start = Instant::now();
        let daemon = Daemon::start_with(overlay, host, &arguments, &pin_root)?;
        results.add("initial_sync", DURATION, name, &[], round, milliseconds(start.elapsed()));
        let found = remote_endpoints(&lab, &daemon)?;
        let expected = relevant.remote;
        ensure!(found == [expected; 3], "entries in map, FDB and neighbour table: {found:?}, expected {expected} each");
        results.add("memory_after_sync", MEMORY, name, &[], round, resident_mib(&daemon)?);
        if round + 1 < size.rounds {
            daemon.down()?;
            continue;
        }
        eprintln!("{name}: {} changes per second", size.rate);
        let before = cpu_seconds(&daemon)?;
        let outcome = changes::run(&nodes, size, &pin_root)?;
        let after = cpu_seconds(&daemon)?;
        ensure!(outcome.missing == 0, "changes that did not reach the map: {}", outcome.missing);
        results.add("changes_followed", CHANGES, name, &[], 0, outcome.per_second);
        results.add("commit_to_map", P50, name, &[], 0, outcome.latency.percentile_us(50));
        results.add("commit_to_map", P99, name, &[], 0, outcome.latency.percentile_us(99));
        results.add("commit_to_map_samples", CHANGES, name, &[], 0, outcome.latency.count() as f64);
        results.add("daemon_cpu", DURATION, name, &[], 0, (after - before) * 1e3 / outcome.took.as_secs_f64());
        results.add("daemon_memory", MEMORY, name, &[], 0, resident_mib(&daemon)?);
        results.add("daemon_memory", MEMORY, &format!("{name}, peak"), &[], 0, status_mib(&daemon, "VmHWM:")?);
        daemon.down()?;
    }
    results.note("`daemon_cpu` is milliseconds of CPU time per second during the changes.");
    Ok(())
}

/// Number of remote endpoints in the map, the FDB of the VXLAN devices and the neighbour table.
fn remote_endpoints(lab: &Lab, daemon: &Daemon) -> Result<[usize; 3]> {
    let tables = Maps::open(daemon.pin_root())?.read()?;
    let fdb = lab.host(1).try_run(&["bridge", "fdb", "show"])?;
    let is_unicast = |line: &&str| line.contains(" dst 172.") && !line.starts_with("00:00:00:00:00:00");
    let neighbours = lab.host(1).try_run(&["ip", "neigh", "show", "nud", "permanent"])?;
    Ok([
        tables.fdb.values().filter(|entry| !entry.is_local()).count(),
        fdb.lines().filter(is_unicast).count(),
        neighbours.lines().filter(|line| line.contains("ovlbr") && line.contains("100.")).count(),
    ])
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A line of `/proc/PID/status`, in MiB.
fn status_mib(daemon: &Daemon, key: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{}/status", daemon.pid()?))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
}

/// CPU time of a daemon in seconds: `utime` and `stime` of `/proc/PID/stat`, which are in hundredths of a second.
fn cpu_seconds(daemon: &Daemon) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{}/stat", daemon.pid()?))?;
    // The name may contain blanks; after its closing parenthesis, field 3 follows.
    let fields: Vec<_> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    Ok((ticks(11) + ticks(12)) / 100.0)
}

/// The verdict on each target, one line each, and whether all targets were reached.
pub(super) fn verdict(results: &Results) -> (String, bool) {
    let (mut text, mut all) = (String::from("\nTargets:\n\n"), true);
    for (case, metric, bound) in TARGETS {
        for shape in Shape::ALL {
            let figure = results.figure(case, metric);
            let summary =
                figure.and_then(|figure| figure.series(shape.name())).and_then(super::results::Series::summary);
            let value = summary.map(|summary| summary.median);
            let (sign, reached) = match metric.better {
                Better::Lower => ("≤", value.is_some_and(|value| value <= bound)),
                Better::Higher => ("≥", value.is_some_and(|value| value >= bound)),
            };
            let verdict = match (value, reached) {
                (None, _) => "not measured".to_owned(),
                (Some(value), true) => format!("reached ({value:.0})"),
                (Some(value), false) => format!("missed ({value:.0})"),
            };
            let (shape, name, unit) = (shape.name(), metric.name, metric.unit);
            let _ = writeln!(text, "- {shape}: {case} {name} {sign} {bound:.0} {unit}: {verdict}");
            all &= reached;
        }
    }
    (text, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_missed_if_a_figure_is_too_large_too_small_or_missing() {
        let mut results = Results::default();
        for shape in Shape::ALL {
            results.add("initial_sync", DURATION, shape.name(), &[], 0, 2_999.0);
            results.add("commit_to_map", P99, shape.name(), &[], 0, 100_001.0);
            results.add("changes_followed", CHANGES, shape.name(), &[], 0, 900.0);
        }
        let (text, all) = verdict(&results);
        assert!(!all);
        for line in ["≤ 3000 ms: reached (2999)", "≤ 100000 µs: missed (100001)", "≥ 950 1/s: missed", "not measured"]
        {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
