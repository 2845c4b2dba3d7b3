//! The desired contents of the BPF maps.

use std::collections::{BTreeMap, BTreeSet};

use overlay_common::{
    MacAddr, Vni, VtepAddr,
    maps::{self, FdbEntry, FdbKey, Map, Network, Peer, PeerKey, Port, PortKey, UDP_PORTS, Underlay, Vtep, flags},
    outer::{OuterHeader, TTL},
    wire::inner_mtu,
};

use super::tables::{Counted, Networks, Planned, RetiredIndices, Tables, Vteps};
use crate::{
    kernel::{RouteQuery, XdpMode},
    model::{Attachment, HostNetworks, NetworkView, Rx, View, discovery::NetnsRef, network::External},
};

/// First key of `OVL_TXPORTS` for interfaces in other namespaces. Lower keys are interface indices of the daemon's
/// namespace (`ifindex` is a positive `int` in the kernel).
const OTHER_NETNS_TX: u32 = 1 << 31;

/// Kernel state of this host that the maps depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Interface index of the underlay device.
    pub underlay_ifindex: u32,
    /// MAC address of the underlay device.
    pub underlay_mac: MacAddr,
    /// MTU of the underlay device, in bytes.
    pub underlay_mtu: u32,
    /// MAC addresses of the managed networks' VXLAN devices.
    pub tunnels: BTreeMap<Vni, MacAddr>,
    /// The underlay device does not merge TCP segments (GRO).
    pub underlay_segments: bool,
    /// The host-side interfaces of this host's endpoints, by VNI and endpoint name. Endpoints without one use the
    /// kernel path.
    pub ports: BTreeMap<(Vni, String), PortFact>,
    /// The shims of external networks in other namespaces. A network in another namespace without one uses the kernel
    /// path.
    pub shims: BTreeMap<Vni, Shim>,
    /// XFRM policies may require encryption of packets to or from other VTEPs: the programs neither send nor receive
    /// packets of configured networks then. For external networks, [`crate::model::Network::admission`] accounts for
    /// it.
    pub xfrm: bool,
    /// XDP receives packets, for ports of external networks that support it.
    pub xdp: bool,
    /// `net.ipv4.ip_default_ttl`.
    pub default_ttl: u8,
    /// The route lookups of the networks. A network without one uses the kernel path in both directions.
    pub queries: BTreeMap<Vni, RouteQuery>,
    /// Resolved next hops, by route lookup and VTEP.
    pub next_hops: BTreeMap<(RouteQuery, VtepAddr), Hop>,
    /// VTEPs of networks to which packets take the kernel path, because the host's rules do not plainly accept them.
    pub not_sent: BTreeSet<(Vni, VtepAddr)>,
    /// VTEPs of networks from which packets take the kernel path.
    pub not_received: BTreeSet<(Vni, VtepAddr)>,
}

/// A host-side interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortFact {
    /// Interface index.
    pub ifindex: u32,
    /// Frames can pass the port by with `bpf_redirect_peer`: [`crate::model::network::ExternalPort::redirect_peer`].
    pub redirect_peer: bool,
    /// The other end of a veth, by its interface index there.
    pub peer: Option<u32>,
    /// The XDP program of that end.
    pub peer_xdp: XdpMode,
    /// Its state does not suit the fast path: its packets take the kernel path in both directions.
    pub is_refused: bool,
}

/// The cross-netns veth (shim) to an external network in another network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shim {
    /// The netns id, not 0.
    pub netns_id: u16,
    /// Interface index of the shim's end in the daemon's namespace.
    pub outer: u32,
}

/// A resolved next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    /// Interface index of the outgoing interface.
    pub ifindex: u32,
    /// MAC address of the outgoing interface.
    pub src_mac: MacAddr,
    /// MAC address of the next hop.
    pub dst_mac: MacAddr,
    /// MTU of the route, in bytes.
    pub mtu: u32,
    /// Hop limit of the route.
    pub hop_limit: Option<u8>,
}

