//! The planned BPF maps and their changes. `desired` computes the desired contents.

use std::{collections::BTreeSet, fmt::Debug, net::Ipv4Addr, path::PathBuf};

use bytemuck::Pod;
use overlay_common::{
    MacAddr, VtepAddr,
    maps::{self, FdbEntry, FdbKey, Map, Network, Peer, PeerKey, Port, PortKey, Underlay, Vtep, flags},
};

pub(crate) use super::counted::{Counted, RetiredIndices};
pub(crate) use super::desired::{
    Facts, Hop, KernelPath, PortFact, Shim, TableError, desired, desired_unchecked, kernel_paths,
};
use super::{
    change::{self, Change, Table, tables},
    names::Names,
};
use crate::model::listed;

tables! {
    /// The contents of the planned maps.
    pub set Tables beside
        /// Indices of objects that have left the tables since they were read from the maps.
        retired: RetiredIndices;
    /// Changes of the planned maps.
    changes Changes;
    kind Planned;
    /// Visits the changes of each map.
    visitor Visitor;

    // An entry is written before the entries that refer to it, and removed after them, so no reference is dangling. A
    // strict network drops packets whose source is not in its tables: its FDB precedes its peers, and its peers precede
    // the network.

    /// `OVL_UNDERLAY`, by 0.
    underlay: Underlays(u32 => Underlay),
    /// `OVL_VTEPS`, without the unused entries.
    vteps: Vteps(u32 => Vtep),
    /// `OVL_TXPORTS`, by [`FdbEntry::tx`].
    txports: TxPorts(u32 => PortKey),
    /// `OVL_FDB`.
    fdb: Fdb(FdbKey => FdbEntry),
    /// `OVL_PEERS`.
    peers: Peers(PeerKey => Peer),
    /// `OVL_NETWORKS`.
    networks: Networks(u32 => Network),
    /// `OVL_PORTS`.
    ports: Ports(PortKey => Port),
}

/// How the kernel changes the entries of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// A preallocated hash. The memory of a removed entry is reused at once, also while a program reads it
    /// (`alloc_htab_elem` in kernel/bpf/hashtab.c).
    Hash,
    /// An array: values are overwritten while programs read them (`array_map_update_elem` in kernel/bpf/arraymap.c).
    Array,
    /// A hash of devices: the kernel frees entries after a grace period (`__dev_map_hash_update_elem` in
    /// kernel/bpf/devmap.c).
    Devices,
}

/// A map that the daemon plans.
pub trait Planned:
    Table<Set = Tables, Changes = Changes, Key: Copy + Pod + Sync, Value: Copy + Pod + Eq + Debug + Sync>
{
    /// The map.
    const MAP: Map;
    /// How the kernel changes its entries.
    const KIND: MapKind = MapKind::Hash;

    /// Whether an entry must not be missing while it gets another value: without it packets would pass unchecked, or a
    /// strict network would drop valid packets. `tables`: before the change.
    fn must_stay(_key: &Self::Key, _old: &Self::Value, _new: &Self::Value, _tables: &Tables) -> bool {
        false
    }

    /// Of an array: the value in the form that programs ignore; `None`: values are overwritten directly.
    fn disabled(_value: Self::Value) -> Option<Self::Value> {
        None
    }

    /// Of an array: whether a mix of the two values is valid, or ignored by programs.
    fn is_safe_mix(_old: &Self::Value, _new: &Self::Value) -> bool {
        true
    }

    /// The value of an entry that was never written.
    fn unwritten() -> Option<Self::Value> {
        None
    }

    /// The object that programs count for an entry, and the index of its counter.
    fn counter(_key: Self::Key, _value: &Self::Value) -> Option<(Counted, u32)> {
        None
    }

    /// The netns id in which the kernel looks up the device of a value.
    fn netns_id(_value: &Self::Value) -> u32 {
        0
    }

    /// The value as stored in the map.
    fn stored(value: Self::Value) -> Self::Value {
        value
    }

    /// The value read from the map, as far as the map contains it.
    fn loaded(stored: Self::Value) -> Self::Value {
        stored
    }

    /// The network namespace of an entry; `None`: the daemon's own, or none.
    fn netns(_key: Self::Key, _names: &Names) -> Option<PathBuf> {
        None
    }

    /// Name of an entry, for messages.
    fn object(key: Self::Key, names: &Names) -> String;

    /// Description of a value, for messages.
    fn text(value: &Self::Value, names: &Names) -> String;
}

