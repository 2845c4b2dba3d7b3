//! `churn`: do changes of the tables disturb the packets?

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
/// The daemon is told of so many at a time.
const AT_ONCE: u32 = 100;
const IDLE: &str = "idle";

/// Who makes the changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Nobody,
    /// This process, in the maps.
    Maps,
    /// The daemon, from its cluster file, in the maps and in the kernel's tables.
    Daemon,
}

/// Round trips without and with changes, once.
pub(super) fn measure(path: &Path, duration: Duration, round: usize, results: &mut Results) {
    for (case, protocol) in [("churn_udp_rr", Protocol::Udp), ("churn_tcp_rr", Protocol::Tcp)] {
        for (name, by) in [
            (IDLE, By::Nobody),
            ("1,000 changes/s in the maps", By::Maps),
            ("1,000 changes/s by the daemon", By::Daemon),
        ] {
            match during(path, by, || {
                path.warm_up()?;
                round_trips(protocol, path.client(), path.server(), path.address(), duration, Cpus::one())
            }) {
                Ok(times) => {
                    results.add(case, P50, name, &[IDLE], round, times.percentile_us(50));
                    results.add(case, P99, name, &[IDLE], round, times.percentile_us(99));
                }
                Err(error) => results.missed(format!("{case}, {name}: {error:#}")),
            }
        }
    }
}

/// Calls `measure` while changes are made at the sending host.
fn during<T>(path: &Path, by: By, measure: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            // Where the round trips are not: it is the packets that are not to be disturbed, by the changes.
            traffic::pin(Cpus::two().server);
            match by {
                By::Nobody => Ok(()),
                By::Maps => change_maps(path, &done),
                By::Daemon => change_cluster(path, &done),
            }
        });
        let outcome = measure();
        done.store(true, Ordering::Relaxed);
        let changed = changing.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        outcome.and_then(|outcome| changed.map(|()| outcome))
    })
}

/// Calls `change` with 0, 1, 2, … at an even pace until `done`. An error when it could not keep the pace.
fn paced(pause: Duration, done: &AtomicBool, mut change: impl FnMut(u32) -> Result<()>) -> Result<()> {
    let start = Instant::now();
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        change(count)?;
        count += 1;
        std::thread::sleep((pause * count).saturating_sub(start.elapsed()));
    }
    let due = start.elapsed().as_secs_f64() / pause.as_secs_f64();
    ensure!(f64::from(count) > due * 0.9, "only {count} of {due:.0} changes were made in time");
    Ok(())
}

/// Adds and removes endpoints.
fn change_maps(path: &Path, done: &AtomicBool) -> Result<()> {
    let mut maps = WritableMaps::open(&path.world.pin_root(1))?;
    // Of two sets of endpoints, one comes and the other goes.
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

/// Replaces half of the changes' endpoints by others, back and forth.
fn change_cluster(path: &Path, done: &AtomicBool) -> Result<()> {
    let config = path.world.config();
    let cluster = Cluster::example(&path.world.lab);
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

/// Of two sets of endpoints, the one after the other.
fn far(number: u32, index: u32) -> Ipv4Addr {
    let [.., last] = index.to_be_bytes();
    Ipv4Addr::new(10, 0, 1, if number.is_multiple_of(2) { 100 } else { 180 } + last)
}

fn endpoint(cluster: &Cluster, ip: Ipv4Addr) -> Endpoint {
    Endpoint::new(&cluster.networks[0].name, &format!("far-{ip}"), ip, &cluster.hosts[1].name)
}

/// Until the daemon has made the last change.
fn wait_for(path: &Path, ip: Ipv4Addr, there: bool) -> Result<()> {
    let maps = Maps::open(&path.world.pin_root(1))?;
    let key = FdbKey::new(VNI, MacAddr::from_ipv4(ip.octets()));
    let start = Instant::now();
    while maps.read()?.fdb.contains_key(&key) != there {
        ensure!(start.elapsed() < Duration::from_secs(5), "the daemon does not follow the changes of its cluster file");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
