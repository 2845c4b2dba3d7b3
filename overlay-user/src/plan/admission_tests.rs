use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Arc, LazyLock},
};

use overlay_common::{MacAddr, VtepAddr};

use super::*;
use crate::model::{
    Attachment, Cluster, Endpoint, Host, NetworkSpec, Parts, RemoteEndpoint, Rx,
    discovery::NetnsRef,
    network::{ExternalPort, Refusal, Tunnel},
};

const HERE: VtepAddr = VtepAddr::new(Ipv4Addr::new(192, 168, 1, 9));
const OTHER: VtepAddr = VtepAddr::new(Ipv4Addr::new(172, 16, 0, 9));
const LOOPBACK: VtepAddr = VtepAddr::new(Ipv4Addr::new(9, 9, 9, 1));

/// A network with one container on this host and `remote` containers on others.
fn network(vni: u32, port: u16, remote: u8) -> Network {
    let vtep = VtepAddr::from([192, 168, 1, 10]);
    let local = ExternalPort {
        name: "veth0".into(),
        mac: Some(MacAddr([2; 6])),
        container: None,
        redirect_peer: true,
        xdp: false,
        finding: None,
    };
    let external = External {
        netns: NetnsRef::Own,
        device: format!("vxlan{vni}"),
        mtu: 1450,
        tunnel: Tunnel::default(),
        ports: BTreeMap::from([(7, local)]),
        remote: (0..remote).map(|n| (MacAddr([2, 0, 0, 0, 0, n]), vtep)).collect(),
        peers: BTreeSet::from([vtep]),
        refusal: None,
    };
    Network {
        vni: Vni::new(vni).ok(),
        name: None,
        port,
        underlay: Some(HERE),
        kind: Kind::Bridged(Arc::new(external)),
        admission: Admission::Accelerated,
    }
}

/// A network without endpoints on this host.
fn idle(vni: u32, underlay: VtepAddr) -> Network {
    let mut network = Network { underlay: Some(underlay), ..network(vni, 4789, 0) };
    external(&mut network).ports.clear();
    network
}

fn external(network: &mut Network) -> &mut External {
    match &mut network.kind {
        Kind::Bridged(external) => Arc::make_mut(external),
        _ => unreachable!("it is bridged"),
    }
}

static NONE: BTreeMap<Vni, Refusal> = BTreeMap::new();

static DEVICES: LazyLock<Devices> = LazyLock::new(|| {
    let device = |name: &str, ethernet| vec![Device { name: name.into(), ethernet, master: None }];
    BTreeMap::from([(HERE, device("enp0s3", true)), (OTHER, device("enp0s8", true)), (LOOPBACK, device("lo", false))])
});

/// The kernel looks up the routes of a VRF's ports in the table of the VRF. A bridge or a bond receives the packets of its
/// ports.
#[test]
fn underlay_with_a_master_is_refused() {
    for (name, is_vrf, words) in
        [("blue", true, "a port of the VRF blue"), ("br0", false, "a port of br0, which receives")]
    {
        let master = Some(Master { name: name.into(), is_vrf });
        let devices = BTreeMap::from([(HERE, vec![Device { name: "enp0s3".into(), ethernet: true, master }])]);
        let view = view_of(HERE, [7]);
        let inputs = AdmissionInputs { view: Some(&view), devices: &devices, ..inputs() };
        let networks = admit([network(8, 4789, 1)], &inputs);
        assert_eq!(causes(&networks), [(7, Some(Cause::Underlay)), (8, Some(Cause::Underlay))]);
        assert!(reason(&networks, 0).contains(words), "{}", reason(&networks, 0));
    }
}

fn view(address: VtepAddr) -> View {
    view_of(address, [])
}

/// A host with an endpoint in each of these networks.
fn view_of<const N: usize>(address: VtepAddr, vnis: [u32; N]) -> View {
    let hosts = vec![Host { name: "node01".into(), address, rx: Rx::Tc }];
    let networks = vnis.map(|number| NetworkSpec {
        name: format!("net{number}"),
        vni: Vni::new(number).unwrap(),
        subnet: "10.0.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 0, 0, 1),
        mtu: None,
        port: 4789,
        strict: false,
        overlap: true,
    });
    let endpoints = vnis.map(|number| Endpoint {
        name: "one".into(),
        vni: Vni::new(number).unwrap(),
        ip: Ipv4Addr::new(10, 0, 0, 2),
        mac: MacAddr([2, 0, 0, 0, 1, 1]),
        host: address,
        attachment: Attachment::Unspecified,
    });
    let parts = Parts { hosts, networks: networks.into(), endpoints: endpoints.into(), ..Parts::default() };
    Cluster::new(parts).unwrap().view(address).unwrap()
}

/// Inputs of a host without a configuration.
fn inputs() -> AdmissionInputs<'static> {
    AdmissionInputs {
        view: None,
        devices: &DEVICES,
        last_served: None,
        docker: None,
        xfrm: false,
        refused: &NONE,
        fdb_size: 100,
    }
}

