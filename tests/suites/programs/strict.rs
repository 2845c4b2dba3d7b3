//! Strict networks: packets that the kernel would accept without a check of the source.

use overlay_common::{
    MacAddr, Reason,
    maps::{FdbEntry, Peer, Port, flags},
};
use overlay_tests::{
    frame::{Inner, L4, Outer, Station, Version, arp_request, fix_ipv4_checksum, tagged},
    program::{
        GINDEMO1, GINDEMO2, Hook, NEIGHBOUR, NODE1, OTHER_UDP_PORT, Programs, TC_REDIRECT, UDP_PORT, VNI, VTEP,
        XDP_REDIRECT, from_node2, inbound, network, outbound, peer, port,
    },
};

const UDP: L4 = L4::Udp(5000, 53);
/// VNI of a network that is not strict.
const PERMISSIVE_VNI: u32 = 77;
const NIC: [Hook; 2] = [Hook::NicIn, Hook::NicXdp];
/// Address of an unknown VTEP.
const UNKNOWN_VTEP: [u8; 4] = [192, 168, 1, 66];

fn gateway(ipv4: [u8; 4]) -> Station {
    Station { mac: MacAddr::from_ipv4([10, 0, 1, 1]), ipv4, ..GINDEMO1 }
}

/// A VXLAN packet that gindemo1 sends to `to`.
fn injected(to: Station, port: u16) -> Inner {
    let inner = from_node2().encapsulate(&inbound(Version::V4, UDP).bytes());
    Inner::new(GINDEMO1, to, Version::V4, L4::Udp(5000, port)).payload(&inner[42..])
}

#[test]
fn strict_network_drops_vxlan_from_container() {
    let (strict, permissive) = (Programs::strict(), Programs::cluster());
    let broadcast = Station { mac: MacAddr([0xff; 6]), ipv4: [255; 4], ..GINDEMO1 };
    let multicast = Station { mac: MacAddr([1, 0, 0x5e, 0, 0, 1]), ipv4: [224, 0, 0, 1], ..GINDEMO1 };
    let unicast_in_broadcast = Station { ipv4: NODE1, ..broadcast };
    let unknown_mac = Station { mac: MacAddr([2, 0, 0, 0, 0, 1]), ..gateway(NODE1) };
    for to in [gateway(NODE1), gateway([192, 168, 1, 10]), broadcast, multicast, unicast_in_broadcast, unknown_mac] {
        for port in [UDP_PORT, OTHER_UDP_PORT] {
            let frame = injected(to, port);
            let options = Inner { options: vec![1; 40], ..frame.clone() };
            let large = frame.clone().l3_len(1460);
            let first = frame.clone().fragment(0, true);
            for frame in [frame, options, large, first] {
                let bytes = frame.bytes();
                strict.run(Hook::PortIn, &bytes).assert_dropped(Reason::StrictVxlan, bytes.len());
                permissive.run(Hook::PortIn, &bytes).assert_passed_to_kernel(&bytes);
            }
        }
    }
}

