//! From wanted and found objects to ordered changes. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
};

use overlay_common::{MacAddr, Vni};

use super::{
    names::{bridge_name, vxlan_name},
    objects::{Bridge, DesiredHost, FdbPort, HostState, Veth, Vxlan},
};

/// One step towards the wanted state.
///
/// Removing a device removes what hangs on it (the kernel does that): FDB entries, neighbours, memberships. There may be
/// hundreds of thousands of entries: devices are boxed, so that these stay small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostChange {
    /// Make a network's bridge.
    CreateBridge(Vni, Box<Bridge>),
    /// Change an existing bridge in place.
    SetBridge(Vni, Box<Bridge>),
    /// Remove a bridge.
    DeleteBridge(Vni),
    /// Make a network's VXLAN device and enslave it to the bridge.
    CreateVxlan(Vni, Box<Vxlan>),
    /// Change what can be changed without a new device: alias, MTU, membership, up.
    SetVxlan(Vni, Box<Vxlan>),
    /// Remove a VXLAN device.
    DeleteVxlan(Vni),
    /// Make an endpoint's veth, both ends.
    CreateVeth(String, Box<Veth>),
    /// Change both ends of an existing veth.
    SetVeth(String, Box<Veth>),
    /// Remove a veth, both ends.
    DeleteVeth(String),
    /// Enslave an existing interface to the network's bridge.
    AdoptPort(String, Vni),
    /// Release an adopted interface.
    ReleasePort(String, Vni),
    /// A MAC address is behind a VTEP.
    SetFdb(Vni, MacAddr, Ipv4Addr),
    /// A MAC address is no longer behind the VTEP.
    DeleteFdb(Vni, MacAddr, Ipv4Addr),
    /// Copy broadcast, multicast and unknown unicast to a VTEP.
    AddFlood(Vni, Ipv4Addr),
    /// Copy to this VTEP no longer.
    DeleteFlood(Vni, Ipv4Addr),
    /// A MAC address is behind a port of the bridge.
    SetBridgeFdb(Vni, MacAddr, FdbPort),
    /// A MAC address is no longer behind the port.
    DeleteBridgeFdb(Vni, MacAddr, FdbPort),
    /// Answer ARP for an address.
    SetNeighbour(Vni, Ipv4Addr, MacAddr),
    /// Answer ARP for this address no longer.
    DeleteNeighbour(Vni, Ipv4Addr),
}

impl HostChange {
    /// The key of the object that this change makes, for the caller's record of what is its own: `link:<name>` for a
    /// device, `port:<name>` for the membership of an adopted interface.
    #[must_use]
    pub fn made(&self) -> Option<String> {
        match self {
            Self::CreateBridge(vni, _) => Some(link_key(&bridge_name(*vni))),
            Self::CreateVxlan(vni, _) => Some(link_key(&vxlan_name(*vni))),
            Self::CreateVeth(name, _) => Some(link_key(name)),
            Self::AdoptPort(name, _) => Some(port_key(name)),
            _ => None,
        }
    }

    /// The key of the object that this change removes.
    #[must_use]
    pub fn unmade(&self) -> Option<String> {
        match self {
            Self::DeleteBridge(vni) => Some(link_key(&bridge_name(*vni))),
            Self::DeleteVxlan(vni) => Some(link_key(&vxlan_name(*vni))),
            Self::DeleteVeth(name) => Some(link_key(name)),
            Self::ReleasePort(name, _) => Some(port_key(name)),
            _ => None,
        }
    }

    /// Names of the devices that must exist for this change.
    pub(crate) fn needs(&self) -> Vec<String> {
        match self {
            Self::SetBridge(vni, _) | Self::SetNeighbour(vni, ..) => vec![bridge_name(*vni)],
            // Its own name too: the device that it takes the place of must have gone.
            Self::CreateVxlan(vni, _) | Self::SetVxlan(vni, _) => vec![bridge_name(*vni), vxlan_name(*vni)],
            Self::CreateVeth(name, veth) | Self::SetVeth(name, veth) => {
                veth.vni.map(bridge_name).into_iter().chain([name.clone()]).collect()
            }
            Self::AdoptPort(_, vni) => vec![bridge_name(*vni)],
            Self::SetFdb(vni, ..) | Self::AddFlood(vni, _) => vec![vxlan_name(*vni)],
            Self::SetBridgeFdb(vni, _, port) => vec![bridge_name(*vni), port.interface(*vni)],
            _ => Vec::new(),
        }
    }

    /// The device that does not exist, or is not of use, when this change fails.
    pub(super) fn breaks(&self) -> Option<String> {
        match self {
            Self::CreateBridge(vni, _) => Some(bridge_name(*vni)),
            Self::CreateVxlan(vni, _) | Self::DeleteVxlan(vni) => Some(vxlan_name(*vni)),
            Self::CreateVeth(name, _) | Self::DeleteVeth(name) | Self::AdoptPort(name, _) => Some(name.clone()),
            _ => None,
        }
    }

