//! Packets of the NIC outside the fast path: passed to the kernel unmodified, or dropped with a reason.

use overlay_common::{
    MacAddr, Reason,
    maps::{FdbEntry, Peer, flags},
};
use overlay_tests::{
    frame::{Inner, L4, Outer, Station, Version, arp_request, ethernet, fix_ipv4_checksum, tagged},
    program::{
        GINDEMO1, GINDEMO2, Hook, NODE1_MAC, NODE2_MAC, OTHER_UDP_PORT, Programs, STRICT_VNI, TC_REDIRECT, UDP_PORT,
        VNI, from_node2, inbound, network, peer,
    },
};

const UDP: L4 = L4::Udp(5000, 53);

fn inner() -> Vec<u8> {
    inbound(Version::V4, UDP).bytes()
}

/// Both hooks pass the packet to the kernel with this reason.
#[track_caller]
fn assert_kernel(programs: &Programs, reason: Reason, packet: &[u8]) {
    programs.run(Hook::NicIn, packet).assert_kernel(reason, packet);
    programs.run(Hook::NicXdp, packet).assert_kernel(reason, packet);
}

#[track_caller]
fn assert_kernel_for(programs: &Programs, reason: Reason, outer: &Outer) {
    assert_kernel(programs, reason, &outer.encapsulate(&inner()));
}

#[test]
fn non_vxlan_packet_falls_back_to_kernel() {
    let programs = Programs::cluster();
    for udp_dst in [0, 53, 4788, 4790, 0xb512] {
        assert_kernel_for(&programs, Reason::NotVxlan, &Outer { udp_dst, ..from_node2() });
    }
    let good = from_node2().encapsulate(&inner());
    for protocol in [0, 1, 6, 50, 136] {
        let mut packet = good.clone();
        packet[23] = protocol;
        fix_ipv4_checksum(&mut packet, 14);
        assert_kernel(&programs, Reason::NotVxlan, &packet);
    }
    for ether_type in [0x0806u16, 0x86dd, 0x8847, 0x0001] {
        let mut packet = good.clone();
        packet[12..14].copy_from_slice(&ether_type.to_be_bytes());
        assert_kernel(&programs, Reason::NotVxlan, &packet);
    }
    assert_kernel(&programs, Reason::NotVxlan, &tagged(&good, 0x8100));
    assert_kernel(&programs, Reason::NotVxlan, &arp_request(GINDEMO1, GINDEMO2));
    let mut packet = good;
    packet[14] = 0x55;
    fix_ipv4_checksum(&mut packet, 14);
    assert_kernel(&programs, Reason::NotVxlan, &packet);
}

#[test]
fn packet_for_another_mac_falls_back_to_kernel() {
    let programs = Programs::cluster();
    let mut macs = vec![NODE2_MAC, MacAddr([0xff; 6]), MacAddr([1, 0, 0x5e, 0, 0, 1]), MacAddr([0; 6])];
    macs.extend((0..6).map(|byte| {
        let mut mac = NODE1_MAC;
        mac.0[byte] ^= 0x02;
        mac
    }));
    for eth_dst in macs {
        assert_kernel_for(&programs, Reason::NotOurAddress, &Outer { eth_dst, ..from_node2() });
    }
}

#[test]
fn packet_for_another_address_falls_back_to_kernel() {
    let programs = Programs::cluster();
    for dst in [[192, 168, 1, 10], [192, 168, 1, 255], [255; 4], [239, 1, 1, 1], [0; 4], [127, 0, 0, 1]] {
        assert_kernel_for(&programs, Reason::NotOurAddress, &Outer { dst, ..from_node2() });
    }
}

#[test]
fn outer_ip_options_of_every_length_fall_back_to_kernel() {
    let programs = Programs::cluster();
    for words in 1..=10 {
        assert_kernel_for(&programs, Reason::IpOptions, &Outer { options: vec![1; words * 4], ..from_node2() });
    }
    // Header lengths below the minimum.
    for ihl in 0..5 {
        let mut packet = from_node2().encapsulate(&inner());
        packet[14] = 0x40 | ihl;
        fix_ipv4_checksum(&mut packet, 14);
        assert_kernel(&programs, Reason::IpOptions, &packet);
    }
}

