//! `scale`: throughput and latency for different sizes of the tables.
//!
//! Each size has one pair of hosts. The daemons are killed, their programs stay attached, and the maps are written
//! directly.

use std::time::Duration;

use anyhow::{Context, Result};
use overlay_common::{
    MacAddr,
    maps::{FdbEntry, FdbKey, Peer, PeerKey},
};
use overlay_user::testing::plan::{Changes, Fdb, Peers, Vteps};

use super::{
    live::{self, Spread},
    paths::{Environment, Kind, Path, VNI},
    results::{Metric, P50, P99, PACKETS, Results},
};
use crate::{
    lab::traffic::{Cpus, Protocol, round_trips, udp_rate},
    maps::WritableMaps,
};

/// The case's name.
pub(super) const NAME: &str = "scale";

/// Size of the tables of both hosts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    pub(super) entries: u32,
    pub(super) vteps: u32,
    pub(super) name: &'static str,
}

/// The sizes; the first is the baseline.
pub(super) const LEVELS: [Level; 3] = [
    Level { entries: 10, vteps: 1, name: "10 entries, 1 VTEP" },
    Level { entries: 1_000, vteps: 100, name: "1,000 entries, 100 VTEPs" },
    Level { entries: 100_000, vteps: 4_000, name: "100,000 entries, 4,000 VTEPs" },
];

/// The pairs of hosts, with filled tables.
pub(super) struct Scale(Vec<(Level, Path)>);

impl Scale {
    pub(super) fn start(levels: &[Level], environment: &Environment) -> Result<Self> {
        let start = |level: &Level| {
            let mut path = Path::start(Kind::Tc, &format!("scale-{}", level.entries), environment)?;
            for daemon in path.testbed.daemons_mut() {
                daemon.kill9()?;
            }
            for number in [1, 2] {
                fill(&path, number, *level)?;
                live::extend_deadline(&path, number)?;
            }
            path.warm_up()?;
            Ok((*level, path))
        };
        levels.iter().map(start).collect::<Result<_>>().map(Self)
    }

    /// Measures every size once.
    pub(super) fn measure(&self, duration: Duration, round: usize, results: &mut Results) {
        for case in ["scale_udp64", "scale_udp_rr", "scale_tcp_rr", "scale_encap_pps", "scale_encap_spread"] {
            for (level, path) in &self.0 {
                match once(case, *level, path, duration) {
                    Ok(values) => {
                        for (metric, value) in values {
                            results.add(case, metric, level.name, &[LEVELS[0].name], round, value);
                        }
                    }
                    Err(error) => results.add_missing(format!("{case} with {}: {error:#}", level.name)),
                }
            }
        }
        results.note(
            "`scale`: all traffic has one destination, except in `scale_encap_spread`, where consecutive frames have \
             different destinations out of (almost) all entries of the table.",
        );
    }
}

fn once(case: &str, level: Level, path: &Path, duration: Duration) -> Result<Vec<(Metric, f64)>> {
    let (client, server, address, cpus) = (path.client(), path.server(), path.address(), Cpus::two());
    path.warm_up()?;
    let round_trips = |protocol| {
        let times = round_trips(protocol, client, server, address, duration, Cpus::one())?;
        anyhow::Ok(vec![(P50, times.percentile_us(50)), (P99, times.percentile_us(99))])
    };
    match case {
        "scale_udp_rr" => round_trips(Protocol::Udp),
        "scale_tcp_rr" => round_trips(Protocol::Tcp),
        "scale_udp64" => {
            udp_rate(client, server, address, 64, duration / 10, cpus)?;
            Ok(vec![(PACKETS, udp_rate(client, server, address, 64, duration, cpus)?.received_kpps())])
        }
        "scale_encap_pps" => Ok(vec![(PACKETS, live::encap(path, duration, None)?)]),
        _ => Ok(vec![(PACKETS, live::encap(path, duration, Some(spread(level)))?)]),
    }
}

/// The number of entries of the table, rounded down to a power of two.
fn spread(level: Level) -> Spread {
    Spread(1 << level.entries.ilog2())
}

/// The MAC address of the `number`th endpoint, as [`Spread`] generates it. No container has it.
pub(super) fn mac(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr([2, 0x42, a, b, c, d])
}

/// Fills the tables of a host with endpoints and VTEPs. All VTEPs have the next hop of the other host.
fn fill(path: &Path, number: usize, level: Level) -> Result<()> {
    let mut maps = WritableMaps::open(&path.testbed.pin_root(number))?;
    let tables = maps.read()?;
    let other = path.testbed.lab.host(3 - number).address().octets();
    let (index, vtep) = tables.vteps.iter().find(|(_, vtep)| vtep.outer.dst == other).context("no VTEP")?;
    let peer = tables.peers.get(&PeerKey { vni: VNI, addr: other }).context("no peer")?;
    let next = tables.vteps.keys().max().map_or(0, |index| index + 1);

    let mut indices = vec![*index];
    for new in next..next + level.vteps - 1 {
        maps.write(&Changes::set::<Vteps>(new, *vtep))?;
        let [.., b, c, d] = new.to_be_bytes();
        let key = PeerKey { vni: VNI, addr: [172, 16 + b, c, d] };
        maps.write(&Changes::set::<Peers>(key, Peer { vtep: new, ..*peer }))?;
        indices.push(new);
    }
    for (number, vtep) in (0..level.entries).zip(indices.iter().cycle()) {
        maps.write(&Changes::set::<Fdb>(FdbKey::new(VNI, mac(number)), FdbEntry::remote(*vtep)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_covers_only_endpoints_in_the_table() {
        for level in LEVELS {
            let Spread(number) = spread(level);
            assert!(number.is_power_of_two() && number <= level.entries && number * 2 > level.entries);
        }
        assert_eq!(mac(99_999).0[..3], [2, 0x42, 0], "not the address of a container in 10.0.0.0/8");
    }
}
