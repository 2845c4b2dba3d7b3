//! The next hops of the VTEPs: each network's route lookup, its results, and why packets take the kernel path.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
};

use overlay_common::{Vni, VtepAddr, outer::TTL};
use tracing::debug;

use super::{Daemon, DaemonError};
use crate::{
    kernel::{self, Link, NextHop, Obstacle, RouteQuery, Snapshot},
    model::{Finding, HostNetworks, View, network::Tunnel},
    plan::{
        outer_path::OuterPacket,
        tables::{self, Facts, Hop, KernelPath},
    },
};

/// A VTEP to or from which packets take the kernel path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// Its address.
    pub vtep: VtepAddr,
    /// UDP port.
    pub port: u16,
    /// The network; `None`: all networks with this port.
    pub vni: Option<Vni>,
    /// The cause.
    pub finding: Finding,
}

/// The result of [`Daemon::read_next_hops`] besides the facts.
#[derive(Debug, Default)]
pub(super) struct NextHops {
    /// Next hops in use.
    pub(super) gateways: BTreeSet<Ipv4Addr>,
    pub(super) unresolved: Vec<Unresolved>,
}

impl Daemon {
    /// Looks up the next hops of all networks into `facts`, and probes neighbours whose entries are stale.
    pub(super) async fn read_next_hops(
        &self,
        underlay: &Link,
        snapshot: &Snapshot,
        facts: &mut Facts,
    ) -> Result<NextHops, DaemonError> {
        let mut gateways = BTreeSet::new();
        let (view, networks) = (self.inputs.view.as_ref(), &*self.networks);
        let Some(local) = networks.served else { return Ok(NextHops::default()) };
        facts.default_ttl = kernel::default_ttl().unwrap_or(TTL);
        let links = snapshot.links().await?;
        let has_vrf = links.iter().any(Link::is_vrf);
        let sockets = if has_vrf { kernel::udp_sockets() } else { Ok(BTreeSet::new()) };
        let mut obstacles = Obstacles::default();
        let mut vteps = BTreeSet::new();
        for network in senders(view, networks, local, underlay) {
            match query(&network, links, &sockets) {
                Ok(query) => {
                    facts.queries.insert(network.vni, query);
                    vteps.extend(network.vteps.into_iter().map(|vtep| (query, vtep)));
                }
                Err(obstacle) => _ = obstacles.of_networks.insert(network.vni, obstacle),
            }
        }
        let mut probed = BTreeSet::new();
        for ((query, vtep), next_hop) in snapshot.next_hops(local, vteps).await? {
            let neighbour = next_hop.neighbour();
            gateways.extend(neighbour.map(|(_, gateway)| gateway));
            // Packets of the fast path do not confirm neighbour entries, unlike the kernel's own traffic.
            let probe = match next_hop {
                NextHop::Resolved { ifindex, src_mac, dst_mac, mtu, hop_limit, stale, .. } => {
                    facts.next_hops.insert((query, vtep), Hop { ifindex, src_mac, dst_mac, mtu, hop_limit });
                    stale
                }
                NextHop::Unresolved { obstacle, .. } => {
                    debug!("VTEP {vtep} has no next hop: {}", obstacle.problem);
                    obstacles.of_vteps.insert((query, vtep), obstacle);
                    true
                }
            };
            if let Some(neighbour) = neighbour.filter(|neighbour| probe && probed.insert(*neighbour))
                && let Err(error) = self.host.probe_neighbour(neighbour).await
            {
                debug!("cannot probe the next hop to {vtep}: {error}");
            }
        }
        let received = self.judge_outer_packets(underlay, local, snapshot, facts, &mut obstacles).await?;
        let paths = tables::kernel_paths(view, networks, facts);
        let unresolved = paths.into_iter().filter_map(|path| obstacles.of(path, facts)).chain(received).collect();
        Ok(NextHops { gateways, unresolved })
    }

