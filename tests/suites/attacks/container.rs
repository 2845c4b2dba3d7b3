//! Attacks from a container on strict networks.

use overlay_common::MacAddr;
use overlay_tests::{
    frame::{Inner, L4, Station, arp_request, tagged},
    lab::NIC,
};

use crate::setup::{
    Attack, BLUE, BLUE_PORT, BLUE1, GINDEMO1, GINDEMO2, NEIGHBOUR, RED, RED_PORT, Setup, frame, gateway, outer,
    repeated, vtep,
};

const BROADCAST: MacAddr = MacAddr([0xff; 6]);

/// Sends from gindemo1; the frames are dropped at its port.
fn assert_dropped(setup: &Setup, reason: &str, frame: &[u8], victim: (usize, &str)) -> serde_json::Value {
    let from = &setup.socket(1, "gindemo1");
    let event = setup.assert_refused(&Attack { from, frames: repeated(frame), host: 1, hook: "port", reason, victim });
    assert_eq!(event["vni"], RED, "{event}");
    assert_eq!(event["verdict"], "drop");
    assert!(event["device"].as_str().unwrap().starts_with("ovl"), "{event}");
    event
}

#[test]
fn spoofed_mac_or_address_is_dropped_in_strict_network() {
    let setup = Setup::start(true, "tc");
    for (to, victim) in [(GINDEMO2, (2, "gindemo2")), (NEIGHBOUR, (1, "neighbour"))] {
        let spoofed = Station { mac: MacAddr([2, 0, 0, 0, 0, 7]), ..GINDEMO1 };
        let event = assert_dropped(&setup, "strict_mac", &frame(spoofed, to).bytes(), victim);
        assert_eq!(event["src_mac"], "02:00:00:00:00:07");
        let spoofed = Station { ipv4: [10, 0, 1, 77], ..GINDEMO1 };
        let event = assert_dropped(&setup, "strict_ip", &frame(spoofed, to).bytes(), victim);
        assert_eq!((&event["src_ip"], &event["dst_mac"]), (&"10.0.1.77".into(), &to.mac.to_string().into()));
        // Broadcast, which includes the victim.
        let all = Station { mac: BROADCAST, ipv4: [255; 4], ..to };
        assert_dropped(&setup, "strict_ip", &frame(spoofed, all).bytes(), victim);
        assert_dropped(&setup, "strict_vlan", &tagged(&frame(spoofed, to).bytes(), 0x8100), victim);
        // VLAN 0 is a priority tag.
        let mut priority = tagged(&frame(spoofed, to).bytes(), 0x8100);
        priority[15] = 0;
        assert_dropped(&setup, "strict_vlan", &priority, victim);
    }
}

#[test]
fn spoofed_arp_is_dropped_in_strict_network() {
    let setup = Setup::start(true, "tc");
    for (to, victim) in [(GINDEMO2, (2, "gindemo2")), (NEIGHBOUR, (1, "neighbour"))] {
        for to in [to, Station { mac: BROADCAST, ..to }] {
            let spoofed = Station { ipv4: [10, 0, 1, 77], ..GINDEMO1 };
            let event = assert_dropped(&setup, "strict_arp", &arp_request(spoofed, to), victim);
            assert_eq!((&event["src_ip"], &event["ethertype"]), (&"10.0.1.77".into(), &0x0806.into()));
        }
        assert_eq!(setup.neighbours(victim, "10.0.1.77"), "", "the victim has learned the spoofed address");
    }
}

#[test]
fn container_cannot_reach_another_network() {
    let setup = Setup::start(true, "tc");
    let socket = setup.socket(1, "gindemo1");
    for (to, victim) in [(BLUE1, (1, "blue1")), (Station::container([10, 0, 2, 6]), (2, "blue2"))] {
        let watch = setup.watch(victim);
        let before = setup.counts(1);
        for bytes in repeated(&frame(GINDEMO1, to).bytes()) {
            socket.send(&bytes).unwrap();
        }
        assert_eq!(watch.seen(), Vec::<Vec<u8>>::new());
        assert_eq!(setup.counts(1).since(&before).of("unknown_mac"), 5);
    }
}

/// A datagram with a VXLAN packet as payload.
fn vxlan(to: Station, vni: u32, port: u16, inner: &[u8]) -> Inner {
    let mut header = outer(1, 2);
    header.vni = vni;
    let packet = header.encapsulate(inner);
    Inner::new(GINDEMO1, to, overlay_tests::frame::Version::V4, L4::Udp(5000, port)).payload(&packet[42..])
}

