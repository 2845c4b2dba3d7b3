//! One VXLAN device with its bridge: support by the programs, local ports, remote MAC addresses.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use overlay_common::{MacAddr, Vni, VtepAddr};

use super::{
    docker::DockerNetwork,
    encryption,
    facts::{Facts, NetnsFacts, source_query},
    filters,
    locations::Locations,
};
use crate::{
    kernel::{Link, LinkKind, Role, VxlanInfo, XdpMode},
    model::{
        Finding, Network,
        discovery::{NetnsRef, Settings},
        network::{Admission, Cause, External, ExternalPort, Kind, Refusal, Tunnel, label},
        rule::{MTU_MAX, MTU_MIN},
    },
    plan::device_state::{judge, judge_bridge, peer_xdp, redirects_to_peer},
};

/// Evaluates the VXLAN device `link` of a namespace.
pub(super) fn network(
    link: &Link,
    info: &VxlanInfo,
    netns: &NetnsFacts,
    facts: &Facts,
    settings: &Settings,
) -> Network {
    let vni = Vni::new(info.vni).ok();
    let docker = vni.and_then(|vni| docker_network(&netns.netns_ref, vni, facts));
    let name = docker.map(|network| network.name.clone());
    let bridge = netns.links.iter().find(|other| Some(other.index) == link.master && other.kind == LinkKind::Bridge);
    let locations = Locations::new(link, bridge, netns);
    let mut device = VxlanDevice { link, candidates: BTreeMap::new() };
    let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
    let ports = bridge.map(|bridge| device.ports(&locations, bridge, netns, docker)).unwrap_or_default();
    let (underlay, peers, remote) = device.remote(&locations, info, docker, facts);
    let why = match vni {
        Some(vni) => excluded_by_lists(vni, name.as_deref(), settings)
            .or_else(|| encryption::refusal(vni, (netns, link), docker, facts, settings))
            .or_else(|| unsupported_options(link, info))
            .or_else(|| in_bridge(link, bridge, netns))
            .or_else(|| closed(link, bridge?, &locations, remote.is_empty()))
            .or_else(|| filters::refusal(netns, link, bridge?)),
        None => Some(Refusal::new(
            Cause::Device,
            format!("{} is in collect-metadata mode (external): its VNI is set for each packet", link.name),
            "keep the kernel path",
        )),
    };
    let refusal = why.map(|refusal| refusal.of(label(vni, name.as_deref(), &link.name)));
    let external = Arc::new(External {
        netns: netns.netns_ref.clone(),
        device: link.name.clone(),
        mtu,
        tunnel: tunnel(info, link.mac, netns),
        ports,
        remote,
        peers,
        refusal,
    });
    let kind = if bridge.is_some() { Kind::Bridged(external) } else { Kind::Routed(external) };
    // The admission also depends on the other networks.
    Network { vni, name, port: info.port, underlay, kind, admission: Admission::Accelerated }
}

/// Docker's network of a sandbox: the file is `<number>-<the first characters of the network's ID>`, 12 characters in
/// all (libnetwork, `osl.GenerateKey`).
fn docker_network<'f>(netns_ref: &NetnsRef, vni: Vni, facts: &'f Facts) -> Option<&'f DockerNetwork> {
    /// Shorter prefixes are ambiguous.
    const LEAST: usize = 8;
    let NetnsRef::Other { path, .. } = netns_ref else { return None };
    let (_, id) = path.file_name()?.to_str()?.split_once('-')?;
    let mut networks = facts.docker.networks.iter().filter(|network| id.len() >= LEAST && network.id.starts_with(id));
    // A network with other VNIs is another network.
    networks.find(|network| network.vnis.is_empty() || network.vnis.contains(&vni.get()))
}

fn excluded_by_lists(vni: Vni, name: Option<&str>, settings: &Settings) -> Option<Refusal> {
    let excluded = |problem: &str, remedy: &str| Some(Refusal::new(Cause::Excluded, problem, remedy));
    if settings.deny.iter().any(|selector| selector.matches(vni, name)) {
        return excluded("the network is on the deny list", "remove it from the list to accelerate it");
    }
    let allowed = settings.allow.is_empty() || settings.allow.iter().any(|selector| selector.matches(vni, name));
    if allowed { None } else { excluded("the network is not on the allow list", "add it to the list to accelerate it") }
}

/// Options of the VXLAN device that the programs do not support.
fn unsupported_options(link: &Link, info: &VxlanInfo) -> Option<Refusal> {
    let name = &link.name;
    if let Some(Finding { problem, remedy, .. }) = judge(name, &link.deviations, Role::Vxlan) {
        return Some(Refusal::new(Cause::Device, problem, remedy));
    }
    let what = if info.port == 0 {
        "has no UDP port".into()
    } else if !(u32::from(MTU_MIN)..=u32::from(MTU_MAX)).contains(&link.mtu) {
        format!("has the MTU {}", link.mtu)
    } else {
        return None;
    };
    Some(Refusal::new(
        Cause::Device,
        format!("{name} {what}, which the programs do not support"),
        "keep the kernel path, or change the device",
    ))
}

fn in_bridge(link: &Link, bridge: Option<&Link>, netns: &NetnsFacts) -> Option<Refusal> {
    let name = &link.name;
    let Some(bridge) = bridge else {
        return Some(Refusal::new(
            Cause::Routed,
            format!("{name} is not in a bridge"),
            "keep the kernel path for a routed device, or attach it to the bridge of the containers",
        ));
    };
    let found = judge_bridge(bridge, link, &netns.links)?;
    Some(Refusal::new(Cause::Bridge, found.problem, found.remedy))
}

