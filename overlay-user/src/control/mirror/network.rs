//! One VXLAN device with its bridge: is it what the programs can do, who is local, who is where?

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use overlay_common::{MacAddr, Vni};

use super::{
    encryption,
    facts::{Facts, SiteFacts},
    filters,
    places::Places,
};
use crate::{
    control::docker::DockerNetwork,
    host::{Link, LinkKind, VxlanInfo},
    model::{
        mirror::{MirroredNetwork, MirroredPort, Refusal, Settings, Site},
        rule::{MTU_MAX, MTU_MIN},
    },
};

/// A network, and what is not in the model.
pub(super) struct Found {
    pub(super) vni: Vni,
    pub(super) network: MirroredNetwork,
    /// Outer source address that the kernel would use; `None` while there is nobody to send to.
    pub(super) address: Option<Ipv4Addr>,
    /// Bridge ports that are left to the kernel, and why.
    pub(super) left_out: BTreeMap<String, String>,
    /// Who seems to be behind the bridge ports, and behind how many.
    candidates: BTreeMap<MacAddr, u32>,
}

/// Judges the VXLAN device `link` of a namespace; `None` where it has no VNI.
pub(super) fn network(
    link: &Link,
    info: &VxlanInfo,
    site: &SiteFacts,
    facts: &Facts,
    settings: &Settings,
) -> Option<Found> {
    let vni = Vni::new(info.vni).ok()?;
    let docker = docker_network(&site.site, vni, facts);
    let bridge = site.links.iter().find(|other| Some(other.index) == link.master && other.kind == LinkKind::Bridge);
    let places = Places::new(link, bridge, site);
    let mut found = Found {
        vni,
        network: MirroredNetwork {
            name: docker.map(|network| network.name.clone()),
            port: info.port,
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            site: site.site.clone(),
            device: link.name.clone(),
            ports: BTreeMap::new(),
            remote: BTreeMap::new(),
            senders: BTreeSet::new(),
            refused: None,
        },
        address: None,
        left_out: BTreeMap::new(),
        candidates: BTreeMap::new(),
    };
    found.ports(&places, bridge, site);
    found.remote(&places, info, docker, facts);
    let network = &found.network;
    let refusal = listed(vni, network.name.as_deref(), settings)
        .or_else(|| encryption::refusal(vni, (site, link), docker, facts, settings))
        .or_else(|| options(link, info, facts.host.default_ttl))
        .or_else(|| in_bridge(link, bridge))
        .or_else(|| filters::refusal(site, link, bridge?))
        .or_else(|| underlay(info, network, facts));
    found.network.refused = refusal.map(Refusal);
    Some(found)
}

/// What Docker calls a sandbox's network: the file is `<number>-<the first characters of the network's ID>`, 12
/// characters in all (libnetwork, `osl.GenerateKey`).
fn docker_network<'f>(site: &Site, vni: Vni, facts: &'f Facts) -> Option<&'f DockerNetwork> {
    /// Shorter beginnings could mean any network.
    const LEAST: usize = 8;
    let Site::Netns { path, .. } = site else { return None };
    let (_, id) = path.file_name()?.to_str()?.split_once('-')?;
    let mut networks = facts.docker.networks.iter().filter(|network| id.len() >= LEAST && network.id.starts_with(id));
    // A network that Docker gives other VNIs to is another one.
    networks.find(|network| network.vnis.is_empty() || network.vnis.contains(&vni.get()))
}

fn listed(vni: Vni, name: Option<&str>, settings: &Settings) -> Option<String> {
    if settings.deny.iter().any(|selector| selector.is(vni, name)) {
        return Some("it is on the deny list; take it off the list to accelerate it".into());
    }
    let allowed = settings.allow.is_empty() || settings.allow.iter().any(|selector| selector.is(vni, name));
    (!allowed).then(|| "it is not on the allow list; put it on the list to accelerate it".into())
}

/// Options of the VXLAN device that the programs do not have.
fn options(link: &Link, info: &VxlanInfo, default_ttl: u8) -> Option<String> {
    let name = &link.name;
    let ttl = if info.ttl == 0 { default_ttl } else { info.ttl };
    let what = if info.external {
        "is in collect-metadata mode (external)".into()
    } else if let Some(option) = info.special {
        format!("has the option {option}")
    } else if info.ipv6 {
        "has an IPv6 underlay".into()
    } else if let Some(group) = info.group.filter(Ipv4Addr::is_multicast) {
        format!("uses the multicast group {group}")
    } else if ttl != 64 {
        format!("sends with TTL {ttl}")
    } else if info.tos != 0 {
        format!(
            "sends with the traffic class {}",
            if info.tos == 1 { "of the inner packet".into() } else { info.tos.to_string() }
        )
    } else if info.port == 0 {
        "has no UDP port".into()
    } else if !link.up {
        "is down".into()
    } else if !(u32::from(MTU_MIN)..=u32::from(MTU_MAX)).contains(&link.mtu) {
        format!("has the MTU {}", link.mtu)
    } else {
        return None;
    };
    Some(format!("{name} {what}, which the programs do not do; leave it to the kernel, or change the device"))
}