/// A limit of the maps is exceeded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// More entries than the size of the map.
    #[error("{map}: {needed} entries exceed the size {room} of the map; {remedy}")]
    Full {
        /// The map.
        map: &'static str,
        /// Size of the map, in entries.
        room: u32,
        /// Number of required entries.
        needed: usize,
        /// Remedy.
        remedy: &'static str,
    },
    /// The networks of this host use too many different UDP ports.
    #[error(
        "the networks of this host use {0} different UDP ports, and the programs support {UDP_PORTS}; \
         give networks the same port"
    )]
    UdpPorts(usize),
}

/// The desired contents of the maps of this host: `view` is its part of the configuration, `networks` are all networks.
/// External networks that [`super::admission::admit`] has refused contribute no entries.
///
/// VTEPs and networks keep the indices and slots that they have in `current`; objects that return get their last index,
/// and new objects get one that `current` does not use. So no index changes its meaning.
///
/// # Errors
/// [`TableError`] if a limit is exceeded.
pub(crate) fn desired(
    view: Option<&View>,
    networks: &HostNetworks,
    facts: &Facts,
    current: &Tables,
) -> Result<Tables, TableError> {
    let tables = desired_unchecked(view, networks, facts, current);
    let udp_ports: BTreeSet<u16> = tables.networks.values().map(|network| network.port).collect();
    if udp_ports.len() > UDP_PORTS {
        return Err(TableError::UdpPorts(udp_ports.len()));
    }
    check_room(&tables)?;
    Ok(tables)
}

/// [`desired`] without the check of limits, for [`super::tables::Changes::pruning`].
#[must_use]
pub(crate) fn desired_unchecked(
    view: Option<&View>,
    networks: &HostNetworks,
    facts: &Facts,
    current: &Tables,
) -> Tables {
    let Some(local) = networks.served else { return Tables::default() };
    let mut builder = Builder::new(view, networks, local, facts, current);
    for (vni, network, external) in networks.accelerated() {
        let shim = match external.netns {
            NetnsRef::Own => Some(Shim { netns_id: 0, outer: 0 }),
            NetnsRef::Other { .. } => facts.shims.get(&vni).copied(),
        };
        if let Some(shim) = shim {
            builder.external(vni, network.port, external, shim);
        }
    }
    if let Some(view) = view {
        for (vni, network) in view.networks() {
            builder.configured(*vni, network, view.host().rx);
        }
    }
    builder.finish()
}

/// A VTEP to which packets take the kernel path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KernelPath {
    pub vtep: VtepAddr,
    /// UDP port.
    pub port: u16,
    /// The network; `None`: all networks with this port.
    pub vni: Option<Vni>,
    /// The network whose route is in the maps.
    pub chosen: Vni,
}

/// The VTEPs without a next hop, and the networks whose packets take another route than the one in the maps: an entry of
/// `OVL_VTEPS` has one route. Networks that XFRM policies exclude are not among them.
pub(crate) fn kernel_paths(view: Option<&View>, networks: &HostNetworks, facts: &Facts) -> BTreeSet<KernelPath> {
    let Some(local) = networks.served else { return BTreeSet::new() };
    let templates = Templates::new(view, networks, local, facts);
    let of = |path: Path| {
        let Path { vni, vtep, port, is_managed, .. } = path;
        let Chosen { vni: chosen, value, .. } = templates.of.get(&(vtep, port))?;
        let is_excluded = is_managed && facts.xfrm;
        let differs = templates.value(path) != *value;
        let of = if differs { Some(vni) } else { None };
        (!is_excluded && (differs || value.resolved == 0)).then_some(KernelPath {
            vtep,
            port,
            vni: of,
            chosen: *chosen,
        })
    };
    paths(view, networks).filter_map(of).collect()
}

/// A network's VTEP.
#[derive(Clone, Copy)]
struct Path {
    vni: Vni,
    vtep: VtepAddr,
    port: u16,
    /// `ttl` of the VXLAN device.
    ttl: u8,
    is_managed: bool,
}