/// VNIs and causes of refusal.
fn causes(networks: &HostNetworks) -> Vec<(u32, Option<Cause>)> {
    let cause = |network: &Network| network.admission.refusal().map(|refusal| refusal.cause);
    networks.list.iter().map(|network| (network.vni.map_or(0, Vni::get), cause(network))).collect()
}

fn reason(networks: &HostNetworks, index: usize) -> String {
    networks.list[index].admission.refusal().expect("refused").finding.to_string()
}

#[test]
fn network_that_fits_is_accelerated() {
    for inputs in [inputs(), AdmissionInputs { view: Some(&view(HERE)), ..inputs() }] {
        let networks = admit([network(4097, 4789, 5)], &inputs);
        assert_eq!((causes(&networks), networks.served), (vec![(4097, None)], Some(HERE)));
    }
}

#[test]
fn network_without_known_underlay_needs_another_that_is_served() {
    let networks = admit([Network { underlay: None, ..network(4097, 4789, 5) }], &inputs());
    assert_eq!((causes(&networks), networks.served), (vec![(4097, Some(Cause::Underlay))], None));
    let known = admit([Network { underlay: None, ..network(1, 4789, 5) }, network(2, 4789, 5)], &inputs());
    assert_eq!(causes(&known), [(1, None), (2, None)], "a network without VTEPs fits every underlay");
}

#[test]
fn network_on_another_underlay_than_the_configured_one_is_refused() {
    let other = VtepAddr::from([192, 168, 1, 8]);
    let networks = admit([network(4097, 4789, 5)], &AdmissionInputs { view: Some(&view(other)), ..inputs() });
    assert_eq!((causes(&networks), networks.served), (vec![(4097, None)], Some(HERE)), "no network is configured");
    let view = view_of(other, [4096]);
    let networks = admit([network(4097, 4789, 5)], &AdmissionInputs { view: Some(&view), ..inputs() });
    let reason = reason(&networks, 1);
    assert!(reason.contains("192.168.1.9") && reason.contains("192.168.1.8"), "{reason}");
}

#[test]
fn unusable_underlay_does_not_affect_other_underlays() {
    for last_served in [None, Some(HERE), Some(LOOPBACK)] {
        let inputs = AdmissionInputs { last_served, ..inputs() };
        for vni in [1, 5005] {
            let gone = VtepAddr::from([10, 9, 8, 7]);
            let networks = admit([idle(vni, LOOPBACK), network(4097, 4789, 5), idle(vni + 1, gone)], &inputs);
            assert_eq!(networks.served, Some(HERE));
            let refused: Vec<_> = causes(&networks).into_iter().filter(|(_, cause)| cause.is_some()).collect();
            assert_eq!(refused, [(vni, Some(Cause::Underlay)), (vni + 1, Some(Cause::Underlay))]);
            let finding = |address| networks.underlays[&address].finding.as_ref().map(ToString::to_string);
            assert_eq!(finding(HERE), None);
            assert!(finding(LOOPBACK).unwrap().contains("is on lo, which is not an Ethernet device"));
            assert!(finding(gone).unwrap().contains("is not assigned to an interface"));
        }
    }
    let alone = admit([idle(5005, LOOPBACK)], &inputs());
    assert_eq!((alone.served, causes(&alone)), (None, vec![(5005, Some(Cause::Underlay))]));
}

#[test]
fn idle_underlay_does_not_replace_busy_underlay() {
    let served = |last_served, docker, networks: &[Network]| {
        admit(networks.iter().cloned(), &AdmissionInputs { last_served, docker, ..inputs() }).served
    };
    let busy = |vni, address| Network { underlay: Some(address), ..network(vni, 4789, 3) };
    // The idle underlay has a lower address and more networks.
    let idle_ones = [busy(4097, HERE), idle(1, OTHER), idle(2, OTHER)];
    for (last_served, docker) in [(None, None), (Some(HERE), None), (Some(OTHER), None), (None, Some(OTHER))] {
        assert_eq!(served(last_served, docker, &idle_ones), Some(HERE), "{last_served:?} {docker:?}");
    }
    // All are busy: Docker's underlay precedes the last served one, and that one the underlay with more networks.
    let both = [busy(4097, HERE), busy(1, OTHER), busy(2, OTHER)];
    assert_eq!(served(Some(OTHER), Some(HERE), &both), Some(HERE));
    assert_eq!(served(Some(HERE), None, &both), Some(HERE));
    assert_eq!(served(None, Some(HERE), &both), Some(HERE));
    assert_eq!(served(None, None, &both), Some(OTHER));
    assert_eq!(served(Some(HERE), None, &both[1..]), Some(OTHER), "the last underlay has no networks any more");
    let networks = admit(both, &AdmissionInputs { last_served: Some(HERE), ..inputs() });
    assert_eq!(causes(&networks), [(1, Some(Cause::OtherUnderlay)), (2, Some(Cause::OtherUnderlay)), (4097, None)]);
    let reason = reason(&networks, 0);
    assert!(reason.contains("address is 172.16.0.9") && reason.contains("use 192.168.1.9"), "{reason}");
}

