//! Route lookups as a VXLAN device makes them, and what their answers mean.
//!
//! The device passes its source address, the UDP ports, the packet's mark and user ID 0
//! (`vxlan_xmit_one` in drivers/net/vxlan/vxlan_core.c, `udp_tunnel_dst_lookup` in net/ipv4/udp_tunnel_core.c). The
//! device that it is bound to does not restrict the route: FDB entries have an egress device only with `via`. What an
//! answer says is accepted from a list of known attributes.

use std::{collections::HashMap, fs, net::Ipv4Addr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage},
};
use overlay_common::VtepAddr;

use super::{
    KernelError, Reader,
    query::{Obstacle, RouteQuery},
    reader::body,
    rule::{self, Rule},
};
use crate::sys::netlink::{
    NetlinkError,
    attribute::{attribute, attributes, ne32},
};

/// A remedy.
const ONE_NEXT_HOP: &str = "give the VTEP a route with one next hop";

/// A route that the programs can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The egress device.
    pub ifindex: u32,
    /// The gateway; `None`: the VTEP is on the link.
    pub gateway: Option<Ipv4Addr>,
    /// The route's MTU in bytes, also from path MTU discovery.
    pub mtu: Option<u32>,
    /// The route's hop limit, for devices without `ttl`.
    pub hop_limit: Option<u8>,
    /// Source address of the packets, if the query has none.
    pub source: Option<VtepAddr>,
}

/// The state of a network namespace that route lookups depend on, besides the routes.
#[derive(Debug)]
pub(crate) struct Routing {
    rules: Vec<Rule>,
    /// Why a multipath route has not one result for each pair of addresses.
    multipath: Result<(), &'static str>,
    /// The nexthop objects of routes: whether the programs can use them.
    nexthops: HashMap<u32, Result<(), Obstacle>>,
}