/// The VTEPs of all networks, managed networks first.
fn paths<'n>(view: Option<&'n View>, networks: &'n HostNetworks) -> impl Iterator<Item = Path> + 'n {
    let managed = view.into_iter().flat_map(View::networks).flat_map(|(vni, network)| {
        let port = network.network().port;
        network.remote().hosts().map(move |vtep| Path { vni: *vni, vtep, port, ttl: TTL, is_managed: true })
    });
    let external = networks.accelerated().flat_map(|(vni, network, external)| {
        let (port, ttl) = (network.port, external.tunnel.ttl);
        vteps(external).into_iter().map(move |vtep| Path { vni, vtep, port, ttl, is_managed: false })
    });
    managed.chain(external)
}

/// The VTEPs that an external network sends to or receives from.
fn vteps(external: &External) -> BTreeSet<VtepAddr> {
    external.peers.iter().chain(external.remote.values()).copied().collect()
}

/// The values of `OVL_VTEPS`.
struct Templates<'a> {
    facts: &'a Facts,
    local: VtepAddr,
    of: BTreeMap<(VtepAddr, u16), Chosen>,
}

/// The value for a VTEP and port.
#[derive(Clone, Copy)]
struct Chosen {
    /// The network with this route.
    vni: Vni,
    value: Vtep,
    /// Another network's route does not replace it.
    is_final: bool,
}

impl<'a> Templates<'a> {
    /// The route of a managed network, so that strict networks keep all their entries; otherwise the first one that is
    /// resolved.
    fn new(view: Option<&View>, networks: &HostNetworks, local: VtepAddr, facts: &'a Facts) -> Self {
        let mut templates = Self { facts, local, of: BTreeMap::new() };
        for path in paths(view, networks) {
            let value = templates.value(path);
            let is_final = value.resolved != 0 || path.is_managed && !facts.xfrm;
            let chosen = Chosen { vni: path.vni, value, is_final };
            let known = templates.of.entry((path.vtep, path.port)).or_insert(chosen);
            if is_final && !known.is_final {
                *known = chosen;
            }
        }
        templates
    }

    /// The value for the packets of one network.
    fn value(&self, path: Path) -> Vtep {
        let is_refused = self.facts.not_sent.contains(&(path.vni, path.vtep)) || path.is_managed && self.facts.xfrm;
        let query = self.facts.queries.get(&path.vni).filter(|_| !is_refused);
        let hop = query.and_then(|query| self.facts.next_hops.get(&(*query, path.vtep)));
        let mut outer = OuterHeader::template(self.local.octets(), path.vtep.octets(), path.port);
        let Some(hop) = hop else {
            return Vtep { outer, mtu: 0, ifindex: 0, ip_sum: outer.ip_sum(), resolved: 0 };
        };
        // As `ip4_dst_hoplimit` in include/net/route.h.
        let of_route = || hop.hop_limit.unwrap_or(self.facts.default_ttl);
        outer.ttl = if path.ttl == 0 { of_route() } else { path.ttl };
        (outer.eth_dst, outer.eth_src) = (hop.dst_mac.0, hop.src_mac.0);
        Vtep { outer, mtu: inner_mtu(hop.mtu), ifindex: hop.ifindex, ip_sum: outer.ip_sum(), resolved: 1 }
    }

    /// The value in the map for a path, and whether the packets of its network take that route.
    fn chosen(&self, path: Path) -> (Vtep, bool) {
        let own = self.value(path);
        let chosen = self.of.get(&(path.vtep, path.port)).map_or(own, |chosen| chosen.value);
        (chosen, chosen == own)
    }
}

struct Builder<'a> {
    tables: Tables,
    facts: &'a Facts,
    local: VtepAddr,
    templates: Templates<'a>,
    udp_ports: BTreeSet<u16>,
    /// Managed networks whose devices do not suit the fast path.
    refused: BTreeSet<Vni>,
    vtep_indices: CountedIndices<'a>,
    slots: CountedIndices<'a>,
    tx_keys: Indices<PortKey>,
}

