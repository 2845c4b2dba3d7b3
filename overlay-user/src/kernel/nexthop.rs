//! The next hop towards a VTEP: route and neighbour.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    net::{IpAddr, Ipv4Addr},
};

use futures_util::{StreamExt as _, stream};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType},
};
use overlay_common::{MacAddr, VtepAddr};

use super::{Host, KernelError, Link, Snapshot, fdb::lladdr};
use crate::sys::netlink::{NetlinkError, connection::Mode};

/// Number of concurrent route lookups.
const WINDOW: usize = 64;

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
        /// The route's layer-3 MTU in bytes, also from path MTU discovery; otherwise the device's.
        mtu: u32,
        /// Address of the neighbour entry: the gateway, or the VTEP.
        gateway: Ipv4Addr,
        /// The entry is stale: it is valid, and should be confirmed by [`Host::probe_neighbour`].
        stale: bool,
    },
    /// The next hop is not resolved: packets fall back to the kernel path.
    Unresolved {
        /// The reason, for log lines.
        reason: String,
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

    fn unresolved(reason: impl Into<String>) -> Self {
        Self::Unresolved { reason: reason.into(), ifindex: None, gateway: None }
    }
}

/// The result of a route lookup.
#[derive(Default)]
pub(crate) struct Route {
    ifindex: Option<u32>,
    gateway: Option<Ipv4Addr>,
    mtu: Option<u32>,
    /// Preferred source address.
    source: Option<VtepAddr>,
    /// Why the route is unusable.
    obstacle: Option<&'static str>,
}

impl Route {
    /// Reads the answer to a route lookup.
    pub(crate) fn new(answer: RouteMessage) -> Self {
        let obstacle = match answer.header.kind {
            RouteType::Unicast => None,
            RouteType::Local => Some("it is an address of this host"),
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => Some("its route rejects packets"),
            _ => Some("its route is not a unicast route"),
        };
        let mut route = Self { obstacle, ..Self::default() };
        for attribute in answer.attributes {
            match attribute {
                RouteAttribute::Oif(ifindex) => route.ifindex = Some(ifindex),
                RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => route.gateway = Some(gateway),
                RouteAttribute::PrefSource(RouteAddress::Inet(source)) => route.source = Some(source.into()),
                RouteAttribute::Via(_) => route.obstacle = Some("its gateway is an IPv6 address"),
                RouteAttribute::EncapType(_) | RouteAttribute::Encap(_) => {
                    route.obstacle = Some("its route adds another encapsulation");
                }
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) if *mtu != 0 => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        route
    }
}

impl Snapshot {
    /// The current next hops of these addresses, in order. Routes and neighbours are looked up individually, a shared
    /// neighbour once. The neighbour table is not read, because it has an entry for each remote endpoint.
    ///
    /// # Errors
    /// [`KernelError::Netlink`] if the tables cannot be read. A missing route or neighbour is not an error.
    pub(crate) async fn next_hops(
        &self,
        addresses: BTreeSet<VtepAddr>,
    ) -> Result<Vec<(VtepAddr, NextHop)>, KernelError> {
        let links: HashMap<u32, &Link> = self.links().await?.iter().map(|link| (link.index, link)).collect();
        let host = self.host();
        let mut routes =
            stream::iter(addresses).map(|dst| async move { (dst, host.route(dst).await) }).buffered(WINDOW);
        let (mut neighbours, mut hops) = (HashMap::new(), Vec::new());
        while let Some((dst, route)) = routes.next().await {
            let next = match usable(dst, route)? {
                Err(obstacle) => obstacle,
                Ok((ifindex, gateway, mtu)) => {
                    let entry = match neighbours.entry((ifindex, gateway)) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(unknown) => unknown.insert(host.neighbour(ifindex, gateway).await?),
                    };
                    resolve((dst, gateway), ifindex, links.get(&ifindex).copied(), entry.as_ref(), mtu)
                }
            };
            hops.push((dst, next));
        }
        Ok(hops)
    }
}

impl Host {
    /// The device and the source address of packets to this address; `None` if there is no usable route.
    ///
    /// # Errors
    /// [`KernelError::Netlink`] if the tables cannot be read.
    pub(crate) async fn source(&self, dst: VtepAddr) -> Result<Option<(u32, VtepAddr)>, KernelError> {
        match self.route(dst).await {
            Ok(route) if route.obstacle.is_none() => Ok(route.ifindex.zip(route.source)),
            Ok(_) => Ok(None),
            Err(error) if unroutable(&error).is_some() => Ok(None),
            Err(error) => Err(KernelError::netlink(format!("look up the route to {dst}"))(error)),
        }
    }