/// A container in a network that is not strict sends into a strict one.
#[test]
fn vxlan_from_permissive_network_into_strict_network_is_dropped() {
    let mut programs = Programs::strict();
    let permissive = Port { vni: PERMISSIVE_VNI, ..port() };
    programs.port(programs.port, permissive);
    programs.network(PERMISSIVE_VNI, network(0));
    let strict = injected(gateway(NODE1), UDP_PORT);
    let mut other = strict.clone();
    other.payload[4..7].copy_from_slice(&PERMISSIVE_VNI.to_be_bytes()[1..]);
    for (strict, other) in
        [(strict.clone(), other.clone()), (strict.clone().fragment(0, true), other.clone().fragment(0, true))]
    {
        let bytes = strict.bytes();
        programs.run(Hook::PortIn, &bytes).assert_dropped(Reason::StrictVxlan, bytes.len());
        let mut spoofed_mac = bytes;
        spoofed_mac[11] ^= 1;
        programs.run(Hook::PortIn, &spoofed_mac).assert_dropped(Reason::StrictVxlan, spoofed_mac.len());
        let bytes = other.bytes();
        programs.run(Hook::PortIn, &bytes).assert_kernel(Reason::UnknownMac, &bytes);
    }
    // The VNI is in another fragment.
    let hidden = strict.payload(&[8, 0, 0, 0]).fragment(0, true).bytes();
    programs.run(Hook::PortIn, &hidden).assert_dropped(Reason::StrictVxlan, hidden.len());
    // Other traffic is not checked.
    let arp = arp_request(Station { ipv4: NEIGHBOUR.ipv4, ..GINDEMO1 }, GINDEMO2);
    programs.run(Hook::PortIn, &arp).assert_kernel(Reason::NotIp, &arp);
}

#[test]
fn other_traffic_to_gateway_falls_back_to_kernel() {
    let strict = Programs::strict();
    for l4 in [UDP, L4::Tcp(5000, UDP_PORT), L4::Udp(UDP_PORT, 53), L4::Icmp] {
        let frame = Inner::new(GINDEMO1, gateway(NODE1), Version::V4, l4).bytes();
        strict.run(Hook::PortIn, &frame).assert_kernel(Reason::UnknownMac, &frame);
    }
    // Without the first fragment the datagram is incomplete.
    let frame = injected(gateway(NODE1), UDP_PORT).fragment(3, true).bytes();
    strict.run(Hook::PortIn, &frame).assert_kernel(Reason::UnknownMac, &frame);
}

#[test]
fn vxlan_between_containers_is_forwarded() {
    let strict = Programs::strict();
    for to in [GINDEMO2, NEIGHBOUR] {
        let frame = injected(to, UDP_PORT);
        assert_eq!(strict.run(Hook::PortIn, &frame.bytes()).action, TC_REDIRECT);
        let large = frame.l3_len(1460).bytes();
        strict.run(Hook::PortIn, &large).assert_kernel(Reason::Oversize, &large);
    }
}

#[test]
fn strict_network_checks_arp_sender() {
    let strict = Programs::strict();
    let broadcast = Station { mac: MacAddr([0xff; 6]), ..GINDEMO2 };
    for to in [GINDEMO2, broadcast, gateway([10, 0, 1, 1])] {
        let valid = arp_request(GINDEMO1, to);
        strict.run(Hook::PortIn, &valid).assert_kernel(Reason::NotIp, &valid);
        let probe = arp_request(Station { ipv4: [0; 4], ..GINDEMO1 }, to);
        strict.run(Hook::PortIn, &probe).assert_kernel(Reason::NotIp, &probe);
        for byte in 22..32 {
            let mut frame = valid.clone();
            frame[byte] ^= 1;
            strict.run(Hook::PortIn, &frame).assert_dropped(Reason::StrictArp, frame.len());
        }
    }
}

#[test]
fn vlan_tag_is_dropped_in_both_directions() {
    let strict = Programs::strict();
    for ether_type in [0x8100, 0x88a8] {
        let frame = tagged(&outbound(Version::V4, UDP).bytes(), ether_type);
        strict.run(Hook::PortIn, &frame).assert_dropped(Reason::StrictVlan, frame.len());
        for hook in NIC {
            let packet = from_node2().encapsulate(&tagged(&inbound(Version::V4, UDP).bytes(), ether_type));
            strict.run(hook, &packet).assert_dropped(Reason::StrictVlan, packet.len());
        }
    }
}

