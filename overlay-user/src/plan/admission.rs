//! Admission: which networks of this host are accelerated, and the reasons why others use the kernel path.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use overlay_common::{
    Vni, VtepAddr,
    maps::{self, UDP_PORTS},
};

use crate::model::{
    Finding, HostNetworks, Network, NetworkView, View, listed,
    network::{Admission, Cause, External, Kind, Refusal, Underlay},
};

/// The devices of this host by IPv4 address.
pub type Devices = BTreeMap<VtepAddr, Vec<Device>>;

/// A device with an IPv4 address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Name of the interface.
    pub name: String,
    /// Whether it is an Ethernet device.
    pub ethernet: bool,
    /// The device that it is a port of.
    pub master: Option<Master>,
}

/// The device that takes the packets which another one receives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Master {
    /// Name of the interface.
    pub name: String,
    /// It is a VRF.
    pub is_vrf: bool,
}

/// Inputs of the admission, except the networks.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionInputs<'a> {
    /// This host's part of the configuration.
    pub view: Option<&'a View>,
    /// The devices by address.
    pub devices: &'a Devices,
    /// The usable underlay that was served last.
    pub last_served: Option<VtepAddr>,
    /// Docker's advertise address.
    pub docker: Option<VtepAddr>,
    /// XFRM policies exist and may match packets of the configured networks.
    pub xfrm: bool,
    /// Configured networks whose devices do not suit the fast path.
    pub refused: &'a BTreeMap<Vni, Refusal>,
    /// Entries of the map `OVL_FDB`.
    pub fdb_size: u32,
}

/// Admits the networks of `view` and the external networks, in any order. An external network is refused if
///
/// - it has a refusal of its own ([`External::refusal`]),
/// - its VNI is used by another network or by the configuration,
/// - its underlay is unusable, or is not the served one,
/// - its UDP port exceeds the number of different ports ([`UDP_PORTS`]),
/// - the maps are full.
///
/// A refused network uses no map entries.
///
/// The served underlay is that of the configured networks. Without configured networks it is Docker's, otherwise the
/// one that was served last, as long as it has traffic. So a new network on another underlay does not affect existing
/// networks.
#[must_use]
pub fn admit(found: impl IntoIterator<Item = Network>, inputs: &AdmissionInputs<'_>) -> HostNetworks {
    let mut external: Vec<Network> = found.into_iter().filter(|network| network.kind.external().is_some()).collect();
    external.sort_by(|a, b| (a.key(), a.port).cmp(&(b.key(), b.port)));
    for network in &mut external {
        let refusal = network.kind.external().and_then(|external| external.refusal.clone());
        network.admission = refusal.map_or(Admission::Accelerated, Admission::Kernel);
    }
    refuse_taken_vnis(&mut external, inputs.view);
    let mut networks = HostNetworks::default();
    let configured = inputs.view.filter(|view| !view.networks().is_empty());
    let own = configured.map(|view| view.host().address);
    for address in external.iter().filter_map(|network| network.underlay).chain(own) {
        networks.underlays.entry(address).or_insert_with(|| underlay(address, inputs.devices));
    }
    networks.served = own.or_else(|| busiest(&external, &networks, inputs));
    refuse_other_underlays(&mut external, &networks, configured);
    refuse_excess_ports(&mut external, inputs.view);
    refuse_for_room(&mut external, inputs);
    networks.list = inputs.view.into_iter().flat_map(|view| managed(view, &networks, inputs)).collect();
    networks.list.extend(external);
    networks.list.sort_by_key(|network| network.vni);
    networks
}

/// The devices of an underlay address, and whether it is usable.
fn underlay(address: VtepAddr, devices: &Devices) -> Underlay {
    let found = devices.get(&address).map(Vec::as_slice).unwrap_or_default();
    let finding = match found {
        [] => Some(("is not assigned to an interface".to_owned(), "assign it to the underlay device".to_owned())),
        found if found.iter().any(|device| device.ethernet && device.master.is_none()) => None,
        // The kernel looks up routes in the table of the VRF, the daemon in the main table.
        [Device { name, ethernet: true, master: Some(Master { name: vrf, is_vrf: true }) }, ..] => Some((
            format!("is on {name}, a port of the VRF {vrf}, whose routes the programs do not use"),
            "keep the kernel path, or use the address of a device outside of VRFs".to_owned(),
        )),
        // The master's `rx_handler` takes the packets before the IP layer (`__netif_receive_skb_core` in net/core/dev.c).
        [Device { name, ethernet: true, master: Some(Master { name: master, .. }) }, ..] => Some((
            format!("is on {name}, a port of {master}, which receives its packets"),
            format!("assign it to {master}"),
        )),
        [device, ..] => Some((
            format!("is on {}, which is not an Ethernet device", device.name),
            "use the address of an Ethernet device".to_owned(),
        )),
    };
    Underlay {
        devices: found.iter().map(|device| device.name.clone()).collect(),
        finding: finding.map(|(problem, remedy)| Finding::new(format!("underlay address {address}"), problem, remedy)),
    }
}