impl Planned for Underlays {
    const MAP: Map = maps::UNDERLAY;
    const KIND: MapKind = MapKind::Array;

    fn unwritten() -> Option<Underlay> {
        Some(Underlay::default())
    }

    fn object(key: u32, _: &Names) -> String {
        format!("index {key}")
    }

    fn text(underlay: &Underlay, names: &Names) -> String {
        let (addr, mac) = (VtepAddr::from(underlay.addr), MacAddr(underlay.mac));
        let device = names.device(PortKey::host(underlay.ifindex));
        // Unused elements repeat the first port.
        format!("{device} {addr} {mac}, UDP {}", listed(BTreeSet::from(underlay.ports)))
    }
}

impl Planned for Vteps {
    const MAP: Map = maps::VTEPS;
    const KIND: MapKind = MapKind::Array;

    fn disabled(vtep: Vtep) -> Option<Vtep> {
        Some(Vtep { resolved: 0, ..vtep })
    }

    fn is_safe_mix(old: &Vtep, new: &Vtep) -> bool {
        Vtep { mtu: new.mtu, resolved: new.resolved, ..*old } == *new
    }

    fn counter(index: u32, vtep: &Vtep) -> Option<(Counted, u32)> {
        Some((Counted::Vtep(vtep.outer.dst.into(), u16::from_be_bytes(vtep.outer.udp_dst)), index))
    }

    fn object(index: u32, _: &Names) -> String {
        format!("index {index}")
    }

    fn text(vtep: &Vtep, names: &Names) -> String {
        let address = VtepAddr::from(vtep.outer.dst);
        let port = u16::from_be_bytes(vtep.outer.udp_dst);
        if vtep.resolved == 0 {
            return format!("{address} UDP {port}, not resolved");
        }
        let (hop, source) = (MacAddr(vtep.outer.eth_dst), VtepAddr::from(vtep.outer.src));
        let device = names.device(PortKey::host(vtep.ifindex));
        format!("{address} UDP {port} from {source} through {device}, next hop {hop}, MTU {}", vtep.mtu)
    }
}

impl Planned for TxPorts {
    const MAP: Map = maps::TXPORTS;
    const KIND: MapKind = MapKind::Devices;

    fn netns_id(port: &PortKey) -> u32 {
        port.netns_id
    }

    /// `struct bpf_devmap_val`: interface index, no program.
    fn stored(port: PortKey) -> PortKey {
        PortKey { netns_id: port.ifindex, ifindex: 0 }
    }

    /// The map does not contain the namespace: [`Tables::set_txport_netns`].
    fn loaded(stored: PortKey) -> PortKey {
        PortKey::host(stored.netns_id)
    }

    fn object(key: u32, _: &Names) -> String {
        format!("key {key}")
    }

    fn text(port: &PortKey, names: &Names) -> String {
        format!("{} (interface {})", names.device(*port), port.ifindex)
    }
}

impl Planned for Fdb {
    const MAP: Map = maps::FDB;

    /// A strict network drops frames whose source has no entry.
    fn must_stay(key: &FdbKey, _: &FdbEntry, _: &FdbEntry, tables: &Tables) -> bool {
        tables.networks.get(&key.vni).is_some_and(|network| network.flags & flags::STRICT != 0)
    }

    fn object(key: FdbKey, _: &Names) -> String {
        format!("VNI {} {}", key.vni, MacAddr(key.mac))
    }

