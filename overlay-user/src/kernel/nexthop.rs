//! The next hop towards a VTEP: route and neighbour.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    net::{IpAddr, Ipv4Addr},
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use overlay_common::{MacAddr, VtepAddr};

use super::{
    Host, KernelError, Link, Reader, Snapshot,
    fdb::lladdr,
    query::{Obstacle, RouteQuery},
    route::Route,
};
use crate::sys::netlink::connection::Mode;

/// The next hop of outer packets to a VTEP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NextHop {
    /// The fields of the outer Ethernet header are known.
    Resolved {
        /// The egress device.
        ifindex: u32,
        /// Its MAC address.
        src_mac: MacAddr,
        /// MAC address of the gateway, or of the VTEP if it is on the link.
        dst_mac: MacAddr,
        /// Layer-3 MTU in bytes: the smaller one of the device's and the route's, which may be from path MTU discovery.
        mtu: u32,
        /// The route's hop limit, for VXLAN devices without `ttl`.
        hop_limit: Option<u8>,
        /// Address of the neighbour entry: the gateway, or the VTEP.
        gateway: Ipv4Addr,
        /// The entry is stale: it is valid, and should be confirmed by [`Host::probe_neighbour`].
        stale: bool,
    },
    /// The next hop is not resolved: packets fall back to the kernel path.
    Unresolved {
        /// Problem and remedy.
        obstacle: Obstacle,
        /// The egress device, if the route is known.
        ifindex: Option<u32>,
        /// The gateway, or the VTEP if it is on the link, if the route is known.
        gateway: Option<Ipv4Addr>,
    },
}

impl NextHop {
    /// Device and address of the neighbour entry, if known.
    #[must_use]
    pub(crate) const fn neighbour(&self) -> Option<(u32, Ipv4Addr)> {
        match *self {
            Self::Resolved { ifindex, gateway, .. }
            | Self::Unresolved { ifindex: Some(ifindex), gateway: Some(gateway), .. } => Some((ifindex, gateway)),
            Self::Unresolved { .. } => None,
        }
    }

    const fn unresolved(obstacle: Obstacle) -> Self {
        Self::Unresolved { obstacle, ifindex: None, gateway: None }
    }
}

impl Snapshot {
    /// The current next hops of these VTEPs, in order, for packets from `local`. Routes and neighbours are looked up
    /// individually, a shared neighbour once. The neighbour table is not read, because it has an entry for each remote
    /// endpoint.
    ///
    /// # Errors
    /// [`KernelError::Netlink`] if the tables cannot be read. A missing route or neighbour is not an error.
    pub(crate) async fn next_hops(
        &self,
        local: VtepAddr,
        vteps: BTreeSet<(RouteQuery, VtepAddr)>,
    ) -> Result<Vec<((RouteQuery, VtepAddr), NextHop)>, KernelError> {
        if vteps.is_empty() {
            return Ok(Vec::new());
        }
        let links: HashMap<u32, &Link> = self.links().await?.iter().map(|link| (link.index, link)).collect();
        let host = self.host();
        let (mut neighbours, mut hops) = (HashMap::new(), Vec::new());
        for ((query, vtep), route) in host.routes(vteps).await? {
            let next = match route.and_then(|route| usable(&route, local, &links)) {
                Err(obstacle) => NextHop::unresolved(obstacle),
                Ok((link, gateway, mtu, hop_limit)) => {
                    let gateway = gateway.unwrap_or(vtep.ipv4());
                    let entry = match neighbours.entry((link.index, gateway)) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(unknown) => unknown.insert(host.neighbour(link.index, gateway).await?),
                    };
                    resolve(link, gateway, entry.as_ref(), mtu, hop_limit)
                }
            };
            hops.push(((query, vtep), next));
        }
        Ok(hops)
    }
}

impl Host {
    /// The routes of packets to these VTEPs, in order.
    ///
    /// # Errors
    /// [`KernelError::Netlink`] if the tables cannot be read.
    pub(crate) async fn routes(
        &self,
        vteps: BTreeSet<(RouteQuery, VtepAddr)>,
    ) -> Result<Vec<((RouteQuery, VtepAddr), Result<Route, Obstacle>)>, KernelError> {
        self.read(move |reader| {
            let mut routing = reader.routing()?;
            let route = |(query, vtep)| Ok(((query, vtep), reader.route(&mut routing, query, vtep)?));
            vteps.into_iter().map(route).collect()
        })
        .await
    }

    /// Device and source address of packets to each VTEP; `None`: there is no route.
    ///
    /// # Errors
    /// [`KernelError::Netlink`] if the tables cannot be read.
    pub(crate) async fn sources(
        &self,
        lookups: BTreeSet<(RouteQuery, VtepAddr)>,
    ) -> Result<BTreeMap<(RouteQuery, VtepAddr), Option<(u32, VtepAddr)>>, KernelError> {
        let source = |reader: &Reader, (query, vtep)| Ok(((query, vtep), reader.source(query, vtep)?));
        self.read(move |reader| lookups.into_iter().map(|lookup| source(reader, lookup)).collect()).await
    }