impl Reader {
    /// Reads the rules and the sysctls of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) fn routing(&self) -> Result<Routing, KernelError> {
        Ok(Routing { rules: self.rules()?, multipath: multipath(), nexthops: HashMap::new() })
    }

    /// The route of packets to a VTEP. The inner error is why the programs cannot use it.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) fn route(
        &self,
        routing: &mut Routing,
        query: RouteQuery,
        vtep: VtepAddr,
    ) -> Result<Result<Route, Obstacle>, KernelError> {
        let (path, entry) = match (
            self.look_up(vtep, request(query, vtep, RouteFlags::empty()))?,
            self.look_up(vtep, request(query, vtep, RouteFlags::FibMatch | RouteFlags::LookupTable))?,
        ) {
            (Ok(path), Ok(entry)) => (path, entry),
            (Err(obstacle), _) | (_, Err(obstacle)) => return Ok(Err(obstacle)),
        };
        if let Some(id) = entry.nexthop
            && !routing.nexthops.contains_key(&id)
        {
            routing.nexthops.insert(id, self.nexthop(id)?);
        }
        let obstacle = routing.obstacle(&entry).or_else(|| rule::obstacle(&routing.rules, query, vtep, entry.table));
        Ok(path.usable(&entry).and_then(|route| obstacle.map_or(Ok(route), Err)))
    }

    /// Device and source address of packets to a VTEP; `None`: there is no route.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) fn source(&self, query: RouteQuery, vtep: VtepAddr) -> Result<Option<(u32, VtepAddr)>, KernelError> {
        let path = self.look_up(vtep, request(query, vtep, RouteFlags::empty()))?;
        Ok(path.ok().and_then(|path| path.oif.zip(path.source)))
    }

    /// The device of packets to a VTEP from an address of this host, whatever their protocol and ports, as the
    /// reverse-path filter looks it up (`__fib_validate_source` in net/ipv4/fib_frontend.c).
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(super) fn reverse(
        &self,
        local: VtepAddr,
        vtep: VtepAddr,
    ) -> Result<Result<Option<u32>, Obstacle>, KernelError> {
        let query = RouteQuery { source: Some(local), port: 0, source_ports: (0, 0) };
        let mut request = request(query, vtep, RouteFlags::empty());
        let is_transport = |attribute: &RouteAttribute| {
            matches!(attribute, RouteAttribute::IpProto(_) | RouteAttribute::Sport(_) | RouteAttribute::Dport(_))
        };
        request.attributes.retain(|attribute| !is_transport(attribute));
        let answer = self.look_up(vtep, request)?;
        Ok(answer.and_then(|answer| answer.obstacle.map_or(Ok(answer.oif), Err)))
    }

    /// Why the kernel does not deliver packets from a VTEP to `query.source`, an address of this host, when they arrive on
    /// a device; `None`: it does. The kernel's answer includes the reverse-path filter (`inet_rtm_getroute` and
    /// `ip_route_input_slow` in net/ipv4/route.c).
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(super) fn input(
        &self,
        rules: &[Rule],
        device: u32,
        local: VtepAddr,
        (vtep, port): (VtepAddr, u16),
    ) -> Result<Option<Obstacle>, KernelError> {
        /// Offsets in a `struct rtmsg`; `RTN_LOCAL`.
        const TABLE: usize = 4;
        const TYPE: usize = 7;
        const LOCAL: u8 = 2;
        // The source port is the VTEP's choice.
        let query = RouteQuery { source: Some(vtep), port, source_ports: (1, u16::MAX) };
        let mut request = request(query, local, RouteFlags::LookupTable);
        request.attributes.push(RouteAttribute::Iif(device));
        let request = RouteNetlinkMessage::GetRoute(request);
        let undelivered =
            || Obstacle::route("the routes and routing rules of this host do not deliver packets from it");
        match self.get_raw(request.message_type(), &body(&request)) {
            Ok((_, answer)) if answer.get(TYPE) == Some(&LOCAL) => {
                let table =
                    attribute(answer.get(HEADER..).unwrap_or_default(), rta::TABLE).and_then(|table| ne32(table, 0));
                let table = table.unwrap_or_else(|| answer[TABLE].into());
                Ok(rule::obstacle(rules, query, local, table))
            }
            Ok(_) => Ok(Some(undelivered())),
            // Linux before 6.13 reports the filter as EXDEV.
            Err(error) if unroutable(&error).is_some() || error.errno == libc::EXDEV => Ok(Some(undelivered())),
            Err(error) => Err(KernelError::netlink(format!("look up the route of packets from {vtep}"))(error)),
        }
    }

    /// The answer to a lookup. The inner error is a route that rejects packets, or none.
    fn look_up(&self, vtep: VtepAddr, request: RouteMessage) -> Result<Result<Answer, Obstacle>, KernelError> {
        let request = RouteNetlinkMessage::GetRoute(request);
        match self.get_raw(request.message_type(), &body(&request)) {
            Ok((_, answer)) => Ok(Ok(Answer::new(&answer))),
            Err(error) => match unroutable(&error) {
                Some(obstacle) => Ok(Err(obstacle)),
                None => Err(KernelError::netlink(format!("look up the route to {vtep}"))(error)),
            },
        }
    }

    /// Whether the programs can use a nexthop object.
    fn nexthop(&self, id: u32) -> Result<Result<(), Obstacle>, KernelError> {
        /// `RTM_GETNEXTHOP`.
        const GET: u16 = 106;
        /// Length of a `struct nhmsg`.
        const NHMSG: usize = 8;
        /// `NHA_ID`, `NHA_GROUP`.
        const ID: u16 = 1;
        const GROUP: u16 = 2;
        /// Length of a `struct nexthop_grp`.
        const MEMBER: usize = 8;
        let attribute_of = [&8_u16.to_ne_bytes()[..], &ID.to_ne_bytes(), &id.to_ne_bytes()].concat();
        let answer = match self.get_raw(GET, &[&[0; NHMSG][..], &attribute_of].concat()) {
            Ok((_, answer)) => answer,
            // Removed meanwhile; its event follows.
            Err(error) if error.is_missing() => {
                return Ok(Err(Obstacle::route(format!("nexthop object {id} of its route does not exist"))));
            }
            Err(error) => return Err(KernelError::netlink(format!("look up nexthop object {id}"))(error)),
        };
        let members = attribute(answer.get(NHMSG..).unwrap_or_default(), GROUP).map_or(0, |group| group.len() / MEMBER);
        // The kernel skips members whose neighbour entry is not valid (`nexthop_select_path_hthr` in
        // net/ipv4/nexthop.c), and keeps the result until routes change.
        Ok(if members > 1 {
            Err(Obstacle::new(
                format!("its route uses the nexthop group {id}, whose next hop depends on neighbour entries"),
                ONE_NEXT_HOP,
            ))
        } else {
            Ok(())
        })
    }
}

impl Routing {
    /// Why the programs cannot use an entry with several next hops.
    fn obstacle(&self, entry: &Answer) -> Option<Obstacle> {
        if let Some(Err(obstacle)) = entry.nexthop.and_then(|id| self.nexthops.get(&id)) {
            return Some(obstacle.clone());
        }
        let problem = self.multipath.err().filter(|_| entry.is_multipath)?;
        Some(Obstacle::new(format!("its route has several next hops, and {problem}"), ONE_NEXT_HOP))
    }
}

