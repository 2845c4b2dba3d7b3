//! Encapsulation: every byte of the outer headers, and an unmodified inner frame.

use std::collections::HashSet;

use overlay_common::{
    Reason,
    maps::{Count, FdbEntry, Port, Traffic, Vtep, flags},
};
use overlay_tests::{
    frame::{Inner, L4, OUTER_LEN, Outer, UdpChecksum, Version, internet_checksum},
    program::{
        Hook, MTU, NODE1, NODE1_MAC, NODE2, NODE2_MAC, Outcome, Programs, SLOT, Skb, UDP_PORT, UDP_SOURCES, VNI, VTEP,
        outbound, port, to_node2,
    },
};

const EVERY_KIND: [(Version, L4); 8] = [
    (Version::V4, L4::Tcp(35126, 80)),
    (Version::V4, L4::Udp(5000, 53)),
    (Version::V4, L4::Icmp),
    (Version::V4, L4::Raw(47)),
    (Version::V6, L4::Tcp(35126, 80)),
    (Version::V6, L4::Udp(5000, 53)),
    (Version::V6, L4::Icmp),
    (Version::V6, L4::Raw(0)),
];

fn source_port(outcome: &Outcome) -> u16 {
    u16::from_be_bytes([outcome.packet[34], outcome.packet[35]])
}

/// Encapsulates a frame and compares it with the independent builder. Returns the source port, which the program
/// chooses.
#[track_caller]
fn encapsulate(programs: &Programs, frame: &[u8], expected: &Outer) -> u16 {
    let outcome = programs.run(Hook::PortIn, frame);
    assert!(outcome.packet.len() >= OUTER_LEN, "{outcome:x?}");
    let udp_src = source_port(&outcome);
    assert!(UDP_SOURCES.contains(&udp_src), "source port {udp_src}");
    outcome.assert_forwarded(Reason::Encap, frame.len(), &Outer { udp_src, ..expected.clone() }.encapsulate(frame));
    assert_eq!(internet_checksum(&outcome.packet[14..34]), 0, "the outer header's checksum");
    udp_src
}

#[test]
fn outer_header_matches_running_example() {
    let programs = Programs::cluster();
    let frame = outbound(Version::V4, L4::Tcp(35126, 80)).bytes();
    let packet = programs.run(Hook::PortIn, &frame).packet;
    // Field by field, with the numbers written out.
    assert_eq!(packet[0..6], NODE2_MAC.0, "next hop");
    assert_eq!(packet[6..12], NODE1_MAC.0, "NIC");
    assert_eq!(packet[12..14], [0x08, 0x00], "IPv4");
    assert_eq!(packet[14..16], [0x45, 0x00], "no options, no DSCP, no ECN");
    assert_eq!(usize::from(u16::from_be_bytes([packet[16], packet[17]])), frame.len() + 36, "total length");
    assert_eq!(packet[18..22], [0, 0, 0, 0], "first packet, DF clear");
    assert_eq!(packet[22..24], [64, 17], "TTL 64, UDP");
    assert_eq!(packet[26..30], NODE1);
    assert_eq!(packet[30..34], NODE2);
    assert_eq!(packet[36..38], UDP_PORT.to_be_bytes());
    assert_eq!(usize::from(u16::from_be_bytes([packet[38], packet[39]])), frame.len() + 16, "UDP length");
    assert_eq!(packet[40..42], [0, 0], "no UDP checksum");
    assert_eq!(packet[42..46], [0x08, 0, 0, 0], "flags [I]");
    assert_eq!(packet[46..50], [0x00, 0x10, 0x01, 0x00], "VNI 4097");
    assert_eq!(packet[50..], frame);
}

#[test]
fn every_kind_of_ip_frame_is_encapsulated() {
    let programs = Programs::cluster();
    for (id, (version, l4)) in (0..).zip(EVERY_KIND) {
        let frame = outbound(version, l4).bytes();
        encapsulate(&programs, &frame, &Outer { id, ..to_node2() });
    }
}

#[test]
fn ecn_is_copied_to_outer_header_and_dscp_is_not() {
    let programs = Programs::cluster();
    let mut id = 0;
    for (version, l4) in EVERY_KIND {
        for dscp in [0, 10, 46, 63] {
            // Not-ECT, ECT(1), ECT(0), CE; CE becomes ECT(0) outside, as in the kernel's INET_ECN_encapsulate.
            for (inner, outer) in [(0, 0), (1, 1), (2, 2), (3, 2)] {
                let frame = outbound(version, l4).tos(dscp << 2 | inner).bytes();
                encapsulate(&programs, &frame, &Outer { id, tos: outer, ..to_node2() });
                id += 1;
            }
        }
    }
}