fn managed<'v>(
    view: &'v View,
    networks: &HostNetworks,
    inputs: &AdmissionInputs<'v>,
) -> impl Iterator<Item = Network> + use<'v> {
    let refused = inputs.refused;
    let address = view.host().address;
    let refusal = match networks.underlays.get(&address).and_then(|underlay| underlay.finding.as_ref()) {
        Some(finding) => {
            Some((Cause::Underlay, format!("{} {}", finding.object, finding.problem), finding.remedy.clone()))
        }
        None if inputs.xfrm => Some((
            Cause::Encrypted,
            "XFRM (IPsec) policies may match its packets".to_owned(),
            "remove the policies, see `ip xfrm policy list` and `ip xfrm policy getdefault`".to_owned(),
        )),
        None => None,
    };
    view.networks().values().map(move |network| {
        let spec = network.network();
        let mut network = Network {
            vni: Some(spec.vni),
            name: Some(spec.name.clone()),
            port: spec.port,
            underlay: Some(address),
            kind: Kind::Managed,
            admission: Admission::Accelerated,
        };
        if let Some((cause, problem, remedy)) = &refusal {
            network.refuse(*cause, problem.clone(), remedy.clone());
        }
        if let Some(Refusal { cause, finding }) = refused.get(&spec.vni) {
            network.refuse(*cause, finding.problem.clone(), finding.remedy.clone());
        }
        network
    })
}

impl Network {
    /// Refuses the network, unless it is already refused.
    fn refuse(&mut self, cause: Cause, problem: impl Into<String>, remedy: impl Into<String>) {
        if self.is_accelerated() {
            self.admission = Admission::Kernel(Refusal::new(cause, problem, remedy).of(self.label()));
        }
    }
}

/// The VXLAN device of a network and its netns, for messages.
fn location(external: &External) -> String {
    match external.netns.path() {
        None => external.device.clone(),
        Some(path) => format!("{} in {}", external.device, path.display()),
    }
}

/// Refuses networks with the same VNI: it is the key in the maps.
fn refuse_taken_vnis(networks: &mut [Network], view: Option<&View>) {
    let mut locations = BTreeMap::<Vni, Vec<String>>::new();
    for network in &*networks {
        if let (Some(vni), Some(external)) = (network.vni, network.kind.external()) {
            locations.entry(vni).or_default().push(location(external));
        }
    }
    for network in networks {
        let (Some(vni), Some(external)) = (network.vni, network.kind.external()) else { continue };
        let (own, all) = (location(external), &locations[&vni]);
        if all.len() > 1 {
            let others: Vec<_> = all.iter().filter(|location| **location != own).map(String::as_str).collect();
            let others = if others.is_empty() { own } else { others.join(", ") };
            let problem = format!("VNI {vni} is also used by {others}");
            network.refuse(Cause::Vni, problem, "give each network on a host its own VNI");
        } else if view.is_some_and(|view| view.networks().contains_key(&vni)) {
            network.refuse(
                Cause::Vni,
                format!("VNI {vni} is already used by a configured network"),
                "remove one of the two networks",
            );
        }
    }
}

/// The underlay with the most networks. Docker's has precedence, then the one that was served last.
fn busiest(external: &[Network], networks: &HostNetworks, inputs: &AdmissionInputs<'_>) -> Option<VtepAddr> {
    /// Number of networks with endpoints on this host and on others, and of all networks.
    type Load = (usize, usize);
    let mut loads = BTreeMap::<VtepAddr, Load>::new();
    for network in external.iter().filter(|network| network.is_accelerated()) {
        let (Some(address), Some(external)) = (network.underlay, network.kind.external()) else { continue };
        if networks.underlays.get(&address).is_none_or(|underlay| underlay.finding.is_some()) {
            continue;
        }
        let is_busy = !external.remote.is_empty() && external.ports.values().any(|port| port.mac.is_some());
        let load = loads.entry(address).or_default();
        *load = (load.0 + usize::from(is_busy), load.1 + 1);
    }
    let rank = |(address, (busy, all)): &(VtepAddr, Load)| {
        let (is_docker, is_last) = (inputs.docker == Some(*address), inputs.last_served == Some(*address));
        (*busy > 0, is_docker, is_last, *busy, *all, Reverse(*address))
    };
    loads.into_iter().max_by_key(rank).map(|(address, _)| address)
}