impl<'a> Builder<'a> {
    fn new(
        view: Option<&View>,
        networks: &HostNetworks,
        local: VtepAddr,
        facts: &'a Facts,
        current: &'a Tables,
    ) -> Self {
        let tx_keys =
            current.txports.iter().filter(|(key, _)| **key >= OTHER_NETNS_TX).map(|(key, port)| (*key, *port));
        Self {
            tables: Tables::default(),
            facts,
            local,
            templates: Templates::new(view, networks, local, facts),
            udp_ports: BTreeSet::new(),
            refused: networks.refused_managed().collect(),
            vtep_indices: CountedIndices::new::<Vteps>(current, maps::VTEP_STATS),
            slots: CountedIndices::new::<Networks>(current, maps::VNI_STATS),
            tx_keys: Indices::new(OTHER_NETNS_TX, tx_keys),
        }
    }

    fn network(&mut self, vni: Vni, mut network: Network) -> Network {
        network.slot = self.slots.of(Counted::Network(vni.get()));
        self.udp_ports.insert(network.port);
        self.tables.networks.insert(vni.get(), network);
        network
    }

    /// The index of a VTEP, and whether the packets of the network take the route in the map.
    fn vtep(&mut self, path: Path) -> (u32, bool) {
        let index = self.vtep_indices.of(Counted::Vtep(path.vtep, path.port));
        let (value, is_own) = self.templates.chosen(path);
        self.tables.vteps.insert(index, value);
        (index, is_own)
    }

    /// Smallest outer source port of a network, and their number. Without a route lookup, no packet is sent.
    fn source_ports(&self, vni: Vni) -> (u16, u16) {
        let (first, end) = self.facts.queries.get(&vni).map_or((0, 0), |query| query.source_ports);
        (first, end.saturating_sub(first))
    }

    fn peer(&mut self, vni: Vni, address: VtepAddr, vtep: u32, network: Network, (mac, learns): (MacAddr, bool)) {
        // No packet has the UDP port 0, so that all take the kernel path.
        let port = if self.facts.not_received.contains(&(vni, address)) { 0 } else { network.port };
        let flags = (network.flags | if learns { flags::LEARNING } else { 0 }) as u16;
        let peer = Peer { vtep, slot: network.slot, device_mac: mac.0, mtu: network.mtu, port, flags };
        self.tables.peers.insert(peer_key(vni, address), peer);
    }

    /// Adds a local MAC and its port. [`Rx::Xdp`]: XDP may redirect to it.
    fn port(&mut self, PortFact { ifindex, redirect_peer, .. }: PortFact, shim: Shim, port: Port, rx: Rx) {
        let key = PortKey { netns_id: shim.netns_id.into(), ifindex };
        let kind = if redirect_peer { FdbEntry::LOCAL_PEER } else { FdbEntry::LOCAL };
        let tx = match (rx, key.netns_id) {
            (Rx::Tc, _) => 0,
            (Rx::Xdp, 0) => ifindex,
            (Rx::Xdp, _) => self.tx_keys.of(key),
        };
        let entry = FdbEntry { kind, netns_id: shim.netns_id, target: ifindex, shim_or_ip: shim.outer, tx };
        self.tables.fdb.insert(FdbKey::new(port.vni, MacAddr(port.mac)), entry);
        self.tables.ports.insert(key, port);
        if rx == Rx::Xdp {
            self.tables.txports.insert(tx, key);
        }
    }

    /// Adds a port whose packets are checked, and take the kernel path: none fits its MTU. Its MAC has no entry.
    fn checked(&mut self, fact: PortFact, port: Port) {
        self.tables.ports.insert(PortKey::host(fact.ifindex), Port { mtu: 0, ..port });
    }

