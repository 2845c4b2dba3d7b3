//! Attacks from the underlay on strict networks, received by TC and by XDP.

use overlay_common::MacAddr;
use overlay_tests::{
    frame::{Outer, Station, arp_request, tagged},
    lab::NIC,
};

use crate::{
    container::fragments,
    setup::{
        Attack, BLUE, BLUE_PORT, BLUE1, BLUE2, GINDEMO1, GINDEMO2, NEIGHBOUR, RED3, Setup, frame, outer, repeated,
    },
};

/// Address of an unknown VTEP.
const UNKNOWN_VTEP: [u8; 4] = [192, 168, 1, 66];

/// Sends through node03's NIC; node01 refuses the packets.
fn assert_refused(setup: &Setup, hook: &str, reason: &str, packet: &[u8], victim: &str) -> serde_json::Value {
    let from = &setup.socket(3, NIC);
    setup.assert_refused(&Attack { from, frames: repeated(packet), host: 1, hook, reason, victim: (1, victim) })
}

fn unknown_vteps_and_peers_of_other_networks(rx: &str, hook: &str) {
    let setup = Setup::start(true, rx);
    for to in [GINDEMO1, Station { mac: MacAddr([0xff; 6]), ipv4: [255; 4], ..GINDEMO1 }] {
        let inner = frame(GINDEMO2, to).bytes();
        let unknown = Outer { src: UNKNOWN_VTEP, ..outer(3, 1) };
        let event = assert_refused(&setup, hook, "strict_peer", &unknown.encapsulate(&inner), "gindemo1");
        assert_eq!((&event["outer_src"], &event["vni"]), (&"192.168.1.66".into(), &4097.into()));
        assert_eq!((&event["src_mac"], &event["src_ip"]), (&"02:42:0a:00:01:06".into(), &"10.0.1.6".into()));
        assert_eq!((&event["device"], &event["verdict"]), (&NIC.into(), &"drop".into()));
    }
    // node03 has containers in the red network only.
    let of_blue = Outer { vni: BLUE, udp_dst: BLUE_PORT, ..outer(3, 1) };
    let event =
        assert_refused(&setup, hook, "strict_peer", &of_blue.encapsulate(&frame(BLUE2, BLUE1).bytes()), "blue1");
    assert_eq!(event["vni"], BLUE);
    // A valid packet is delivered.
    let watch = setup.watch((1, "gindemo1"));
    setup.socket(3, NIC).send(&outer(3, 1).encapsulate(&frame(RED3, GINDEMO1).bytes())).unwrap();
    assert_eq!(watch.seen(), [frame(RED3, GINDEMO1).bytes()]);
}

#[test]
fn tc_drops_unknown_vteps_and_peers_of_other_networks() {
    unknown_vteps_and_peers_of_other_networks("tc", "nic");
}

#[test]
fn xdp_drops_unknown_vteps_and_peers_of_other_networks() {
    unknown_vteps_and_peers_of_other_networks("xdp", "xdp");
}

fn inner_source_behind_another_vtep(rx: &str, hook: &str) {
    let setup = Setup::start(true, rx);
    let assert_refused =
        |reason: &str, inner: &[u8]| assert_refused(&setup, hook, reason, &outer(3, 1).encapsulate(inner), "gindemo1");
    // gindemo2 is behind node02, the neighbour and the gateway are local, and the last is unknown.
    let unknown = Station::container([10, 0, 1, 99]);
    for spoofed in [GINDEMO2, NEIGHBOUR, Station::container([10, 0, 1, 1]), unknown] {
        let event = assert_refused("strict_vtep", &frame(spoofed, GINDEMO1).bytes());
        assert_eq!((&event["src_mac"], &event["outer_src"]), (&spoofed.mac.to_string().into(), &"192.168.1.11".into()));
    }
    let spoofed = Station { ipv4: GINDEMO2.ipv4, ..RED3 };
    assert_refused("strict_inner_ip", &frame(spoofed, GINDEMO1).bytes());
    assert_refused("strict_arp", &arp_request(spoofed, GINDEMO1));
    assert_refused("strict_vlan", &tagged(&frame(spoofed, GINDEMO1).bytes(), 0x8100));
    // An Ethernet header is sufficient for the bridge to learn.
    for spoofed in [NEIGHBOUR, unknown] {
        setup.enable_learning();
        assert_refused("strict_vtep", &arp_request(spoofed, GINDEMO1)[..14]);
        assert!(!setup.has_learned(spoofed.mac), "the bridge has learned a spoofed MAC");
    }
    let neighbours = setup.neighbours((1, "gindemo1"), "10.0.1.6");
    assert!(!neighbours.contains("02:42:0a:00:01:0a"), "the victim has learned a spoofed address");
}

#[test]
fn tc_drops_inner_source_behind_another_vtep() {
    inner_source_behind_another_vtep("tc", "nic");
}

#[test]
fn xdp_drops_inner_source_behind_another_vtep() {
    inner_source_behind_another_vtep("xdp", "xdp");
}

