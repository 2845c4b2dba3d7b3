//! Plans the contents of the BPF maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use overlay_common::{
    MacAddr, Vni,
    maps::{FdbEntry, FdbKey, Network, Port, Sender, SenderKey, UDP_PORTS, Underlay, Vtep, flags},
    names,
    outer::OuterHeader,
    wire::OVERHEAD,
};

use crate::model::{Attachment, Rx, View};

/// The contents of all maps but the counters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    /// `OVL_UNDERLAY`.
    pub underlay: Underlay,
    /// `OVL_VTEPS`, without the unused entries.
    pub vteps: BTreeMap<u32, Vtep>,
    /// `OVL_NETWORKS`.
    pub networks: BTreeMap<u32, Network>,
    /// `OVL_SENDERS`.
    pub senders: BTreeMap<SenderKey, Sender>,
    /// `OVL_TXPORTS`.
    pub txports: BTreeSet<u32>,
    /// `OVL_FDB`.
    pub fdb: BTreeMap<FdbKey, FdbEntry>,
    /// `OVL_PORTS`.
    pub ports: BTreeMap<u32, Port>,
}

/// What the kernel says about this host.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// MAC address of the underlay device.
    pub underlay_mac: MacAddr,
    /// MTU of the underlay device, in bytes.
    pub underlay_mtu: u32,
    /// The host-side interfaces of this host's endpoints, by VNI and endpoint name. Endpoints without one are left to
    /// the kernel.
    pub ports: BTreeMap<(Vni, String), PortFact>,
    /// The kernel may encrypt packets to other VTEPs, or demand that theirs are: nothing is sent or received here then.
    pub xfrm: bool,
    /// Next hops that are resolved, by VTEP address.
    pub next_hops: BTreeMap<Ipv4Addr, Hop>,
}

/// A host-side interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFact {
    /// Interface index.
    pub ifindex: u32,
    /// A veth whose peer is in another network namespace.
    pub peer_netns: bool,
}

/// A resolved next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The interface that it is behind.
    pub ifindex: u32,
    /// MAC address of that interface.
    pub src_mac: MacAddr,
    /// MAC address of the next hop.
    pub dst_mac: MacAddr,
    /// MTU of the route, in bytes.
    pub mtu: u32,
}

/// One change of one map entry.
#[derive(Clone, Debug, PartialEq)]
pub enum TableChange {
    /// Writes `OVL_UNDERLAY`.
    Underlay(Underlay),
    /// Zeroes the counters of a VTEP index that was not in use.
    ResetVtepStats(u32),
    /// Zeroes the counters of a network slot that was not in use.
    ResetNetworkStats(u32),
    /// Writes a VTEP.
    Vtep(u32, Vtep),
    /// Writes a network.
    Network(u32, Network),
    /// Writes a sender.
    Sender(SenderKey, Sender),
    /// Writes a device that XDP may redirect to.
    TxPort(u32),
    /// Writes an FDB entry.
    Fdb(FdbKey, FdbEntry),
    /// Writes a port.
    Port(u32, Port),
    /// Removes a port.
    RemovePort(u32),
    /// Removes an FDB entry.
    RemoveFdb(FdbKey),
    /// Removes a device that XDP may redirect to.
    RemoveTxPort(u32),
    /// Removes a sender.
    RemoveSender(SenderKey),
    /// Removes a network.
    RemoveNetwork(u32),
    /// Clears a VTEP.
    RemoveVtep(u32),
}

/// A table that is too small.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// More entries than the map has room for.
    #[error("{map} has room for {room} entries and {needed} are needed; {mend}")]
    Full {
        /// The map.
        map: &'static str,
        /// Its size.
        room: u32,
        /// What would be in it.
        needed: usize,
        /// What to do.
        mend: &'static str,
    },
    /// The networks of this host use too many UDP ports.
    #[error(
        "the networks of this host use {0} different UDP ports and the programs can tell {UDP_PORTS} apart; give networks the same port"
    )]
    UdpPorts(usize),
}

