//! Decapsulation by both hooks: every byte of the inner frame is unmodified.

use overlay_common::{
    MacAddr, Reason,
    maps::{Count, FdbEntry, Peer, Traffic, Underlay, flags},
};
use overlay_tests::{
    frame::{Inner, L4, Outer, Station, UdpChecksum, Version, has_valid_checksums},
    program::{
        GINDEMO1, GINDEMO2, Hook, NODE1, NODE1_MAC, OTHER_UDP_PORT, Programs, SLOT, Skb, UDP_PORT, VNI, VTEP,
        VXLAN_MAC, from_node2, inbound, peer,
    },
};

const UDP: L4 = L4::Udp(5000, 53);

/// Kinds of inner packets, and whether XDP accepts them: all IPv4 but TCP; IPv6 unless an extension header may precede
/// TCP.
const EVERY_KIND: [(Version, L4, bool); 8] = [
    (Version::V4, L4::Tcp(35126, 80), false),
    (Version::V4, UDP, true),
    (Version::V4, L4::Icmp, true),
    (Version::V4, L4::Raw(132), true),
    (Version::V6, L4::Tcp(35126, 80), false),
    (Version::V6, UDP, true),
    (Version::V6, L4::Icmp, true),
    (Version::V6, L4::Raw(0), false),
];

/// Checks delivery by TC, and by XDP where it accepts the packet.
#[track_caller]
fn assert_delivered(programs: &Programs, outer: &Outer, inner: &[u8], by_xdp: bool) {
    let packet = outer.encapsulate(inner);
    programs.run(Hook::NicIn, &packet).assert_forwarded(Reason::Decap, packet.len(), inner);
    let outcome = programs.run(Hook::NicXdp, &packet);
    if by_xdp {
        outcome.assert_forwarded(Reason::DecapXdp, packet.len(), inner);
    } else {
        outcome.assert_kernel(Reason::XdpTcp, &packet);
    }
}

#[test]
fn every_kind_of_ip_frame_is_decapsulated_unmodified() {
    let programs = Programs::cluster();
    for (version, l4, by_xdp) in EVERY_KIND {
        for payload in [0, 1, 2, 39, 1000] {
            let inner = inbound(version, l4).payload(&vec![0x5a; payload]).bytes();
            assert!(matches!(l4, L4::Raw(_)) || has_valid_checksums(&inner));
            assert_delivered(&programs, &from_node2(), &inner, by_xdp);
        }
    }
}

#[test]
fn smallest_frames_are_decapsulated() {
    let programs = Programs::cluster();
    // Headers alone; with IPv6, Ethernet and IPv6 without a payload.
    let bare = Inner { payload: Vec::new(), ..inbound(Version::V4, L4::Raw(59)) }.bytes();
    assert_eq!(bare.len(), 34);
    assert_delivered(&programs, &from_node2(), &bare, true);
    let bare = Inner { payload: Vec::new(), ..inbound(Version::V6, L4::Raw(17)) }.bytes();
    assert_eq!(bare.len(), 54);
    assert_delivered(&programs, &from_node2(), &bare, true);
}

#[test]
fn every_length_up_to_mtu_is_decapsulated() {
    let programs = Programs::cluster();
    for len in 28..=1450 {
        assert_delivered(&programs, &from_node2(), &inbound(Version::V4, UDP).l3_len(len).bytes(), true);
    }
}

#[test]
fn inner_ip_options_and_fragments_are_decapsulated() {
    let programs = Programs::cluster();
    let options = Inner { options: vec![0x94, 4, 0, 0], ..inbound(Version::V4, UDP) };
    assert_delivered(&programs, &from_node2(), &options.bytes(), true);
    for (offset, more) in [(0, true), (4, true), (8, false)] {
        assert_delivered(&programs, &from_node2(), &inbound(Version::V4, UDP).fragment(offset, more).bytes(), true);
    }
}

#[test]
fn local_port_without_peer_redirect_receives_frame() {
    let mut programs = Programs::cluster();
    let entry = FdbEntry { tx: programs.port, ..FdbEntry::local(FdbEntry::LOCAL, programs.port) };
    programs.fdb(VNI, GINDEMO1.mac, entry);
    for (version, l4, by_xdp) in EVERY_KIND {
        assert_delivered(&programs, &from_node2(), &inbound(version, l4).bytes(), by_xdp);
    }
}

#[test]
fn outer_udp_checksum_is_ignored() {
    let programs = Programs::cluster();
    for udp_checksum in [UdpChecksum::Absent, UdpChecksum::Right, UdpChecksum::Value(0xbad1)] {
        for (version, l4, by_xdp) in EVERY_KIND {
            assert_delivered(&programs, &Outer { udp_checksum, ..from_node2() }, &inbound(version, l4).bytes(), by_xdp);
        }
    }
}

