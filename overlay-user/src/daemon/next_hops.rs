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
    plan::tables::{self, Facts, Hop, KernelPath},
};

/// A VTEP to which packets take the kernel path.
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
        let paths = tables::kernel_paths(view, networks, facts);
        Ok(NextHops { gateways, unresolved: paths.into_iter().filter_map(|path| obstacles.of(path, facts)).collect() })
    }
}

/// Why packets take the kernel path.
#[derive(Default)]
struct Obstacles {
    of_networks: BTreeMap<Vni, Obstacle>,
    of_vteps: BTreeMap<(RouteQuery, VtepAddr), Obstacle>,
}

impl Obstacles {
    fn of(&self, path: KernelPath, facts: &Facts) -> Option<Unresolved> {
        let KernelPath { vtep, port, vni, chosen } = path;
        let of = vni.unwrap_or(chosen);
        let of_vtep = || self.of_vteps.get(&(*facts.queries.get(&of)?, vtep));
        let (object, obstacle) = match (vni, self.of_networks.get(&of).or_else(of_vtep)) {
            (None, obstacle) => (format!("VTEP {vtep}"), obstacle?.clone()),
            (Some(vni), Some(obstacle)) => (format!("VNI {vni} VTEP {vtep}"), obstacle.clone()),
            (Some(vni), None) => {
                let problem = format!("its packets do not take the route of VNI {chosen}, which is in the maps");
                let remedy = "give both networks the same `local`, `ttl`, VRF and route";
                (format!("VNI {vni} VTEP {vtep}"), Obstacle::new(problem, remedy))
            }
        };
        Some(Unresolved { vtep, port, vni, finding: Finding::new(object, obstacle.problem, obstacle.remedy) })
    }
}

/// A network that sends to VTEPs.
struct Sender {
    vni: Vni,
    port: u16,
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
    let tunnel = Tunnel { local: Some(local), device, ttl: TTL, source_ports, udp_checksum: false };
    let managed = view.into_iter().flat_map(View::networks).map(move |(vni, network)| Sender {
        vni: *vni,
        port: network.network().port,
        tunnel,
        vteps: network.remote().hosts().collect(),
    });
    let external = networks.accelerated().map(|(vni, network, external)| Sender {
        vni,
        port: network.port,
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
        let tunnel = Tunnel { local: Some(HERE), device, ttl: 0, source_ports: (40_000, 40_010), udp_checksum: false };
        let sender = Sender { vni: Vni::new(1).unwrap(), port: 4789, tunnel, vteps: BTreeSet::new() };
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
