//! Decapsulation: the programs deliver the same frames as the kernel's VXLAN device.

use std::cell::RefCell;

use overlay_common::ecn;
use overlay_tests::{
    frame::{Outer, UdpChecksum},
    program::{NODE1, NODE1_MAC, NODE2, NODE2_MAC, to_node2},
};
use proptest::{collection::vec, prelude::*};

use crate::{
    arrivals::assert_same_packets,
    frames::{Frame, L4, Version, frame, tos},
    receiver::{Counts, Path, Receiver, Rx},
    runner,
};

/// A VXLAN packet for gindemo2.
#[derive(Clone, Debug)]
struct Packet {
    frame: Frame,
    outer: OuterFields,
}

/// Fields of the outer header that a peer may choose.
#[derive(Clone, Copy, Debug)]
struct OuterFields {
    tos: u8,
    ttl: u8,
    id: u16,
    dont_fragment: bool,
    udp_src: u16,
    checksum: bool,
}

impl Packet {
    fn new(frame: Frame, tos: u8, checksum: bool) -> Self {
        Self { frame, outer: OuterFields { tos, ttl: 64, id: 1, dont_fragment: false, udp_src: 50730, checksum } }
    }

    fn bytes(&self, number: u16) -> Vec<u8> {
        let OuterFields { tos, ttl, id, dont_fragment, udp_src, checksum } = self.outer;
        let udp_checksum = if checksum { UdpChecksum::Right } else { UdpChecksum::Absent };
        assert_eq!((to_node2().eth_src, to_node2().eth_dst), (NODE1_MAC, NODE2_MAC));
        assert_eq!((to_node2().src, to_node2().dst), (NODE1, NODE2));
        let outer = Outer { tos, ttl, id, dont_fragment, udp_src, udp_checksum, ..to_node2() };
        outer.encapsulate(&self.frame.bytes(number))
    }

    /// Whether XDP passes the packet to TC.
    fn may_be_tcp(&self) -> bool {
        match (&self.frame.version, self.frame.l4) {
            (_, L4::Tcp { .. }) => true,
            (Version::V4 { .. }, _) => false,
            (Version::V6 { extensions }, l4) => {
                !extensions.is_empty() || self.frame.fragment.is_some() || matches!(l4, L4::Other(_))
            }
        }
    }
}

fn packet() -> impl Strategy<Value = Packet> {
    let outer = (any::<u8>(), 1u8.., any::<u16>(), any::<bool>(), 1u16.., any::<bool>()).prop_map(
        |(tos, ttl, id, dont_fragment, udp_src, checksum)| OuterFields {
            tos,
            ttl,
            id,
            dont_fragment,
            udp_src,
            checksum,
        },
    );
    (frame(), outer).prop_map(|(frame, outer)| Packet { frame, outer })
}

fn assert_same(receiver: &mut Receiver, packets: &[Packet]) {
    let sent: Vec<_> = (1..).zip(packets).map(|(number, packet)| packet.bytes(number)).collect();
    // The expected number; the kernel's result is the reference.
    let is_forwarded = |packet: &&Packet| ecn::decapsulate(packet.outer.tos, packet.frame.tos).is_some();
    let expected = packets.iter().filter(is_forwarded).count();
    let (by_kernel, counts) = receiver.receive(Path::Kernel, &sent, expected);
    let all = sent.len() as u64;
    assert_eq!(counts, Counts { tc: 0, xdp: 0, ecn: 0, unknown: all }, "the kernel's packets");

    let delivered = by_kernel.packets().len();
    let (by_program, counts) = receiver.receive(Path::Fast, &sent, delivered);
    let delivered = delivered as u64;
    let to_tc = packets.iter().filter(is_forwarded).filter(|packet| packet.may_be_tcp()).count() as u64;
    let tc = if receiver.rx() == Rx::Xdp { to_tc } else { delivered };
    let xdp = delivered - tc;
    assert_same_packets(&by_program.differences_from(&by_kernel), packets);
    for (number, frame) in by_kernel.packets() {
        let packet = &packets[usize::from(number) - 1];
        // The kernel changes only the inner ECN field.
        assert_eq!(tos(frame) >> 2, packet.frame.tos >> 2, "DSCP of {packet:?}");
        let expected = Frame { tos: tos(frame), ..packet.frame.clone() };
        assert_eq!(frame, expected.bytes(number), "{packet:?}");
    }
    assert_eq!(counts, Counts { tc, xdp, ecn: all - delivered, unknown: 0 }, "the programs' packets");
}

fn any_packet(rx: Rx) {
    let receiver = RefCell::new(Receiver::start(rx));
    let result = runner(20).run(&vec(packet(), 40), |packets| {
        assert_same(&mut receiver.borrow_mut(), &packets);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// All combinations of RFC 6040 figure 4, for both IP versions, with and without an outer checksum.
fn every_mark(rx: Rx) {
    let mut receiver = Receiver::start(rx);
    let mut packets = Vec::new();
    for (outer, inner) in (0..16).map(|both| (both >> 2, both & 3)) {
        for version in
            [Version::V4 { dont_fragment: true, options: vec![1; 4] }, Version::V6 { extensions: Vec::new() }]
        {
            for l4 in [L4::Udp { src: 4000, dst: 9 }, L4::Tcp { src: 4000, dst: 9, flags: 4, options: 0 }] {
                for checksum in [false, true] {
                    let frame = Frame { l4, ..Frame::echo(version.clone(), 0xb8 | inner) };
                    packets.push(Packet::new(frame, 0x28 | outer, checksum));
                }
            }
        }
    }
    assert_same(&mut receiver, &packets);
}

/// Packets of one flow of each protocol arrive in the order in which they were sent.
fn one_flow(rx: Rx) {
    let mut receiver = Receiver::start(rx);
    for l4 in [L4::Udp { src: 4000, dst: 9 }, L4::Tcp { src: 4000, dst: 9, flags: 0x10, options: 0 }] {
        let frame = Frame { l4, ..Frame::echo(Version::V4 { dont_fragment: true, options: Vec::new() }, 0) };
        assert_same(&mut receiver, &vec![Packet::new(frame, 0, false); 100]);
    }
}

#[test]
fn tc_keeps_order_of_flow() {
    one_flow(Rx::Tc);
}

#[test]
fn tc_behind_gro_keeps_order_of_flow() {
    one_flow(Rx::Gro);
}

#[test]
fn xdp_keeps_order_of_flow() {
    one_flow(Rx::Xdp);
}

#[test]
fn tc_delivers_any_packet_as_kernel_does() {
    any_packet(Rx::Tc);
}

#[test]
fn tc_behind_gro_delivers_any_packet_as_kernel_does() {
    any_packet(Rx::Gro);
}

#[test]
fn xdp_delivers_any_packet_as_kernel_does() {
    any_packet(Rx::Xdp);
}

#[test]
fn tc_handles_every_ecn_mark_as_kernel_does() {
    every_mark(Rx::Tc);
}

#[test]
fn xdp_handles_every_ecn_mark_as_kernel_does() {
    every_mark(Rx::Xdp);
}