/// The container verifies the checksum: the programs must not change it.
#[test]
fn corrupt_inner_checksum_stays_corrupt() {
    let programs = Programs::cluster();
    for (version, l4, by_xdp) in EVERY_KIND {
        let mut inner = inbound(version, l4).bytes();
        let last = inner.len() - 1;
        inner[last] ^= 0x01;
        assert!(matches!(l4, L4::Raw(_)) || !has_valid_checksums(&inner));
        assert_delivered(&programs, &from_node2(), &inner, by_xdp);
    }
    // A corrupt inner IPv4 header is dropped by the container.
    let mut inner = inbound(Version::V4, UDP).bytes();
    inner[22] ^= 0xff;
    assert_delivered(&programs, &from_node2(), &inner, true);
}

#[test]
fn irrelevant_outer_fields_do_not_affect_decapsulation() {
    let programs = Programs::cluster();
    let inner = inbound(Version::V4, UDP).bytes();
    let outers = [
        Outer { dont_fragment: true, ..from_node2() },
        Outer { ttl: 1, ..from_node2() },
        Outer { id: 0xffff, ..from_node2() },
        Outer { tos: 0xb8, ..from_node2() },
        Outer { udp_src: 1, ..from_node2() },
        Outer { eth_src: MacAddr([0x02, 0, 0, 0, 0, 1]), ..from_node2() },
    ];
    for outer in outers {
        assert_delivered(&programs, &outer, &inner, true);
    }
}

#[test]
fn network_on_another_udp_port_is_not_received_on_4789() {
    let mut programs = Programs::cluster();
    programs.peer(VNI, from_node2().src, Peer { port: OTHER_UDP_PORT, ..peer() });
    let inner = inbound(Version::V4, UDP).bytes();
    assert_delivered(&programs, &Outer { udp_dst: OTHER_UDP_PORT, ..from_node2() }, &inner, true);
    let packet = from_node2().encapsulate(&inner);
    programs.run(Hook::NicIn, &packet).assert_kernel(Reason::WrongPort, &packet);
    programs.run(Hook::NicXdp, &packet).assert_kernel(Reason::WrongPort, &packet);
}

/// The kernel drops frames with these source MACs, or learns from them.
#[test]
fn frames_that_the_kernel_would_not_accept_unchanged_take_the_kernel_path() {
    let mut programs = Programs::cluster();
    let from = |mac: [u8; 6]| {
        let station = Station { mac: MacAddr(mac), ..GINDEMO2 };
        from_node2().encapsulate(&Inner { ..Inner::new(station, GINDEMO1, Version::V4, UDP) }.bytes())
    };
    let check = |programs: &Programs, mac, refused| {
        let packet = from(mac);
        for (hook, reason) in [(Hook::NicIn, Reason::Decap), (Hook::NicXdp, Reason::DecapXdp)] {
            let outcome = programs.run(hook, &packet);
            match refused {
                None => outcome.assert_forwarded(reason, packet.len(), &packet[50..]),
                Some(reason) => outcome.assert_kernel(reason, &packet),
            }
        }
    };
    let unknown = [0x02, 0x42, 10, 0, 1, 99];
    for is_learning in [false, true] {
        let flags = if is_learning { flags::LEARNING as u16 } else { 0 };
        programs.peer(VNI, from_node2().src, Peer { flags, ..peer() });
        check(&programs, GINDEMO2.mac.0, None);
        for invalid in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1], [3, 0x42, 10, 0, 1, 6]] {
            check(&programs, invalid, Some(Reason::GroupAddress));
        }
        check(&programs, VXLAN_MAC.0, Some(Reason::Learning));
        let is_new = is_learning.then_some(Reason::Learning);
        check(&programs, unknown, is_new);
        // Of a container of this host.
        check(&programs, GINDEMO1.mac.0, is_new);
    }
    // Behind another VTEP.
    programs.peer(VNI, from_node2().src, Peer { vtep: VTEP + 1, flags: flags::LEARNING as u16, ..peer() });
    check(&programs, GINDEMO2.mac.0, Some(Reason::Learning));
}

#[test]
fn all_four_udp_ports_are_received() {
    let mut programs = Programs::cluster();
    let ports = [UDP_PORT, 8472, 1, 65535];
    programs.underlay(Underlay::new(NODE1, NODE1_MAC, programs.nic, &ports).expect("four ports"));
    let inner = inbound(Version::V4, UDP).bytes();
    for udp_dst in ports {
        programs.peer(VNI, from_node2().src, Peer { port: udp_dst, ..peer() });
        assert_delivered(&programs, &Outer { udp_dst, ..from_node2() }, &inner, true);
    }
}

#[test]
fn received_packets_are_counted_per_network_and_vtep() {
    let programs = Programs::cluster();
    let (tcp, udp) = (inbound(Version::V4, L4::Tcp(1, 2)).bytes(), inbound(Version::V6, UDP).l3_len(700).bytes());
    programs.run(Hook::NicIn, &from_node2().encapsulate(&tcp));
    programs.run(Hook::NicIn, &from_node2().encapsulate(&udp));
    programs.run(Hook::NicXdp, &from_node2().encapsulate(&udp));
    // XDP passes it to TC, which counts it.
    programs.run(Hook::NicXdp, &from_node2().encapsulate(&tcp));
    let rx = Count { packets: 3, bytes: (tcp.len() + 2 * udp.len()) as u64 };
    assert_eq!(programs.vni_stats(SLOT), Traffic { rx, ..Traffic::default() });
    assert_eq!(programs.vtep_stats(VTEP), Traffic { rx, ..Traffic::default() });
}

