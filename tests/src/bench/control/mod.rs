//! `--control`: 1,000 nodes with 100 endpoints each in a real etcd, and one daemon that follows.
//!
//! The nodes are registered, and keep themselves registered, by many clients at once; their endpoints are written in
//! large transactions, the changes one by one as daemons make them. The node under test is one of them. It is measured in two clusters of that size: one in which it has to know
//! everything, and one in which, as usual, it takes part in few networks.

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

/// What is to be reached, in every cluster: case, metric, bound.
const TARGETS: [(&str, Metric, f64); 4] = [
    ("initial_sync", DURATION, 3_000.0),
    ("commit_to_map", P99, 100_000.0),
    ("daemon_memory", MEMORY, MEGABYTES_150),
    ("changes_followed", CHANGES, 950.0),
];
/// 150 MB in MiB.
const MEGABYTES_150: f64 = 150e6 / 1_048_576.0;

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// Nodes, the one under test among them.
    pub(super) nodes: u32,
    /// Endpoints of each node.
    pub(super) endpoints: u32,
    /// Changes per second.
    pub(super) rate: u32,
    /// For how long changes are made.
    pub(super) time: Duration,
    /// Times that the daemon starts from nothing.
    pub(super) rounds: usize,
}

impl Extent {
    /// What is promised.
    pub(super) fn whole(rounds: usize) -> Self {
        Self { nodes: 1_000, endpoints: 100, rate: 1_000, time: Duration::from_secs(20), rounds }
    }

    /// A moment of it.
    pub(super) fn smoke() -> Self {
        Self { nodes: 25, endpoints: 10, rate: 100, time: Duration::from_secs(1), rounds: 1 }
    }
}

/// Measures all of it.
pub(super) fn measure(extent: Extent, overlay: &Path) -> Result<Results> {
    let (pins, files) = (private_bpffs()?, private_directory()?);
    let mut results = Results::default();
    results.note(
        "One etcd member (its files in memory), its clients and the daemon share this machine. Nodes are registered and changes are made as daemons \
         do it, by 50 clients at once; the endpoints that are there at first were written 32 per transaction. `initial_sync`: from the start of the process until \
         it says that it is ready, with everything in the maps and in the kernel's FDB and neighbour tables. \
         `commit_to_map`: from etcd's answer to the client that made the change until the map has it. `daemon_memory`: \
         resident, after the changes; `peak` is the most that it ever was.",
    );
    for shape in Shape::ALL {
        if let Err(error) = one(shape, extent, overlay, [&pins, &files], &mut results) {
            results.missed(format!("{}: {error:#}", shape.name()));
        }
    }
    Ok(results)
}

/// One cluster.
fn one(shape: Shape, extent: Extent, overlay: &Path, [pins, files]: [&Path; 2], results: &mut Results) -> Result<()> {
    let name = shape.name();
    // A disk would be measured, and the disks of test machines differ by orders of magnitude.
    let etcd = Etcd::start_in(1, files)?;
    let lab = Lab::builder(2).build()?;
    let host = lab.host(1);
    etcd.join(host, 1)?;
    // All the others are behind one gateway.
    host.try_script("ip route add 172.16.0.0/12 via 192.168.1.10 dev enp0s3")?;
    eprintln!("{name}: registering {} nodes with {} endpoints each", extent.nodes, extent.endpoints);
    let nodes = Nodes::register(&etcd, host, shape, extent)?;
    results.add("registration", DURATION, name, &[], 0, milliseconds(nodes.took));
    let relevant = nodes.relevant();
    results.note(&format!(
        "`{name}`: {} of {} endpoints, behind {} VTEPs, concern the node under test.",
        relevant.endpoints,
        extent.nodes * extent.endpoints,
        relevant.vteps,
    ));

    let pin_root = pins.join(name);
    let urls = etcd.urls().join(",");
    let address = host.address().to_string();
    let arguments = ["--store", "etcd", "--etcd", &urls, "--node", &address, "--node-name", host.name()];
    for round in 0..extent.rounds {
        eprintln!("{name}: initial sync {} of {}", round + 1, extent.rounds);
        let start = Instant::now();
        let daemon = Daemon::start_with(overlay, host, &arguments, &pin_root)?;
        results.add("initial_sync", DURATION, name, &[], round, milliseconds(start.elapsed()));
        let found = found(&lab, &daemon)?;
        ensure!(found == [relevant.remote; 3], "maps, FDB and neighbours have {found:?} of {}", relevant.remote);
        results.add("memory_after_sync", MEMORY, name, &[], round, resident_mib(&daemon)?);
        if round + 1 < extent.rounds {
            daemon.down()?;
            continue;
        }
        eprintln!("{name}: {} changes per second", extent.rate);
        let before = cpu_seconds(&daemon)?;
        let followed = changes::follow(&nodes, extent, &pin_root)?;
        let after = cpu_seconds(&daemon)?;
        ensure!(followed.missing == 0, "{} changes did not come to the map", followed.missing);
        results.add("changes_followed", CHANGES, name, &[], 0, followed.per_second);
        results.add("commit_to_map", P50, name, &[], 0, followed.latency.percentile_us(50));
        results.add("commit_to_map", P99, name, &[], 0, followed.latency.percentile_us(99));
        results.add("commit_to_map_samples", CHANGES, name, &[], 0, followed.latency.count() as f64);
        results.add("daemon_cpu", DURATION, name, &[], 0, (after - before) * 1e3 / followed.took.as_secs_f64());
        results.add("daemon_memory", MEMORY, name, &[], 0, resident_mib(&daemon)?);
        results.add("daemon_memory", MEMORY, &format!("{name}, peak"), &[], 0, status_mib(&daemon, "VmHWM:")?);
        daemon.down()?;
    }
    results.note("`daemon_cpu`: milliseconds of CPU time per second, while it follows the changes.");
    Ok(())
}

/// Endpoints of others in the map, the VXLAN devices' FDB and the neighbour table.
fn found(lab: &Lab, daemon: &Daemon) -> Result<[usize; 3]> {
    let tables = Maps::open(daemon.pin_root())?.read()?;
    let fdb = lab.host(1).try_run(&["bridge", "fdb", "show"])?;
    let learnt = |line: &&str| line.contains(" dst 172.") && !line.starts_with("00:00:00:00:00:00");
    let neighbours = lab.host(1).try_run(&["ip", "neigh", "show", "nud", "permanent"])?;
    Ok([
        tables.fdb.values().filter(|entry| !entry.is_local()).count(),
        fdb.lines().filter(learnt).count(),
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

/// CPU time that a daemon has used: `utime` and `stime` of `/proc/PID/stat`, in hundredths of a second.
fn cpu_seconds(daemon: &Daemon) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{}/stat", daemon.pid()?))?;
    // Behind the name, which may have blanks, the first field is the third.
    let fields: Vec<_> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    Ok((ticks(11) + ticks(12)) / 100.0)
}

/// Whether the targets were reached, one line each, and whether all were.
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
            let said = match (value, reached) {
                (None, _) => "not measured".to_owned(),
                (Some(value), true) => format!("reached ({value:.0})"),
                (Some(value), false) => format!("missed ({value:.0})"),
            };
            let (shape, name, unit) = (shape.name(), metric.name, metric.unit);
            let _ = writeln!(text, "- {shape}: {case} {name} {sign} {bound:.0} {unit}: {said}");
            all &= reached;
        }
    }
    (text, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_missed_where_a_figure_is_too_large_too_small_or_not_there() {
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