    /// Whether it is one of a possibly long row of table entries, which do not depend on each other.
    pub(crate) fn is_entry(&self) -> bool {
        matches!(
            self,
            Self::SetFdb(..)
                | Self::DeleteFdb(..)
                | Self::AddFlood(..)
                | Self::DeleteFlood(..)
                | Self::SetBridgeFdb(..)
                | Self::DeleteBridgeFdb(..)
                | Self::SetNeighbour(..)
                | Self::DeleteNeighbour(..)
        )
    }
}

impl fmt::Display for HostChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateBridge(vni, _) => write!(f, "create bridge {}", bridge_name(*vni)),
            Self::SetBridge(vni, _) => write!(f, "set up bridge {}", bridge_name(*vni)),
            Self::DeleteBridge(vni) => write!(f, "remove bridge {}", bridge_name(*vni)),
            Self::CreateVxlan(vni, _) => write!(f, "create VXLAN device {}", vxlan_name(*vni)),
            Self::SetVxlan(vni, _) => write!(f, "set up VXLAN device {}", vxlan_name(*vni)),
            Self::DeleteVxlan(vni) => write!(f, "remove VXLAN device {}", vxlan_name(*vni)),
            Self::CreateVeth(name, veth) => write!(f, "create veth {name} ({})", veth.alias),
            Self::SetVeth(name, veth) => write!(f, "set up veth {name} ({})", veth.alias),
            Self::DeleteVeth(name) => write!(f, "remove veth {name}"),
            Self::AdoptPort(name, vni) => write!(f, "put interface {name} into bridge {}", bridge_name(*vni)),
            Self::ReleasePort(name, vni) => write!(f, "take interface {name} out of bridge {}", bridge_name(*vni)),
            Self::SetFdb(vni, mac, vtep) => write!(f, "add FDB entry {mac} to {vtep} on {}", vxlan_name(*vni)),
            Self::DeleteFdb(vni, mac, vtep) => write!(f, "remove FDB entry {mac} to {vtep} on {}", vxlan_name(*vni)),
            Self::AddFlood(vni, vtep) => write!(f, "flood to {vtep} on {}", vxlan_name(*vni)),
            Self::DeleteFlood(vni, vtep) => write!(f, "no longer flood to {vtep} on {}", vxlan_name(*vni)),
            Self::SetBridgeFdb(vni, mac, port) => {
                write!(f, "add FDB entry {mac} behind {} to bridge {}", port.interface(*vni), bridge_name(*vni))
            }
            Self::DeleteBridgeFdb(vni, mac, port) => {
                write!(f, "remove FDB entry {mac} behind {} from bridge {}", port.interface(*vni), bridge_name(*vni))
            }
            Self::SetNeighbour(vni, ip, mac) => write!(f, "add neighbour {ip} at {mac} to {}", bridge_name(*vni)),
            Self::DeleteNeighbour(vni, ip) => write!(f, "remove neighbour {ip} from {}", bridge_name(*vni)),
        }
    }
}

/// The key of a device.
pub(crate) fn link_key(name: &str) -> String {
    format!("link:{name}")
}

/// The key of an adopted interface's membership.
pub(super) fn port_key(name: &str) -> String {
    format!("port:{name}")
}

/// Changes around an update of the BPF maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPlan {
    /// To be done before the maps point to what is made here.
    pub before: Vec<HostChange>,
    /// To be done when the maps no longer point to what is removed here.
    pub after: Vec<HostChange>,
}

impl HostPlan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }
}

/// What leads from `state` to `desired`, without touching what is right already.
#[must_use]
pub fn plan(desired: &DesiredHost, state: &HostState) -> HostPlan {
    let mut before = Vec::new();
    let mut gone = Gone::default();

    for (&vni, bridge) in &desired.bridges {
        match state.bridges.get(&vni) {
            None => before.push(HostChange::CreateBridge(vni, Box::new(bridge.clone()))),
            Some(found) if found != bridge => {
                before.push(HostChange::SetBridge(vni, Box::new(bridge.clone())));
                // With a new MAC address the kernel forgets the neighbours.
                if bridge.mac.is_some() && bridge.mac != found.mac {
                    gone.neighbours.insert(vni);
                }
            }
            Some(_) => {}
        }
    }
    for (&vni, vxlan) in &desired.vxlans {
        match state.vxlans.get(&vni) {
            None => before.push(HostChange::CreateVxlan(vni, Box::new(vxlan.clone()))),
            Some(found) if found == vxlan => {}
            Some(found) if same_tunnel(found, vxlan) => before.push(HostChange::SetVxlan(vni, Box::new(vxlan.clone()))),
            Some(_) => {
                before.push(HostChange::DeleteVxlan(vni));
                before.push(HostChange::CreateVxlan(vni, Box::new(vxlan.clone())));
                gone.vxlans.insert(vni);
            }
        }
    }
    for (name, veth) in &desired.veths {
        match state.veths.get(name) {
            None => before.push(HostChange::CreateVeth(name.clone(), Box::new(veth.clone()))),
            Some(found) if found == veth => {}
            Some(found) if found.netns == veth.netns => {
                before.push(HostChange::SetVeth(name.clone(), Box::new(veth.clone())));
                // To leave another bridge is to lose the entries there.
                if found.vni != veth.vni {
                    gone.interfaces.insert(name.clone());
                }
            }
            Some(_) => {
                before.push(HostChange::DeleteVeth(name.clone()));
                before.push(HostChange::CreateVeth(name.clone(), Box::new(veth.clone())));
                gone.interfaces.insert(name.clone());
            }
        }
    }
    for (name, &vni) in &desired.ports {
        match state.ports.get(name) {
            Some(found) if *found == vni => {}
            found => {
                if let Some(&other) = found {
                    before.push(HostChange::ReleasePort(name.clone(), other));
                    gone.interfaces.insert(name.clone());
                }
                before.push(HostChange::AdoptPort(name.clone(), vni));
            }
        }
    }
    add_entries(desired, state, &gone, &mut before);

    let after = removals(desired, state, &mut gone);
    HostPlan { before, after }
}

