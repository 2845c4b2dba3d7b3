//! `churn`: round-trip times while the tables change.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use overlay_common::{
    MacAddr,
    maps::{FdbEntry, FdbKey},
};
use overlay_user::testing::{
    apply::Maps,
    plan::{Changes, Tables},
};

use super::{
    paths::{Path, VNI},
    results::{P50, P99, Results},
    scale::mac,
};
use crate::{
    lab::{
        Cluster, Endpoint,
        traffic::{self, Cpus, Protocol, round_trips},
    },
    maps::WritableMaps,
};

/// The case's name.
pub(super) const NAME: &str = "churn";

/// Changes per second.
const RATE: u32 = 1_000;
/// Changes per batch.
const AT_ONCE: u32 = 100;
const IDLE: &str = "idle";

/// Source of the changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// No changes.
    None,
    /// This process writes the maps.
    Maps,
    /// The daemon reads its cluster file and writes the maps and the kernel's tables.
    Daemon,
}

/// Measures round trips without and with changes, once.
pub(super) fn measure(path: &Path, duration: Duration, round: usize, results: &mut Results) {
    for (case, protocol) in [("churn_udp_rr", Protocol::Udp), ("churn_tcp_rr", Protocol::Tcp)] {
        for (name, source) in [
            (IDLE, Source::None),
            ("1,000 changes/s in the maps", Source::Maps),
            ("1,000 changes/s by the daemon", Source::Daemon),
        ] {
            match during(path, source, || {
                path.warm_up()?;
                round_trips(protocol, path.client(), path.server(), path.address(), duration, Cpus::one())
            }) {
                Ok(times) => {
                    results.add(case, P50, name, &[IDLE], round, times.percentile_us(50));
                    results.add(case, P99, name, &[IDLE], round, times.percentile_us(99));
                }
                Err(error) => results.add_missing(format!("{case}, {name}: {error:#}")),
            }
        }
    }
}

/// Calls `measure` while the tables of the sending host change.
fn during<T>(path: &Path, source: Source, measure: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            // The CPU that the round trips do not use: the case measures the effect of the changes, not of CPU
            // contention.
            traffic::pin(Cpus::two().server);
            match source {
                Source::None => Ok(()),
                Source::Maps => change_maps(path, &done),
                Source::Daemon => change_cluster(path, &done),
            }
        });
        let outcome = measure();
        done.store(true, Ordering::Relaxed);
        let changed = changing.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        outcome.and_then(|outcome| changed.map(|()| outcome))
    })
}

/// Calls `change` with 0, 1, 2, … at an even pace until `done`.
///
/// # Errors
/// When fewer than 90 % of the calls were made in time.
fn paced(pause: Duration, done: &AtomicBool, mut change: impl FnMut(u32) -> Result<()>) -> Result<()> {
    let start = Instant::now();
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        change(count)?;
        count += 1;
        std::thread::sleep((pause * count).saturating_sub(start.elapsed()));
    }
    let due = start.elapsed().as_secs_f64() / pause.as_secs_f64();
    ensure!(f64::from(count) > due * 0.9, "changes made in time: {count} of {due:.0}");
    Ok(())
}

/// Adds and removes endpoints.
fn change_maps(path: &Path, done: &AtomicBool) -> Result<()> {
    let mut maps = WritableMaps::open(&path.testbed.pin_root(1))?;
    // Each batch replaces one set of endpoints by the other.
    let set = |number: u32| {
        let first = number % 2 * AT_ONCE;
        let rows = (first..first + AT_ONCE / 2).map(|number| (FdbKey::new(VNI, mac(number)), FdbEntry::remote(0)));
        Tables { fdb: rows.collect(), ..Tables::default() }
    };
    let mut last = Tables::default();
    let outcome = paced(Duration::from_secs(1) * AT_ONCE / RATE, done, |number| {
        let next = set(number);
        let changes = Changes::between(&std::mem::replace(&mut last, next.clone()), &next);
        Ok(maps.write(&changes)?)
    });
    outcome.and(Ok(maps.write(&Changes::between(&last, &Tables::default()))?))
}

/// Writes the cluster file with one of two sets of endpoints in turn.
fn change_cluster(path: &Path, done: &AtomicBool) -> Result<()> {
    let config = path.testbed.config();
    let cluster = Cluster::example(&path.testbed.lab);
    let with = |number: u32| {
        let mut changed = cluster.clone();
        changed.endpoints.extend((0..AT_ONCE / 2).map(|index| endpoint(&cluster, far(number, index))));
        changed
    };
    let mut last = 0;
    let outcome = paced(Duration::from_secs(1) * AT_ONCE / RATE, done, |number| {
        last = number;
        with(number).write(config)
    });
    let arrived = wait_for(path, far(last, 0), true);
    cluster.write(config)?;
    outcome.and(arrived).and(wait_for(path, far(last, 0), false))
}

/// The `index`th address of the set with this `number`; even and odd numbers are the two sets.
fn far(number: u32, index: u32) -> Ipv4Addr {
    let [.., last] = index.to_be_bytes();
    Ipv4Addr::new(10, 0, 1, if number.is_multiple_of(2) { 100 } else { 180 } + last)
}

fn endpoint(cluster: &Cluster, ip: Ipv4Addr) -> Endpoint {
    Endpoint::new(&cluster.networks[0].name, &format!("far-{ip}"), ip, &cluster.hosts[1].name)
}

/// Waits until the daemon has applied the last change.
fn wait_for(path: &Path, ip: Ipv4Addr, is_present: bool) -> Result<()> {
    let maps = Maps::open(&path.testbed.pin_root(1))?;
    let key = FdbKey::new(VNI, MacAddr::from_ipv4(ip.octets()));
    let start = Instant::now();
    while maps.read()?.fdb.contains_key(&key) != is_present {
        ensure!(start.elapsed() < Duration::from_secs(5), "the daemon has not applied the cluster file after 5 s");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