    fn configured(&mut self, vni: Vni, view: &NetworkView, rx: Rx) {
        let (facts, network) = (self.facts, view.network());
        let is_refused = self.refused.contains(&vni);
        if is_refused && !network.strict {
            return;
        }
        let mtu = network.mtu.unwrap_or(inner_mtu(facts.underlay_mtu));
        let flags = if network.strict { flags::STRICT } else { 0 };
        let has_peers = !facts.xfrm && facts.queries.contains_key(&vni);
        // Without peers, a strict network would drop all packets that are for the kernel.
        let on_nic = if has_peers { flags } else { 0 };
        let network = self.network(vni, Network { slot: 0, flags: on_nic, mtu, port: network.port });
        let mut blocked = BTreeSet::new();
        for vtep in view.remote().hosts() {
            let (index, is_own) = self.vtep(Path { vni, vtep, port: network.port, ttl: TTL, is_managed: true });
            if has_peers {
                let mac = facts.tunnels.get(&vni).copied().unwrap_or_default();
                self.peer(vni, vtep, index, network, (mac, false));
            }
            if !is_own {
                // Another network uses this VTEP.
                blocked.insert(vtep);
            }
        }
        for endpoint in view.remote().iter().filter(|endpoint| !blocked.contains(&endpoint.host)) {
            let index = self.vtep_indices.of(Counted::Vtep(endpoint.host, network.port));
            self.tables
                .fdb
                .insert(FdbKey::new(vni.get(), endpoint.mac), FdbEntry::remote_with_ip(index, endpoint.ip.octets()));
        }
        let (udp_src_first, udp_src_span) = self.source_ports(vni);
        for endpoint in view.local() {
            let Some(&fact) = facts.ports.get(&(vni, endpoint.name.clone())) else { continue };
            let (ip, mac) = (endpoint.ip.octets(), endpoint.mac.0);
            let port = Port { vni: vni.get(), slot: network.slot, flags, ip, mac, mtu, udp_src_first, udp_src_span };
            if is_refused || fact.is_refused {
                if flags & flags::STRICT != 0 {
                    self.checked(fact, port);
                }
                continue;
            }
            // The kernel drops frames that XDP redirects to a veth whose peer has no NAPI. Veths of the daemon have it
            // (GRO is on).
            let has_napi = fact.redirect_peer && matches!(endpoint.attachment, Attachment::Netns(_));
            self.port(fact, Shim { netns_id: 0, outer: 0 }, port, if has_napi { rx } else { Rx::Tc });
        }
    }

    fn external(&mut self, vni: Vni, port: u16, external: &External, shim: Shim) {
        let network = Network { slot: 0, flags: 0, mtu: external.mtu, port };
        let network = self.network(vni, network);
        let has_peers = self.facts.queries.contains_key(&vni);
        let mut indices = BTreeMap::new();
        for vtep in vteps(external) {
            let path = Path { vni, vtep, port, ttl: external.tunnel.ttl, is_managed: false };
            let (index, is_own) = self.vtep(path);
            if has_peers && external.peers.contains(&vtep) {
                self.peer(vni, vtep, index, network, (external.tunnel.mac, external.tunnel.learns));
            }
            if is_own {
                indices.insert(vtep, index);
            }
        }
        for (&mac, vtep) in &external.remote {
            if let Some(index) = indices.get(vtep) {
                self.tables.fdb.insert(FdbKey::new(vni.get(), mac), FdbEntry::remote(*index));
            }
        }
        let flags = if external.tunnel.udp_checksum { flags::UDP_CHECKSUM } else { 0 };
        let (udp_src_first, udp_src_span) = self.source_ports(vni);
        for (&ifindex, found) in external.ports.iter().filter(|(_, port)| port.finding.is_none()) {
            let Some(mac) = found.mac else { continue };
            let port = Port {
                vni: vni.get(),
                slot: network.slot,
                flags,
                ip: [0; 4],
                mac: mac.0,
                mtu: external.mtu,
                udp_src_first,
                udp_src_span,
            };
            let rx = if self.facts.xdp && found.xdp { Rx::Xdp } else { Rx::Tc };
            let fact = PortFact { ifindex, redirect_peer: found.redirect_peer, ..PortFact::default() };
            self.port(fact, shim, port, rx);
        }
    }

    fn finish(self) -> Tables {
        let Self { mut tables, udp_ports, facts, local, .. } = self;
        let ports: Vec<u16> = udp_ports.into_iter().collect();
        let underlay = Underlay::new(local.octets(), facts.underlay_mac, facts.underlay_ifindex, &ports);
        let segments = if facts.underlay_segments { flags::SEGMENTS } else { 0 };
        let flags = tables.networks.values().fold(segments, |flags, network| flags | network.flags) as u16;
        tables.underlay.extend(underlay.map(|underlay| (0, Underlay { flags, ..underlay })));
        tables
    }
}