    /// Asks the host's firewall, its input routes and its reverse-path filter about the outer packets of all networks.
    /// Returns the VTEPs whose received packets take the kernel path.
    async fn judge_outer_packets(
        &self,
        underlay: &Link,
        local: VtepAddr,
        snapshot: &Snapshot,
        facts: &mut Facts,
        obstacles: &mut Obstacles,
    ) -> Result<Vec<Unresolved>, DaemonError> {
        let links = snapshot.links().await?;
        let senders: Vec<Sender> = senders(self.inputs.view.as_ref(), &self.networks, local, underlay).collect();
        let packets = senders.iter().flat_map(|sender| sender.vteps.iter().map(|vtep| (*vtep, sender.port))).collect();
        let undelivered = self.host.undelivered(underlay, local, packets).await?;
        if undelivered.is_empty() && self.firewall.accepts_all() {
            return Ok(Vec::new());
        }
        let (mut sent, mut received) = (BTreeMap::new(), BTreeMap::new());
        for Sender { vni, port, is_managed, vteps, .. } in senders {
            for vtep in vteps {
                let packet = |is_received, device: &Link| OuterPacket {
                    is_received,
                    local,
                    vtep,
                    port,
                    vni: self.firewall.vni(vni),
                    device: (device.name.clone(), device.index),
                };
                received.insert((vni, vtep), packet(true, underlay));
                let hop = facts.queries.get(&vni).and_then(|query| facts.next_hops.get(&(*query, vtep)));
                let device = hop.and_then(|hop| links.iter().find(|link| link.index == hop.ifindex));
                sent.extend(device.map(|device| ((vni, vtep), (is_managed, packet(false, device)))));
            }
        }
        let packets = sent.values().map(|(_, packet)| packet.clone());
        let refused = self.firewall.refused(packets, &self.host, snapshot).await?;
        // The entry of a VTEP in the maps has one route for all managed networks.
        let of_managed = sent.values().filter(|(is_managed, _)| *is_managed).filter_map(|(_, packet)| {
            let obstacle = refused.get(&(packet.vtep, packet.port, packet.vni))?;
            Some(((packet.vtep, packet.port), obstacle.clone()))
        });
        let of_managed: BTreeMap<_, _> = of_managed.collect();
        for ((vni, vtep), (is_managed, packet)) in sent {
            let by_rules = refused.get(&(vtep, packet.port, packet.vni)).cloned();
            let of_others = || of_managed.get(&(vtep, packet.port)).filter(|_| is_managed).cloned();
            if let Some(obstacle) = by_rules.or_else(of_others) {
                facts.not_sent.insert((vni, vtep));
                obstacles.of_packets.insert((vni, vtep), obstacle);
            }
        }
        let mut refused = self.firewall.refused(received.values().cloned(), &self.host, snapshot).await?;
        for ((vni, vtep), packet) in received {
            let key = (vtep, packet.port, packet.vni);
            if let Some(obstacle) = undelivered.get(&(vtep, packet.port)) {
                refused.entry(key).or_insert_with(|| obstacle.clone());
            }
            if refused.contains_key(&key) {
                facts.not_received.insert((vni, vtep));
            }
        }
        let unresolved = |((vtep, port, vni), obstacle): (_, Obstacle)| Unresolved {
            vtep,
            port,
            vni,
            finding: Finding::new(object(vni, vtep), obstacle.problem, obstacle.remedy),
        };
        Ok(refused.into_iter().map(unresolved).collect())
    }
}

/// Why packets take the kernel path.
#[derive(Default)]
struct Obstacles {
    of_networks: BTreeMap<Vni, Obstacle>,
    of_vteps: BTreeMap<(RouteQuery, VtepAddr), Obstacle>,
    /// By the host's rules.
    of_packets: BTreeMap<(Vni, VtepAddr), Obstacle>,
}

/// The object of a finding about a VTEP, in all networks or in one.
fn object(vni: Option<Vni>, vtep: VtepAddr) -> String {
    vni.map_or_else(|| format!("VTEP {vtep}"), |vni| format!("VNI {vni} VTEP {vtep}"))
}

impl Obstacles {
    fn of(&self, path: KernelPath, facts: &Facts) -> Option<Unresolved> {
        let KernelPath { vtep, port, vni, chosen } = path;
        let of = vni.unwrap_or(chosen);
        let of_vtep = || self.of_vteps.get(&(*facts.queries.get(&of)?, vtep));
        let found = self.of_networks.get(&of).or_else(of_vtep).or_else(|| self.of_packets.get(&(of, vtep)));
        let obstacle = match (vni, found) {
            (None, obstacle) => obstacle?.clone(),
            (Some(_), Some(obstacle)) => obstacle.clone(),
            (Some(_), None) => {
                let problem = format!("its packets do not take the route of VNI {chosen}, which is in the maps");
                let remedy = "give both networks the same `local`, `ttl`, VRF and route";
                Obstacle::new(problem, remedy)
            }
        };
        Some(Unresolved {
            vtep,
            port,
            vni,
            finding: Finding::new(object(vni, vtep), obstacle.problem, obstacle.remedy),
        })
    }
}

/// A network that sends to VTEPs.
struct Sender {
    vni: Vni,
    port: u16,
    is_managed: bool,
    tunnel: Tunnel,
    vteps: BTreeSet<VtepAddr>,
}