    fn text(entry: &FdbEntry, names: &Names) -> String {
        let FdbEntry { kind, netns_id, target, shim_or_ip, tx } = *entry;
        match kind {
            FdbEntry::REMOTE => {
                let vtep = names.vteps.get(&target);
                let address = vtep.map_or_else(|| "unknown".to_owned(), VtepAddr::to_string);
                format!("VTEP {address} (index {target})")
            }
            FdbEntry::LOCAL | FdbEntry::LOCAL_PEER => {
                let device = names.device(PortKey { netns_id: netns_id.into(), ifindex: target });
                let how = if kind == FdbEntry::LOCAL { "" } else { ", redirect to its peer" };
                format!(
                    "port {device} (interface {target}, netns {netns_id}, shim {shim_or_ip}, transmit key {tx}{how})"
                )
            }
            kind => format!("kind {kind}, target {target}"),
        }
    }
}

impl Planned for Peers {
    const MAP: Map = maps::PEERS;

    /// A peer that is no longer strict is withdrawn, and its packets fall back to the kernel path.
    fn must_stay(_: &PeerKey, old: &Peer, new: &Peer, _: &Tables) -> bool {
        u32::from(old.flags & new.flags) & flags::STRICT != 0
    }

    fn object(key: PeerKey, _: &Names) -> String {
        format!("VNI {} {}", key.vni, VtepAddr::from(key.addr))
    }

    fn text(peer: &Peer, _: &Names) -> String {
        let Peer { vtep, slot, device_mac, mtu, port, flags } = peer;
        let mac = MacAddr(*device_mac);
        format!("VTEP index {vtep}, slot {slot}, device {mac}, MTU {mtu}, UDP {port}, flags {flags}")
    }
}

impl Planned for Networks {
    const MAP: Map = maps::NETWORKS;

    /// As for [`Peers`]: a strict network must not stay without its peers.
    fn must_stay(_: &u32, old: &Network, new: &Network, _: &Tables) -> bool {
        old.flags & new.flags & flags::STRICT != 0
    }

    fn counter(vni: u32, network: &Network) -> Option<(Counted, u32)> {
        Some((Counted::Network(vni), network.slot))
    }

    fn object(vni: u32, _: &Names) -> String {
        format!("VNI {vni}")
    }

    fn text(network: &Network, _: &Names) -> String {
        let Network { slot, flags, mtu, port } = network;
        format!("UDP {port}, MTU {mtu}, slot {slot}, flags {flags}")
    }
}

impl Planned for Ports {
    const MAP: Map = maps::PORTS;

    /// On a host with a strict network all ports are checked, because none may send VXLAN into it.
    fn must_stay(_: &PortKey, _: &Port, _: &Port, tables: &Tables) -> bool {
        tables.is_strict()
    }

    fn netns(key: PortKey, names: &Names) -> Option<PathBuf> {
        names.namespace(key.netns_id)
    }

    fn object(key: PortKey, names: &Names) -> String {
        names.device(key)
    }

    fn text(port: &Port, _: &Names) -> String {
        let Port { vni, slot, flags, ip, mac, mtu, udp_src_first: first, udp_src_span: span } = port;
        let (ip, mac) = (Ipv4Addr::from(*ip), MacAddr(*mac));
        format!("VNI {vni}, {ip}, {mac}, MTU {mtu}, source ports {first}+{span}, slot {slot}, flags {flags}")
    }
}

impl Tables {
    /// The addresses and UDP ports of this host's VXLAN packets.
    #[must_use]
    pub fn underlay(&self) -> Underlay {
        self.underlay.get(&0).copied().unwrap_or_default()
    }