/// The network has an MTU of 8950 bytes.
fn jumbo() -> Programs {
    let mut programs = Programs::cluster();
    programs.peer(VNI, from_node2().src, Peer { mtu: 8950, ..peer() });
    programs
}

#[test]
fn received_super_packet_counts_as_its_segments() {
    let programs = jumbo();
    let packet = from_node2().encapsulate(&inbound(Version::V4, L4::Tcp(1, 2)).l3_len(2000).bytes());
    let outcome = programs.run_skb(Hook::NicIn, &packet, Skb { gso_segs: 2, ..Skb::default() });
    assert_eq!(outcome.counted, [(Reason::Decap, Count { packets: 2, bytes: packet.len() as u64 })]);
    assert_eq!(programs.vni_stats(SLOT).rx, Count { packets: 2, bytes: packet.len() as u64 - 50 });
}

#[test]
fn super_packet_that_cannot_be_resized_falls_back_to_kernel() {
    let programs = Programs::cluster();
    for (l4, reason) in [(L4::Tcp(1, 2), Reason::AdjustRoom), (UDP, Reason::Gso), (L4::Icmp, Reason::Gso)] {
        let packet = from_node2().encapsulate(&inbound(Version::V4, l4).l3_len(2000).bytes());
        let outcome = programs.run_skb(Hook::NicIn, &packet, Skb { gso_size: 900, gso_segs: 2, ..Skb::default() });
        outcome.assert_passed_to_kernel(&packet);
        assert_eq!(outcome.counted, [(reason, Count { packets: 2, bytes: packet.len() as u64 })]);
    }
    assert_eq!(programs.vni_stats(SLOT), Traffic::default());
}

/// Whether `BPF_PROG_TEST_RUN` of this kernel supports `skb`; prints the missing feature otherwise.
fn supports(programs: &Programs, hook: Hook, skb: Skb, feature: &str) -> bool {
    let packet = from_node2().encapsulate(&inbound(Version::V4, UDP).bytes());
    let refused = programs.try_run(hook, &packet, skb).is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL));
    if refused {
        eprintln!("skipped: this kernel's BPF_PROG_TEST_RUN has no {feature}");
    }
    !refused
}

/// With `CHECKSUM_COMPLETE` the NIC sums the entire packet: the kernel's sum must follow the program's changes, or the
/// container's kernel reports "hw csum failure" and drops the packet.
#[test]
fn checksum_complete_is_valid_after_decapsulation() {
    let programs = Programs::cluster();
    let summed = Skb { checksum_complete: true, ..Skb::default() };
    if !supports(&programs, Hook::NicIn, summed, "BPF_F_TEST_SKB_CHECKSUM_COMPLETE (Linux 6.11)") {
        return;
    }
    for (version, l4, _) in EVERY_KIND {
        // Inner ECT(0) with outer Not-ECT, ECT(1) and CE: one unmodified, two marked.
        for tos in [0, 1, 3] {
            let packet = Outer { tos, ..from_node2() }.encapsulate(&inbound(version, l4).tos(2).bytes());
            let outcome = programs.run_skb(Hook::NicIn, &packet, summed);
            assert_eq!(outcome.counted[0].0, Reason::Decap, "{version:?} {l4:?} {tos}");
        }
    }
}

#[test]
fn xdp_decapsulates_multi_buffer_jumbo_frames() {
    let programs = jumbo();
    for len in [1500, 3400, 3600, 4096, 8192, 8950] {
        for version in [Version::V4, Version::V6] {
            let inner = inbound(version, UDP).l3_len(len).bytes();
            let packet = from_node2().encapsulate(&inner);
            programs.run(Hook::NicXdp, &packet).assert_forwarded(Reason::DecapXdp, packet.len(), &inner);
        }
    }
}

/// The first buffer ends inside the headers.
#[test]
fn xdp_passes_headers_in_second_buffer_to_tc() {
    let programs = jumbo();
    let split = Skb { linear: Some(80), ..Skb::default() };
    if !supports(&programs, Hook::NicXdp, split, "size for the first XDP buffer (Linux 6.18)") {
        return;
    }
    for version in [Version::V4, Version::V6] {
        let inner = inbound(version, UDP).l3_len(8950).tos(2);
        let packet = Outer { tos: 3, ..from_node2() }.encapsulate(&inner.bytes());
        let marked = inner.tos(3).bytes();
        for linear in 14..120 {
            let outcome = programs.run_skb(Hook::NicXdp, &packet, Skb { linear: Some(linear), ..Skb::default() });
            // The program reads the complete inner IPv4 header, and an IPv6 header up to the next header field.
            if linear < if version == Version::V4 { 84 } else { 71 } {
                outcome.assert_kernel(Reason::Truncated, &packet);
            } else {
                outcome.assert_forwarded(Reason::DecapXdp, packet.len(), &marked);
            }
        }
    }
}
