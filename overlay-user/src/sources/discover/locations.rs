//! Locations of MAC addresses, as far as the tables are unambiguous.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use overlay_common::{MacAddr, VtepAddr};

use super::facts::NetnsFacts;
use crate::kernel::{BridgePort, FdbEntry, FdbState, Link, VethPeer};

/// The forwarding tables of one VXLAN device and its bridge, by MAC address.
pub(super) struct Locations<'f> {
    vxlan: u32,
    /// The members of the bridge, and whether every address behind them is reachable.
    members: BTreeMap<u32, bool>,
    /// Entries of the bridge without a VLAN.
    bridge: HashMap<MacAddr, Vec<&'f FdbEntry>>,
    /// The same by port.
    ports: HashMap<u32, Vec<&'f FdbEntry>>,
    /// Entries of the VXLAN device.
    tunnel: BTreeMap<MacAddr, Vec<&'f FdbEntry>>,
    netns: &'f NetnsFacts,
}

impl<'f> Locations<'f> {
    pub(super) fn new(vxlan: &Link, bridge: Option<&Link>, netns: &'f NetnsFacts) -> Self {
        let bridge = bridge.map(|bridge| bridge.index);
        let members = netns.links.iter().filter(|link| bridge.is_some() && link.master == bridge);
        let is_open = |link: &Link| link.bridge_port.is_some_and(BridgePort::is_open);
        let mut locations = Self {
            vxlan: vxlan.index,
            members: members.map(|link| (link.index, is_open(link))).collect(),
            bridge: HashMap::new(),
            ports: HashMap::new(),
            tunnel: BTreeMap::new(),
            netns,
        };
        for entry in &netns.fdb {
            if entry.own && entry.ifindex == vxlan.index {
                locations.tunnel.entry(entry.mac).or_default().push(entry);
            } else if !entry.own
                && entry.vlan.is_none()
                && (locations.members.contains_key(&entry.ifindex) || Some(entry.ifindex) == bridge)
            {
                locations.bridge.entry(entry.mac).or_default().push(entry);
                locations.ports.entry(entry.ifindex).or_default().push(entry);
            }
        }
        locations
    }

    /// Whether the entries of an address may have changed since they were read.
    fn may_be_stale(&self, mac: MacAddr) -> bool {
        self.netns.is_lost || self.netns.moved.contains(&mac)
    }

    /// The likely address behind a bridge port: that of its veth's peer, else the only one that the bridge has for the
    /// port.
    pub(super) fn candidate(&self, port: u32, peer: Option<&VethPeer>) -> Option<MacAddr> {
        if let Some(peer) = peer.filter(|peer| !peer.enslaved) {
            return Some(peer.mac).filter(|mac| is_unicast(*mac));
        }
        let entries = self.ports.get(&port)?.iter().filter(|entry| entry.state != FdbState::Permanent);
        let mut macs = entries.map(|entry| entry.mac).filter(|mac| is_unicast(*mac));
        macs.next().filter(|_| macs.next().is_none())
    }

    /// Whether frames for this address reach the port: all do, or the bridge has a static entry for the address. An
    /// entry that ages is not enough: the bridge does not see the frames that the fast path carries.
    pub(super) fn is_reachable_at(&self, port: u32, mac: MacAddr) -> bool {
        let is_static = |entry: &&FdbEntry| entry.ifindex == port && entry.state == FdbState::Static;
        self.members.get(&port) == Some(&true)
            || self.bridge.get(&mac).is_some_and(|entries| entries.iter().any(is_static))
    }

    /// Whether no table has, or may have, this address at another place than this port.
    pub(super) fn is_unique_at(&self, port: u32, mac: MacAddr) -> bool {
        let entries = self.bridge.get(&mac).map(Vec::as_slice).unwrap_or_default();
        let elsewhere = entries.iter().any(|entry| entry.ifindex != port || entry.state == FdbState::Permanent);
        let tunnel = self.tunnel.get(&mac).map(Vec::as_slice).unwrap_or_default();
        // A learned entry of the VXLAN device ages; an entry of the bridge is newer.
        let remote = tunnel.iter().any(|entry| entry.state != FdbState::Learned || entries.is_empty());
        !elsewhere && !remote && !self.may_be_stale(mac)
    }

    /// Addresses behind VTEPs with exactly one entry, neither learned nor special, that the bridge's entries confirm.
    pub(super) fn remote(&self) -> impl Iterator<Item = (MacAddr, VtepAddr)> {
        self.tunnel.iter().filter_map(|(&mac, entries)| {
            let [entry] = entries[..] else { return None };
            let at_bridge = self.bridge.get(&mac).map(Vec::as_slice).unwrap_or_default();
            let agreed =
                at_bridge.iter().all(|entry| entry.ifindex == self.vxlan && entry.state != FdbState::Permanent);
            let is_certain = agreed && !self.may_be_stale(mac);
            (is_unicast(mac) && is_plain(entry) && is_certain).then_some((mac, entry.dst?))
        })
    }

    /// Destinations of plain entries, including those for unknown addresses. Without the VTEPs of addresses that the bridge
    /// has at a port: it must see the next frame of such an address, by which the entry moves to the VXLAN device. If the
    /// device learns, frames of such an address alone take the kernel path.
    pub(super) fn vteps(&self, learns: bool) -> BTreeSet<VtepAddr> {
        let is_at_port = |mac: &MacAddr| {
            if learns {
                return false;
            }
            let entries = self.bridge.get(mac).map(Vec::as_slice).unwrap_or_default();
            entries.iter().any(|entry| entry.ifindex != self.vxlan && entry.state != FdbState::Permanent)
        };
        let plain = || self.tunnel.values().flatten().filter(|entry| is_plain(entry));
        let moved: BTreeSet<VtepAddr> =
            plain().filter(|entry| is_at_port(&entry.mac)).filter_map(|entry| entry.dst).collect();
        plain().filter_map(|entry| entry.dst).filter(|vtep| !moved.contains(vtep)).collect()
    }
}

fn is_plain(entry: &FdbEntry) -> bool {
    entry.state != FdbState::Learned && !entry.special && entry.vlan.is_none()
}

pub(super) fn is_unicast(mac: MacAddr) -> bool {
    mac != MacAddr::default() && !mac.is_group()
}
