//! Flows from the underlay that take the kernel path as a whole: TCP in single segments, which the NIC does not merge,
//! and flows with super-packets that the programs cannot decapsulate.

use std::time::Duration;

use overlay_common::{
    Reason,
    maps::{Flow, Underlay, flags},
};
use overlay_tests::{
    frame::{L4, Outer, Version},
    program::{Hook, NODE1, NODE1_MAC, Programs, Skb, UDP_PORT, from_node2, inbound},
};

const TCP: L4 = L4::Tcp(35126, 80);
/// Longer than [`Flow::PAUSE`] ticks at 100 ticks a second.
const PAUSE: Duration = Duration::from_millis(700);

/// The programs of a host whose NIC does not merge segments.
fn programs() -> Programs {
    let mut programs = Programs::cluster();
    set(&mut programs, flags::SEGMENTS);
    programs
}

fn set(programs: &mut Programs, flags: u32) {
    let underlay = Underlay::new(NODE1, NODE1_MAC, programs.nic, &[UDP_PORT]).expect("one port");
    programs.underlay(Underlay { flags: flags as u16, ..underlay });
}

fn packet(version: Version, l4: L4, length: usize) -> Vec<u8> {
    from_node2().encapsulate(&inbound(version, l4).l3_len(length).bytes())
}

fn reason(programs: &Programs, packet: &[u8], gso_segs: u32) -> Reason {
    let outcome = programs.run_skb(Hook::NicIn, packet, Skb { gso_segs, ..Skb::default() });
    if outcome.counted[0].0 != Reason::Decap {
        outcome.assert_passed_to_kernel(packet);
    }
    outcome.counted[0].0
}

/// Receives `burst` until its flow takes the kernel path, then runs `check`. Again if the flow has returned meanwhile:
/// this process may have waited for a CPU.
fn after_burst(programs: &Programs, burst: &[u8], check: impl Fn() -> bool) {
    for _ in 0..100 {
        let mut received = (0..100_000).map(|_| reason(programs, burst, 0));
        assert!(received.any(|reason| reason == Reason::Segments), "the flow did not change to the kernel path");
        if check() {
            return;
        }
    }
    panic!("the rest of the flow did not take the kernel path");
}

#[test]
fn many_segments_change_their_whole_flow_to_kernel_path() {
    let programs = programs();
    for version in [Version::V4, Version::V6] {
        let burst = packet(version, TCP, 1400);
        let rest = [(packet(version, TCP, 100), 0), (packet(version, TCP, 2000), 2), (burst.clone(), 0)];
        after_burst(&programs, &burst, || {
            rest.iter().all(|(packet, segments)| reason(&programs, packet, *segments) == Reason::Segments)
        });
        // Flows of another kind, and with another source port.
        assert_eq!(reason(&programs, &packet(version, L4::Udp(5000, 53), 1400), 0), Reason::Decap);
        let other = Outer { udp_src: from_node2().udp_src ^ 1, ..from_node2() };
        let other = other.encapsulate(&inbound(version, TCP).l3_len(1400).bytes());
        assert_eq!(reason(&programs, &other, 0), Reason::Decap);
        std::thread::sleep(PAUSE);
        assert_eq!(reason(&programs, &packet(version, TCP, 100), 0), Reason::Decap);
        assert_eq!(reason(&programs, &burst, 0), Reason::Decap);
    }
}

#[test]
fn few_segments_in_a_tick_are_decapsulated() {
    let programs = programs();
    let large = packet(Version::V4, TCP, 1400);
    for _ in 1..Flow::MANY {
        assert_eq!(reason(&programs, &large, 0), Reason::Decap);
    }
}

#[test]
fn other_packets_do_not_change_path() {
    let programs = programs();
    let large = packet(Version::V4, TCP, 1400);
    let others = [packet(Version::V4, TCP, 900), packet(Version::V4, L4::Udp(5000, 53), 1400)];
    for _ in 0..1_000 {
        for other in &others {
            assert_eq!(reason(&programs, other, 0), Reason::Decap);
        }
        assert_eq!(reason(&programs, &large, 3), Reason::Decap);
    }
    // The sender's super-packets reach this host: what is not part of one is the end of a message.
    for _ in 0..1_000 {
        for _ in 1..Flow::MANY {
            assert_eq!(reason(&programs, &large, 0), Reason::Decap);
        }
        assert_eq!(reason(&programs, &large, 3), Reason::Decap);
    }
}

#[test]
fn nic_that_merges_segments_keeps_every_flow_on_fast_path() {
    let mut programs = programs();
    let large = packet(Version::V4, TCP, 1400);
    after_burst(&programs, &large, || true);
    set(&mut programs, 0);
    for _ in 0..1_000 {
        assert_eq!(reason(&programs, &large, 0), Reason::Decap);
    }
}

/// A super-packet takes the kernel path, and what is behind it does not overtake it.
#[test]
fn single_packets_follow_super_packets_of_their_flow() {
    let programs = Programs::cluster();
    for version in [Version::V4, Version::V6] {
        let of = |l4, length| packet(version, l4, length);
        let (udp, udp_again, icmp) = (of(L4::Udp(5000, 443), 1200), of(L4::Udp(5000, 443), 60), of(L4::Icmp, 100));
        let super_packet = Skb { gso_size: 600, gso_segs: 2, ..Skb::default() };
        assert_eq!(reason(&programs, &udp, 0), Reason::Decap);
        let follow = || {
            assert_eq!(programs.run_skb(Hook::NicIn, &udp, super_packet).counted[0].0, Reason::Gso);
            [&udp, &udp_again, &icmp].into_iter().all(|packet| reason(&programs, packet, 0) == Reason::Gso)
        };
        // This process may have waited for a CPU.
        assert!((0..100).any(|_| follow()));
        assert_eq!(reason(&programs, &of(TCP, 100), 0), Reason::Decap);
        let other = Outer { udp_src: from_node2().udp_src ^ 1, ..from_node2() };
        let other = other.encapsulate(&inbound(version, L4::Udp(5000, 443)).l3_len(1200).bytes());
        assert_eq!(reason(&programs, &other, 0), Reason::Decap);
        std::thread::sleep(PAUSE);
        assert_eq!(reason(&programs, &udp_again, 0), Reason::Decap);
    }
}

#[test]
fn xdp_passes_segments_to_tc() {
    let programs = programs();
    let large = packet(Version::V4, TCP, 1400);
    after_burst(&programs, &large, || true);
    programs.run(Hook::NicXdp, &large).assert_kernel(Reason::XdpTcp, &large);
}

#[test]
fn segments_of_a_strict_network_are_checked() {
    let mut programs = Programs::strict();
    set(&mut programs, flags::SEGMENTS | flags::STRICT);
    let burst = packet(Version::V4, TCP, 1400);
    let spoofed = Outer { src: [192, 168, 1, 77], ..from_node2() };
    let spoofed = spoofed.encapsulate(&inbound(Version::V4, TCP).l3_len(1400).bytes());
    after_burst(&programs, &burst, || true);
    programs.run(Hook::NicIn, &spoofed).assert_dropped(Reason::StrictPeer, spoofed.len());
}