/// The message of a lookup.
fn request(query: RouteQuery, vtep: VtepAddr, flags: RouteFlags) -> RouteMessage {
    const IPPROTO_UDP: u8 = 17;
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    request.header.destination_prefix_length = 32;
    request.header.flags = flags;
    request.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(vtep.ipv4())),
        RouteAttribute::IpProto(IPPROTO_UDP),
        RouteAttribute::Sport(query.source_ports.0.max(1)),
        RouteAttribute::Dport(query.port),
        // Without it, the kernel looks up for the daemon's user.
        RouteAttribute::Uid(0),
    ];
    if let Some(source) = query.source {
        request.header.source_prefix_length = 32;
        request.attributes.push(RouteAttribute::Source(RouteAddress::Inet(source.ipv4())));
    }
    request
}

/// Whether a multipath route has one next hop for each pair of addresses (`fib_multipath_hash` and
/// `fib_select_multipath` in net/ipv4). With other settings, it depends on the ports of the first packet or on
/// neighbour entries.
fn multipath() -> Result<(), &'static str> {
    let is_zero =
        |name| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).is_ok_and(|value| value.trim() == "0");
    if !is_zero("fib_multipath_hash_policy") {
        return Err("net.ipv4.fib_multipath_hash_policy is not 0");
    }
    if is_zero("fib_multipath_use_neigh") { Ok(()) } else { Err("net.ipv4.fib_multipath_use_neigh is not 0") }
}

/// `net.ipv4.ip_default_ttl` of the calling thread's network namespace.
pub(crate) fn default_ttl() -> Option<u8> {
    fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").ok()?.trim().parse().ok()
}

/// `net.ipv4.ip_local_port_range` of the calling thread's network namespace.
pub(crate) fn local_ports() -> Option<(u16, u16)> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ports = range.split_whitespace().map(str::parse);
    Some((ports.next()?.ok()?, ports.next()?.ok()?))
}

/// The answer to a route lookup: a `struct rtmsg` with attributes.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    oif: Option<u32>,
    gateway: Option<Ipv4Addr>,
    source: Option<VtepAddr>,
    mtu: Option<u32>,
    hop_limit: Option<u8>,
    table: u32,
    nexthop: Option<u32>,
    is_multipath: bool,
    /// The first thing that the programs do not support.
    obstacle: Option<Obstacle>,
}

/// Length of a `struct rtmsg`.
const HEADER: usize = 12;

/// Attributes of routes and answers (`include/uapi/linux/rtnetlink.h`).
mod rta {
    pub(super) const DST: u16 = 1;
    pub(super) const SRC: u16 = 2;
    pub(super) const OIF: u16 = 4;
    pub(super) const GATEWAY: u16 = 5;
    pub(super) const PRIORITY: u16 = 6;
    pub(super) const PREFSRC: u16 = 7;
    pub(super) const METRICS: u16 = 8;
    pub(super) const MULTIPATH: u16 = 9;
    pub(super) const FLOW: u16 = 11;
    pub(super) const CACHEINFO: u16 = 12;
    pub(super) const TABLE: u16 = 15;
    pub(super) const VIA: u16 = 18;
    pub(super) const ENCAP_TYPE: u16 = 21;
    pub(super) const ENCAP: u16 = 22;
    pub(super) const UID: u16 = 25;
    pub(super) const NH_ID: u16 = 30;
}

impl Answer {
    /// Reads an answer.
    pub(crate) fn new(body: &[u8]) -> Self {
        /// Offsets of the fields of a `struct rtmsg`.
        const TABLE: usize = 4;
        const TYPE: usize = 7;
        const FLAGS: usize = 8;
        let (Some(kind), Some(flags)) = (body.get(TYPE), ne32(body, FLAGS)) else {
            return Self {
                obstacle: Some(Obstacle::route("the answer to its route lookup is too short")),
                ..Self::default()
            };
        };
        let mut answer = Self { table: body[TABLE].into(), ..Self::default() };
        answer.check_type(*kind);
        answer.check_flags(flags);
        for (kind, value) in attributes(&body[HEADER..]) {
            answer.read(kind, value);
        }
        answer
    }

    /// The route of a path and its entry in the routing table.
    fn usable(self, entry: &Self) -> Result<Route, Obstacle> {
        if let Some(obstacle) = self.obstacle.or_else(|| entry.obstacle.clone()) {
            return Err(obstacle);
        }
        let Self { oif, gateway, mtu, hop_limit, source, .. } = self;
        let ifindex = oif.ok_or_else(|| Obstacle::route("its route has no device"))?;
        Ok(Route { ifindex, gateway, mtu, hop_limit, source })
    }

