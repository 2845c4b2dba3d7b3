//! MTU: oversize packets are passed to the kernel, which sends ICMP errors, fragments or drops.

use overlay_common::{
    Reason,
    maps::{Count, Port, Vtep},
};
use overlay_tests::{
    frame::{Inner, L4, Version},
    program::{
        GINDEMO1, Hook, MTU, NEIGHBOUR, Outcome, Programs, Skb, TC_REDIRECT, VTEP, from_node2, inbound, outbound, port,
    },
};

fn of_length(version: Version, len: u16) -> Vec<u8> {
    outbound(version, L4::Udp(5000, 53)).l3_len(len.into()).bytes()
}

#[test]
fn packet_of_mtu_size_passes_and_one_byte_more_does_not() {
    let programs = Programs::cluster();
    for version in [Version::V4, Version::V6] {
        assert_eq!(programs.run(Hook::PortIn, &of_length(version, MTU)).action, TC_REDIRECT);
        let frame = of_length(version, MTU + 1);
        programs.run(Hook::PortIn, &frame).assert_kernel(Reason::Oversize, &frame);
    }
}

#[test]
fn mtu_applies_to_local_frames() {
    let programs = Programs::cluster();
    let frame = |len| Inner::new(GINDEMO1, NEIGHBOUR, Version::V4, L4::Icmp).l3_len(len).bytes();
    assert_eq!(programs.run(Hook::PortIn, &frame(1450)).action, TC_REDIRECT);
    programs.run(Hook::PortIn, &frame(1451)).assert_kernel(Reason::Oversize, &frame(1451));
}

/// The kernel drops a larger frame at the port, or fragments it. The packets of a super-packet are segmented for the port.
#[test]
fn network_mtu_applies_to_received_packets() {
    let programs = Programs::cluster();
    for version in [Version::V4, Version::V6] {
        let packet = |l4, len: u16| from_node2().encapsulate(&inbound(version, l4).l3_len(len.into()).bytes());
        let udp = L4::Udp(5000, 53);
        assert_eq!(programs.run(Hook::NicIn, &packet(udp, MTU)).action, TC_REDIRECT);
        assert_eq!(programs.run(Hook::NicXdp, &packet(udp, MTU)).counted[0].0, Reason::DecapXdp);
        for hook in [Hook::NicIn, Hook::NicXdp] {
            let large = packet(udp, MTU + 1);
            programs.run(hook, &large).assert_kernel(Reason::Oversize, &large);
        }
        let large = packet(L4::Tcp(1, 2), 3000);
        let outcome = programs.run_skb(Hook::NicIn, &large, Skb { gso_size: 1400, gso_segs: 3, ..Skb::default() });
        assert_ne!(outcome.counted[0].0, Reason::Oversize);
    }
}

#[test]
fn smaller_vtep_mtu_applies() {
    let mut programs = Programs::cluster();
    programs.vtep(VTEP, Vtep { mtu: 1400, ..programs.node2() });
    for version in [Version::V4, Version::V6] {
        assert_eq!(programs.run(Hook::PortIn, &of_length(version, 1400)).action, TC_REDIRECT);
        let frame = of_length(version, 1401);
        programs.run(Hook::PortIn, &frame).assert_kernel(Reason::Oversize, &frame);
    }
}

#[test]
fn larger_vtep_mtu_does_not_raise_network_mtu() {
    let mut programs = Programs::cluster();
    programs.vtep(VTEP, Vtep { mtu: 8950, ..programs.node2() });
    let frame = of_length(Version::V4, MTU + 1);
    programs.run(Hook::PortIn, &frame).assert_kernel(Reason::Oversize, &frame);
}

#[test]
fn jumbo_network_passes_jumbo_frames() {
    let mut programs = Programs::cluster();
    programs.port(programs.port, Port { mtu: 8950, ..port() });
    programs.vtep(VTEP, Vtep { mtu: 8950, ..programs.node2() });
    assert_eq!(programs.run(Hook::PortIn, &of_length(Version::V4, 3000)).action, TC_REDIRECT);
}