#[test]
fn vtep_template_sets_all_outer_fields() {
    let mut programs = Programs::cluster();
    let mut vtep = programs.node2();
    vtep.outer.src = [10, 255, 254, 253];
    vtep.outer.dst = [255, 255, 255, 254];
    vtep.outer.udp_dst = 8472u16.to_be_bytes();
    vtep.ip_sum = vtep.outer.ip_sum();
    programs.vtep(VTEP, vtep);
    programs.port(programs.port, Port { vni: 0x00fe_dcba, ..port() });
    programs.fdb(0x00fe_dcba, outbound(Version::V4, L4::Icmp).to.mac, FdbEntry::remote(VTEP));
    let expected = Outer { src: vtep.outer.src, dst: vtep.outer.dst, udp_dst: 8472, vni: 0x00fe_dcba, ..to_node2() };
    for (id, (version, l4)) in (0..).zip(EVERY_KIND) {
        encapsulate(&programs, &outbound(version, l4).bytes(), &Outer { id, ..expected.clone() });
    }
}

#[test]
fn outer_ip_id_counts_packets_and_wraps() {
    let programs = Programs::cluster();
    let frame = outbound(Version::V4, L4::Udp(5000, 53)).bytes();
    for id in 0..300 {
        encapsulate(&programs, &frame, &Outer { id, ..to_node2() });
    }
    // Every segment of a super-packet counts; without gso_size the kernel resizes the skb like any other.
    let many = Skb { gso_segs: 65_535, ..Skb::default() };
    programs.run_skb(Hook::PortIn, &frame, many);
    encapsulate(&programs, &frame, &Outer { id: 299, ..to_node2() });
}

#[test]
fn cpus_share_the_identifications_of_a_vtep() {
    let programs = Programs::cluster();
    let frame = outbound(Version::V4, L4::Udp(5000, 53)).bytes();
    let cpus = programs.cpus();
    for (id, cpu) in (0..100).zip(cpus.iter().cycle()) {
        programs.pin(*cpu);
        encapsulate(&programs, &frame, &Outer { id, ..to_node2() });
    }
    assert!(cpus.len() > 1, "this test needs two CPUs");
}

#[test]
fn every_length_up_to_mtu_has_correct_outer_lengths() {
    let programs = Programs::cluster();
    for (id, len) in (0..).zip(28..=usize::from(MTU)) {
        let frame = outbound(Version::V4, L4::Udp(5000, 53)).l3_len(len).bytes();
        encapsulate(&programs, &frame, &Outer { id, ..to_node2() });
    }
}

/// The first folding carry causes a second one (RFC 1071): rare on the wire.
#[test]
fn outer_checksum_is_correct_with_double_carry() {
    let mut programs = Programs::cluster();
    let frame = outbound(Version::V4, L4::Icmp).bytes();
    let header = Outer { dst: [192, 168, 0, 0], ..to_node2() }.encapsulate(&frame)[14..34].to_vec();
    let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = words.sum::<u32>() - u32::from(u16::from_be_bytes([header[10], header[11]]));
    for (id, low) in (0..).zip(0xfff0..=0xffffu32) {
        let [high, last] = (low.wrapping_sub(sum + u32::from(id)) as u16).to_be_bytes();
        let mut vtep = programs.node2();
        vtep.outer.dst = [192, 168, high, last];
        vtep.ip_sum = vtep.outer.ip_sum();
        programs.vtep(VTEP, vtep);
        encapsulate(&programs, &frame, &Outer { id, dst: vtep.outer.dst, ..to_node2() });
    }
}

#[test]
fn flow_keeps_its_source_port() {
    let programs = Programs::cluster();
    for (version, l4) in EVERY_KIND {
        let ports: HashSet<_> = [40, 100, 999]
            .map(|payload| Inner { payload: vec![7; payload], ..outbound(version, l4).tos(payload as u8) }.bytes())
            .iter()
            .map(|frame| source_port(&programs.run(Hook::PortIn, frame)))
            .collect();
        assert_eq!(ports.len(), 1, "{version:?} {l4:?}: {ports:?}");
    }
}