    /// Whether a network of this host is strict.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        u32::from(self.underlay().flags) & flags::STRICT != 0
    }

    /// Sets the namespaces of the devices that XDP redirects to: `OVL_TXPORTS` does not contain them, but the FDB
    /// entries that refer to it do.
    pub fn set_txport_netns(&mut self) {
        for entry in self.fdb.values() {
            if let Some(port) = self.txports.get_mut(&entry.tx) {
                port.netns_id = entry.netns_id.into();
            }
        }
    }

    /// Copies the namespaces of the devices that XDP redirects to from `other`, by key.
    pub fn copy_txport_netns(&mut self, other: &Self) {
        for (key, port) in &mut self.txports {
            port.netns_id = other.txports.get(key).map_or(port.netns_id, |other| other.netns_id);
        }
    }

    /// Takes over the retired indices of the tables that these replace.
    pub fn inherit(&mut self, mut retired: RetiredIndices) {
        for (counted, index) in self.counted() {
            retired.forget(counted.map(), index);
        }
        self.retired = retired;
    }

    /// The counted objects and their indices.
    fn counted(&self) -> Vec<(Counted, u32)> {
        let networks = self.networks.iter().filter_map(|(vni, network)| Networks::counter(*vni, network));
        networks.chain(self.vteps.iter().filter_map(|(index, vtep)| Vteps::counter(*index, vtep))).collect()
    }

    /// Sets the value of an entry; `None`: removes it. The index of a removed object is retired.
    pub fn set<T: Planned>(&mut self, key: T::Key, value: Option<T::Value>) {
        if let Some(value) = value {
            if let Some((counted, index)) = T::counter(key, &value) {
                self.retired.forget(counted.map(), index);
            }
            T::rows_mut(self).insert(key, value);
        } else if let Some((counted, index)) =
            T::rows_mut(self).remove(&key).and_then(|removed| T::counter(key, &removed))
        {
            self.retired.retire(counted, index);
        }
    }

    /// Applies all changes.
    #[cfg(any(test, feature = "testing"))]
    pub fn apply(&mut self, changes: &Changes) {
        struct Apply<'a>(&'a mut Tables);
        impl Visitor for Apply<'_> {
            fn table<T: Planned>(&mut self, changes: &[Change<T::Key, T::Value>]) {
                changes.iter().for_each(|Change { key, new, .. }| self.0.set::<T>(*key, *new));
            }
        }
        changes.visit(&mut Apply(self));
    }
}

impl Changes {
    /// The changes from `current` to `desired`.
    #[must_use]
    pub fn between(current: &Tables, desired: &Tables) -> Self {
        struct Compare<'a>(&'a Tables, &'a Tables, Changes);
        impl Visitor for Compare<'_> {
            fn table<T: Planned>(&mut self, _: &[Change<T::Key, T::Value>]) {
                *T::changes_mut(&mut self.2) = change::between(T::rows(self.0), T::rows(self.1));
            }
        }
        let mut compare = Compare(current, desired, Self::default());
        Self::default().visit(&mut compare);
        compare.2
    }

    /// The changes that withdraw the entries of `current` that differ in `desired`. They are applied first: a packet
    /// without an entry falls back to the kernel path, a packet with a stale entry is misdirected.
    #[must_use]
    pub fn pruning(current: &Tables, desired: &Tables) -> Self {
        let mut changes = Self::default();
        let Tables { ports, fdb, txports, peers, vteps, .. } = current;
        changes.ports.extend(change::removed(ports, |key, port| desired.ports.get(key) != Some(port)));
        // On a host with a strict network ports are replaced, not removed.
        if current.is_strict() {
            changes.ports.iter_mut().for_each(|change| change.new = desired.ports.get(&change.key).copied());
        }
        changes.fdb.extend(change::removed(fdb, |key, entry| desired.fdb.get(key) != Some(entry)));
        changes.txports.extend(change::removed(txports, |key, port| desired.txports.get(key) != Some(port)));
        changes.peers.extend(change::removed(peers, |key, _| !desired.peers.contains_key(key)));
        // The index keeps its VTEP, disabled.
        let is_stale = |index: &u32, vtep: &Vtep| vtep.resolved != 0 && desired.vteps.get(index) != Some(vtep);
        let stale = vteps.iter().filter(|(index, vtep)| is_stale(index, vtep));
        changes.vteps.extend(stale.map(|(index, vtep)| Change {
            key: *index,
            old: Some(*vtep),
            new: Vteps::disabled(*vtep),
        }));
        changes
    }

    /// The change that sets one entry.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn set<T: Planned>(key: T::Key, value: T::Value) -> Self {
        Self::one::<T>(key, Some(value))
    }

    /// The change that removes one entry, which may be missing.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn remove<T: Planned>(key: T::Key) -> Self {
        Self::one::<T>(key, None)
    }

    #[cfg(any(test, feature = "testing"))]
    fn one<T: Planned>(key: T::Key, new: Option<T::Value>) -> Self {
        let mut changes = Self::default();
        T::changes_mut(&mut changes).push(Change { key, old: None, new });
        changes
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
