//! The checking programs of strict networks. The module `random` compares them with the forwarding programs.

use overlay_common::{Reason, maps::Port};
use overlay_tests::{
    frame::{Inner, L4, Outer, Station, Version, arp_request, tagged},
    program::{
        GINDEMO1, GINDEMO2, Hook, NEIGHBOUR, OTHER_UDP_PORT, Programs, Skb, from_node2, inbound, outbound, port,
    },
};

const UDP: L4 = L4::Udp(5000, 53);
const UNKNOWN_VTEP: [u8; 4] = [192, 168, 1, 66];

/// The program passes the packet to the next one, unmodified, and counts nothing: the next program does.
#[track_caller]
fn assert_next(programs: &Programs, hook: Hook, packet: &[u8]) {
    let outcome = programs.run(hook, packet);
    assert_eq!(
        (outcome.action, outcome.packet.as_slice(), outcome.counted.as_slice()),
        (hook.kernel(), packet, &[][..])
    );
}

#[test]
fn valid_packets_are_passed_to_the_next_program_without_a_count() {
    let strict = Programs::strict();
    for version in [Version::V4, Version::V6] {
        assert_next(&strict, Hook::PortCheck, &outbound(version, UDP).bytes());
        assert_next(&strict, Hook::NicCheck, &from_node2().encapsulate(&inbound(version, UDP).bytes()));
    }
    assert_next(&strict, Hook::PortCheck, &arp_request(GINDEMO1, GINDEMO2));
    // Not VXLAN.
    assert_next(&strict, Hook::NicCheck, &outbound(Version::V4, UDP).bytes());
}

#[test]
fn spoofed_packets_are_dropped_with_an_event() {
    let strict = Programs::strict();
    let frame = |from| Inner::new(from, GINDEMO2, Version::V4, UDP).bytes();
    let mut mac = outbound(Version::V4, UDP).bytes();
    mac[11] ^= 1;
    let ip = frame(Station { ipv4: NEIGHBOUR.ipv4, ..GINDEMO1 });
    let vlan = tagged(&outbound(Version::V4, UDP).bytes(), 0x8100);
    for (packet, reason) in [(mac, Reason::StrictMac), (ip, Reason::StrictIp), (vlan, Reason::StrictVlan)] {
        strict.run(Hook::PortCheck, &packet).assert_dropped(reason, packet.len());
        let events = strict.events();
        assert_eq!((events.len(), events[0].hook), (1, Hook::PortCheck.number()));
    }
    let inner = inbound(Version::V4, UDP).bytes();
    let unknown = Outer { src: UNKNOWN_VTEP, ..from_node2() }.encapsulate(&inner);
    strict.run(Hook::NicCheck, &unknown).assert_dropped(Reason::StrictPeer, unknown.len());
    // The forwarding program does not reach the check of the source.
    let other_port = Outer { udp_dst: OTHER_UDP_PORT, src: UNKNOWN_VTEP, ..from_node2() }.encapsulate(&inner);
    strict.run(Hook::NicCheck, &other_port).assert_dropped(Reason::StrictPeer, other_port.len());
}

#[test]
fn network_that_is_not_strict_is_not_checked() {
    let mut permissive = Programs::cluster();
    permissive.port(permissive.port, Port { flags: 0, ..port() });
    let spoofed = Inner::new(NEIGHBOUR, GINDEMO2, Version::V4, UDP).bytes();
    assert_next(&permissive, Hook::PortCheck, &spoofed);
    let inner = inbound(Version::V4, UDP).bytes();
    assert_next(&permissive, Hook::NicCheck, &Outer { src: UNKNOWN_VTEP, ..from_node2() }.encapsulate(&inner));
    // An interface that is not a port of the tables.
    let strict = Programs::strict();
    let skb = Skb { ifindex: Some(strict.other_interface), ..Default::default() };
    let outcome = strict.run_skb(Hook::PortCheck, &spoofed, skb);
    assert_eq!((outcome.action, outcome.counted.len()), (Hook::PortCheck.kernel(), 0));
}