/// With a flow label, the kernel's hash does not include the ports (`FLOW_DISSECTOR_F_STOP_AT_FLOW_LABEL`).
fn without_flow_label(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[14] >> 4 == 6 {
        frame[15] &= 0xf0;
        frame[16..18].fill(0);
    }
    frame
}

#[test]
fn flows_spread_over_source_ports_of_their_network() {
    let programs = Programs::cluster();
    for version in [Version::V4, Version::V6] {
        for l4 in [L4::Tcp, L4::Udp] {
            let by_client: HashSet<_> = (0..500)
                .map(|n| outbound(version, l4(32768 + n, 80)).bytes())
                .map(without_flow_label)
                .map(|frame| source_port(&programs.run(Hook::PortIn, &frame)))
                .collect();
            assert!(by_client.len() > 450, "{} ports for 500 clients", by_client.len());
            assert!(by_client.iter().all(|port| UDP_SOURCES.contains(port)));
        }
        let by_address: HashSet<_> = (0..250)
            .map(|n| {
                let mut frame = outbound(version, L4::Icmp);
                frame.to.ipv4[3] = n;
                frame.to.ipv6[15] = n;
                source_port(&programs.run(Hook::PortIn, &frame.bytes()))
            })
            .collect();
        assert!(by_address.len() > 225, "{} ports for 250 addresses", by_address.len());
    }
}

/// `udp_flow_src_port` in `include/net/udp.h`, of the kernel's own flow hash.
#[test]
fn source_port_is_the_one_that_the_kernel_chooses() {
    let mut programs = Programs::cluster();
    for (first, span) in [(32_768, 28_231), (1, 65_534), (5000, 1), (5000, 0), (40_000, 100)] {
        programs.port(programs.port, Port { udp_src_first: first, udp_src_span: span, ..port() });
        for (version, l4) in EVERY_KIND {
            let frame = outbound(version, l4).bytes();
            let hash = programs.flow_hash(&frame).expect("the program runs");
            let mixed = u64::from(hash ^ hash << 16);
            let expected = u64::from(first) + ((mixed * u64::from(span)) >> 32);
            assert_eq!(u64::from(source_port(&programs.run(Hook::PortIn, &frame))), expected, "{version:?} {l4:?}");
        }
    }
}

#[test]
fn outer_udp_checksum_is_valid_where_the_network_has_one() {
    let mut programs = Programs::cluster();
    programs.port(programs.port, Port { flags: flags::UDP_CHECKSUM, ..port() });
    let mut id = 0;
    for (version, l4) in EVERY_KIND.into_iter().filter(|(_, l4)| !matches!(l4, L4::Raw(_))) {
        for payload in 0..64 {
            let frame = Inner { payload: (0..payload).collect(), ..outbound(version, l4) }.bytes();
            encapsulate(&programs, &frame, &Outer { id, udp_checksum: UdpChecksum::Right, ..to_node2() });
            id += 1;
        }
    }
}

#[test]
fn packets_whose_checksum_is_unknown_fall_back_to_kernel_where_outer_needs_one() {
    let mut programs = Programs::cluster();
    programs.port(programs.port, Port { flags: flags::UDP_CHECKSUM, ..port() });
    let mut without = outbound(Version::V4, L4::Udp(5000, 53)).bytes();
    without[40..42].fill(0);
    let mut with_options = outbound(Version::V4, L4::Udp(5000, 53));
    with_options.options = vec![0x94, 4, 0, 0];
    let trailing = [outbound(Version::V4, L4::Tcp(5000, 53)).bytes(), vec![0]].concat();
    let trailing6 = [outbound(Version::V6, L4::Tcp(5000, 53)).bytes(), vec![0]].concat();
    for frame in [
        without,
        with_options.bytes(),
        trailing,
        trailing6,
        outbound(Version::V4, L4::Udp(5000, 53)).fragment(0, true).bytes(),
        outbound(Version::V4, L4::Udp(5000, 53)).fragment(4, false).bytes(),
        outbound(Version::V4, L4::Raw(47)).bytes(),
        outbound(Version::V6, L4::Raw(0)).bytes(),
    ] {
        let outcome = programs.run(Hook::PortIn, &frame);
        outcome.assert_passed_to_kernel(&frame);
        assert_eq!(outcome.counted.len(), 1, "{outcome:?}");
        assert_eq!(outcome.counted[0].0, Reason::UdpChecksum);
    }
}

