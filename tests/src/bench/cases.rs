//! The cases that are measured on a path.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, bail, ensure};

use super::{
    live,
    paths::{Kind, Path},
    results::{CONNECTIONS, Metric, P50, P99, PACKETS, THROUGHPUT},
};
use crate::lab::{
    NetNs,
    traffic::{Bulk, Cpus, Protocol, connect_rate, iperf3, round_trips, udp_rate},
};

/// The warm-up is this fraction of the measuring time.
pub(super) const WARM_UP: u32 = 10;

/// The kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Tcp(u32),
    Udp(usize),
    RoundTrips(Protocol),
    Connections,
    Encap,
    Decap,
}

/// Segmentation of TCP super-packets on the wire. It affects only TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// Super-packets: a veth, or NICs that segment tunnelled packets (TSO) and merge them (GRO).
    SuperPackets,
    /// Segments without GRO: a veth with segmentation offload off.
    Segments,
    /// Segments with GRO at the receiver: a NIC that cannot segment tunnelled packets.
    Merged,
}

/// A load on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(super) name: &'static str,
    load: Load,
    pub(super) wire: Wire,
}

const fn case(name: &'static str, load: Load) -> Case {
    Case { name, load, wire: Wire::SuperPackets }
}

const fn noseg(name: &'static str, load: Load) -> Case {
    Case { name, load, wire: Wire::Segments }
}

const fn gro(name: &'static str, load: Load) -> Case {
    Case { name, load, wire: Wire::Merged }
}

/// One second of TCP streams, without the first 0.2 s.
pub(crate) const fn bulk(streams: u32) -> Bulk {
    Bulk { streams, seconds: 1, warm_up: 2 }
}

/// All cases, grouped by wire.
pub(super) const ALL: [Case; 18] = [
    case("tcp1", Load::Tcp(1)),
    case("tcp8", Load::Tcp(8)),
    case("udp64", Load::Udp(64)),
    case("udp1400", Load::Udp(1400)),
    case("tcp_rr", Load::RoundTrips(Protocol::Tcp)),
    case("udp_rr", Load::RoundTrips(Protocol::Udp)),
    case("tcp_crr", Load::Connections),
    case("encap_pps", Load::Encap),
    case("decap_pps", Load::Decap),
    noseg("tcp1_noseg", Load::Tcp(1)),
    noseg("tcp8_noseg", Load::Tcp(8)),
    noseg("udp64_noseg", Load::Udp(64)),
    noseg("udp1400_noseg", Load::Udp(1400)),
    noseg("tcp_rr_noseg", Load::RoundTrips(Protocol::Tcp)),
    noseg("udp_rr_noseg", Load::RoundTrips(Protocol::Udp)),
    noseg("tcp_crr_noseg", Load::Connections),
    gro("tcp1_gro", Load::Tcp(1)),
    gro("tcp8_gro", Load::Tcp(8)),
];

/// Cases of `--quick`.
pub(super) const QUICK: [&str; 6] = ["tcp1", "udp64", "tcp_rr", "udp_rr", "encap_pps", "decap_pps"];

/// Cases of `--smoke`: every kind of load, and the wire without super-packets.
pub(super) const SMOKE: [&str; 8] =
    ["tcp1", "udp64", "tcp_rr", "udp_rr", "tcp_crr", "encap_pps", "decap_pps", "udp1400_noseg"];

/// Paths of `--quick`.
pub(super) const QUICK_PATHS: [Kind; 4] = [Kind::BoundRedirect, Kind::Kernel, Kind::Tc, Kind::Xdp];

/// The case called `name`.
pub(crate) fn named(name: &str) -> Option<Case> {
    ALL.into_iter().find(|case| case.name == name)
}

impl Case {
    /// Whether the case can be measured on the path.
    pub(super) fn applies_to(self, kind: Kind) -> bool {
        match self.load {
            Load::Encap => live::has_encap(kind),
            Load::Decap => live::has_decap(kind),
            _ => true,
        }
    }

    /// Measures once, for `duration` after a warm-up of a tenth of it. iperf3 accepts whole seconds only: one.
    pub(super) fn measure(self, path: &Path, duration: Duration) -> Result<Vec<(Metric, f64)>> {
        path.warm_up()?;
        Ok(match self.load {
            Load::Encap => vec![(PACKETS, live::encap(path, duration, None)?)],
            Load::Decap => vec![(PACKETS, live::decap(path, duration)?)],
            _ => self.between(path.client(), path.server(), path.address(), duration)?,
        })
    }

    /// Measures once between any two namespaces; for cases with traffic of sockets.
    pub(crate) fn between(
        self,
        client: &NetNs,
        server: &NetNs,
        address: IpAddr,
        duration: Duration,
    ) -> Result<Vec<(Metric, f64)>> {
        let (cpus, warm_up) = (Cpus::two(), duration / WARM_UP);
        Ok(match self.load {
            Load::Tcp(streams) => {
                vec![(THROUGHPUT, iperf3(client, server, address, bulk(streams), cpus)?.gbps)]
            }
            Load::Udp(size) => {
                udp_rate(client, server, address, size, warm_up, cpus)?;
                let rate = udp_rate(client, server, address, size, duration, cpus)?;
                ensure!(rate.datagrams > 0, "no datagram arrived");
                vec![(PACKETS, rate.received_kpps())]
            }
            Load::RoundTrips(protocol) => {
                let times = round_trips(protocol, client, server, address, duration, Cpus::one())?;
                vec![(P50, times.percentile_us(50)), (P99, times.percentile_us(99))]
            }
            Load::Connections => {
                let connections = connect_rate(client, server, address, duration, Cpus::one())?;
                vec![(CONNECTIONS, connections.per_second())]
            }
            Load::Encap | Load::Decap => bail!("{} is no case with traffic of sockets", self.name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_names_are_unique_and_end_with_the_kind_of_wire() {
        for (index, case) in ALL.iter().enumerate() {
            assert_eq!(case.name.ends_with("_noseg"), case.wire == Wire::Segments);
            assert_eq!(case.name.ends_with("_gro"), case.wire == Wire::Merged);
            assert!(ALL[index + 1..].iter().all(|other| other.name != case.name));
        }
        assert!(QUICK.iter().chain(&SMOKE).all(|name| named(name).is_some()));
        assert_eq!(named("tcp2"), None);
    }
}