/// What the maps should hold on the host that `view` is for.
///
/// Indices of VTEPs and slots of networks that `current` already has are kept, and new ones are taken that `current`
/// does not use: no entry ever changes its meaning under a packet.
///
/// # Errors
/// [`TableError`] when a map is too small.
pub fn desired(view: &View, facts: &Facts, current: &Tables) -> Result<Tables, TableError> {
    let mut tables = Tables::default();
    let udp_ports: BTreeSet<u16> = view.networks.values().map(|network| network.network.port).collect();
    if !udp_ports.is_empty() {
        let ports: Vec<u16> = udp_ports.into_iter().collect();
        tables.underlay = Underlay::new(view.host.address.octets(), facts.underlay_mac, &ports)
            .ok_or(TableError::UdpPorts(ports.len()))?;
    }
    let mut vtep_indices = Indices::new(
        current
            .vteps
            .iter()
            .map(|(index, vtep)| (*index, (Ipv4Addr::from(vtep.outer.dst), u16::from_be_bytes(vtep.outer.udp_dst)))),
    );
    let mut slots = Indices::new(current.networks.iter().map(|(vni, network)| (network.slot, *vni)));

    for (vni, network_view) in &view.networks {
        let network = &network_view.network;
        let number = vni.get();
        let slot = slots.of(number);
        let underlay_room = facts.underlay_mtu.saturating_sub(OVERHEAD as u32).min(u32::from(u16::MAX)) as u16;
        let mtu = network.mtu.unwrap_or(underlay_room);
        let flags = if network.strict { flags::STRICT } else { 0 };
        tables.networks.insert(number, Network { slot, flags, mtu, port: network.port });

        for address in network_view.vteps() {
            let index = vtep_indices.of((address, network.port));
            let hop = if facts.xfrm { None } else { facts.next_hops.get(&address) };
            tables.vteps.entry(index).or_insert_with(|| vtep(view.host.address, address, network.port, hop));
            if !facts.xfrm {
                let key = SenderKey { vni: number, addr: address.octets() };
                tables.senders.insert(key, Sender { vtep: index, slot, port: u32::from(network.port) });
            }
        }
        for endpoint in &network_view.remote {
            let index = vtep_indices.of((endpoint.host, network.port));
            tables.fdb.insert(FdbKey::new(number, endpoint.mac), FdbEntry::remote(index));
        }
        for endpoint in &network_view.local {
            let Some(&PortFact { ifindex, peer_netns }) = facts.ports.get(&(*vni, endpoint.name.clone())) else {
                continue;
            };
            let kind = if peer_netns { FdbEntry::LOCAL_PEER } else { FdbEntry::LOCAL };
            tables.fdb.insert(FdbKey::new(number, endpoint.mac), FdbEntry { kind, target: ifindex });
            let ip = endpoint.ip.octets();
            tables.ports.insert(ifindex, Port { vni: number, slot, flags, ip, mac: endpoint.mac.0, mtu });
            // Where XDP redirects to a veth whose peer has no NAPI, the kernel drops the frame. Only of veths that the
            // daemon made is it known that the peer has (GRO is on).
            if view.host.rx == Rx::Xdp && peer_netns && matches!(endpoint.attachment, Attachment::Netns(_)) {
                tables.txports.insert(ifindex);
            }
        }
    }
    check_room(&tables)?;
    Ok(tables)
}

fn vtep(local: Ipv4Addr, remote: Ipv4Addr, udp_port: u16, hop: Option<&Hop>) -> Vtep {
    let mut outer = OuterHeader::template(local.octets(), remote.octets(), udp_port);
    let ip_sum = outer.ip_sum();
    let Some(hop) = hop else {
        return Vtep { outer, mtu: 0, ifindex: 0, ip_sum, resolved: 0 };
    };
    outer.eth_dst = hop.dst_mac.0;
    outer.eth_src = hop.src_mac.0;
    let room = hop.mtu.saturating_sub(OVERHEAD as u32).min(u32::from(u16::MAX)) as u16;
    Vtep { outer, mtu: room, ifindex: hop.ifindex, ip_sum, resolved: 1 }
}

fn check_room(tables: &Tables) -> Result<(), TableError> {
    let highest = |indices: Option<u32>| indices.map_or(0, |index| index as usize + 1);
    let fewer = "spread the endpoints over more hosts";
    for (map, room, needed, mend) in [
        (names::VTEPS, names::VTEPS_SIZE, highest(tables.vteps.keys().max().copied()), fewer),
        (names::NETWORKS, names::NETWORKS_SIZE, highest(tables.networks.values().map(|n| n.slot).max()), fewer),
        (names::SENDERS, names::SENDERS_SIZE, tables.senders.len(), fewer),
        (names::PORTS, names::PORTS_SIZE, tables.ports.len(), fewer),
    ] {
        if needed > room as usize {
            return Err(TableError::Full { map, room, needed, mend });
        }
    }
    Ok(())
}

/// Numbers for things, kept where a thing has one.
struct Indices<T> {
    of: BTreeMap<T, u32>,
    used: BTreeSet<u32>,
    next: u32,
}

