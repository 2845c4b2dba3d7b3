//! The contents of the BPF maps, and the changes from one to another. What they should be is said in `wanted`.

use std::{collections::BTreeMap, net::Ipv4Addr};

use overlay_common::{
    MacAddr, Vni,
    maps::{FdbEntry, FdbKey, Network, Port, PortKey, Sender, SenderKey, UDP_PORTS, Underlay, Vtep},
};

pub use super::wanted::{desired, still_true};

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
    /// `OVL_TXPORTS`, by [`FdbEntry::tx`].
    pub txports: BTreeMap<u32, PortKey>,
    /// `OVL_FDB`.
    pub fdb: BTreeMap<FdbKey, FdbEntry>,
    /// `OVL_PORTS`.
    pub ports: BTreeMap<PortKey, Port>,
}

/// What the kernel says about this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Interface index of the underlay device.
    pub underlay_ifindex: u32,
    /// MAC address of the underlay device.
    pub underlay_mac: MacAddr,
    /// MTU of the underlay device, in bytes.
    pub underlay_mtu: u32,
    /// The host-side interfaces of this host's endpoints, by VNI and endpoint name. Endpoints without one are left to
    /// the kernel.
    pub ports: BTreeMap<(Vni, String), PortFact>,
    /// The ways to the namespaces of foreign networks that are ready. A network in another namespace without one is left
    /// to the kernel.
    pub shims: BTreeMap<Vni, Shim>,
    /// The kernel may encrypt packets to other VTEPs, or demand that theirs are: nothing of the configured networks is
    /// sent or received here then. Of foreign networks [`crate::model::mirror::MirroredNetwork::refused`] says it.
    pub xfrm: bool,
    /// Packets are received by XDP, where a foreign network's port can take them.
    pub xdp: bool,
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

/// The way to a foreign network in another network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shim {
    /// The daemon's number of that namespace, not 0.
    pub site: u16,
    /// Interface index of the shim's end in the daemon's namespace.
    pub outer: u32,
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
    TxPort(u32, PortKey),
    /// Writes an FDB entry.
    Fdb(FdbKey, FdbEntry),
    /// Writes a port.
    Port(PortKey, Port),
    /// Removes a port.
    RemovePort(PortKey),
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
    changes.extend(written(&desired.txports, &current.txports).map(|(key, port)| TableChange::TxPort(*key, *port)));
    changes.extend(written(&desired.fdb, &current.fdb).map(|(key, entry)| TableChange::Fdb(*key, *entry)));
    changes.extend(written(&desired.ports, &current.ports).map(|(key, p)| TableChange::Port(*key, *p)));

    changes.extend(added(&current.ports, &desired.ports).map(|(key, _)| TableChange::RemovePort(*key)));
    changes.extend(added(&current.fdb, &desired.fdb).map(|(key, _)| TableChange::RemoveFdb(*key)));
    changes.extend(added(&current.txports, &desired.txports).map(|(key, _)| TableChange::RemoveTxPort(*key)));
    changes.extend(added(&current.senders, &desired.senders).map(|(key, _)| TableChange::RemoveSender(*key)));
    changes.extend(added(&current.networks, &desired.networks).map(|(vni, _)| TableChange::RemoveNetwork(*vni)));
    changes.extend(added(&current.vteps, &desired.vteps).map(|(index, _)| TableChange::RemoveVtep(*index)));
    changes
}

/// The changes that take out of `current` what is not so in `desired`: at once, before anything else is looked at. A packet
/// without an entry goes the kernel's way, one with a false entry goes astray.
#[must_use]
pub fn prune(desired: &Tables, current: &Tables) -> Vec<TableChange> {
    let mut changes = Vec::new();
    changes.extend(written(&current.ports, &desired.ports).map(|(key, _)| TableChange::RemovePort(*key)));
    changes.extend(written(&current.fdb, &desired.fdb).map(|(key, _)| TableChange::RemoveFdb(*key)));
    changes.extend(written(&current.txports, &desired.txports).map(|(key, _)| TableChange::RemoveTxPort(*key)));
    changes.extend(added(&current.senders, &desired.senders).map(|(key, _)| TableChange::RemoveSender(*key)));
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
    /// Whether there is a value where `change` is to write or to remove one: when it cannot be made, that value is false.
    #[must_use]
    pub fn holds(&self, change: &TableChange) -> bool {
        use TableChange as C;
        match change {
            C::Underlay(_) => self.underlay != Underlay::default(),
            C::ResetVtepStats(_) | C::ResetNetworkStats(_) => false,
            C::Vtep(index, _) | C::RemoveVtep(index) => self.vteps.contains_key(index),
            C::Network(vni, _) | C::RemoveNetwork(vni) => self.networks.contains_key(vni),
            C::Sender(key, _) | C::RemoveSender(key) => self.senders.contains_key(key),
            C::TxPort(key, _) | C::RemoveTxPort(key) => self.txports.contains_key(key),
            C::Fdb(key, _) | C::RemoveFdb(key) => self.fdb.contains_key(key),
            C::Port(key, _) | C::RemovePort(key) => self.ports.contains_key(key),
        }
    }

    /// What `change` does to the tables.
    pub fn apply(&mut self, change: &TableChange) {
        match change {
            TableChange::Underlay(underlay) => self.underlay = *underlay,
            TableChange::ResetVtepStats(_) | TableChange::ResetNetworkStats(_) => {}
            TableChange::Vtep(index, vtep) => drop(self.vteps.insert(*index, *vtep)),
            TableChange::Network(vni, network) => drop(self.networks.insert(*vni, *network)),
            TableChange::Sender(key, sender) => drop(self.senders.insert(*key, *sender)),
            TableChange::TxPort(key, port) => drop(self.txports.insert(*key, *port)),
            TableChange::Fdb(key, entry) => drop(self.fdb.insert(*key, *entry)),
            TableChange::Port(key, port) => drop(self.ports.insert(*key, *port)),
            TableChange::RemovePort(key) => drop(self.ports.remove(key)),
            TableChange::RemoveFdb(key) => drop(self.fdb.remove(key)),
            TableChange::RemoveTxPort(key) => drop(self.txports.remove(key)),
            TableChange::RemoveSender(key) => drop(self.senders.remove(key)),
            TableChange::RemoveNetwork(vni) => drop(self.networks.remove(vni)),
            TableChange::RemoveVtep(index) => drop(self.vteps.remove(index)),
        }
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