#[test]
fn fragments_of_a_datagram_share_a_source_port() {
    let programs = Programs::cluster();
    let datagram = |l4| outbound(Version::V4, l4);
    for (one, other) in [(L4::Udp(5000, 53), L4::Udp(5001, 54)), (L4::Tcp(5000, 53), L4::Tcp(5001, 54))] {
        let fragments = [
            datagram(one).fragment(0, true),
            datagram(one).fragment(4, true),
            datagram(one).fragment(8, false).payload(&[9; 5]),
            // The hash of a fragment excludes ports.
            datagram(other).fragment(0, true),
        ];
        let ports: HashSet<_> =
            fragments.iter().map(|frame| source_port(&programs.run(Hook::PortIn, &frame.bytes()))).collect();
        assert_eq!(ports.len(), 1, "{ports:?}");
    }
}

#[test]
fn frames_with_inner_ip_options_are_encapsulated() {
    let programs = Programs::cluster();
    let mut frame = outbound(Version::V4, L4::Udp(5000, 53));
    frame.options = vec![0x94, 4, 0, 0];
    let first = encapsulate(&programs, &frame.bytes(), &to_node2());
    frame.payload.push(0);
    assert_eq!(encapsulate(&programs, &frame.bytes(), &Outer { id: 1, ..to_node2() }), first);
}

#[test]
fn fragments_are_encapsulated() {
    let programs = Programs::cluster();
    for (id, fragment) in (0..).zip([(0, true), (4, true), (0x1fff, false)]) {
        let frame = outbound(Version::V4, L4::Udp(5000, 53)).fragment(fragment.0, fragment.1).bytes();
        encapsulate(&programs, &frame, &Outer { id, ..to_node2() });
    }
}

#[test]
fn sent_packets_are_counted_per_network_and_vtep() {
    let programs = Programs::cluster();
    let (small, large) = (outbound(Version::V4, L4::Icmp).bytes(), outbound(Version::V6, L4::Icmp).l3_len(900).bytes());
    for frame in [&small, &large, &large] {
        programs.run(Hook::PortIn, frame);
    }
    let tx = Count { packets: 3, bytes: (small.len() + 2 * large.len()) as u64 };
    assert_eq!(programs.vni_stats(SLOT), Traffic { tx, ..Traffic::default() });
    assert_eq!(programs.vtep_stats(VTEP), Traffic { tx, ..Traffic::default() });
    assert_eq!(programs.vni_stats(SLOT + 1), Traffic::default());
    assert_eq!(programs.vtep_stats(VTEP + 1), Traffic::default());
}

#[test]
fn super_packet_counts_as_its_segments() {
    let programs = Programs::cluster();
    let frame = outbound(Version::V4, L4::Tcp(35126, 80)).l3_len(1200).bytes();
    let outcome = programs.run_skb(Hook::PortIn, &frame, Skb { gso_segs: 3, ..Skb::default() });
    let tx = Count { packets: 3, bytes: frame.len() as u64 };
    assert_eq!(outcome.counted, [(Reason::Encap, tx)]);
    assert_eq!(programs.vni_stats(SLOT).tx, tx);
    assert_eq!(programs.vtep_stats(VTEP).tx, tx);
}

#[test]
fn packets_passed_to_kernel_are_not_counted_as_sent() {
    let mut programs = Programs::cluster();
    programs.vtep(VTEP, Vtep { resolved: 0, ..programs.node2() });
    let frame = outbound(Version::V4, L4::Icmp).bytes();
    programs.run(Hook::PortIn, &frame).assert_kernel(Reason::NextHop, &frame);
    // This VTEP does not exist.
    programs.fdb(VNI, outbound(Version::V4, L4::Icmp).to.mac, FdbEntry::remote(u32::MAX));
    programs.run(Hook::PortIn, &frame).assert_kernel(Reason::NextHop, &frame);
    assert_eq!(programs.vni_stats(SLOT), Traffic::default());
    assert_eq!(programs.vtep_stats(VTEP), Traffic::default());
}

#[test]
fn networks_with_same_macs_are_isolated() {
    let mut programs = Programs::cluster();
    // A container with the MAC of gindemo1 in another network, where gindemo2's MAC is unknown.
    programs.port(programs.neighbour_port, Port { vni: 99, ..port() });
    let frame = outbound(Version::V4, L4::Icmp).bytes();
    let other_network = Skb { ifindex: Some(programs.neighbour_port), ..Skb::default() };
    programs.run_skb(Hook::PortIn, &frame, other_network).assert_kernel(Reason::UnknownMac, &frame);
    encapsulate(&programs, &frame, &to_node2());
}