impl<T: Ord> Indices<T> {
    fn new(current: impl Iterator<Item = (u32, T)>) -> Self {
        let of: BTreeMap<T, u32> = current.map(|(index, thing)| (thing, index)).collect();
        let used = of.values().copied().collect();
        Self { of, used, next: 0 }
    }

    fn of(&mut self, thing: T) -> u32 {
        let Self { of, used, next } = self;
        *of.entry(thing).or_insert_with(|| {
            while used.contains(next) {
                *next += 1;
            }
            used.insert(*next);
            *next
        })
    }
}

/// The changes that turn `current` into `desired`, in an order in which no packet meets a reference to nothing:
/// what is pointed to is written before what points to it, and removed after.
#[must_use]
pub fn plan(desired: &Tables, current: &Tables) -> Vec<TableChange> {
    let mut changes = Vec::new();
    if desired.underlay != current.underlay {
        changes.push(TableChange::Underlay(desired.underlay));
    }
    changes.extend(added(&desired.vteps, &current.vteps).map(|(index, _)| TableChange::ResetVtepStats(*index)));
    changes.extend(written(&desired.vteps, &current.vteps).map(|(index, vtep)| TableChange::Vtep(*index, *vtep)));
    changes.extend(added(&desired.networks, &current.networks).map(|(_, n)| TableChange::ResetNetworkStats(n.slot)));
    changes.extend(written(&desired.networks, &current.networks).map(|(vni, n)| TableChange::Network(*vni, *n)));
    changes.extend(written(&desired.senders, &current.senders).map(|(key, s)| TableChange::Sender(*key, *s)));
    changes.extend(desired.txports.difference(&current.txports).map(|ifindex| TableChange::TxPort(*ifindex)));
    changes.extend(written(&desired.fdb, &current.fdb).map(|(key, entry)| TableChange::Fdb(*key, *entry)));
    changes.extend(written(&desired.ports, &current.ports).map(|(ifindex, p)| TableChange::Port(*ifindex, *p)));

    changes.extend(added(&current.ports, &desired.ports).map(|(ifindex, _)| TableChange::RemovePort(*ifindex)));
    changes.extend(added(&current.fdb, &desired.fdb).map(|(key, _)| TableChange::RemoveFdb(*key)));
    changes.extend(current.txports.difference(&desired.txports).map(|ifindex| TableChange::RemoveTxPort(*ifindex)));
    changes.extend(added(&current.senders, &desired.senders).map(|(key, _)| TableChange::RemoveSender(*key)));
    changes.extend(added(&current.networks, &desired.networks).map(|(vni, _)| TableChange::RemoveNetwork(*vni)));
    changes.extend(added(&current.vteps, &desired.vteps).map(|(index, _)| TableChange::RemoveVtep(*index)));
    changes
}

/// Entries of `new` whose keys `old` does not have.
fn added<'a, K: Ord, V>(new: &'a BTreeMap<K, V>, old: &'a BTreeMap<K, V>) -> impl Iterator<Item = (&'a K, &'a V)> {
    new.iter().filter(|(key, _)| !old.contains_key(key))
}

/// Entries of `new` that `old` does not have, or has with another value.
fn written<'a, K: Ord, V: PartialEq>(
    new: &'a BTreeMap<K, V>,
    old: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    new.iter().filter(|(key, value)| old.get(key) != Some(value))
}

impl Tables {
    /// What `change` does to the tables.
    pub fn apply(&mut self, change: &TableChange) {
        match change {
            TableChange::Underlay(underlay) => self.underlay = *underlay,
            TableChange::ResetVtepStats(_) | TableChange::ResetNetworkStats(_) => {}
            TableChange::Vtep(index, vtep) => drop(self.vteps.insert(*index, *vtep)),
            TableChange::Network(vni, network) => drop(self.networks.insert(*vni, *network)),
            TableChange::Sender(key, sender) => drop(self.senders.insert(*key, *sender)),
            TableChange::TxPort(ifindex) => drop(self.txports.insert(*ifindex)),
            TableChange::Fdb(key, entry) => drop(self.fdb.insert(*key, *entry)),
            TableChange::Port(ifindex, port) => drop(self.ports.insert(*ifindex, *port)),
            TableChange::RemovePort(ifindex) => drop(self.ports.remove(ifindex)),
            TableChange::RemoveFdb(key) => drop(self.fdb.remove(key)),
            TableChange::RemoveTxPort(ifindex) => drop(self.txports.remove(ifindex)),
            TableChange::RemoveSender(key) => drop(self.senders.remove(key)),
            TableChange::RemoveNetwork(vni) => drop(self.networks.remove(vni)),
            TableChange::RemoveVtep(index) => drop(self.vteps.remove(index)),
        }
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
