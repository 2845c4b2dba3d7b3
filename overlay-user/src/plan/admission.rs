//! Which networks of this host are accelerated, and why the others are left to the kernel. Decided here alone.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use overlay_common::{
    Vni, VtepAddr,
    maps::{self, UDP_PORTS},
};

use crate::model::{
    Finding, HostNetworks, Network, NetworkView, View,
    network::{Admission, Cause, External, Kind, Refusal, Underlay},
};

/// The devices of this host that have IPv4 addresses.
pub type Devices = BTreeMap<VtepAddr, Vec<Device>>;

/// A device that has an IPv4 address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// It is an Ethernet device.
    pub ethernet: bool,
}

/// What is decided from, beside the networks themselves.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionInputs<'a> {
    /// This host's part of the configuration.
    pub view: Option<&'a View>,
    /// The devices that have addresses.
    pub devices: &'a Devices,
    /// The underlay that was served last while it could be used.
    pub home: Option<VtepAddr>,
    /// The address that Docker advertises.
    pub docker: Option<VtepAddr>,
    /// There are XFRM policies, which may be for what the configured networks send.
    pub xfrm: bool,
    /// Entries of the map `OVL_FDB`.
    pub fdb_size: u32,
}

/// Admits the networks of `view` and those that others made, in whatever order. Of the latter a network is refused that
///
/// - is refused for what it is itself,
/// - has a VNI that another one has, or the configuration,
/// - has an underlay that cannot be used, or another one than the one that is served,
/// - has one UDP port too many,
/// - has no room in the maps.
///
/// One that is refused takes no room.
///
/// The underlay of the configured networks is served. Without such, Docker's, else the one that was served last, while there
/// is traffic to serve: a network that comes to another underlay takes nothing from those that are there.
#[must_use]
pub fn admit(found: impl IntoIterator<Item = Network>, around: &AdmissionInputs<'_>) -> HostNetworks {
    let mut external: Vec<Network> = found.into_iter().filter(|network| network.kind.external().is_some()).collect();
    external.sort_by(|a, b| (a.key(), a.port).cmp(&(b.key(), b.port)));
    for network in &mut external {
        let refusal = network.kind.external().and_then(|external| external.refusal.clone());
        network.admission = refusal.map_or(Admission::Accelerated, Admission::Kernel);
    }
    refuse_taken_vnis(&mut external, around.view);
    let mut networks = HostNetworks::default();
    let configured = around.view.filter(|view| !view.networks().is_empty());
    let own = configured.map(|view| view.host().address);
    for address in external.iter().filter_map(|network| network.underlay).chain(own) {
        networks.underlays.entry(address).or_insert_with(|| underlay(address, around.devices));
    }
    networks.served = own.or_else(|| busiest(&external, &networks, around));
    refuse_other_underlays(&mut external, &networks, configured);
    refuse_excess_ports(&mut external, around.view);
    refuse_for_room(&mut external, around);
    networks.list = around.view.into_iter().flat_map(|view| managed(view, &networks, around)).collect();
    networks.list.extend(external);
    networks.list.sort_by_key(|network| network.vni);
    networks
}