/// A VXLAN device that does not learn or is not flooded, and that has no static entry of the bridge.
fn closed(link: &Link, bridge: &Link, locations: &Locations<'_>, is_unused: bool) -> Option<Refusal> {
    let (mac, _) = locations.remote().find(|_| is_unused)?;
    if locations.is_reachable_at(link.index, mac) {
        return None;
    }
    let (name, bridge) = (&link.name, &bridge.name);
    Some(Refusal::new(
        Cause::Bridge,
        format!("{name} does not learn or flood, and {bridge} has no static entry for its addresses"),
        format!("bridge fdb add {mac} dev {name} master static, or turn learning and flood on"),
    ))
}

/// The options that determine the route and the outer headers of the packets.
fn tunnel(info: &VxlanInfo, mac: MacAddr, netns: &NetnsFacts) -> Tunnel {
    // As `udp_flow_src_port` in include/net/udp.h.
    let (first, last) = info.source_ports;
    let source_ports = if first < last { info.source_ports } else { netns.local_ports };
    let udp_checksum = info.udp_csum;
    let (local, device, ttl, learns) = (info.local, info.underlay, info.ttl, info.learning);
    Tunnel { local, device, ttl, source_ports, udp_checksum, learns, mac }
}

/// A VXLAN device during evaluation.
struct VxlanDevice<'f> {
    link: &'f Link,
    /// Likely addresses behind the bridge ports, and the number of ports of each.
    candidates: BTreeMap<MacAddr, u32>,
}

impl VxlanDevice<'_> {
    fn ports(
        &mut self,
        locations: &Locations<'_>,
        bridge: &Link,
        netns: &NetnsFacts,
        docker: Option<&DockerNetwork>,
    ) -> BTreeMap<u32, ExternalPort> {
        let mut ports = BTreeMap::new();
        let is_port = |port: &&Link| port.master == Some(bridge.index) && port.index != self.link.index;
        for port in netns.links.iter().filter(is_port) {
            let peer = netns.veth_peers.get(&port.index);
            let candidate = locations.candidate(port.index, peer);
            if let Some(mac) = candidate {
                *self.candidates.entry(mac).or_default() += 1;
            }
            let unreachable = || {
                let mac = candidate.filter(|mac| !locations.is_reachable_at(port.index, *mac))?;
                let finding = Finding::unnamed(
                    format!("it does not learn or flood, and {} has no static entry for {mac}", bridge.name),
                    format!("bridge fdb add {mac} dev {} master static, or turn learning and flood on", port.name),
                );
                Some(finding.about(format!("port {}", port.name)))
            };
            let finding = filters::port_refusal(netns, port, peer, self.link.mtu).or_else(unreachable);
            let mac = candidate.filter(|mac| finding.is_none() && locations.is_unique_at(port.index, *mac));
            let entry = ExternalPort {
                name: port.name.clone(),
                mac,
                container: candidate.and_then(|mac| docker?.containers.get(&mac).cloned()),
                redirect_peer: redirects_to_peer(port, peer),
                xdp: port.peer_netns && peer_xdp(port, peer) == XdpMode::Native,
                finding,
            };
            ports.insert(port.index, entry);
        }
        for port in ports.values_mut() {
            if let Some(mac) = port.mac.take_if(|mac| self.candidates.get(mac) != Some(&1)) {
                let problem = format!("another port of {} has its MAC address {mac} too", bridge.name);
                port.finding =
                    Some(Finding::new(format!("port {}", port.name), problem, "give each container its own address"));
            }
        }
        ports
    }

    /// The source address, the peers, and the VTEP of each remote MAC address.
    fn remote(
        &self,
        locations: &Locations<'_>,
        info: &VxlanInfo,
        docker: Option<&DockerNetwork>,
        facts: &Facts,
    ) -> (Option<VtepAddr>, BTreeSet<VtepAddr>, BTreeMap<MacAddr, VtepAddr>) {
        let query = source_query(info);
        let source = |vtep: &VtepAddr| {
            let Some(query) = query else { return info.local };
            let (device, preferred) = facts.host.sources.get(&(query, *vtep)).copied().flatten()?;
            // Peers of a Swarm accept packets from the address that a node advertises.
            let advertised = facts
                .docker
                .node_address
                .filter(|address| docker.is_some() && facts.host.addresses.contains(&(device, *address)));
            Some(advertised.unwrap_or(preferred))
        };
        let own: BTreeSet<_> = facts.host.addresses.iter().map(|(_, address)| *address).collect();
        let is_vtep = |vtep: &VtepAddr| {
            let ip = vtep.ipv4();
            !(ip.is_multicast() || ip.is_broadcast() || ip.is_unspecified() || ip.is_loopback() || own.contains(vtep))
        };
        let peers: BTreeSet<VtepAddr> = locations.vteps(info.learning).into_iter().filter(is_vtep).collect();
        let mut counts = BTreeMap::<VtepAddr, usize>::new();
        for address in peers.iter().filter_map(source) {
            *counts.entry(address).or_default() += 1;
        }
        let advertised = facts.docker.node_address.filter(|address| docker.is_some() && own.contains(address));
        // Without a VTEP there is no route to read.
        let advertised = advertised.filter(|address| counts.is_empty() || counts.contains_key(address));
        let most = counts.iter().max_by_key(|(address, count)| (**count, Reverse(**address)));
        let address = info.local.or(advertised).or(most.map(|(address, _)| *address));
        let is_remote = |mac: &MacAddr, vtep: &VtepAddr| {
            !self.candidates.contains_key(mac)
                && is_vtep(vtep)
                && source(vtep) == address
                && locations.is_reachable_at(self.link.index, *mac)
        };
        let remote = locations.remote().filter(|(mac, vtep)| is_remote(mac, vtep)).collect();
        (address, peers, remote)
    }
}