/// Packets without a peer to check: the kernel's VXLAN device drops them.
fn invalid_vxlan_headers(rx: &str) {
    let setup = Setup::start(true, rx);
    let inner = frame(RED3, GINDEMO1).bytes();
    for (reason, header) in [
        ("unknown_vni", Outer { vni: 77, ..outer(3, 1) }),
        ("wrong_port", Outer { udp_dst: BLUE_PORT, ..outer(3, 1) }),
        ("vxlan_no_vni", Outer { vxlan_flags: 0, ..outer(3, 1) }),
        // The G flag of GBP, the P flag of GPE, and an unassigned bit.
        ("vxlan_reserved", Outer { vxlan_flags: 0x88, ..outer(3, 1) }),
        ("vxlan_reserved", Outer { vxlan_flags: 0x0c, vxlan_reserved1: [0, 0, 3], ..outer(3, 1) }),
        ("vxlan_reserved", Outer { vxlan_reserved2: 1, ..outer(3, 1) }),
    ] {
        let event = assert_refused(&setup, "nic", reason, &header.encapsulate(&inner), "gindemo1");
        assert_eq!(event["verdict"], "kernel");
    }
}

#[test]
fn invalid_vxlan_headers_reach_no_container_with_tc() {
    invalid_vxlan_headers("tc");
}

#[test]
fn invalid_vxlan_headers_reach_no_container_with_xdp() {
    invalid_vxlan_headers("xdp");
}

/// Packets that the kernel would accept on a path without decapsulation by the programs.
fn bypasses(rx: &str) {
    let setup = Setup::start(true, rx);
    let inner = frame(GINDEMO2, GINDEMO1).bytes();
    let outer_header = Outer { src: UNKNOWN_VTEP, ..outer(3, 1) };
    let plain = outer_header.encapsulate(&inner);
    let assert_refused = |packet: &[u8]| assert_refused(&setup, "nic", "strict_peer", packet, "gindemo1");
    assert_refused(&Outer { options: vec![1; 8], ..outer_header.clone() }.encapsulate(&inner));
    // To the bridge's address, and to broadcast and multicast addresses.
    assert_refused(&Outer { dst: [10, 0, 1, 1], ..outer_header.clone() }.encapsulate(&inner));
    assert_refused(
        &Outer { dst: [192, 168, 1, 255], eth_dst: MacAddr([0xff; 6]), ..outer_header.clone() }.encapsulate(&inner),
    );
    assert_refused(
        &Outer { dst: [224, 0, 0, 1], eth_dst: MacAddr([1, 0, 0x5e, 0, 0, 1]), ..outer_header.clone() }
            .encapsulate(&inner),
    );
    // To broadcast addresses on a forwarding host with a default route.
    let host = setup.lab.host(1);
    host.sysctl("net.ipv4.ip_forward", "1").unwrap();
    host.run(&["ip", "route", "add", "default", "via", "192.168.1.10"]);
    assert_refused(&Outer { dst: [255; 4], eth_dst: MacAddr([0xff; 6]), ..outer_header.clone() }.encapsulate(&inner));
    assert_refused(&Outer { dst: [255; 4], ..outer_header.clone() }.encapsulate(&inner));
    assert_refused(&Outer { src: [0; 4], dst: [0; 4], ..outer_header.clone() }.encapsulate(&inner));
    // The kernel removes a VLAN 0 tag.
    let mut priority = tagged(&plain, 0x8100);
    priority[15] = 0;
    let from = setup.socket(3, NIC);
    let watch = setup.watch((1, "gindemo1"));
    let before = setup.counts(1);
    for packet in repeated(&priority) {
        from.send(&packet).unwrap();
    }
    assert_eq!(watch.seen(), Vec::<Vec<u8>>::new());
    assert_eq!(setup.counts(1).since(&before).of("strict_peer"), 5);
    // A second VLAN 0 tag is dropped.
    let mut double_tagged = tagged(&priority, 0x8100);
    double_tagged[15] = 0;
    self::assert_refused(&setup, "nic", "strict_vlan", &double_tagged, "gindemo1");
}

#[test]
fn tc_checks_packets_that_bypass_decapsulation() {
    bypasses("tc");
}

#[test]
fn xdp_checks_packets_that_bypass_decapsulation() {
    bypasses("xdp");
}

fn fragmented(rx: &str) {
    let setup = Setup::start(true, rx);
    let outer_header = Outer { src: UNKNOWN_VTEP, ..outer(3, 1) }.encapsulate(&frame(GINDEMO2, GINDEMO1).bytes());
    let from = setup.socket(3, NIC);
    let watch = setup.watch((1, "gindemo1"));
    // The VNI is in the second fragment.
    let [first, second] = fragments(&outer_header);
    from.send(&second).unwrap();
    assert_refused(&setup, "nic", "strict_fragment", &first, "gindemo1");
    from.send(&second).unwrap();
    // Padding with another VNI, which the kernel removes.
    let shown = Outer { vni: 77, ..outer(3, 1) }.encapsulate(&frame(GINDEMO2, GINDEMO1).bytes());
    let padded = [&first, &shown[first.len()..]].concat();
    from.send(&second).unwrap();
    assert_refused(&setup, "nic", "strict_fragment", &padded, "gindemo1");
    assert_eq!(watch.seen(), Vec::<Vec<u8>>::new());
}

#[test]
fn tc_drops_first_fragment_without_vni() {
    fragmented("tc");
}

#[test]
fn xdp_drops_first_fragment_without_vni() {
    fragmented("xdp");
}