/// An address that outer packets are sent from, as far as this host has it.
fn underlay(address: VtepAddr, devices: &Devices) -> Underlay {
    let found = devices.get(&address).map(Vec::as_slice).unwrap_or_default();
    let finding = match found {
        [] => Some(("no interface has it".to_owned(), "give it to the underlay device".to_owned())),
        found if found.iter().any(|device| device.ethernet) => None,
        [device, ..] => Some((
            format!("it is on {}, which is not an Ethernet device", device.name),
            "send from the address of an Ethernet device".to_owned(),
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
    around: &AdmissionInputs<'_>,
) -> impl Iterator<Item = Network> + use<'v> {
    let address = view.host().address;
    let refusal = match networks.underlays.get(&address).and_then(|underlay| underlay.finding.as_ref()) {
        Some(finding) => {
            Some((Cause::Underlay, format!("{}: {}", finding.object, finding.problem), finding.remedy.clone()))
        }
        None if around.xfrm => Some((
            Cause::Encrypted,
            "there are XFRM (IPsec) policies in this network namespace that may be for its packets".to_owned(),
            "it is accelerated when they are gone; `ip xfrm policy list` and `ip xfrm policy getdefault` show them"
                .to_owned(),
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
        network
    })
}

impl Network {
    /// Leaves it to the kernel. The first reason stays.
    fn refuse(&mut self, cause: Cause, problem: impl Into<String>, remedy: impl Into<String>) {
        if self.is_accelerated() {
            self.admission = Admission::Kernel(Refusal::new(cause, problem, remedy).of(self.label()));
        }
    }
}

/// Where a network is, for people.
fn place(external: &External) -> String {
    match external.netns.path() {
        None => external.device.clone(),
        Some(path) => format!("{} in {}", external.device, path.display()),
    }
}

/// The maps have one network for each VNI.
fn refuse_taken_vnis(networks: &mut [Network], view: Option<&View>) {
    let mut holders = BTreeMap::<Vni, Vec<String>>::new();
    for network in &*networks {
        if let (Some(vni), Some(external)) = (network.vni, network.kind.external()) {
            holders.entry(vni).or_default().push(place(external));
        }
    }
    for network in networks {
        let (Some(vni), Some(external)) = (network.vni, network.kind.external()) else { continue };
        let (own, all) = (place(external), &holders[&vni]);
        if all.len() > 1 {
            let others: Vec<_> = all.iter().filter(|place| **place != own).map(String::as_str).collect();
            let others = if others.is_empty() { own } else { others.join(", ") };
            network.refuse(Cause::Vni, format!("VNI {vni} is also the one of {others}"), "use each VNI once on a host");
        } else if view.is_some_and(|view| view.networks().contains_key(&vni)) {
            network.refuse(
                Cause::Vni,
                format!("the configuration has a network with VNI {vni}"),
                "remove one of the two",
            );
        }
    }
}

/// The underlay with the most to do. Docker's, and then the one that was served last, come before a busier one.
fn busiest(external: &[Network], networks: &HostNetworks, around: &AdmissionInputs<'_>) -> Option<VtepAddr> {
    /// Networks with endpoints on this host and on others, and all networks.
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
        let (is_docker, is_home) = (around.docker == Some(*address), around.home == Some(*address));
        (*busy > 0, is_docker, is_home, *busy, *all, Reverse(*address))
    };
    loads.into_iter().max_by_key(rank).map(|(address, _)| address)
}

fn refuse_other_underlays(external: &mut [Network], networks: &HostNetworks, view: Option<&View>) {
    for network in external {
        let Some(address) = network.underlay else {
            if networks.served.is_none() {
                network.refuse(
                    Cause::Underlay,
                    "the address that outer packets are sent from is not known yet",
                    "wait",
                );
            }
            continue;
        };
        if let Some(finding) = networks.underlays.get(&address).and_then(|underlay| underlay.finding.as_ref()) {
            network.refuse(
                Cause::Underlay,
                format!("its packets are sent from {address}, but {}", finding.problem),
                finding.remedy.clone(),
            );
        } else if let Some(served) = networks.served.filter(|served| *served != address) {
            let (others, remedy) = if view.is_some() {
                ("those of the configured networks", "give both the same address")
            } else {
                ("those of the other networks", "use one underlay address for all")
            };
            network.refuse(
                Cause::OtherUnderlay,
                format!("its packets are sent from {address} and {others} from {served}"),
                remedy,
            );
        }
    }
}

/// The programs compare with a fixed number of UDP ports.
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
                format!("UDP port {port} is one too many beside {ports:?}"),
                format!("let networks share ports, at most {UDP_PORTS} on a host"),
            );
        }
    }
}

/// What the maps have left.
struct Room {
    entries: usize,
    peers: usize,
    ports: usize,
    networks: usize,
    vteps: usize,
}

impl Room {
    /// Beside the configured networks.
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

    /// Takes what a network needs at most; `None`, and nothing is taken, when there is not so much.
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

fn refuse_for_room(external: &mut [Network], around: &AdmissionInputs<'_>) {
    let mut room = Room::beside(around.view, around.fdb_size);
    for network in external.iter_mut().filter(|network| network.is_accelerated()) {
        if network.kind.external().is_some_and(|external| room.take(external).is_none()) {
            network.refuse(Cause::Full, "there is no room for it in the maps", "raise `fdb_size`");
        }
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