/// The key of a network's peer.
pub(super) const fn peer_key(vni: Vni, vtep: VtepAddr) -> PeerKey {
    PeerKey { vni: vni.get(), addr: vtep.octets() }
}

fn check_room(tables: &Tables) -> Result<(), TableError> {
    let highest = |indices: Option<u32>| indices.map_or(0, |index| index as usize + 1);
    let fewer = "spread the endpoints over more hosts";
    for (map, room, needed, remedy) in [
        (maps::VTEPS.name, maps::VTEPS.entries, highest(tables.vteps.keys().max().copied()), fewer),
        (maps::NETWORKS.name, maps::NETWORKS.entries, highest(tables.networks.values().map(|n| n.slot).max()), fewer),
        (maps::PEERS.name, maps::PEERS.entries, tables.peers.len(), fewer),
        (maps::PORTS.name, maps::PORTS.entries, tables.ports.len(), fewer),
    ] {
        if needed > room as usize {
            return Err(TableError::Full { map, room, needed, remedy });
        }
    }
    Ok(())
}

/// Assigns numbers to keys. A key that has a number keeps it.
struct Indices<T> {
    of: BTreeMap<T, u32>,
    used: BTreeSet<u32>,
    next: u32,
}

impl<T: Ord> Indices<T> {
    /// New numbers begin at `first`.
    fn new(first: u32, current: impl Iterator<Item = (u32, T)>) -> Self {
        let of: BTreeMap<T, u32> = current.map(|(index, thing)| (thing, index)).collect();
        let used = of.values().copied().collect();
        Self { of, used, next: first }
    }

    fn of(&mut self, thing: T) -> u32 {
        match self.of.get(&thing) {
            Some(index) => *index,
            None => {
                let index = self.unused(|_| true);
                self.take(thing, index)
            }
        }
    }

    /// The next unused number for which `is_wanted` is true.
    fn unused(&mut self, is_wanted: impl Fn(u32) -> bool) -> u32 {
        while self.used.contains(&self.next) || !is_wanted(self.next) {
            self.next += 1;
        }
        self.next
    }

    fn take(&mut self, thing: T, index: u32) -> u32 {
        self.used.insert(index);
        self.of.insert(thing, index);
        index
    }
}

/// Assigns indices to counted objects. An object that returns gets its last index, unless it is in use. A new object
/// gets an index without a retired object; if there is none, the one that was retired first.
struct CountedIndices<'a> {
    indices: Indices<Counted>,
    retired: &'a RetiredIndices,
    map: Map,
    /// Retired indices, oldest first; `None` until they are needed.
    oldest: Option<std::vec::IntoIter<u32>>,
}

impl<'a> CountedIndices<'a> {
    fn new<T: Planned<Set = Tables>>(current: &'a Tables, map: Map) -> Self {
        let counted = T::rows(current).iter().filter_map(|(key, value)| T::counter(*key, value));
        let indices = Indices::new(0, counted.map(|(counted, index)| (index, counted)));
        Self { indices, retired: &current.retired, map, oldest: None }
    }

    fn of(&mut self, counted: Counted) -> u32 {
        let Self { indices, retired, map, oldest } = self;
        if let Some(index) = indices.of.get(&counted) {
            return *index;
        }
        let had = retired.index(counted).filter(|index| !indices.used.contains(index));
        let index = had.unwrap_or_else(|| {
            // No index beyond the size of the map is retired.
            let fresh = indices.unused(|index| !retired.has(*map, index));
            if fresh < map.entries {
                return fresh;
            }
            let oldest = oldest.get_or_insert_with(|| retired.oldest(*map).into_iter());
            let oldest = oldest.find(|index| !indices.used.contains(index));
            oldest.unwrap_or(fresh)
        });
        indices.take(counted, index)
    }
}

#[cfg(test)]
#[path = "desired_tests.rs"]
mod tests;