/// Busy is a network with endpoints on this host and on others.
#[test]
fn underlay_with_more_networks_is_served_if_none_is_busy() {
    let sides = |mut network: Network, has_local: bool, has_remote: bool| {
        if !has_local {
            external(&mut network).ports.clear();
        }
        if !has_remote {
            external(&mut network).remote.clear();
        }
        network
    };
    let at = |vni, underlay| Network { underlay: Some(underlay), ..network(vni, 4789, 3) };
    for (has_local, has_remote) in [(false, false), (false, true), (true, false), (true, true)] {
        let one = sides(at(1, OTHER), has_local, has_remote);
        let two = [2, 3].map(|vni| sides(at(vni, HERE), false, false));
        let expected = if has_local && has_remote { OTHER } else { HERE };
        let served = admit(two.into_iter().chain([one]), &inputs()).served;
        assert_eq!(served, Some(expected), "local {has_local} remote {has_remote}");
    }
}

#[test]
fn xfrm_policies_refuse_managed_networks() {
    let view = view_of(HERE, [4096]);
    for (xfrm, cause) in [(false, None), (true, Some(Cause::Encrypted))] {
        let networks = admit([network(4097, 4789, 5)], &AdmissionInputs { view: Some(&view), xfrm, ..inputs() });
        assert_eq!(causes(&networks), [(4096, cause), (4097, None)]);
    }
}

#[test]
fn two_networks_with_one_vni_are_both_refused() {
    let mut second = network(4097, 4789, 5);
    external(&mut second).device = "vxlan0".into();
    external(&mut second).netns = NetnsRef::Other { path: "/run/netns/blue".into(), inode: 1 };
    let networks = admit([network(4097, 4789, 5), second, network(4098, 4789, 1)], &inputs());
    assert_eq!(causes(&networks), [(4097, Some(Cause::Vni)), (4097, Some(Cause::Vni)), (4098, None)]);
    let others = [0, 1].map(|index| reason(&networks, index));
    let remedy = "give each network on a host its own VNI";
    assert_eq!(
        others,
        ["vxlan0 in /run/netns/blue", "vxlan4097"]
            .map(|other| format!("VNI 4097: VNI 4097 is also used by {other}; {remedy}"))
    );
}

#[test]
fn only_networks_that_exceed_the_maps_are_refused() {
    let found = [network(1, 4789, 5), network(2, 4789, 50), network(3, 4789, 3)];
    let networks = admit(found, &AdmissionInputs { fdb_size: 10, ..inputs() });
    assert_eq!(causes(&networks), [(1, None), (2, Some(Cause::Full)), (3, None)]);
}

/// A network with five endpoints on another host and one port.
#[test]
fn last_entries_of_the_fdb_are_used() {
    let mut view = view_of(HERE, [4096]);
    for (name, number) in [("two", 3), ("three", 4)] {
        let (ip, mac) = (Ipv4Addr::new(10, 0, 0, number), MacAddr([2, 0, 0, 0, 1, number]));
        let endpoint = RemoteEndpoint { ip, mac, host: [192, 168, 1, 10].into() };
        assert!(view.insert_remote(Vni::new(4096).unwrap(), name, endpoint));
    }
    for (view, configured) in [(None, 0), (Some(&view), 3)] {
        for (room, cause) in [(6, None), (5, Some(Cause::Full))] {
            let inputs = AdmissionInputs { view, fdb_size: configured + room, ..inputs() };
            let networks = admit([network(4097, 4789, 5)], &inputs);
            assert_eq!(causes(&networks).last(), Some(&(4097, cause)), "{configured} + {room}");
        }
    }
}

#[test]
fn fifth_udp_port_is_refused() {
    let networks = admit((1..=5).map(|n| network(n, 4000 + n as u16, 1)), &inputs());
    let fifth = Some(Cause::UdpPort);
    assert_eq!(causes(&networks), [(1, None), (2, None), (3, None), (4, None), (5, fifth)]);
}

#[test]
fn refused_network_keeps_its_refusal_and_uses_no_map_entries() {
    let encrypted =
        || Refusal { cause: Cause::Encrypted, finding: Finding::new("VNI 1", "it is encrypted", "there is no remedy") };
    let mut refused = network(1, 4789, 90);
    external(&mut refused).refusal = Some(encrypted());
    let networks = admit([refused, network(2, 4789, 90)], &inputs());
    assert_eq!(causes(&networks), [(1, Some(Cause::Encrypted)), (2, None)]);
    assert_eq!(networks.list[0].admission, Admission::Kernel(encrypted()));
    // A fixed network is admitted: an earlier decision has no effect.
    let mut fixed = networks.list;
    external(&mut fixed[0]).refusal = None;
    external(&mut fixed[0]).remote.clear();
    assert_eq!(causes(&admit(fixed, &inputs())), [(1, None), (2, None)]);
}
