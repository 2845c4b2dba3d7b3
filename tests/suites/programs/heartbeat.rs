//! Heartbeat deadline: the programs trust the maps until it expires, and then pass all packets to the kernel.

use overlay_common::{
    Reason,
    maps::{Port, Traffic, flags},
};
use overlay_tests::{
    frame::{Inner, L4, Outer, Version},
    program::{
        GINDEMO1, Hook, NEIGHBOUR, Outcome, Programs, SLOT, STRICT_VNI, TC_REDIRECT, VTEP, XDP_REDIRECT, from_node2,
        inbound, outbound, port,
    },
};

/// Forwarded packets: hook, packet and reason.
fn forwarded() -> Vec<(Hook, Vec<u8>, Reason)> {
    let mut packets = Vec::new();
    for version in [Version::V4, Version::V6] {
        let neighbour = Inner::new(GINDEMO1, NEIGHBOUR, version, L4::Tcp(1, 2)).bytes();
        packets.push((Hook::PortIn, outbound(version, L4::Tcp(35126, 80)).bytes(), Reason::Encap));
        packets.push((Hook::PortIn, neighbour, Reason::Local));
        for (hook, reason) in [(Hook::NicIn, Reason::Decap), (Hook::NicXdp, Reason::DecapXdp)] {
            packets.push((hook, from_node2().encapsulate(&inbound(version, L4::Udp(5000, 53)).bytes()), reason));
        }
    }
    packets
}

#[track_caller]
fn assert_forwarded(outcome: &Outcome, reason: Reason) {
    assert!([TC_REDIRECT, XDP_REDIRECT].contains(&outcome.action), "{:?}: {:?}", outcome.hook, outcome.counted);
    assert!(matches!(outcome.counted[..], [(counted, _)] if counted == reason), "{:?}", outcome.counted);
}

#[test]
fn packets_before_deadline_are_forwarded() {
    let mut programs = Programs::cluster();
    for left in [None, Some(5), Some(1_000_000)] {
        programs.deadline(left);
        for (hook, packet, reason) in forwarded() {
            assert_forwarded(&programs.run(hook, &packet), reason);
        }
    }
}

#[test]
fn packets_after_deadline_are_passed_to_kernel_unmodified() {
    let mut programs = Programs::cluster();
    programs.deadline(Some(-1));
    for (hook, packet, _) in forwarded() {
        programs.run(hook, &packet).assert_kernel(Reason::Stale, &packet);
    }
    assert_eq!((programs.vni_stats(SLOT), programs.vtep_stats(VTEP)), (Traffic::default(), Traffic::default()));
    let mut sandbox = Programs::sandbox();
    sandbox.deadline(Some(-1));
    let frame = outbound(Version::V4, L4::Icmp).bytes();
    sandbox.run(Hook::PortIn, &frame).assert_kernel(Reason::Stale, &frame);
}

#[test]
fn extended_deadline_takes_effect_immediately() {
    let mut programs = Programs::cluster();
    for (hook, packet, reason) in forwarded() {
        programs.deadline(Some(-1));
        programs.run(hook, &packet).assert_kernel(Reason::Stale, &packet);
        programs.deadline(Some(5));
        assert_forwarded(&programs.run(hook, &packet), reason);
    }
}

/// The other end of the shim has already modified the packet.
#[test]
fn packet_in_shim_is_delivered_after_deadline() {
    let mut programs = Programs::sandbox();
    programs.deadline(Some(-1));
    let frame = inbound(Version::V4, L4::Icmp).bytes();
    assert_eq!(programs.run(Hook::ShimIn, &frame).action, TC_REDIRECT);
}

/// The kernel path would forward spoofed packets.
#[test]
fn spoofed_sources_are_dropped_after_deadline() {
    let mut programs = Programs::cluster();
    programs.port(programs.port, Port { flags: flags::STRICT, ..port() });
    programs.deadline(Some(-1));
    let mut frame = outbound(Version::V4, L4::Icmp).bytes();
    frame[11] ^= 1;
    programs.run(Hook::PortIn, &frame).assert_dropped(Reason::StrictMac, frame.len());
    let unknown_vtep = Outer { src: [192, 168, 1, 66], vni: STRICT_VNI, ..from_node2() };
    let packet = unknown_vtep.encapsulate(&inbound(Version::V4, L4::Udp(1, 2)).bytes());
    for hook in [Hook::NicIn, Hook::NicXdp] {
        programs.run(hook, &packet).assert_dropped(Reason::StrictPeer, packet.len());
    }
}

#[test]
fn kernel_path_reasons_take_precedence_over_stale() {
    let mut programs = Programs::cluster();
    programs.deadline(Some(-1));
    let mut frame = outbound(Version::V4, L4::Icmp).bytes();
    frame[..6].fill(0xff);
    programs.run(Hook::PortIn, &frame).assert_kernel(Reason::GroupAddress, &frame);
    let unknown = Outer { vni: 77, ..from_node2() }.encapsulate(&inbound(Version::V4, L4::Icmp).bytes());
    programs.run(Hook::NicIn, &unknown).assert_kernel(Reason::UnknownVni, &unknown);
}
