//! The same attacks on networks that are not strict: the programs pass the packets to the kernel unmodified, which
//! delivers them.

use overlay_common::MacAddr;
use overlay_tests::{
    frame::{Outer, Station},
    lab::NIC,
};

use crate::{
    container::{injections, masquerade},
    setup::{Attack, BLUE, BLUE_PORT, BLUE1, BLUE2, GINDEMO1, GINDEMO2, SENT, Setup, frame, outer, repeated},
};

#[test]
fn spoofed_mac_falls_back_to_kernel() {
    let setup = Setup::start(false, "tc");
    let spoofed = Station { mac: MacAddr([2, 0, 0, 0, 0, 7]), ..GINDEMO1 };
    let frames = repeated(&frame(spoofed, GINDEMO2).bytes());
    let from = &setup.socket(1, "gindemo1");
    let attack =
        Attack { from, frames: frames.clone(), host: 1, hook: "port", reason: "source_mac", victim: (2, "gindemo2") };
    let (event, seen) = setup.attack(&attack);
    assert_eq!((&event["verdict"], &event["src_mac"]), (&"kernel".into(), &"02:00:00:00:00:07".into()));
    assert_eq!(seen, frames, "the kernel delivers them unmodified");
}

fn unknown_peer(rx: &str) {
    let setup = Setup::start(false, rx);
    let from = &setup.socket(3, NIC);
    for (header, inner, victim) in [
        (Outer { src: [192, 168, 1, 66], ..outer(3, 1) }, frame(GINDEMO2, GINDEMO1), "gindemo1"),
        (Outer { vni: BLUE, udp_dst: BLUE_PORT, ..outer(3, 1) }, frame(BLUE2, BLUE1), "blue1"),
    ] {
        let frames = repeated(&header.encapsulate(&inner.bytes()));
        let attack = Attack { from, frames, host: 1, hook: "nic", reason: "unknown_peer", victim: (1, victim) };
        let (event, seen) = setup.attack(&attack);
        assert_eq!(event["verdict"], "kernel");
        assert_eq!(seen, repeated(&inner.bytes()), "the kernel delivers them unmodified");
    }
}

#[test]
fn tc_passes_unknown_peer_to_kernel() {
    unknown_peer("tc");
}

#[test]
fn xdp_passes_unknown_peer_to_kernel() {
    unknown_peer("xdp");
}

#[test]
fn inner_source_of_known_peer_is_not_checked() {
    let setup = Setup::start(false, "tc");
    let watch = setup.watch((1, "gindemo1"));
    let before = setup.counts(1);
    let inner = frame(GINDEMO2, GINDEMO1).bytes();
    for packet in repeated(&outer(3, 1).encapsulate(&inner)) {
        setup.socket(3, NIC).send(&packet).unwrap();
    }
    assert_eq!(watch.seen(), repeated(&inner));
    // With the datagram that ends the watch.
    assert_eq!(setup.counts(1).since(&before).of("decap"), SENT + 1);
}

#[test]
fn vxlan_from_container_follows_kernel_routing() {
    let setup = Setup::start(false, "tc");
    masquerade(&setup);
    let from = setup.socket(1, "gindemo1");
    for (injected, victim) in injections() {
        let watch = setup.watch(victim);
        let before = setup.counts(1);
        for frame in repeated(&injected.bytes()) {
            from.send(&frame).unwrap();
        }
        let seen = watch.seen();
        let moved = setup.counts(1).since(&before);
        // Multicast of the containers is counted too.
        assert!(moved.of("unknown_mac") + moved.of("group_address") >= SENT, "{moved:?}");
        assert_eq!(seen.len() as u64, SENT, "{victim:?} {moved:?}");
    }
}