#[test]
fn inner_source_behind_its_vtep_passes() {
    let strict = Programs::strict();
    for version in [Version::V4, Version::V6] {
        let frame = inbound(version, UDP).bytes();
        let packet = from_node2().encapsulate(&frame);
        strict.run(Hook::NicIn, &packet).assert_forwarded(Reason::Decap, packet.len(), &frame);
        strict.run(Hook::NicXdp, &packet).assert_forwarded(Reason::DecapXdp, packet.len(), &frame);
    }
    let arp = from_node2().encapsulate(&arp_request(GINDEMO2, GINDEMO1));
    for hook in NIC {
        strict.run(hook, &arp).assert_kernel(Reason::NotIp, &arp);
    }
}

#[test]
fn inner_mac_not_behind_sending_vtep_is_dropped() {
    let mut strict = Programs::strict();
    let far = Station::container([10, 0, 1, 10]);
    strict.fdb(VNI, far.mac, FdbEntry::remote_with_ip(VTEP + 1, far.ipv4));
    let unknown = Station::container([10, 0, 1, 99]);
    let broadcast = Station { mac: MacAddr([0xff; 6]), ..GINDEMO1 };
    for from in [NEIGHBOUR, GINDEMO1, far, unknown, gateway([10, 0, 1, 1])] {
        let frames = [
            Inner::new(from, GINDEMO1, Version::V4, UDP).bytes(),
            Inner::new(from, GINDEMO1, Version::V6, UDP).bytes(),
            Inner::new(from, broadcast, Version::V4, UDP).bytes(),
            arp_request(from, GINDEMO1),
            tagged(&Inner::new(from, GINDEMO1, Version::V4, UDP).bytes(), 0x8100),
        ];
        for frame in frames {
            let packet = from_node2().encapsulate(&frame);
            for hook in NIC {
                strict.run(hook, &packet).assert_dropped(Reason::StrictVtep, packet.len());
            }
        }
    }
}

#[test]
fn inner_address_that_does_not_match_mac_is_dropped() {
    let mut strict = Programs::strict();
    let spoofed = Station { ipv4: NEIGHBOUR.ipv4, ..GINDEMO2 };
    let broadcast = Station { mac: MacAddr([0xff; 6]), ..GINDEMO1 };
    for to in [GINDEMO1, broadcast] {
        let packet = from_node2().encapsulate(&Inner::new(spoofed, to, Version::V4, UDP).bytes());
        let arp = from_node2().encapsulate(&arp_request(spoofed, to));
        for hook in NIC {
            strict.run(hook, &packet).assert_dropped(Reason::StrictInnerIp, packet.len());
            strict.run(hook, &arp).assert_dropped(Reason::StrictArp, arp.len());
        }
    }
    // Without a known address, the address is not checked.
    strict.fdb(VNI, GINDEMO2.mac, FdbEntry::remote(VTEP));
    let packet = from_node2().encapsulate(&Inner::new(spoofed, GINDEMO1, Version::V4, UDP).bytes());
    assert_eq!(strict.run(Hook::NicIn, &packet).action, TC_REDIRECT);
    assert_eq!(strict.run(Hook::NicXdp, &packet).action, XDP_REDIRECT);
}

#[test]
fn strict_network_accepts_its_own_udp_port_only() {
    let mut strict = Programs::strict();
    let packet = Outer { udp_dst: OTHER_UDP_PORT, ..from_node2() }.encapsulate(&inbound(Version::V4, UDP).bytes());
    strict.run(Hook::NicIn, &packet).assert_kernel(Reason::WrongPort, &packet);
    let other = Peer { port: OTHER_UDP_PORT, flags: flags::STRICT as u16, ..peer() };
    strict.peer(VNI, from_node2().src, other);
    assert_eq!(strict.run(Hook::NicIn, &packet).action, TC_REDIRECT);
}