    /// Makes the kernel resolve a next hop, or confirm a stale one, as a packet to it would. The result arrives as
    /// [`crate::kernel::HostEvent::Neighbour`].
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) async fn probe_neighbour(&self, (ifindex, gateway): (u32, Ipv4Addr)) -> Result<(), KernelError> {
        let mut message = neighbour_key(ifindex, gateway);
        message.header.flags = NeighbourFlags::Use;
        // Create without replace: an existing entry is unchanged.
        match self.netlink.change(RouteNetlinkMessage::NewNeighbour(message), Mode::Append).await {
            Err(error) if error.is_missing() || error.errno == libc::ENETDOWN => Ok(()),
            result => result.map_err(KernelError::netlink(format!("resolve {gateway}"))),
        }
    }

    async fn neighbour(&self, ifindex: u32, ip: Ipv4Addr) -> Result<Option<NeighbourMessage>, KernelError> {
        match self.netlink.get(RouteNetlinkMessage::GetNeighbour(neighbour_key(ifindex, ip))).await {
            Ok(RouteNetlinkMessage::NewNeighbour(entry)) => Ok(Some(entry)),
            Ok(_) => Ok(None),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(KernelError::netlink(format!("look up neighbour {ip}"))(error)),
        }
    }
}

/// Kinds of Ethernet devices that send a packet as it is, whether it comes from IP output or from a program. Tunnels are
/// not among them: they may need the packet's route, and a VXLAN device refuses packets to itself.
const EGRESS: [&str; 15] = [
    "device", "veth", "netkit", "bridge", "bond", "team", "vlan", "macvlan", "macvtap", "ipvlan", "macsec", "dsa",
    "tun", "ifb", "dummy",
];

/// The egress device of a route, its gateway, MTU and hop limit.
#[expect(clippy::type_complexity, reason = "the fields of a next hop")]
fn usable<'l>(
    route: &Route,
    local: VtepAddr,
    links: &HashMap<u32, &'l Link>,
) -> Result<(&'l Link, Option<Ipv4Addr>, u32, Option<u8>), Obstacle> {
    let Route { ifindex, gateway, mtu, hop_limit, source } = *route;
    if let Some(source) = source.filter(|source| *source != local) {
        return Err(Obstacle::new(
            format!("the kernel sends to it from {source}, not from {local}"),
            "set `local` of the VXLAN device, or the preferred source of the route",
        ));
    }
    let Some(link) = links.get(&ifindex).copied() else {
        return Err(Obstacle::new("the device of its route does not exist", "see `ip route get`"));
    };
    let name = &link.name;
    if !link.ethernet || link.mac == MacAddr::default() {
        let problem = format!("its route uses {name}, which is not an Ethernet device");
        return Err(Obstacle::new(problem, "keep the kernel path, or change the route"));
    }
    if !EGRESS.contains(&link.kind.name()) {
        let problem = format!("its route uses {name}, a device of the kind {}", link.kind.name());
        return Err(Obstacle::new(problem, "keep the kernel path, or change the route"));
    }
    if !link.up {
        return Err(Obstacle::new(format!("{name} is down"), format!("ip link set {name} up")));
    }
    let vrf = link.master.and_then(|master| links.get(&master)).filter(|master| master.is_vrf());
    // Packets then pass the VRF's netfilter hooks, and its queueing discipline (`vrf_ip_out` in drivers/net/vrf.c).
    if let Some(vrf) = vrf {
        let problem = format!("its route uses {name}, a port of the VRF {}", vrf.name);
        return Err(Obstacle::new(problem, "keep the kernel path, or use a device outside of VRFs"));
    }
    Ok((link, gateway, mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)), hop_limit))
}

/// The next hop through `link` to `gateway`, with the gateway's neighbour entry.
fn resolve(
    link: &Link,
    gateway: Ipv4Addr,
    entry: Option<&NeighbourMessage>,
    mtu: u32,
    hop_limit: Option<u8>,
) -> NextHop {
    let ifindex = link.index;
    let state = entry.map(|entry| entry.header.state);
    let is_usable = |state| {
        matches!(
            state,
            NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
                | NeighbourState::Noarp
        )
    };
    match entry.and_then(lladdr) {
        Some(dst_mac) if state.is_some_and(is_usable) => NextHop::Resolved {
            ifindex,
            src_mac: link.mac,
            dst_mac,
            mtu,
            hop_limit,
            gateway,
            stale: state == Some(NeighbourState::Stale),
        },
        // The state alternates while the host does not answer.
        _ => NextHop::Unresolved {
            obstacle: Obstacle::new(
                format!("its next hop {gateway} on {} does not answer ARP", link.name),
                format!("see `ip neighbour show {gateway}`"),
            ),
            ifindex: Some(ifindex),
            gateway: Some(gateway),
        },
    }
}

fn neighbour_key(ifindex: u32, ip: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = ifindex;
    message.attributes.push(NeighbourAttribute::Destination(IpAddr::V4(ip).into()));
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::LinkKind;

    const HERE: VtepAddr = VtepAddr::new(Ipv4Addr::new(192, 168, 1, 9));

    #[test]
    fn port_of_vrf_is_no_egress_device() {
        let port = Link {
            index: 2,
            name: "enp0s3".into(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
            ethernet: true,
            master: Some(3),
            ..Link::default()
        };
        let route = Route { ifindex: 2, gateway: None, mtu: None, hop_limit: None, source: Some(HERE) };
        for (kind, expected) in
            [("vrf", Err("its route uses enp0s3, a port of the VRF master")), ("bridge", Ok((2, None, 1500, None)))]
        {
            let kind = LinkKind::Other(kind.into());
            let master = Link { index: 3, name: "master".into(), kind, ..Link::default() };
            let links = HashMap::from([(2, &port), (3, &master)]);
            let found = usable(&route, HERE, &links);
            let found = found.map(|(link, gateway, mtu, hop_limit)| (link.index, gateway, mtu, hop_limit));
            assert_eq!(found.as_ref().map_err(|obstacle| obstacle.problem.as_str()), expected.as_ref().map_err(|e| *e));
        }
    }
}