fn in_bridge(link: &Link, bridge: Option<&Link>) -> Option<String> {
    let name = &link.name;
    let Some(bridge) = bridge else {
        return Some(format!("{name} is not in a bridge; put it into the bridge of the containers' ports"));
    };
    let options = link.bridge_port.unwrap_or_default();
    let what = if !bridge.up {
        format!("{} is down", bridge.name)
    } else if bridge.bridge.is_some_and(|options| options.vlan_filtering) {
        format!("{} filters VLANs", bridge.name)
    } else if !options.forwarding {
        format!("spanning tree does not let {name} forward")
    } else if options.isolated || options.locked || options.vlan_tunnel {
        format!("{name} is an isolated, locked or VLAN tunnel port of {}", bridge.name)
    } else {
        return None;
    };
    Some(format!("{what}, which the programs do not do; leave it to the kernel, or change the bridge"))
}

/// A device that is bound to one underlay device sends by that one alone.
fn underlay(info: &VxlanInfo, network: &MirroredNetwork, facts: &Facts) -> Option<String> {
    let bound = info.underlay?;
    let elsewhere = network.senders.iter().find(|vtep| {
        let source = facts.host.sources.get(vtep).copied().flatten();
        source.is_some_and(|(ifindex, _)| ifindex != bound)
    })?;
    Some(format!(
        "{} is bound to interface number {bound}, but the route to {elsewhere} leads through another; correct the route",
        network.device
    ))
}

impl Found {
    fn ports(&mut self, places: &Places<'_>, bridge: Option<&Link>, site: &SiteFacts) {
        let Some(bridge) = bridge else { return };
        let is_port = |port: &&Link| port.master == Some(bridge.index) && port.name != self.network.device;
        for port in site.links.iter().filter(is_port) {
            let peer = site.peers.get(&port.index);
            let candidate = places.candidate(port.index, peer);
            if let Some(mac) = candidate {
                *self.candidates.entry(mac).or_default() += 1;
            }
            if let Some(reason) = filters::port_refusal(site, port, self.network.mtu.into()) {
                self.left_out.insert(port.name.clone(), reason);
                continue;
            }
            let mac = candidate.filter(|mac| places.agree(port.index, *mac));
            let xdp = peer.is_some_and(|peer| peer.xdp);
            let entry = MirroredPort { name: port.name.clone(), mac, peer_netns: port.peer_netns, xdp };
            self.network.ports.insert(port.index, entry);
        }
        for port in self.network.ports.values_mut() {
            port.mac = port.mac.filter(|mac| self.candidates.get(mac) == Some(&1));
        }
    }

    fn remote(&mut self, places: &Places<'_>, info: &VxlanInfo, docker: Option<&DockerNetwork>, facts: &Facts) {
        let source = |vtep: &Ipv4Addr| {
            let (device, preferred) = facts.host.sources.get(vtep).copied().flatten()?;
            // Peers of a Swarm know a node by the address that it advertises.
            let advertised = facts
                .docker
                .node_address
                .filter(|address| docker.is_some() && facts.host.addresses.contains(&(device, *address)));
            Some(info.local.or(advertised).unwrap_or(preferred))
        };
        let own: BTreeSet<_> = facts.host.addresses.iter().map(|(_, address)| *address).collect();
        let is_vtep = |vtep: &Ipv4Addr| {
            !(vtep.is_multicast()
                || vtep.is_broadcast()
                || vtep.is_unspecified()
                || vtep.is_loopback()
                || own.contains(vtep))
        };
        self.network.senders = places.vteps().filter(is_vtep).collect();
        let mut counts = BTreeMap::<Ipv4Addr, usize>::new();
        for address in self.network.senders.iter().filter_map(source) {
            *counts.entry(address).or_default() += 1;
        }
        let advertised = facts.docker.node_address.filter(|address| docker.is_some() && own.contains(address));
        // Without a VTEP there is no route to ask.
        let advertised = advertised.filter(|address| counts.is_empty() || counts.contains_key(address));
        let most = counts.iter().max_by_key(|(address, count)| (**count, Reverse(**address)));
        self.address = info.local.or(advertised).or(most.map(|(address, _)| *address));
        let address = self.address;
        self.network.remote = places
            .remote()
            .filter(|(mac, vtep)| !self.candidates.contains_key(mac) && is_vtep(vtep) && source(vtep) == address)
            .collect();
    }
}