/// The networks that use the fast path, with their VTEPs.
fn senders<'n>(
    view: Option<&'n View>,
    networks: &'n HostNetworks,
    local: VtepAddr,
    underlay: &Link,
) -> impl Iterator<Item = Sender> + 'n {
    let source_ports = kernel::local_ports().unwrap_or((1, u16::MAX));
    let device = Some(underlay.index);
    let tunnel = Tunnel { local: Some(local), device, ttl: TTL, source_ports, ..Tunnel::default() };
    let managed = view.into_iter().flat_map(View::networks).map(move |(vni, network)| Sender {
        vni: *vni,
        port: network.network().port,
        is_managed: true,
        tunnel,
        vteps: network.remote().hosts().collect(),
    });
    let external = networks.accelerated().map(|(vni, network, external)| Sender {
        vni,
        port: network.port,
        is_managed: false,
        tunnel: external.tunnel,
        vteps: external.remote.values().chain(&external.peers).copied().collect(),
    });
    managed.chain(external)
}

/// The route lookup of a network, or why its packets take the kernel path in both directions.
fn query(network: &Sender, links: &[Link], sockets: &Sockets) -> Result<RouteQuery, Obstacle> {
    let Tunnel { local, device, source_ports, .. } = network.tunnel;
    let port = network.port;
    if let Some(device) = device {
        if let Some(vrf) = kernel::vrf(links, device) {
            let problem = format!("its VXLAN device is bound to a device in the VRF {}", vrf.name);
            return Err(Obstacle::new(problem, "keep the kernel path, or use a device outside of VRFs"));
        }
        let bound = sockets.as_ref().map_err(|error| {
            Obstacle::new(format!("the UDP sockets cannot be read: {error}"), "load the kernel module udp_diag")
        })?;
        if let Some(vrf) = links.iter().find(|link| link.is_vrf() && bound.contains(&(port, link.index))) {
            let problem = format!("a socket of UDP port {port} is bound to the VRF {}", vrf.name);
            return Err(Obstacle::new(problem, "set the VXLAN devices of the port down and up"));
        }
    }
    Ok(RouteQuery { source: local, port, source_ports })
}

/// Ports and interfaces of the UDP sockets. The kernel binds that of a VXLAN device when the device is set up
/// (`__vxlan_sock_add` in drivers/net/vxlan/vxlan_core.c), to the VRF of `dev` at that time.
type Sockets = io::Result<BTreeSet<(u16, u32)>>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::LinkKind;

    const HERE: VtepAddr = VtepAddr::new(Ipv4Addr::new(192, 168, 1, 9));

    /// The lookup of a network whose VXLAN device is bound to `device`, on a host with `enp0s3` (2) in the VRF `blue` (3)
    /// and `enp0s8` (4) in none.
    fn lookup(device: Option<u32>, sockets: &Sockets) -> Result<RouteQuery, Obstacle> {
        let link = |index, name: &str, kind: &str, master| Link {
            index,
            name: name.into(),
            kind: LinkKind::Other(kind.into()),
            master,
            ..Link::default()
        };
        let links =
            [link(2, "enp0s3", "dummy", Some(3)), link(3, "blue", "vrf", None), link(4, "enp0s8", "dummy", None)];
        let tunnel = Tunnel { local: Some(HERE), device, ttl: 0, source_ports: (40_000, 40_010), ..Tunnel::default() };
        let sender =
            Sender { vni: Vni::new(1).unwrap(), port: 4789, is_managed: false, tunnel, vteps: BTreeSet::new() };
        query(&sender, &links, sockets)
    }

    #[test]
    fn lookup_has_the_source_ports_of_the_device() {
        let sockets = Ok(BTreeSet::from([(4789, 0), (53, 3)]));
        for device in [None, Some(4)] {
            let expected = RouteQuery { source: Some(HERE), port: 4789, source_ports: (40_000, 40_010) };
            assert_eq!(lookup(device, &sockets), Ok(expected));
        }
    }

    #[test]
    fn vxlan_device_in_vrf_takes_the_kernel_path() {
        let unbound = Ok(BTreeSet::from([(4789, 0)]));
        for (device, sockets, words) in [
            // The device is bound to a port of the VRF, or to the VRF.
            (2, &unbound, "a device in the VRF blue"),
            (3, &unbound, "a device in the VRF blue"),
            // It was, when its socket was opened.
            (4, &Ok(BTreeSet::from([(4789, 3)])), "a socket of UDP port 4789 is bound to the VRF blue"),
            (4, &Err(io::ErrorKind::Unsupported.into()), "the UDP sockets cannot be read"),
        ] {
            let obstacle = lookup(Some(device), sockets).expect_err(words);
            assert!(obstacle.problem.contains(words) && !obstacle.remedy.is_empty(), "{obstacle:?}");
        }
    }
}
