//! The next hop towards a VTEP: route and neighbour.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType},
};
use overlay_common::MacAddr;

use super::{Host, HostError, NetlinkError, netlink::Mode, state::lladdr};

/// Where outer packets to a VTEP go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Everything that the outer Ethernet header needs is known.
    Resolved {
        /// The egress device.
        ifindex: u32,
        /// Its MAC address.
        src_mac: MacAddr,
        /// The MAC address of the gateway, or of the VTEP itself where it is on the link.
        dst_mac: MacAddr,
        /// The route's MTU where it has one (also one learnt by path MTU discovery), else the device's; layer 3, in
        /// bytes.
        mtu: u32,
        /// Whose neighbour entry it is: the gateway, or the VTEP itself.
        via: Ipv4Addr,
        /// The entry has not been confirmed lately: right until proven otherwise, and worth a
        /// [`Host::probe_neighbour`].
        stale: bool,
    },
    /// Packets are left to the kernel.
    Unresolved {
        /// What is missing, for people.
        reason: String,
        /// The egress device, where the route is known.
        ifindex: Option<u32>,
        /// The gateway, or the VTEP itself where it is on the link, where the route is known.
        via: Option<Ipv4Addr>,
    },
}

impl NextHop {
    fn unresolved(reason: impl Into<String>) -> Self {
        Self::Unresolved { reason: reason.into(), ifindex: None, via: None }
    }
}

/// What a route look-up says.
#[derive(Default)]
struct Route {
    ifindex: Option<u32>,
    gateway: Option<Ipv4Addr>,
    mtu: Option<u32>,
    /// The address that packets get which have none yet.
    source: Option<Ipv4Addr>,
    /// What makes it unusable.
    obstacle: Option<&'static str>,
}

impl Host {
    /// How the kernel would send to this address now.
    ///
    /// # Errors
    /// [`HostError::Netlink`] when the tables cannot be read. No route, no neighbour and the like are answers.
    pub async fn next_hop(&self, dst: Ipv4Addr) -> Result<NextHop, HostError> {
        let route = match self.route(dst).await {
            Ok(route) => route,
            Err(error) => match unroutable(&error) {
                Some(reason) => return Ok(NextHop::unresolved(format!("{dst}: {reason}"))),
                None => return Err(HostError::netlink(format!("look up the route to {dst}"))(error)),
            },
        };
        if let Some(obstacle) = route.obstacle {
            return Ok(NextHop::unresolved(format!("{dst}: {obstacle}")));
        }
        let Some(ifindex) = route.ifindex else {
            return Ok(NextHop::unresolved(format!("the route to {dst} names no device")));
        };
        let via = route.gateway.unwrap_or(dst);
        let unresolved = |reason| Ok(NextHop::Unresolved { reason, ifindex: Some(ifindex), via: Some(via) });

        let Some(link) = self.link_by_index(ifindex).await? else {
            return unresolved(format!("the device of the route to {dst} has vanished"));
        };
        if !link.ethernet || link.mac == MacAddr::default() {
            let reason = format!("the route to {dst} leads through {}, which is no Ethernet device", link.name);
            return Ok(NextHop::unresolved(reason));
        }
        if !link.up {
            return unresolved(format!("{} is down", link.name));
        }
        let Some(entry) = self.neighbour(ifindex, via).await? else {
            return unresolved(format!("{via} on {} has not been asked for its MAC address", link.name));
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
        match lladdr(&entry) {
            Some(dst_mac) if usable => Ok(NextHop::Resolved {
                ifindex,
                src_mac: link.mac,
                dst_mac,
                mtu: route.mtu.unwrap_or(link.mtu),
                via,
                stale: state == NeighbourState::Stale,
            }),
            _ => unresolved(format!("{via} on {} is {state} in the neighbour table", link.name)),
        }
    }

    /// The device and the source address that the kernel would send with to this address; `None` where it would not.
    ///
    /// # Errors
    /// [`HostError::Netlink`] when the tables cannot be read.
    pub async fn source(&self, dst: Ipv4Addr) -> Result<Option<(u32, Ipv4Addr)>, HostError> {
        match self.route(dst).await {
            Ok(route) if route.obstacle.is_none() => Ok(route.ifindex.zip(route.source)),
            Ok(_) => Ok(None),
            Err(error) if unroutable(&error).is_some() => Ok(None),
            Err(error) => Err(HostError::netlink(format!("look up the route to {dst}"))(error)),
        }
    }

    /// Makes the kernel resolve a next hop, or confirm one that is stale, as a packet to it would. The answer arrives as
    /// [`super::HostEvent::Neighbour`]. Does nothing where there is no route.
    ///
    /// # Errors
    /// [`HostError::Netlink`].
    pub async fn probe_neighbour(&self, hop: &NextHop) -> Result<(), HostError> {
        let (ifindex, via) = match *hop {
            NextHop::Resolved { ifindex, via, .. }
            | NextHop::Unresolved { ifindex: Some(ifindex), via: Some(via), .. } => (ifindex, via),
            NextHop::Unresolved { .. } => return Ok(()),
        };
        let mut message = neighbour_key(ifindex, via);
        message.header.flags = NeighbourFlags::Use;
        // Create without replace: what the entry says stays.
        match self.netlink.change(RouteNetlinkMessage::NewNeighbour(message), Mode::Append).await {
            Err(error) if error.is_missing() || error.errno == libc::ENETDOWN => Ok(()),
            result => result.map_err(HostError::netlink(format!("resolve {via}"))),
        }
    }

    async fn route(&self, dst: Ipv4Addr) -> Result<Route, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        request.header.destination_prefix_length = 32;
        request.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(dst)));
        let mut route = Route::default();
        let RouteNetlinkMessage::NewRoute(answer) = self.netlink.get(RouteNetlinkMessage::GetRoute(request)).await?
        else {
            return Ok(route);
        };
        route.obstacle = match answer.header.kind {
            RouteType::Unicast => None,
            RouteType::Local => Some("it is an address of this host"),
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => Some("its route refuses packets"),
            _ => Some("its route is not a unicast route"),
        };
        for attribute in answer.attributes {
            match attribute {
                RouteAttribute::Oif(ifindex) => route.ifindex = Some(ifindex),
                RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => route.gateway = Some(gateway),
                RouteAttribute::PrefSource(RouteAddress::Inet(source)) => route.source = Some(source),
                RouteAttribute::Via(_) => route.obstacle = Some("its gateway is an IPv6 address"),
                RouteAttribute::EncapType(_) | RouteAttribute::Encap(_) => {
                    route.obstacle = Some("its route adds an encapsulation of its own");
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
        Ok(route)
    }

    async fn neighbour(&self, ifindex: u32, ip: Ipv4Addr) -> Result<Option<NeighbourMessage>, HostError> {
        match self.netlink.get(RouteNetlinkMessage::GetNeighbour(neighbour_key(ifindex, ip))).await {
            Ok(RouteNetlinkMessage::NewNeighbour(entry)) => Ok(Some(entry)),
            Ok(_) => Ok(None),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(HostError::netlink(format!("look up neighbour {ip}"))(error)),
        }
    }
}

fn neighbour_key(ifindex: u32, ip: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = ifindex;
    message.attributes.push(NeighbourAttribute::Destination(IpAddr::V4(ip).into()));
    message
}

/// What the errors of a route look-up mean (`fib_props` in `net/ipv4/fib_semantics.c`); `None` for other trouble.
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