    /// Makes the kernel resolve a next hop, or confirm a stale one, as a packet to it would. The result arrives as
    /// [`crate::kernel::HostEvent::Neighbour`]. Does nothing if there is no route.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) async fn probe_neighbour(&self, hop: &NextHop) -> Result<(), KernelError> {
        let Some((ifindex, gateway)) = hop.neighbour() else { return Ok(()) };
        let mut message = neighbour_key(ifindex, gateway);
        message.header.flags = NeighbourFlags::Use;
        // Create without replace: an existing entry is unchanged.
        match self.netlink.change(RouteNetlinkMessage::NewNeighbour(message), Mode::Append).await {
            Err(error) if error.is_missing() || error.errno == libc::ENETDOWN => Ok(()),
            result => result.map_err(KernelError::netlink(format!("resolve {gateway}"))),
        }
    }

    async fn route(&self, dst: VtepAddr) -> Result<Route, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        request.header.destination_prefix_length = 32;
        request.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(dst.ipv4())));
        match self.netlink.get(RouteNetlinkMessage::GetRoute(request)).await? {
            RouteNetlinkMessage::NewRoute(answer) => Ok(Route::new(answer)),
            _ => Ok(Route::default()),
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

/// The device, the address of the neighbour entry and the MTU of a route. The inner error is an unresolved next hop.
#[expect(clippy::type_complexity, reason = "an unresolved next hop, or a failed lookup")]
fn usable(
    dst: VtepAddr,
    route: Result<Route, NetlinkError>,
) -> Result<Result<(u32, Ipv4Addr, Option<u32>), NextHop>, KernelError> {
    let route = match route {
        Ok(route) => route,
        Err(error) => match unroutable(&error) {
            Some(reason) => return Ok(Err(NextHop::unresolved(format!("{dst}: {reason}")))),
            None => return Err(KernelError::netlink(format!("look up the route to {dst}"))(error)),
        },
    };
    if let Some(obstacle) = route.obstacle {
        return Ok(Err(NextHop::unresolved(format!("{dst}: {obstacle}"))));
    }
    let Some(ifindex) = route.ifindex else {
        return Ok(Err(NextHop::unresolved(format!("the route to {dst} has no device"))));
    };
    Ok(Ok((ifindex, route.gateway.unwrap_or(dst.ipv4()), route.mtu)))
}

/// The next hop of a route through `link` to `gateway`, with the gateway's neighbour entry.
fn resolve(
    (dst, gateway): (VtepAddr, Ipv4Addr),
    ifindex: u32,
    link: Option<&Link>,
    entry: Option<&NeighbourMessage>,
    mtu: Option<u32>,
) -> NextHop {
    let unresolved = |reason| NextHop::Unresolved { reason, ifindex: Some(ifindex), gateway: Some(gateway) };
    let Some(link) = link else {
        return unresolved(format!("the device of the route to {dst} does not exist"));
    };
    if !link.ethernet || link.mac == MacAddr::default() {
        let reason = format!("the route to {dst} uses {}, which is not an Ethernet device", link.name);
        return NextHop::unresolved(reason);
    }
    if !link.up {
        return unresolved(format!("{} is down", link.name));
    }
    let Some(entry) = entry else {
        return unresolved(format!("{gateway} on {} has no neighbour entry", link.name));
    };
    let state = entry.header.state;
    let usable = matches!(
        state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    );
    match lladdr(entry) {
        Some(dst_mac) if usable => NextHop::Resolved {
            ifindex,
            src_mac: link.mac,
            dst_mac,
            mtu: mtu.unwrap_or(link.mtu),
            gateway,
            stale: state == NeighbourState::Stale,
        },
        _ => unresolved(format!("{gateway} on {} is {state} in the neighbour table", link.name)),
    }
}

fn neighbour_key(ifindex: u32, ip: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = ifindex;
    message.attributes.push(NeighbourAttribute::Destination(IpAddr::V4(ip).into()));
    message
}

/// The meaning of a route lookup error (`fib_props` in `net/ipv4/fib_semantics.c`); `None` for other errors.
fn unroutable(error: &NetlinkError) -> Option<&'static str> {
    match error.errno {
        libc::ENETUNREACH => Some("there is no route to it"),
        libc::EHOSTUNREACH => Some("its route is \"unreachable\""),
        libc::EACCES => Some("its route is \"prohibit\""),
        libc::EINVAL => Some("its route is \"blackhole\""),
        libc::ENETDOWN => Some("the device of its route is down"),
        _ => None,
    }
}