/// Enables routing and masquerading on node01: container packets leave with the VTEP's address.
pub(crate) fn masquerade(setup: &Setup) {
    let host = setup.lab.host(1);
    host.sysctl("net.ipv4.ip_forward", "1").unwrap();
    host.run(&["nft", "add table ip nat"]);
    host.run(&["nft", "add chain ip nat out { type nat hook postrouting priority 100 ; }"]);
    host.run(&["nft", &format!("add rule ip nat out oifname {NIC} masquerade")]);
}

/// VXLAN packets through the gateway to another host, and to this host.
pub(crate) fn injections() -> [(Inner, (usize, &'static str)); 4] {
    let red = frame(GINDEMO1, GINDEMO2).bytes();
    let blue = frame(Station::container([10, 0, 2, 6]), BLUE1).bytes();
    let broadcast = Station { mac: BROADCAST, ..gateway(vtep(1)) };
    [
        (vxlan(gateway(vtep(2)), RED, RED_PORT, &red), (2, "gindemo2")),
        (vxlan(gateway(vtep(1)), BLUE, BLUE_PORT, &blue), (1, "blue1")),
        (vxlan(broadcast, BLUE, BLUE_PORT, &blue), (1, "blue1")),
        (vxlan(Station { ipv4: [255; 4], ..broadcast }, BLUE, BLUE_PORT, &blue), (1, "blue1")),
    ]
}

#[test]
fn vxlan_from_container_is_dropped_in_strict_network() {
    let setup = Setup::start(true, "tc");
    masquerade(&setup);
    for (injected, victim) in injections() {
        let event = assert_dropped(&setup, "strict_vxlan", &injected.bytes(), victim);
        assert_eq!(event["src_ip"], "10.0.1.2");
        let options = Inner { options: vec![1; 8], ..injected.clone() };
        assert_dropped(&setup, "strict_vxlan", &options.bytes(), victim);
    }
}

#[test]
fn fragmented_vxlan_from_container_is_dropped_in_strict_network() {
    let setup = Setup::start(true, "tc");
    masquerade(&setup);
    for (injected, victim) in injections() {
        let [first, second] = fragments(&injected.bytes());
        let from = setup.socket(1, "gindemo1");
        let later = setup.socket(1, "gindemo1");
        let watch = setup.watch(victim);
        // In both orders: the kernel queues the earlier fragment.
        later.send(&second).unwrap();
        let attack =
            Attack { from: &from, frames: repeated(&first), host: 1, hook: "port", reason: "strict_vxlan", victim };
        setup.assert_refused(&attack);
        later.send(&second).unwrap();
        assert_eq!(watch.seen(), Vec::<Vec<u8>>::new());
    }
}

/// gindemo1's network is not strict, blue1's network is.
#[test]
fn container_in_permissive_network_cannot_send_vxlan_into_strict_network() {
    let setup = Setup::with(false, true, "tc");
    masquerade(&setup);
    let blue = injections().into_iter().filter(|(_, victim)| victim.1 == "blue1");
    for (injected, victim) in blue {
        assert_dropped(&setup, "strict_vxlan", &injected.bytes(), victim);
        // The kernel removes any number of VLAN 0 tags.
        let tag = |frame: &[u8]| {
            let mut frame = tagged(frame, 0x8100);
            frame[15] = 0;
            frame
        };
        let once = tag(&injected.bytes());
        assert_dropped(&setup, "strict_vxlan", &once, victim);
        assert_dropped(&setup, "strict_vlan", &tag(&once), victim);
    }
}

/// Fragments an IPv4 packet after its UDP header.
pub(crate) fn fragments(frame: &[u8]) -> [Vec<u8>; 2] {
    use overlay_tests::frame::fix_ipv4_checksum;
    let cut = |range: std::ops::Range<usize>, flags: u16| {
        let mut fragment = [&frame[..34], &frame[range]].concat();
        let length = u16::try_from(fragment.len() - 14).unwrap();
        fragment[16..18].copy_from_slice(&length.to_be_bytes());
        fragment[20..22].copy_from_slice(&flags.to_be_bytes());
        fix_ipv4_checksum(&mut fragment, 14);
        fragment
    };
    [cut(34..42, 0x2000), cut(42..frame.len(), 1)]
}