fn refuse_other_underlays(external: &mut [Network], networks: &HostNetworks, view: Option<&View>) {
    for network in external {
        let Some(address) = network.underlay else {
            if networks.served.is_none() {
                network.refuse(Cause::Underlay, "its underlay address is not known yet", "wait");
            }
            continue;
        };
        if let Some(finding) = networks.underlays.get(&address).and_then(|underlay| underlay.finding.as_ref()) {
            network.refuse(
                Cause::Underlay,
                format!("its underlay address {address} {}", finding.problem),
                finding.remedy.clone(),
            );
        } else if let Some(served) = networks.served.filter(|served| *served != address) {
            let (others, remedy) = if view.is_some() {
                ("the configured networks use", "use the same underlay address for both")
            } else {
                ("the other networks use", "use one underlay address for all networks")
            };
            network.refuse(
                Cause::OtherUnderlay,
                format!("its underlay address is {address}, but {others} {served}"),
                remedy,
            );
        }
    }
}

/// Refuses networks beyond the number of UDP ports that the programs support.
fn refuse_excess_ports(external: &mut [Network], view: Option<&View>) {
    let configured = view.into_iter().flat_map(|view| view.networks().values());
    let mut ports: BTreeSet<u16> = configured.map(|network| network.network().port).collect();
    for network in external.iter_mut().filter(|network| network.is_accelerated()) {
        let port = network.port;
        if ports.contains(&port) || ports.len() < UDP_PORTS {
            ports.insert(port);
        } else {
            network.refuse(
                Cause::UdpPort,
                format!(
                    "UDP port {port} exceeds the {UDP_PORTS} ports that a host supports (in use: {})",
                    listed(&ports)
                ),
                "use one of these ports",
            );
        }
    }
}

/// Free entries of the maps.
struct Room {
    entries: usize,
    peers: usize,
    ports: usize,
    networks: usize,
    vteps: usize,
}

impl Room {
    /// Entries that the configured networks leave free.
    fn beside(view: Option<&View>, fdb_size: u32) -> Self {
        let count = |of: fn(&NetworkView) -> usize| {
            view.into_iter().flat_map(|view| view.networks().values()).map(of).sum::<usize>()
        };
        let (local, remote) = (count(|network| network.local().len()), count(|network| network.remote().len()));
        let vteps = count(|network| network.remote().hosts().count());
        let left = |map: maps::Map, used: usize| (map.entries as usize).saturating_sub(used);
        Self {
            entries: (fdb_size as usize).saturating_sub(local + remote),
            peers: left(maps::PEERS, vteps),
            ports: left(maps::PORTS, local),
            networks: left(maps::NETWORKS, count(|_| 1)),
            vteps: left(maps::VTEPS, vteps),
        }
    }

    /// Reserves the maximum that a network needs; `None`, without a reservation, if there is not enough.
    fn take(&mut self, network: &External) -> Option<()> {
        let vteps: BTreeSet<_> = network.remote.values().chain(&network.peers).collect();
        let ports = network.ports.values().filter(|port| port.finding.is_none()).count();
        let left = Self {
            entries: self.entries.checked_sub(network.remote.len() + ports)?,
            peers: self.peers.checked_sub(network.peers.len())?,
            ports: self.ports.checked_sub(ports)?,
            networks: self.networks.checked_sub(1)?,
            vteps: self.vteps.checked_sub(vteps.len())?,
        };
        *self = left;
        Some(())
    }
}

fn refuse_for_room(external: &mut [Network], inputs: &AdmissionInputs<'_>) {
    let mut room = Room::beside(inputs.view, inputs.fdb_size);
    for network in external.iter_mut().filter(|network| network.is_accelerated()) {
        if network.kind.external().is_some_and(|external| room.take(external).is_none()) {
            network.refuse(Cause::Full, "the maps are full", "raise `fdb_size`");
        }
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