/// Runs a super-packet to a local container, which needs no outer headers.
fn super_packet(programs: &Programs, version: Version, l4: L4, gso_size: u32) -> Outcome {
    let frame = Inner::new(GINDEMO1, NEIGHBOUR, version, l4).l3_len(3000).bytes();
    let outcome = programs.run_skb(Hook::PortIn, &frame, Skb { gso_size, gso_segs: 2, ..Skb::default() });
    assert_eq!(outcome.packet, frame);
    outcome
}

#[test]
fn super_packet_passes_when_its_segments_fit_mtu() {
    let programs = Programs::cluster();
    let headers = [
        (Version::V4, L4::Tcp(1, 2), 40),
        (Version::V4, L4::Udp(1, 2), 28),
        (Version::V6, L4::Tcp(1, 2), 60),
        (Version::V6, L4::Udp(1, 2), 48),
    ];
    for (version, l4, headers) in headers {
        let gso_size = u32::from(MTU) - headers;
        let passes = super_packet(&programs, version, l4, gso_size);
        assert_eq!(passes.action, TC_REDIRECT, "{version:?} {l4:?}");
        let oversize = super_packet(&programs, version, l4, gso_size + 1);
        assert_eq!(oversize.action, Hook::PortIn.kernel(), "{version:?} {l4:?}");
        assert_eq!(oversize.counted[0].0, Reason::Oversize);
    }
}

#[test]
fn vtep_mtu_applies_to_super_packets() {
    let mut programs = Programs::cluster();
    programs.vtep(VTEP, Vtep { mtu: 1400, ..programs.node2() });
    let frame = of_length(Version::V4, 3000);
    for (gso_size, reason) in [(1372, Reason::AdjustRoom), (1373, Reason::Oversize)] {
        let outcome = programs.run_skb(Hook::PortIn, &frame, Skb { gso_size, gso_segs: 3, ..Skb::default() });
        outcome.assert_passed_to_kernel(&frame);
        assert_eq!(outcome.counted, [(reason, Count { packets: 3, bytes: frame.len() as u64 })]);
    }
}

#[test]
fn tcp_options_count_towards_segment_length() {
    let programs = Programs::cluster();
    let mut frame = Inner::new(GINDEMO1, NEIGHBOUR, Version::V4, L4::Tcp(1, 2)).l3_len(3000).bytes();
    frame[46] = 0x80;
    let run = |gso_size| programs.run_skb(Hook::PortIn, &frame, Skb { gso_size, gso_segs: 2, ..Skb::default() });
    assert_eq!(run(1450 - 52).action, TC_REDIRECT);
    run(1450 - 51).assert_passed_to_kernel(&frame);
}

#[test]
fn super_packets_with_options_fragments_or_other_protocols_fall_back_to_kernel() {
    let programs = Programs::cluster();
    let mut with_options = outbound(Version::V4, L4::Tcp(1, 2));
    with_options.options = vec![1; 4];
    let frames = [
        with_options,
        outbound(Version::V4, L4::Udp(1, 2)).fragment(0, true),
        outbound(Version::V4, L4::Icmp),
        outbound(Version::V4, L4::Raw(132)).payload(&[0; 40]),
        outbound(Version::V6, L4::Icmp),
        outbound(Version::V6, L4::Raw(132)).payload(&[0; 40]),
    ];
    for frame in frames.iter().map(Inner::bytes) {
        let outcome = programs.run_skb(Hook::PortIn, &frame, Skb { gso_size: 8, gso_segs: 4, ..Skb::default() });
        outcome.assert_passed_to_kernel(&frame);
        assert_eq!(outcome.counted, [(Reason::Gso, Count { packets: 4, bytes: frame.len() as u64 })]);
    }
}

#[test]
fn super_packet_with_truncated_tcp_header_falls_back_to_kernel() {
    let programs = Programs::cluster();
    let frame = &outbound(Version::V4, L4::Tcp(1, 2)).bytes()[..44];
    let outcome = programs.run_skb(Hook::PortIn, frame, Skb { gso_size: 8, gso_segs: 1, ..Skb::default() });
    outcome.assert_kernel(Reason::Truncated, frame);
}