/// Whether one device can become the other without being made anew.
fn same_tunnel(a: &Vxlan, b: &Vxlan) -> bool {
    (a.port, a.local, a.underlay, a.plain) == (b.port, b.local, b.underlay, b.plain)
}

/// Devices that take their entries with them.
#[derive(Default)]
struct Gone {
    bridges: BTreeSet<Vni>,
    neighbours: BTreeSet<Vni>,
    vxlans: BTreeSet<Vni>,
    interfaces: BTreeSet<String>,
}

impl Gone {
    fn has_port(&self, vni: Vni, port: &FdbPort) -> bool {
        self.bridges.contains(&vni)
            || match port {
                FdbPort::Vxlan => self.vxlans.contains(&vni),
                FdbPort::Interface(name) => self.interfaces.contains(name),
                FdbPort::Movable => false,
            }
    }
}

fn add_entries(desired: &DesiredHost, state: &HostState, gone: &Gone, before: &mut Vec<HostChange>) {
    for &(vni, vtep) in &desired.flood {
        if gone.vxlans.contains(&vni) || !state.flood.contains(&(vni, vtep)) {
            before.push(HostChange::AddFlood(vni, vtep));
        }
    }
    for (&(vni, mac), &vtep) in &desired.fdb {
        if gone.vxlans.contains(&vni) || state.fdb.get(&(vni, mac)) != Some(&vtep) {
            before.push(HostChange::SetFdb(vni, mac, vtep));
        }
    }
    for (&(vni, mac), port) in &desired.bridge_fdb {
        if state.bridge_fdb.get(&(vni, mac)) != Some(port) || gone.has_port(vni, port) {
            before.push(HostChange::SetBridgeFdb(vni, mac, port.clone()));
        }
    }
    for (&(vni, ip), &mac) in &desired.neighbours {
        if gone.neighbours.contains(&vni) || state.neighbours.get(&(vni, ip)) != Some(&mac) {
            before.push(HostChange::SetNeighbour(vni, ip, mac));
        }
    }
}

fn removals(desired: &DesiredHost, state: &HostState, gone: &mut Gone) -> Vec<HostChange> {
    let mut devices = Vec::new();
    for (name, &vni) in unwanted(&state.ports, &desired.ports) {
        devices.push(HostChange::ReleasePort(name.clone(), vni));
        gone.interfaces.insert(name.clone());
    }
    for (name, _) in unwanted(&state.veths, &desired.veths) {
        devices.push(HostChange::DeleteVeth(name.clone()));
        gone.interfaces.insert(name.clone());
    }
    for (&vni, _) in unwanted(&state.vxlans, &desired.vxlans) {
        devices.push(HostChange::DeleteVxlan(vni));
        gone.vxlans.insert(vni);
    }
    for (&vni, _) in unwanted(&state.bridges, &desired.bridges) {
        devices.push(HostChange::DeleteBridge(vni));
        gone.bridges.insert(vni);
    }

    let mut after = Vec::new();
    for (&(vni, ip), _) in unwanted(&state.neighbours, &desired.neighbours) {
        if !gone.bridges.contains(&vni) && !gone.neighbours.contains(&vni) {
            after.push(HostChange::DeleteNeighbour(vni, ip));
        }
    }
    for (&(vni, mac), port) in unwanted(&state.bridge_fdb, &desired.bridge_fdb) {
        if !gone.has_port(vni, port) {
            after.push(HostChange::DeleteBridgeFdb(vni, mac, port.clone()));
        }
    }
    for (&(vni, mac), &vtep) in unwanted(&state.fdb, &desired.fdb) {
        if !gone.vxlans.contains(&vni) {
            after.push(HostChange::DeleteFdb(vni, mac, vtep));
        }
    }
    for &(vni, vtep) in state.flood.difference(&desired.flood) {
        if !gone.vxlans.contains(&vni) {
            after.push(HostChange::DeleteFlood(vni, vtep));
        }
    }
    after.extend(devices);
    after
}

/// What is found under a key that is not wanted.
fn unwanted<'a, K: Ord, V>(
    state: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    state.iter().filter(|(key, _)| !desired.contains_key(key))
}