#[test]
fn first_middle_and_last_fragments_fall_back_to_kernel() {
    let programs = Programs::cluster();
    for fragment in [(0, true), (1, true), (185, true), (0x1f00, true), (1, false), (0x100, false), (0x1fff, false)] {
        assert_kernel_for(&programs, Reason::Fragment, &Outer { fragment, ..from_node2() });
    }
}

#[test]
fn vxlan_i_flag_must_be_set() {
    let programs = Programs::cluster();
    for vxlan_flags in (0..=u8::MAX).filter(|flags| flags & 8 == 0) {
        assert_kernel_for(&programs, Reason::VxlanNoVni, &Outer { vxlan_flags, ..from_node2() });
    }
    let both = Outer { vxlan_flags: 0, vxlan_reserved2: 1, ..from_node2() };
    assert_kernel_for(&programs, Reason::VxlanNoVni, &both);
}

#[test]
fn every_reserved_vxlan_bit_must_be_clear() {
    let programs = Programs::cluster();
    for flag in [0x01, 0x02, 0x04, 0x10, 0x20, 0x40, 0x80] {
        assert_kernel_for(&programs, Reason::VxlanReserved, &Outer { vxlan_flags: 8 | flag, ..from_node2() });
    }
    for bit in 0..24 {
        let [_, a, b, c] = (1u32 << bit).to_be_bytes();
        assert_kernel_for(&programs, Reason::VxlanReserved, &Outer { vxlan_reserved1: [a, b, c], ..from_node2() });
    }
    for bit in 0..8 {
        assert_kernel_for(&programs, Reason::VxlanReserved, &Outer { vxlan_reserved2: 1 << bit, ..from_node2() });
    }
}

#[test]
fn every_bit_of_vni_is_compared() {
    let programs = Programs::cluster();
    for bit in 0..24 {
        let vni = VNI ^ (1 << bit);
        assert_kernel_for(&programs, Reason::UnknownVni, &Outer { vni, ..from_node2() });
    }
    assert_kernel_for(&programs, Reason::UnknownVni, &Outer { vni: 0, ..from_node2() });
}

#[test]
fn unknown_peer_falls_back_to_kernel_and_is_dropped_in_strict_network() {
    let programs = Programs::cluster();
    for src in [[192, 168, 1, 11], [192, 168, 1, 9], [10, 1, 168, 192], [0; 4]] {
        assert_kernel_for(&programs, Reason::UnknownPeer, &Outer { src, ..from_node2() });
        for hook in [Hook::NicIn, Hook::NicXdp] {
            let packet = Outer { src, vni: STRICT_VNI, ..from_node2() }.encapsulate(&inner());
            programs.run(hook, &packet).assert_dropped(Reason::StrictPeer, packet.len());
        }
    }
}

#[test]
fn peer_of_one_network_is_unknown_in_another() {
    let mut programs = Programs::cluster();
    programs.network(99, network(0));
    programs.network(100, network(flags::STRICT));
    assert_kernel_for(&programs, Reason::UnknownPeer, &Outer { vni: 99, ..from_node2() });
    for hook in [Hook::NicIn, Hook::NicXdp] {
        let packet = Outer { vni: 100, ..from_node2() }.encapsulate(&inner());
        programs.run(hook, &packet).assert_dropped(Reason::StrictPeer, packet.len());
    }
}

#[test]
fn udp_port_of_another_network_falls_back_to_kernel() {
    let mut programs = Programs::cluster();
    assert_kernel_for(&programs, Reason::WrongPort, &Outer { udp_dst: OTHER_UDP_PORT, ..from_node2() });
    programs.peer(VNI, from_node2().src, Peer { port: OTHER_UDP_PORT, ..peer() });
    assert_kernel_for(&programs, Reason::WrongPort, &Outer { udp_dst: UDP_PORT, ..from_node2() });
}

