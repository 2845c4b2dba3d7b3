use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use overlay_common::MacAddr;

use super::*;
use crate::model::{
    Cluster, Host, Parts, Rx,
    mirror::{MirroredPort, Site},
};

const HERE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 9);

fn network(port: u16, remote: u8) -> MirroredNetwork {
    let vtep = Ipv4Addr::new(192, 168, 1, 10);
    let local = MirroredPort { name: "veth0".into(), mac: Some(MacAddr([2; 6])), peer_netns: true, xdp: false };
    MirroredNetwork {
        name: None,
        port,
        mtu: 1450,
        site: Site::Host,
        device: "vxlan0".into(),
        ports: BTreeMap::from([(7, local)]),
        remote: (0..remote).map(|n| (MacAddr([2, 0, 0, 0, 0, n]), vtep)).collect(),
        senders: BTreeSet::from([vtep]),
        refused: None,
    }
}

fn mirrored(networks: impl IntoIterator<Item = (u32, MirroredNetwork)>) -> Mirrored {
    let networks = networks.into_iter().map(|(vni, network)| (Vni::new(vni).unwrap(), network)).collect();
    Mirrored { address: Some(HERE), networks }
}

fn view(address: Ipv4Addr) -> View {
    let hosts = vec![Host { name: "node01".into(), address, rx: Rx::Tc }];
    Cluster::new(Parts { hosts, ..Parts::default() }).unwrap().view(address).unwrap()
}

fn refusals(mirrored: &Mirrored) -> Vec<(u32, bool)> {
    mirrored.networks.iter().map(|(vni, network)| (vni.get(), network.refused.is_some())).collect()
}

#[test]
fn a_network_that_fits_is_accelerated() {
    let found = mirrored([(4097, network(4789, 5))]);
    assert_eq!(admit(found.clone(), None, 100), found);
    assert_eq!(admit(found.clone(), Some(&view(HERE)), 100), found);
}

#[test]
fn without_an_address_nothing_is_accelerated() {
    let found = Mirrored { address: None, ..mirrored([(4097, network(4789, 5))]) };
    assert_eq!(refusals(&admit(found, None, 100)), [(4097, true)]);
}

#[test]
fn another_address_than_the_configurations_is_refused() {
    let admitted = admit(mirrored([(4097, network(4789, 5))]), Some(&view(Ipv4Addr::new(192, 168, 1, 8))), 100);
    let refusal = admitted.networks.values().next().unwrap().refused.clone().unwrap().to_string();
    assert!(refusal.contains("192.168.1.9") && refusal.contains("192.168.1.8"), "{refusal}");
}

#[test]
fn the_networks_that_no_longer_fit_are_refused_and_the_others_are_not() {
    let admitted = admit(mirrored([(1, network(4789, 5)), (2, network(4789, 50)), (3, network(4789, 3))]), None, 10);
    assert_eq!(refusals(&admitted), [(1, false), (2, true), (3, false)]);
}

#[test]
fn a_fifth_udp_port_is_refused() {
    let admitted = admit(mirrored((1..=5).map(|n| (n, network(4000 + n as u16, 1)))), None, 100);
    assert_eq!(refusals(&admitted), [(1, false), (2, false), (3, false), (4, false), (5, true)]);
}

#[test]
fn a_refusal_of_the_mirrors_stays_and_takes_no_room() {
    let encrypted = || Some(Refusal("encrypted; nothing mends it".into()));
    let found = mirrored([(1, MirroredNetwork { refused: encrypted(), ..network(4789, 90) }), (2, network(4789, 90))]);
    let admitted = admit(found, None, 100);
    assert_eq!(refusals(&admitted), [(1, true), (2, false)]);
    assert_eq!(admitted.networks[&Vni::new(1).unwrap()].refused, encrypted());
}
