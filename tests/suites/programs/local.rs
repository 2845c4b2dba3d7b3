//! Frames between containers of one host are unmodified.

use overlay_common::{
    Reason,
    maps::{Count, FdbEntry, Traffic},
};
use overlay_tests::{
    frame::{Inner, L4, Version},
    program::{GINDEMO1, Hook, NEIGHBOUR, Programs, SLOT, Skb, TC_REDIRECT, VNI, VTEP},
};

fn to_neighbour(version: Version, l4: L4) -> Vec<u8> {
    Inner::new(GINDEMO1, NEIGHBOUR, version, l4).bytes()
}

#[test]
fn local_frame_is_delivered_unmodified() {
    let mut programs = Programs::cluster();
    for kind in [FdbEntry::LOCAL, FdbEntry::LOCAL_PEER] {
        programs.fdb(VNI, NEIGHBOUR.mac, FdbEntry::local(kind, programs.neighbour_port));
        for version in [Version::V4, Version::V6] {
            for l4 in [L4::Tcp(1, 2), L4::Udp(1, 2), L4::Icmp, L4::Raw(99)] {
                for tos in [0, 1, 2, 3, 0xb8] {
                    let frame = Inner::new(GINDEMO1, NEIGHBOUR, version, l4).tos(tos).bytes();
                    programs.run(Hook::PortIn, &frame).assert_forwarded(Reason::Local, frame.len(), &frame);
                }
            }
        }
    }
}

#[test]
fn local_frames_are_not_counted_as_tunnelled() {
    let programs = Programs::cluster();
    programs.run(Hook::PortIn, &to_neighbour(Version::V4, L4::Icmp));
    assert_eq!(programs.vni_stats(SLOT), Traffic::default());
    assert_eq!(programs.vtep_stats(VTEP), Traffic::default());
}

#[test]
fn local_super_packet_counts_as_its_segments() {
    let programs = Programs::cluster();
    let frame = Inner::new(GINDEMO1, NEIGHBOUR, Version::V4, L4::Tcp(1, 2)).l3_len(3040).bytes();
    let skb = Skb { gso_size: 1000, gso_segs: 3, ..Skb::default() };
    let outcome = programs.run_skb(Hook::PortIn, &frame, skb);
    assert_eq!(outcome.action, TC_REDIRECT);
    assert_eq!(outcome.packet, frame);
    assert_eq!(outcome.counted, [(Reason::Local, Count { packets: 3, bytes: frame.len() as u64 })]);
}