    /// Records an obstacle, unless there is one.
    fn refuse(&mut self, problem: impl Into<String>) {
        self.obstacle.get_or_insert_with(|| Obstacle::route(problem));
    }

    fn check_type(&mut self, kind: u8) {
        const UNICAST: u8 = 1;
        const LOCAL: u8 = 2;
        const BLACKHOLE: u8 = 6;
        const UNREACHABLE: u8 = 7;
        const PROHIBIT: u8 = 8;
        match kind {
            UNICAST => {}
            LOCAL => self.refuse("it is an address of this host"),
            BLACKHOLE | UNREACHABLE | PROHIBIT => self.refuse("its route rejects packets"),
            _ => self.refuse("its route is not a unicast route"),
        }
    }

    /// Flags of the next hop are in the low byte, and only in the answer with the entry of the table.
    fn check_flags(&mut self, flags: u32) {
        const DEAD: u32 = 1;
        const ONLINK: u32 = 4;
        const LINKDOWN: u32 = 16;
        /// Of switches and NICs that forward without the kernel; packets of this host are not affected.
        const OFFLOAD: u32 = 8;
        const TRAP: u32 = 64;
        match flags & 0xff {
            flags if flags & (DEAD | LINKDOWN) != 0 => self.refuse("the link of its route is down"),
            flags if flags & !(ONLINK | OFFLOAD | TRAP) != 0 => {
                self.refuse(format!("its route has the unknown flags {flags:#x}"));
            }
            _ => {}
        }
    }

    fn read(&mut self, kind: u16, value: &[u8]) {
        let address = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
        match kind {
            rta::DST | rta::SRC | rta::PRIORITY | rta::UID => {}
            rta::OIF => self.oif = ne32(value, 0),
            rta::GATEWAY => self.gateway = address,
            rta::PREFSRC => self.source = address.map(VtepAddr::from),
            rta::METRICS => self.read_metrics(value),
            rta::MULTIPATH => self.is_multipath = true,
            rta::FLOW => self.refuse("its route has a realm"),
            rta::CACHEINFO => self.read_cache_info(value),
            rta::TABLE => self.table = ne32(value, 0).unwrap_or_default(),
            rta::VIA => self.refuse("its gateway is an IPv6 address"),
            rta::ENCAP_TYPE | rta::ENCAP => self.refuse("its route adds another encapsulation"),
            rta::NH_ID => self.nexthop = ne32(value, 0),
            kind => self.refuse(format!("its route has the unknown attribute {kind}")),
        }
    }

    /// Only MTU and hop limit concern UDP; the other known metrics are TCP's.
    fn read_metrics(&mut self, metrics: &[u8]) {
        const MTU: u16 = 2;
        const HOP_LIMIT: u16 = 10;
        /// `RTAX_FASTOPEN_NO_COOKIE`, the last of Linux 6.18.
        const LAST: u16 = 17;
        for (kind, value) in attributes(metrics) {
            let number = ne32(value, 0).filter(|number| *number != 0);
            match kind {
                MTU => self.mtu = number,
                // The kernel refuses larger values (`ip_metrics_convert` in net/ipv4/metrics.c).
                HOP_LIMIT => self.hop_limit = number.map(|limit| u8::try_from(limit).unwrap_or(u8::MAX)),
                0..=LAST => {}
                kind => self.refuse(format!("its route has the unknown metric {kind}")),
            }
        }
    }

    fn read_cache_info(&mut self, info: &[u8]) {
        /// Offset of `rta_error` in a `struct rta_cacheinfo`.
        const ERROR: usize = 12;
        if ne32(info, ERROR).is_some_and(|error| error != 0) {
            self.refuse("its route rejects packets");
        }
    }
}

/// The meaning of a lookup error (`fib_props` in `net/ipv4/fib_semantics.c`, `ip_route_output_key_hash_rcu` in
/// net/ipv4/route.c); `None` for other errors.
fn unroutable(error: &NetlinkError) -> Option<Obstacle> {
    let problem = match error.errno {
        libc::ENETUNREACH => "there is no route to it",
        libc::EHOSTUNREACH => "its route is \"unreachable\"",
        libc::EACCES => "its route or rule is \"prohibit\"",
        libc::EINVAL => "its route or rule is \"blackhole\", or the source address is not on this host",
        libc::ENETDOWN => "the device of its route is down",
        _ => return None,
    };
    Some(Obstacle::new(problem, "repair the route: the kernel cannot send either"))
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
