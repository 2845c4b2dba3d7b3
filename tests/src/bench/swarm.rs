//! `--swarm`: a real Docker Swarm, with and without the fast path in turn.
//!
//! Two dockerds, one network, one container on each node. Containers and Docker's objects stay the same for the whole
//! run; `overlay run --discover` and `overlay down` run on the nodes in turn.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    cases::{self, Case},
    results::{Metric, P50, PACKETS, Results, THROUGHPUT},
    stats::Ratio,
};
use crate::lab::{
    BPFFS, Daemon, NetNs, docker_mac,
    swarm::Swarm,
    traffic::{Ping, ping},
};

const NETWORK: &str = "my-overlay-network";
const IPS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 1, 2), Ipv4Addr::new(10, 0, 1, 6)];

/// The Swarm alone, and with the fast path.
const PLAIN: &str = "docker";
const FAST: &str = "overlay";

/// Cases, metrics and targets; a target is the ratio of the Swarm with the fast path to the Swarm alone.
const TARGETS: [(&str, Metric, f64); 3] = [("tcp1", THROUGHPUT, 1.15), ("udp64", PACKETS, 1.7), ("udp_rr", P50, 0.70)];

/// Longest time until the fast path is ready.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Measures all cases, `rounds` times.
pub(super) fn measure(rounds: usize, duration: Duration, overlay: &Path) -> Result<Results> {
    let setup = Setup::new()?;
    let mut results = Results::default();
    results.note(
        "A Swarm of two dockerds on one machine, with a veth as the wire. `docker` is the Swarm alone, `overlay` the \
         same Swarm with `overlay run --discover` on both nodes.",
    );
    results.note(
        "Client and server have one CPU each for throughput and packets, and share one CPU for round trips. Round \
         trips are times from request to response.",
    );
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        // The order alternates, so that a drift affects both alike.
        let order = if round % 2 == 0 { [PLAIN, FAST] } else { [FAST, PLAIN] };
        for path in order {
            let daemons = if path == FAST { setup.accelerate(overlay)? } else { Vec::new() };
            setup.warm_up()?;
            for case in TARGETS.iter().filter_map(|(name, ..)| cases::named(name)) {
                match setup.measure(case, duration, &daemons) {
                    Ok(values) => values.into_iter().for_each(|(metric, value)| {
                        results.add(case.name, metric, path, &[PLAIN], round, value);
                    }),
                    Err(error) => results.add_missing(format!("{} over {path}: {error:#}", case.name)),
                }
            }
            daemons.into_iter().try_for_each(Daemon::down)?;
        }
    }
    Ok(results)
}

/// The verdict on each target, one line each, and whether all targets were reached.
pub(super) fn verdict(results: &Results) -> (String, bool) {
    let (mut text, mut all) = (String::from("\nTargets, as ratios to `docker`:\n\n"), true);
    for (case, metric, target) in TARGETS {
        let ratio = results.figure(case, metric).and_then(|figure| figure.ratio(FAST, PLAIN));
        let (sign, reached) = match metric.better {
            super::results::Better::Higher => ("≥", ratio.and_then(Ratio::stated).map(|ratio| ratio >= target)),
            super::results::Better::Lower => ("≤", ratio.and_then(Ratio::stated).map(|ratio| ratio <= target)),
        };
        let verdict = match reached {
            Some(true) => "reached",
            Some(false) => "missed",
            None => "unknown: the rounds are too few or disagree",
        };
        let _ = writeln!(text, "- {case} {} {sign} {target:.2}: {verdict}", metric.name);
        all &= reached == Some(true);
    }
    (text, all)
}

/// Two nodes with a container each.
struct Setup {
    client: NetNs,
    server: NetNs,
    swarm: Swarm,
}

impl Setup {
    fn new() -> Result<Self> {
        let swarm = Swarm::up(2)?;
        swarm.network(NETWORK, "10.0.1.0/24", &[])?;
        for (index, ip) in IPS.into_iter().enumerate() {
            swarm.container(index + 1, &format!("gindemo{}", index + 1), NETWORK, ip)?;
        }
        let (client, server) = (swarm.node(1).container("gindemo1")?, swarm.node(2).container("gindemo2")?);
        let setup = Self { client, server, swarm };
        let start = Instant::now();
        while setup.warm_up().is_err() {
            ensure!(start.elapsed() < TIMEOUT, "the containers of the Swarm do not reach each other after {TIMEOUT:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(setup)
    }

    /// Sends a few packets both ways: entries of neighbour and forwarding tables expire, and silent containers are not
    /// discovered.
    fn warm_up(&self) -> Result<()> {
        for (from, to) in [(&self.client, IPS[1]), (&self.server, IPS[0])] {
            let plan = Ping { count: 3, interval: Duration::from_millis(1), ..Ping::default() };
            ensure!(ping(from, to.into(), plan)?.received > 0, "{to} does not answer {}", from.name());
        }
        Ok(())
    }

    /// Starts daemons on both nodes and waits until they have both containers in the FDB, with resolved next hops.
    fn accelerate(&self, overlay: &Path) -> Result<Vec<Daemon>> {
        let pins = Path::new(BPFFS).join("overlay");
        let start = |node| Daemon::start_with(overlay, node, &["--discover"], &pins);
        let daemons = self.swarm.nodes().iter().map(start).collect::<Result<Vec<_>>>()?;
        let start = Instant::now();
        while !daemons.iter().map(has_both_containers).collect::<Result<Vec<_>>>()?.iter().all(|ready| *ready) {
            ensure!(start.elapsed() < TIMEOUT, "`overlay fdb` does not list both containers after {TIMEOUT:?}");
            self.warm_up()?;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(daemons)
    }

    /// Measures a case. With daemons, its packets must use the fast path.
    fn measure(&self, case: Case, duration: Duration, daemons: &[Daemon]) -> Result<Vec<(Metric, f64)>> {
        let encapsulated = || daemons.iter().map(|daemon| daemon.packets("encap")).sum::<Result<u64>>();
        let before = encapsulated()?;
        let values = case.between(&self.client, &self.server, IpAddr::from(IPS[1]), duration)?;
        ensure!(daemons.is_empty() || encapsulated()? > before + 10, "the packets did not use the fast path");
        Ok(values)
    }
}

fn has_both_containers(daemon: &Daemon) -> Result<bool> {
    let fdb = daemon.overlay(&["fdb", "--json"])?;
    let rows = fdb["entries"].as_array().context("`overlay fdb --json` has no list `entries`")?;
    let is_ready = |ip: &Ipv4Addr| rows.iter().any(|row| row["mac"] == docker_mac(*ip) && row["resolved"] == true);
    Ok(IPS.iter().all(is_ready))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_apply_to_the_median_ratio() {
        let mut results = Results::default();
        for round in 0..3 {
            for (path, throughput, p50) in [(PLAIN, 10.0, 10.0), (FAST, 12.0, 8.0)] {
                results.add("tcp1", THROUGHPUT, path, &[PLAIN], round, throughput);
                results.add("udp_rr", P50, path, &[PLAIN], round, p50);
            }
        }
        assert!(TARGETS.iter().all(|(name, ..)| cases::named(name).is_some()));
        let (text, all) = verdict(&results);
        assert!(!all && text.contains("tcp1 throughput ≥ 1.15: reached"), "{text}");
        assert!(text.contains("udp_rr p50 ≤ 0.70: missed") && text.contains("udp64 packets ≥ 1.70: unknown"), "{text}");
    }
}