#[test]
fn bad_outer_header_checksum_falls_back_to_kernel() {
    let programs = Programs::cluster();
    let good = from_node2().encapsulate(&inner());
    for bit in 0..16 {
        let mut packet = good.clone();
        packet[24 + bit / 8] ^= 1 << (bit % 8);
        assert_kernel(&programs, Reason::Malformed, &packet);
    }
    // A changed TTL with the old checksum.
    let mut packet = good;
    packet[22] -= 1;
    assert_kernel(&programs, Reason::Malformed, &packet);
}

#[test]
fn inconsistent_outer_lengths_fall_back_to_kernel() {
    let programs = Programs::cluster();
    let good = from_node2().encapsulate(&inner());
    for trailing in 1..=20 {
        assert_kernel(&programs, Reason::Malformed, &[good.clone(), vec![0; trailing]].concat());
    }
    for change in [-20i16, -1, 1, 20] {
        for at in [16, 38] {
            let mut packet = good.clone();
            let length = u16::from_be_bytes([packet[at], packet[at + 1]]).wrapping_add_signed(change);
            packet[at..at + 2].copy_from_slice(&length.to_be_bytes());
            fix_ipv4_checksum(&mut packet, 14);
            assert_kernel(&programs, Reason::Malformed, &packet);
        }
    }
    // A UDP length of 0 denotes a jumbogram in IPv6, and is invalid in IPv4.
    let mut packet = good;
    packet[38..40].fill(0);
    assert_kernel(&programs, Reason::Malformed, &packet);
}

#[test]
fn non_ip_inner_frames_fall_back_to_kernel() {
    let programs = Programs::cluster();
    assert_kernel(&programs, Reason::NotIp, &from_node2().encapsulate(&arp_request(GINDEMO2, GINDEMO1)));
    for ether_type in [0x0000u16, 0x05ff, 0x0806, 0x0801, 0x8847, 0x88cc, 0xdd86, 0x0008] {
        let frame = [ethernet(GINDEMO1.mac, GINDEMO2.mac, ether_type), vec![0x45; 60]].concat();
        assert_kernel(&programs, Reason::NotIp, &from_node2().encapsulate(&frame));
    }
}

/// A bridge with suppression and a VXLAN device with `proxy` answer what `br_is_nd_neigh_msg` accepts: type 135 and code
/// 0 in an ICMPv6 header that follows the IPv6 header.
#[test]
fn only_neighbour_solicitations_of_icmpv6_fall_back_to_kernel() {
    let programs = Programs::cluster();
    let (sent, received) = (Inner::solicitation(GINDEMO1, GINDEMO2), Inner::solicitation(GINDEMO2, GINDEMO1));
    programs.run(Hook::PortIn, &sent.bytes()).assert_kernel(Reason::Solicitation, &sent.bytes());
    assert_kernel(&programs, Reason::Solicitation, &from_node2().encapsulate(&received.bytes()));
    let with = |inner: &Inner, change: fn(&mut Vec<u8>)| {
        let mut frame = inner.bytes();
        change(&mut frame);
        frame
    };
    let changes: [fn(&mut Vec<u8>); 4] = [
        // A neighbour advertisement, another code, IPv4 with protocol 58, a destination option before the header.
        |frame| frame[14 + 40] = 136,
        |frame| frame[14 + 41] = 1,
        |frame| {
            let ipv4 = Inner::new(GINDEMO1, GINDEMO2, Version::V4, L4::Raw(58)).bytes();
            frame.splice(12.., ipv4[12..].iter().copied()).for_each(drop);
        },
        |frame| {
            frame[14 + 6] = 60;
            frame.splice(54..54, [58, 0, 1, 4, 0, 0, 0, 0]).for_each(drop);
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let outcome = programs.run(Hook::PortIn, &with(&sent, change));
        assert_eq!(outcome.action, TC_REDIRECT, "change {number}");
        let packet = from_node2().encapsulate(&with(&received, change));
        programs.run(Hook::NicIn, &packet).assert_forwarded(Reason::Decap, packet.len(), &with(&received, change));
    }
    // Too short for type and code.
    let short = with(&sent, |frame| frame.truncate(14 + 40));
    programs.run(Hook::PortIn, &short).assert_kernel(Reason::Truncated, &short);
}

#[test]
fn inner_vlan_tags_fall_back_to_kernel() {
    let programs = Programs::cluster();
    for ether_type in [0x8100, 0x88a8] {
        assert_kernel(&programs, Reason::Vlan, &from_node2().encapsulate(&tagged(&inner(), ether_type)));
    }
}

#[test]
fn inner_broadcast_and_multicast_fall_back_to_kernel() {
    let mut programs = Programs::cluster();
    let macs = [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0]].map(MacAddr);
    for mac in macs {
        // The FDB has an invalid entry for the address.
        programs.fdb(VNI, mac, FdbEntry::local(FdbEntry::LOCAL, programs.port));
        for version in [Version::V4, Version::V6] {
            let frame = Inner::new(GINDEMO2, Station { mac, ..GINDEMO1 }, version, UDP).bytes();
            assert_kernel(&programs, Reason::GroupAddress, &from_node2().encapsulate(&frame));
        }
    }
}

