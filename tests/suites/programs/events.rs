//! Sampled events.

use std::time::Duration;

use overlay_common::{
    MacAddr, Reason,
    event::SAMPLE_LEN,
    maps::{Port, flags},
};
use overlay_tests::{
    frame::{L4, Outer, Version},
    program::{Hook, Programs, STRICT_VNI, VNI, from_node2, inbound, outbound, port},
};
use overlay_user::testing::sys::ticks;

const UDP: L4 = L4::Udp(5000, 53);

/// A frame with a spoofed source MAC whose last byte is `number`.
fn spoofed_mac(number: u8) -> Vec<u8> {
    let mut frame = outbound(Version::V4, UDP).bytes();
    frame[6..12].copy_from_slice(&MacAddr([2, 0, 0, 0, 0, number]).0);
    frame
}

fn from_unknown_vtep(vni: u32) -> Vec<u8> {
    Outer { src: [192, 168, 1, 66], vni, ..from_node2() }.encapsulate(&inbound(Version::V4, UDP).bytes())
}

/// 100 ms in ticks, as the daemon sets it.
fn interval() -> u32 {
    u32::try_from(ticks(Duration::from_millis(100))).expect("few ticks")
}

#[test]
fn sample_reports_packets_skipped_since_last_sample() {
    let mut programs = Programs::cluster_with_globals(&[("OVL_INTERVAL", interval())]);
    programs.port(programs.port, Port { flags: flags::STRICT, ..port() });
    let frame = spoofed_mac(1);
    let start = std::time::Instant::now();
    let mut sent = 0u64;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        programs.run(Hook::PortIn, &frame).assert_dropped(Reason::StrictMac, frame.len());
        sent += 1;
        seen.extend(programs.events());
    }
    // Three intervals lie between the first and the fourth sample, with one tick of tolerance.
    assert!(start.elapsed() >= Duration::from_millis(270), "{:?}", start.elapsed());
    assert_eq!(
        seen.iter().map(|event| event.skipped + 1).sum::<u64>(),
        sent,
        "every packet is counted, sampled or not"
    );
    assert_eq!(seen[0].skipped, 0);
}

#[test]
fn sampling_interval_is_per_reason() {
    let mut programs = Programs::cluster_with_globals(&[("OVL_INTERVAL", 1_000_000)]);
    programs.port(programs.neighbour_port, Port { flags: flags::STRICT, ..port() });
    let packets = [
        (Hook::NicIn, from_unknown_vtep(VNI)),
        (Hook::NicIn, from_unknown_vtep(STRICT_VNI)),
        (Hook::NicIn, from_unknown_vtep(77)),
        (Hook::PortIn, spoofed_mac(1)),
    ];
    for _ in 0..3 {
        for (hook, packet) in &packets {
            programs.run(*hook, packet);
        }
    }
    let reasons: Vec<_> = programs.events().iter().map(|event| Reason::ALL[event.reason as usize]).collect();
    assert_eq!(reasons, [Reason::UnknownPeer, Reason::StrictPeer, Reason::UnknownVni, Reason::SourceMac]);
}

#[test]
fn packet_passed_from_xdp_to_tc_is_sampled_only_by_tc() {
    let programs = Programs::cluster();
    programs.run(Hook::NicXdp, &from_unknown_vtep(VNI)).assert_passed_to_kernel(&from_unknown_vtep(VNI));
    assert_eq!(programs.events(), []);
    programs.run(Hook::NicXdp, &from_unknown_vtep(STRICT_VNI));
    let events = programs.events();
    assert_eq!(
        events.iter().map(|event| (event.reason, event.hook)).collect::<Vec<_>>(),
        [(Reason::StrictPeer as u32, Hook::NicXdp.number())]
    );
}

#[test]
fn forwarded_and_unrelated_packets_are_not_sampled() {
    let programs = Programs::cluster();
    programs.run(Hook::PortIn, &outbound(Version::V4, UDP).bytes());
    let other = Outer { udp_dst: 53, ..from_node2() }.encapsulate(&inbound(Version::V4, UDP).bytes());
    for packet in [from_node2().encapsulate(&inbound(Version::V4, UDP).bytes()), other] {
        programs.run(Hook::NicIn, &packet);
        programs.run(Hook::NicXdp, &packet);
    }
    assert_eq!(programs.events(), []);
}

#[test]
fn sample_names_port_and_network_and_is_truncated() {
    let mut programs = Programs::cluster();
    programs.port(programs.port, Port { flags: flags::STRICT, ..port() });
    let mut frame = outbound(Version::V6, UDP).l3_len(1000).bytes();
    frame[6] ^= 4;
    programs.run(Hook::PortIn, &frame);
    let events = programs.events();
    let event = events[0];
    assert_eq!((event.vni, event.ifindex, event.netns_id, event.len), (VNI, programs.port, 0, 1014));
    assert_eq!(event.bytes(), &frame[..SAMPLE_LEN]);
}
