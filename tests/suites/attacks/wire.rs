//! From the wire, against strict networks, received by TC and by XDP.

use overlay_common::MacAddr;
use overlay_tests::{
    frame::{Outer, Station, arp_request, tagged},
    lab::NIC,
};

use crate::{
    container::fragments,
    setup::{
        Attack, BLUE, BLUE_PORT, BLUE1, BLUE2, GINDEMO1, GINDEMO2, NEIGHBOUR, RED3, Setup, frame, marked, outer, times,
    },
};

/// An address that no VTEP has.
const STRANGER: [u8; 4] = [192, 168, 1, 66];

/// By node03's NIC, refused on node01.
fn refused(setup: &Setup, hook: &str, reason: &str, packet: &[u8], victim: &str) -> serde_json::Value {
    let from = &setup.socket(3, NIC);
    setup.assert_refused(&Attack { from, frames: times(packet), host: 1, hook, reason, victim: (1, victim) })
}

fn strangers_and_vteps_of_other_networks(rx: &str, hook: &str) {
    let setup = Setup::start(true, rx);
    for to in [GINDEMO1, Station { mac: MacAddr([0xff; 6]), ipv4: [255; 4], ..GINDEMO1 }] {
        let inner = frame(GINDEMO2, to).bytes();
        let unknown = Outer { src: STRANGER, ..outer(3, 1) };
        let event = refused(&setup, hook, "strict_peer", &unknown.around(&inner), "gindemo1");
        assert_eq!((&event["outer_src"], &event["vni"]), (&"192.168.1.66".into(), &4097.into()));
        assert_eq!((&event["src_mac"], &event["src_ip"]), (&"02:42:0a:00:01:06".into(), &"10.0.1.6".into()));
        assert_eq!((&event["device"], &event["verdict"]), (&NIC.into(), &"drop".into()));
    }
    // node03 has containers in the red network alone.
    let of_blue = Outer { vni: BLUE, udp_dst: BLUE_PORT, ..outer(3, 1) };
    let event = refused(&setup, hook, "strict_peer", &of_blue.around(&frame(BLUE2, BLUE1).bytes()), "blue1");
    assert_eq!(event["vni"], BLUE);
    // What is true comes in.
    let watch = setup.socket(1, "gindemo1");
    setup.socket(3, NIC).send(&outer(3, 1).around(&frame(RED3, GINDEMO1).bytes())).unwrap();
    assert_eq!(marked(&watch), [frame(RED3, GINDEMO1).bytes()]);
}

#[test]
fn tc_drops_unknown_vteps_and_peers_of_other_networks() {
    strangers_and_vteps_of_other_networks("tc", "nic");
}

#[test]
fn xdp_drops_unknown_vteps_and_peers_of_other_networks() {
    strangers_and_vteps_of_other_networks("xdp", "xdp");
}

fn what_is_behind_another_vtep(rx: &str, hook: &str) {
    let setup = Setup::start(true, rx);
    let refused = |reason: &str, inner: &[u8]| refused(&setup, hook, reason, &outer(3, 1).around(inner), "gindemo1");
    // gindemo2 is behind node02, the neighbour and the gateway are here, and nobody knows the last.
    let nobody = Station::container([10, 0, 1, 99]);
    for liar in [GINDEMO2, NEIGHBOUR, Station::container([10, 0, 1, 1]), nobody] {
        let event = refused("strict_vtep", &frame(liar, GINDEMO1).bytes());
        assert_eq!((&event["src_mac"], &event["outer_src"]), (&liar.mac.to_string().into(), &"192.168.1.11".into()));
    }
    let liar = Station { ipv4: GINDEMO2.ipv4, ..RED3 };
    refused("strict_inner_ip", &frame(liar, GINDEMO1).bytes());
    refused("strict_arp", &arp_request(liar, GINDEMO1));
    refused("strict_vlan", &tagged(&frame(liar, GINDEMO1).bytes(), 0x8100));
    // The bridge would learn from no more than this.
    refused("strict_vtep", &arp_request(NEIGHBOUR, GINDEMO1)[..14]);
    let learned = setup.lab.host(1).run(&["bridge", "fdb", "show"]);
    let neighbour = NEIGHBOUR.mac.to_string().to_lowercase();
    let false_place = |line: &str| line.starts_with(&neighbour) && line.contains("ovlvx");
    assert!(!learned.lines().any(false_place), "the bridge believes: {learned}");
    let container = setup.lab.host(1).container("gindemo1");
    assert!(
        !container.run(&["ip", "neighbour", "show", "10.0.1.6"]).contains("02:42:0a:00:01:0a"),
        "the victim believes"
    );
}

#[test]
fn tc_drops_inner_source_behind_another_vtep() {
    what_is_behind_another_vtep("tc", "nic");
}

#[test]
fn xdp_drops_inner_source_behind_another_vtep() {
    what_is_behind_another_vtep("xdp", "xdp");
}