/// Bridges drop such frames (`br_handle_frame` in net/bridge/br_input.c).
#[test]
fn inner_source_that_is_no_unicast_address_falls_back_to_kernel() {
    let programs = Programs::cluster();
    for mac in [[0; 6], [0xff; 6], [1, 0, 0, 0, 0, 0]].map(MacAddr) {
        for version in [Version::V4, Version::V6] {
            let frame = Inner::new(Station { mac, ..GINDEMO2 }, GINDEMO1, version, UDP).bytes();
            assert_kernel(&programs, Reason::GroupAddress, &from_node2().encapsulate(&frame));
        }
    }
    let frame =
        Inner::new(Station { mac: MacAddr([0, 0, 0, 0, 0, 2]), ..GINDEMO2 }, GINDEMO1, Version::V4, UDP).bytes();
    let outcome = programs.run(Hook::NicIn, &from_node2().encapsulate(&frame));
    assert_eq!(outcome.counted[0].0, Reason::Decap);
}

#[test]
fn every_byte_of_inner_mac_is_compared() {
    let programs = Programs::cluster();
    for byte in 0..6 {
        let mut frame = inner();
        frame[byte] ^= 0x80;
        assert_kernel(&programs, Reason::UnknownMac, &from_node2().encapsulate(&frame));
    }
}

#[test]
fn destination_mac_behind_a_vtep_falls_back_to_kernel() {
    let programs = Programs::cluster();
    let frame = Inner::new(GINDEMO1, GINDEMO2, Version::V4, UDP).bytes();
    assert_kernel(&programs, Reason::NotLocal, &from_node2().encapsulate(&frame));
}

#[test]
fn unknown_fdb_entry_kind_falls_back_to_kernel() {
    let mut programs = Programs::cluster();
    for kind in [0, 4, u16::MAX] {
        programs.fdb(VNI, GINDEMO1.mac, FdbEntry::local(kind, programs.port));
        assert_kernel(&programs, Reason::NotLocal, &from_node2().encapsulate(&inner()));
    }
}

#[test]
fn nested_vxlan_is_forwarded_as_ordinary_payload() {
    // VXLAN in VXLAN: the inner VXLAN packet is payload.
    let programs = Programs::cluster();
    let nested = from_node2().encapsulate(&inner());
    let mut frame = Inner::new(GINDEMO2, GINDEMO1, Version::V4, L4::Udp(5000, UDP_PORT)).payload(&nested[42..]);
    frame.tos = 0;
    let packet = from_node2().encapsulate(&frame.bytes());
    programs.run(Hook::NicIn, &packet).assert_forwarded(Reason::Decap, packet.len(), &frame.bytes());
}
