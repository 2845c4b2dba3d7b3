use std::{net::Ipv4Addr, sync::Arc};

use super::*;
use crate::model::{
    Network as AnyNetwork,
    network::{Admission, ExternalPort, Kind, Tunnel},
};

const HERE: VtepAddr = VtepAddr::new(Ipv4Addr::new(192, 168, 1, 9));

/// An external network in the namespace with this netns id, with ports that support XDP.
fn network(vni: u32, udp_port: u16, netns_id: u16, ifindexes: &[u32]) -> AnyNetwork {
    let port = |ifindex: u32| ExternalPort {
        name: format!("veth{ifindex}"),
        mac: Some(MacAddr([2, 0, 0, vni as u8, netns_id as u8, ifindex as u8])),
        container: None,
        redirect_peer: true,
        xdp: true,
        finding: None,
    };
    let netns = match netns_id {
        0 => NetnsRef::Own,
        id => NetnsRef::Other { path: format!("/run/netns/{id}").into(), inode: id.into() },
    };
    let external = External {
        netns,
        device: "vxlan0".into(),
        mtu: 1450,
        tunnel: Tunnel::default(),
        ports: ifindexes.iter().map(|ifindex| (*ifindex, port(*ifindex))).collect(),
        remote: BTreeMap::new(),
        peers: BTreeSet::new(),
        refusal: None,
    };
    AnyNetwork {
        vni: Vni::new(vni).ok(),
        name: None,
        port: udp_port,
        underlay: Some(HERE),
        kind: Kind::Bridged(Arc::new(external)),
        admission: Admission::Accelerated,
    }
}

/// The tables of external networks, whose netns ids are their VNIs where they are not in the daemon's namespace.
fn tables(networks: Vec<AnyNetwork>, xdp: bool, current: &Tables) -> Result<Tables, TableError> {
    let shims = networks.iter().filter_map(|network| {
        let (vni, external) = (network.vni?, network.kind.external()?);
        external.netns.path().map(|_| (vni, Shim { netns_id: vni.get() as u16, outer: 100 + vni.get() }))
    });
    let facts = Facts { xdp, shims: shims.collect(), ..Facts::default() };
    let networks = HostNetworks { served: Some(HERE), list: networks, ..HostNetworks::default() };
    desired(None, &networks, &facts, current)
}

#[test]
fn fifth_udp_port_exceeds_the_programs() {
    let with_ports = |count: u32| {
        let networks = (1..=count).map(|vni| network(vni, 4788 + vni as u16, 0, &[])).collect();
        tables(networks, false, &Tables::default())
    };
    assert_eq!(with_ports(4).unwrap().networks.len(), 4);
    assert_eq!(with_ports(5), Err(TableError::UdpPorts(5)));
}

/// A map, and a function that makes tables which need this number of its entries.
type Sized = (Map, fn(u32) -> Tables);

#[test]
fn size_of_each_map_is_a_limit() {
    let sized: [Sized; 4] = [
        (maps::VTEPS, |needed| {
            let outer = OuterHeader::template(HERE.octets(), [192, 168, 1, 10], 4789);
            let vtep = Vtep { outer, mtu: 0, ifindex: 0, ip_sum: outer.ip_sum(), resolved: 0 };
            Tables { vteps: BTreeMap::from([(needed - 1, vtep)]), ..Tables::default() }
        }),
        (maps::NETWORKS, |needed| {
            let network = Network { slot: needed - 1, flags: 0, mtu: 1450, port: 4789 };
            Tables { networks: BTreeMap::from([(1, network)]), ..Tables::default() }
        }),
        (maps::PEERS, |needed| {
            let peer = Peer { vtep: 0, slot: 0, device_mac: [0; 6], mtu: 1450, port: 4789, flags: 0 };
            let peers = (0..needed).map(|number| (PeerKey { vni: 1, addr: number.to_be_bytes() }, peer));
            Tables { peers: peers.collect(), ..Tables::default() }
        }),
        (maps::PORTS, |needed| {
            let port = Port {
                vni: 1,
                slot: 0,
                flags: 0,
                ip: [0; 4],
                mac: [2; 6],
                mtu: 1450,
                udp_src_first: 32_768,
                udp_src_span: 1,
            };
            Tables { ports: (1..=needed).map(|index| (PortKey::host(index), port)).collect(), ..Tables::default() }
        }),
    ];
    assert_eq!(check_room(&Tables::default()), Ok(()));
    for (map, of_size) in sized {
        assert_eq!(check_room(&of_size(map.entries)), Ok(()), "{}", map.name);
        match check_room(&of_size(map.entries + 1)) {
            Err(TableError::Full { map: name, room, needed, .. }) => {
                assert_eq!((name, room, needed), (map.name, map.entries, map.entries as usize + 1));
            }
            other => panic!("{}: {other:?}", map.name),
        }
    }
}

#[test]
fn xdp_redirects_only_where_the_peer_has_napi() {
    for (by_xdp, port_xdp, redirect_peer) in [true, false]
        .into_iter()
        .flat_map(|a| [true, false].map(|b| (a, b)))
        .flat_map(|(a, b)| [true, false].map(|c| (a, b, c)))
    {
        let mut one = network(1, 4789, 0, &[7]);
        let Kind::Bridged(external) = &mut one.kind else { unreachable!("it is bridged") };
        for port in Arc::make_mut(external).ports.values_mut() {
            (port.xdp, port.redirect_peer) = (port_xdp, redirect_peer);
        }
        let tables = tables(vec![one], by_xdp, &Tables::default()).unwrap();
        let is_redirected = by_xdp && port_xdp;
        let entry = tables.fdb.values().next().unwrap();
        assert_eq!((entry.tx != 0, tables.txports.len()), (is_redirected, usize::from(is_redirected)));
        assert_eq!(entry.kind == FdbEntry::LOCAL_PEER, redirect_peer);
    }
}

/// Interface indices of the daemon's namespace are keys, too.
#[test]
fn keys_of_ports_in_other_namespaces_are_no_interface_indices() {
    let all = |vnis: &[u16], current: &Tables| {
        let mut networks = vec![network(9, 4789, 0, &[1, 7])];
        networks.extend(vnis.iter().map(|vni| network((*vni).into(), 4789, *vni, &[7, 8])));
        tables(networks, true, current).unwrap().txports
    };
    let key = |netns_id, ifindex| PortKey { netns_id, ifindex };
    let first = OTHER_NETNS_TX;
    assert!(first > i32::MAX as u32);
    let own = [(1, key(0, 1)), (7, key(0, 7))];
    let two = [(first, key(2, 7)), (first + 1, key(2, 8))];
    let before = all(&[2], &Tables::default());
    assert_eq!(before, own.into_iter().chain(two).collect());
    // A port keeps its key.
    let three = [(first + 2, key(1, 7)), (first + 3, key(1, 8))];
    let after = all(&[1, 2], &Tables { txports: before, ..Tables::default() });
    assert_eq!(after, own.into_iter().chain(two).chain(three).collect());
}