/// Packets that reach the kernel's VXLAN device without decapsulation by the programs: allowed with a valid source
/// only.
#[test]
fn spoofed_sources_are_dropped_before_kernel_vxlan_device() {
    let strict = Programs::strict();
    let frame = inbound(Version::V4, UDP).bytes();
    let mut spoofed = frame.clone();
    spoofed[6..12].copy_from_slice(&NEIGHBOUR.mac.0);
    let trailing = |mut packet: Vec<u8>| {
        packet.push(0);
        packet
    };
    type Bypass = (Reason, fn(Outer) -> Outer, fn(Vec<u8>) -> Vec<u8>);
    let bypasses: [Bypass; 4] = [
        (Reason::IpOptions, |outer| Outer { options: vec![1; 40], ..outer }, |packet| packet),
        (Reason::Fragment, |outer| Outer { fragment: (0, true), ..outer }, |packet| packet),
        (Reason::Malformed, |outer| outer, trailing),
        (Reason::NotOurAddress, |outer| Outer { dst: [224, 0, 0, 1], ..outer }, |packet| packet),
    ];
    for (reason, outer, packet) in bypasses {
        let good = packet(outer(from_node2()).encapsulate(&frame));
        strict.run(Hook::NicIn, &good).assert_kernel(reason, &good);
        let unknown_vtep = packet(outer(Outer { src: UNKNOWN_VTEP, ..from_node2() }).encapsulate(&frame));
        strict.run(Hook::NicIn, &unknown_vtep).assert_dropped(Reason::StrictPeer, unknown_vtep.len());
        let spoofed_mac = packet(outer(from_node2()).encapsulate(&spoofed));
        strict.run(Hook::NicIn, &spoofed_mac).assert_dropped(Reason::StrictVtep, spoofed_mac.len());
        // A network that is not strict on the same host.
        let other = packet(outer(Outer { src: UNKNOWN_VTEP, vni: 77, ..from_node2() }).encapsulate(&frame));
        strict.run(Hook::NicIn, &other).assert_kernel(reason, &other);
    }
}

#[test]
fn first_fragment_must_contain_inner_source() {
    let strict = Programs::strict();
    let first = Outer { fragment: (0, true), ..from_node2() };
    let datagram = first.encapsulate(&inbound(Version::V4, UDP).bytes());
    for payload in (8..56).step_by(8) {
        let mut packet = datagram[..34 + payload].to_vec();
        packet[16..18].copy_from_slice(&(20 + payload as u16).to_be_bytes());
        fix_ipv4_checksum(&mut packet, 14);
        let outcome = strict.run(Hook::NicIn, &packet);
        // The inner source address ends 46 bytes after the outer IPv4 header.
        if payload < 46 {
            outcome.assert_dropped(Reason::StrictFragment, packet.len());
        } else {
            outcome.assert_kernel(Reason::Fragment, &packet);
        }
    }
    let later = Outer { fragment: (1, false), src: UNKNOWN_VTEP, ..from_node2() }
        .encapsulate(&inbound(Version::V4, UDP).bytes());
    strict.run(Hook::NicIn, &later).assert_kernel(Reason::Fragment, &later);
}

/// The kernel removes bytes after the IPv4 total length, and the remainder of a fragment's payload that is not a
/// multiple of eight: they are not part of the reassembled datagram.
#[test]
fn padding_does_not_count_as_inner_source() {
    let strict = Programs::strict();
    let shortened = |frame: &[u8], payload: u16| {
        let mut packet = frame.to_vec();
        packet[16..18].copy_from_slice(&(20 + payload).to_be_bytes());
        fix_ipv4_checksum(&mut packet, 14);
        packet
    };
    let first = Outer { fragment: (0, true), ..from_node2() };
    let valid = first.encapsulate(&inbound(Version::V4, UDP).bytes());
    for payload in [8, 16, 24, 45, 46, 47] {
        let packet = shortened(&valid, payload);
        strict.run(Hook::NicIn, &packet).assert_dropped(Reason::StrictFragment, packet.len());
    }
    let other_network =
        Outer { src: UNKNOWN_VTEP, vni: PERMISSIVE_VNI, ..first }.encapsulate(&inbound(Version::V4, UDP).bytes());
    let packet = shortened(&other_network, 15);
    strict.run(Hook::NicIn, &packet).assert_dropped(Reason::StrictFragment, packet.len());
}