/// What has no sender that could be asked for: the kernel's VXLAN device drops it.
fn headers_that_are_not_ours(rx: &str) {
    let setup = Setup::start(true, rx);
    let inner = frame(RED3, GINDEMO1).bytes();
    for (reason, header) in [
        ("unknown_vni", Outer { vni: 77, ..outer(3, 1) }),
        ("wrong_port", Outer { udp_dst: BLUE_PORT, ..outer(3, 1) }),
        ("vxlan_no_vni", Outer { vxlan_flags: 0, ..outer(3, 1) }),
        // GBP's G, GPE's P, and one that means nothing.
        ("vxlan_reserved", Outer { vxlan_flags: 0x88, ..outer(3, 1) }),
        ("vxlan_reserved", Outer { vxlan_flags: 0x0c, vxlan_reserved1: [0, 0, 3], ..outer(3, 1) }),
        ("vxlan_reserved", Outer { vxlan_reserved2: 1, ..outer(3, 1) }),
    ] {
        let event = refused(&setup, "nic", reason, &header.around(&inner), "gindemo1");
        assert_eq!(event["verdict"], "kernel");
    }
}

#[test]
fn invalid_vxlan_headers_reach_no_container_with_tc() {
    headers_that_are_not_ours("tc");
}

#[test]
fn invalid_vxlan_headers_reach_no_container_with_xdp() {
    headers_that_are_not_ours("xdp");
}

/// The kernel would make a good packet of each.
fn side_ways(rx: &str) {
    let setup = Setup::start(true, rx);
    let inner = frame(GINDEMO2, GINDEMO1).bytes();
    let stranger = Outer { src: STRANGER, ..outer(3, 1) };
    let plain = stranger.around(&inner);
    let refused = |packet: &[u8]| refused(&setup, "nic", "strict_peer", packet, "gindemo1");
    refused(&Outer { options: vec![1; 8], ..stranger.clone() }.around(&inner));
    // To the bridge's address, and to everybody.
    refused(&Outer { dst: [10, 0, 1, 1], ..stranger.clone() }.around(&inner));
    refused(&Outer { dst: [192, 168, 1, 255], eth_dst: MacAddr([0xff; 6]), ..stranger.clone() }.around(&inner));
    refused(&Outer { dst: [224, 0, 0, 1], eth_dst: MacAddr([1, 0, 0x5e, 0, 0, 1]), ..stranger.clone() }.around(&inner));
    // To everybody, where the host has a route for all.
    let host = setup.lab.host(1);
    host.sysctl("net.ipv4.ip_forward", "1").unwrap();
    host.run(&["ip", "route", "add", "default", "via", "192.168.1.10"]);
    refused(&Outer { dst: [255; 4], eth_dst: MacAddr([0xff; 6]), ..stranger.clone() }.around(&inner));
    refused(&Outer { dst: [255; 4], ..stranger.clone() }.around(&inner));
    refused(&Outer { src: [0; 4], dst: [0; 4], ..stranger.clone() }.around(&inner));
    // A tag of VLAN 0 is none.
    let mut priority = tagged(&plain, 0x8100);
    priority[15] = 0;
    let from = setup.socket(3, NIC);
    let watch = setup.socket(1, "gindemo1");
    let before = setup.counts(1);
    for packet in times(&priority) {
        from.send(&packet).unwrap();
    }
    assert_eq!(marked(&watch), Vec::<Vec<u8>>::new());
    assert_eq!(setup.counts(1).since(&before).of("strict_peer"), 5);
    // Neither are two.
    let mut twice = tagged(&priority, 0x8100);
    twice[15] = 0;
    self::refused(&setup, "nic", "strict_vlan", &twice, "gindemo1");
}

#[test]
fn tc_checks_packets_that_bypass_decapsulation() {
    side_ways("tc");
}

#[test]
fn xdp_checks_packets_that_bypass_decapsulation() {
    side_ways("xdp");
}

fn fragmented(rx: &str) {
    let setup = Setup::start(true, rx);
    let stranger = Outer { src: STRANGER, ..outer(3, 1) }.around(&frame(GINDEMO2, GINDEMO1).bytes());
    let from = setup.socket(3, NIC);
    // The VNI is in the second part.
    let [first, second] = fragments(&stranger);
    from.send(&second).unwrap();
    refused(&setup, "nic", "strict_fragment", &first, "gindemo1");
    from.send(&second).unwrap();
    assert_eq!(marked(&setup.socket(1, "gindemo1")), Vec::<Vec<u8>>::new());
    // The same with padding that shows another network: the kernel cuts it off.
    let shown = Outer { vni: 77, ..outer(3, 1) }.around(&frame(GINDEMO2, GINDEMO1).bytes());
    let padded = [&first, &shown[first.len()..]].concat();
    from.send(&second).unwrap();
    refused(&setup, "nic", "strict_fragment", &padded, "gindemo1");
}

#[test]
fn tc_drops_first_fragment_without_vni() {
    fragmented("tc");
}

#[test]
fn xdp_drops_first_fragment_without_vni() {
    fragmented("xdp");
}
