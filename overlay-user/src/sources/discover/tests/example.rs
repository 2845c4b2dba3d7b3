//! Example facts: a Docker sandbox with one local and one remote container.

use std::{
    collections::{BTreeMap, HashSet},
    net::Ipv4Addr,
    sync::Arc,
};

use overlay_common::{MacAddr, VtepAddr};

use super::{
    Facts, HostFacts, NetnsFacts,
    docker::{DockerNetwork, DockerState},
    facts::source_query,
};
use crate::{
    kernel::{
        BridgeOptions, BridgePort, FdbEntry, FdbState, Link, LinkKind, RouteQuery, TrafficControl, VethPeer, VxlanInfo,
    },
    model::discovery::NetnsRef,
    plan::bridged_path::BridgedRules,
};

pub(crate) const VNI: u32 = 4097;
pub(crate) const HERE: VtepAddr = VtepAddr::new(Ipv4Addr::new(192, 168, 1, 9));
pub(crate) const THERE: VtepAddr = VtepAddr::new(Ipv4Addr::new(192, 168, 1, 10));
/// Netns id of the daemon's namespace in a sandbox.
pub(crate) const UNDERLAY: i32 = 0;
pub(crate) const NIC: u32 = 2;
pub(crate) const BRIDGE: u32 = 10;
pub(crate) const VXLAN: u32 = 11;
pub(crate) const PORT: u32 = 12;
pub(crate) const LOCAL: MacAddr = MacAddr([2, 0x42, 10, 0, 1, 2]);
pub(crate) const REMOTE: MacAddr = MacAddr([2, 0x42, 10, 0, 1, 6]);
pub(crate) const ID: &str = "abcdefghij0123456789";

pub(crate) fn link(index: u32, name: &str, kind: LinkKind) -> Link {
    Link {
        index,
        name: name.into(),
        mac: MacAddr([2, 0, 0, 0, 0, index as u8]),
        ethernet: true,
        mtu: 1450,
        up: true,
        kind,
        ..Link::default()
    }
}

pub(crate) fn port(index: u32, name: &str, kind: LinkKind) -> Link {
    let options = BridgePort { learning: true, flood: true, ..BridgePort::default() };
    Link { master: Some(BRIDGE), bridge_port: Some(options), ..link(index, name, kind) }
}

/// The container's end of a veth.
pub(crate) fn peer(mac: MacAddr) -> VethPeer {
    VethPeer { mac, mtu: 1450, ..VethPeer::default() }
}

pub(crate) fn entry(ifindex: u32, mac: MacAddr, state: FdbState) -> FdbEntry {
    FdbEntry { ifindex, mac, own: false, state, dst: None, vlan: None, special: false, sticky: false }
}

/// An entry of the VXLAN device.
pub(crate) fn tunnel(mac: MacAddr, dst: VtepAddr) -> FdbEntry {
    FdbEntry { own: true, dst: Some(dst), ..entry(VXLAN, mac, FdbState::Permanent) }
}

/// A sandbox like Docker's, with one local and one remote container.
pub(crate) fn sandbox() -> NetnsFacts {
    let info = VxlanInfo { vni: VNI, port: 4789, learning: true, proxy: true, udp_csum: true, ..VxlanInfo::default() };
    let bridge = Link { bridge: Some(BridgeOptions::default()), ..link(BRIDGE, "br0", LinkKind::Bridge) };
    let vxlan = Link { lower_netns: Some(UNDERLAY), ..port(VXLAN, "vxlan0", LinkKind::Vxlan(info)) };
    let veth = Link { lower: Some(40), lower_netns: Some(7), peer_netns: true, ..port(PORT, "veth0", LinkKind::Veth) };
    let own = |index: u32| entry(index, MacAddr([2, 0, 0, 0, 0, index as u8]), FdbState::Permanent);
    NetnsFacts {
        netns_ref: NetnsRef::Other { path: format!("/var/run/docker/netns/1-{}", &ID[..10]).into(), inode: 1 },
        underlay_netns: Some(UNDERLAY),
        links: vec![bridge, vxlan, veth],
        veth_peers: BTreeMap::from([(PORT, peer(LOCAL))]),
        fdb: vec![own(BRIDGE), own(VXLAN), own(PORT), tunnel(REMOTE, THERE)],
        moved: HashSet::new(),
        is_lost: false,
        rules: Arc::new(Ok(BridgedRules::default())),
        tc: Ok(TrafficControl::default()),
        local_ports: (32_768, 60_999),
        aged: [VXLAN].into(),
    }
}

/// The lookup of a VXLAN device without `local`.
pub(crate) fn query() -> RouteQuery {
    let info = VxlanInfo { port: 4789, ..VxlanInfo::default() };
    source_query(&info).expect("no source address")
}

pub(crate) fn facts() -> Facts {
    let host = HostFacts {
        sources: BTreeMap::from([((query(), THERE), Some((NIC, HERE)))]),
        addresses: vec![(NIC, HERE)],
        ..HostFacts::default()
    };
    let network = DockerNetwork {
        id: ID.into(),
        name: "my-overlay-network".into(),
        encrypted: false,
        vnis: vec![VNI],
        containers: BTreeMap::from([(LOCAL, "gindemo1".to_owned())]),
    };
    let docker =
        DockerState { enabled: true, networks: vec![network], node_address: Some(HERE), ..DockerState::default() };
    Facts { namespaces: vec![sandbox()], host, docker }
}