#[test]
fn padding_does_not_count_as_vni_of_container_vxlan() {
    let mut programs = Programs::strict();
    programs.port(programs.port, Port { vni: PERMISSIVE_VNI, ..port() });
    programs.network(PERMISSIVE_VNI, network(0));
    let mut frame = injected(gateway(NODE1), UDP_PORT).fragment(0, true);
    frame.payload[4..7].copy_from_slice(&PERMISSIVE_VNI.to_be_bytes()[1..]);
    let mut bytes = frame.bytes();
    bytes[16..18].copy_from_slice(&(20u16 + 15).to_be_bytes());
    fix_ipv4_checksum(&mut bytes, 14);
    programs.run(Hook::PortIn, &bytes).assert_dropped(Reason::StrictVxlan, bytes.len());
}

/// A bridge also learns from a frame that ends after its Ethernet header.
#[test]
fn inner_source_of_short_frame_is_checked() {
    let strict = Programs::strict();
    for from in [GINDEMO2, NEIGHBOUR] {
        for frame in [arp_request(from, GINDEMO1), Inner::new(from, GINDEMO1, Version::V4, UDP).bytes()] {
            for len in [14, 22, 29] {
                let packet = from_node2().encapsulate(&frame[..len]);
                let outcome = strict.run(Hook::NicIn, &packet);
                if from == GINDEMO2 {
                    outcome.assert_passed_to_kernel(&packet);
                } else {
                    outcome.assert_dropped(Reason::StrictVtep, packet.len());
                    strict.run(Hook::NicXdp, &packet).assert_dropped(Reason::StrictVtep, packet.len());
                }
                // Truncated, and to a multicast address.
                let packet = Outer { dst: [224, 0, 0, 1], ..from_node2() }.encapsulate(&frame[..len]);
                let outcome = strict.run(Hook::NicIn, &packet);
                if from == GINDEMO2 {
                    outcome.assert_kernel(Reason::NotOurAddress, &packet);
                } else {
                    outcome.assert_dropped(Reason::StrictVtep, packet.len());
                }
            }
        }
    }
}

/// A forwarding host with a default route delivers a limited broadcast locally.
#[test]
fn limited_broadcast_is_checked_on_forwarding_host() {
    let strict = Programs::strict();
    strict.enable_forwarding();
    for (dst, src) in [([255; 4], UNKNOWN_VTEP), ([0; 4], [0; 4])] {
        let packet = Outer { src, dst, ..from_node2() }.encapsulate(&inbound(Version::V4, UDP).bytes());
        strict.run(Hook::NicIn, &packet).assert_dropped(Reason::StrictPeer, packet.len());
    }
    // A routed packet leaves the host.
    let packet =
        Outer { src: UNKNOWN_VTEP, dst: [10, 9, 8, 7], ..from_node2() }.encapsulate(&inbound(Version::V4, UDP).bytes());
    strict.run(Hook::NicIn, &packet).assert_kernel(Reason::NotOurAddress, &packet);
}

#[test]
fn host_without_strict_networks_passes_fragments_to_kernel() {
    let mut permissive = Programs::cluster();
    permissive.network(VNI, network(0));
    let outer = Outer { fragment: (0, true), src: UNKNOWN_VTEP, ..from_node2() };
    let packet = outer.encapsulate(&inbound(Version::V4, UDP).bytes());
    permissive.run(Hook::NicIn, &packet).assert_kernel(Reason::Fragment, &packet);
    let mut short = packet[..42].to_vec();
    short[16..18].copy_from_slice(&28u16.to_be_bytes());
    fix_ipv4_checksum(&mut short, 14);
    permissive.run(Hook::NicIn, &short).assert_kernel(Reason::Fragment, &short);
}
