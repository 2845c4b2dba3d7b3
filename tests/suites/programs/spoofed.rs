//! Spoofed sources behind a port.

use overlay_common::{
    MacAddr, Reason,
    maps::{Port, flags},
};
use overlay_tests::{
    frame::{Inner, L4, Station, Version, arp_request, tagged},
    program::{GINDEMO1, Hook, NEIGHBOUR, Programs, TC_REDIRECT, outbound, port},
};

const ICMP: L4 = L4::Icmp;

fn strict() -> Programs {
    let mut programs = Programs::cluster();
    programs.port(programs.port, Port { flags: flags::STRICT, ..port() });
    programs
}

fn spoofed_mac(mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&NEIGHBOUR.mac.0);
    frame
}

fn spoofed_ip(to: Station) -> Vec<u8> {
    let from = Station { ipv4: NEIGHBOUR.ipv4, ..GINDEMO1 };
    Inner::new(from, to, Version::V4, ICMP).bytes()
}

fn broadcast() -> Station {
    Station { mac: MacAddr([0xff; 6]), ipv4: [255; 4], ipv6: [0xff; 16] }
}

#[test]
fn spoofed_mac_falls_back_to_kernel_and_is_dropped_in_strict_network() {
    let (permissive, strict) = (Programs::cluster(), strict());
    for version in [Version::V4, Version::V6] {
        let frame = spoofed_mac(outbound(version, ICMP).bytes());
        permissive.run(Hook::PortIn, &frame).assert_kernel(Reason::SourceMac, &frame);
        strict.run(Hook::PortIn, &frame).assert_dropped(Reason::StrictMac, frame.len());
    }
}

#[test]
fn every_byte_of_source_mac_is_compared() {
    let strict = strict();
    for byte in 6..12 {
        let mut frame = outbound(Version::V4, ICMP).bytes();
        frame[byte] ^= 0x40;
        strict.run(Hook::PortIn, &frame).assert_dropped(Reason::StrictMac, frame.len());
    }
}

#[test]
fn spoofed_address_is_dropped_in_strict_network_only() {
    let (permissive, strict) = (Programs::cluster(), strict());
    let to = outbound(Version::V4, ICMP).to;
    assert_eq!(permissive.run(Hook::PortIn, &spoofed_ip(to)).action, TC_REDIRECT);
    let frame = spoofed_ip(to);
    strict.run(Hook::PortIn, &frame).assert_dropped(Reason::StrictIp, frame.len());
    let frame = spoofed_ip(NEIGHBOUR);
    strict.run(Hook::PortIn, &frame).assert_dropped(Reason::StrictIp, frame.len());
}

#[test]
fn allowed_peer_passes_strict_network() {
    let strict = strict();
    for version in [Version::V4, Version::V6] {
        assert_eq!(strict.run(Hook::PortIn, &outbound(version, ICMP).bytes()).action, TC_REDIRECT);
    }
}

/// The local bridge and every remote one would learn the spoofed MAC from a flooded frame.
#[test]
fn strict_network_drops_spoofed_mac_in_every_kind_of_frame() {
    let strict = strict();
    let frames = [
        spoofed_mac(arp_request(GINDEMO1, broadcast())),
        spoofed_mac(Inner::new(GINDEMO1, broadcast(), Version::V4, ICMP).bytes()),
        spoofed_mac(Inner::new(GINDEMO1, broadcast(), Version::V6, ICMP).bytes()),
        spoofed_mac(tagged(&outbound(Version::V4, ICMP).bytes(), 0x8100)),
    ];
    for frame in frames {
        strict.run(Hook::PortIn, &frame).assert_dropped(Reason::StrictMac, frame.len());
    }
}

#[test]
fn strict_network_drops_spoofed_address_in_broadcast() {
    let frame = spoofed_ip(broadcast());
    strict().run(Hook::PortIn, &frame).assert_dropped(Reason::StrictIp, frame.len());
}

#[test]
fn strict_network_passes_valid_arp_and_broadcast_to_kernel() {
    let strict = strict();
    let arp = arp_request(GINDEMO1, broadcast());
    strict.run(Hook::PortIn, &arp).assert_kernel(Reason::NotIp, &arp);
    let frame = Inner::new(GINDEMO1, broadcast(), Version::V4, ICMP).bytes();
    strict.run(Hook::PortIn, &frame).assert_kernel(Reason::GroupAddress, &frame);
}
