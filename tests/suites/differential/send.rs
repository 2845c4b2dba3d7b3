//! Encapsulation: `ovl_port_in` sends the same packets as the kernel's VXLAN device.

use overlay_common::ecn;
use overlay_tests::frame::internet_checksum;
use proptest::collection::vec;

use crate::{
    arrivals::assert_same_packets,
    frames::{Frame, Version, frame, numbered, tos},
    runner,
    sender::{Path, Sender},
};

/// Checks and clears the fields that may differ: IPv4 identification, the header checksum, and the UDP source port.
pub(crate) fn normalise(packet: &[u8]) -> Vec<u8> {
    assert_eq!(internet_checksum(&packet[14..34]), 0, "IPv4 header checksum: {:02x?}", &packet[14..34]);
    assert_eq!(packet[40..42], [0, 0], "UDP checksum");
    let port = u16::from_be_bytes([packet[34], packet[35]]);
    assert!(port >= 0x8000, "UDP source port {port} is not in the dynamic range");
    let mut packet = packet.to_vec();
    for range in [18..20, 24..26, 34..36] {
        packet[range].fill(0);
    }
    packet
}

fn assert_same(sender: &mut Sender, frames: &[Frame]) {
    let sent = numbered(frames);
    let by_kernel = sender.send(Path::Kernel, &sent);
    let by_program = sender.send(Path::Fast, &sent);
    let kernel = by_kernel.packets();
    for ((number, frame), bytes) in (1..).zip(frames).zip(&sent) {
        let packet = kernel.get(&number).unwrap_or_else(|| panic!("the kernel does not send {frame:?}"));
        assert_eq!(&packet[50..], bytes, "the kernel changes {frame:?}");
    }
    let differences = by_program.map(normalise).differences_from(&by_kernel.clone().map(normalise));
    assert_same_packets(&differences, frames);
}

#[test]
fn any_inner_frame_is_encapsulated_as_kernel_does() {
    let sender = std::cell::RefCell::new(Sender::start());
    let result = runner(20).run(&vec(frame(), 40), |frames| {
        assert_same(&mut sender.borrow_mut(), &frames);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn every_dscp_and_ecn_is_encapsulated_as_kernel_does() {
    let mut sender = Sender::start();
    for version in [Version::V4 { dont_fragment: false, options: Vec::new() }, Version::V6 { extensions: Vec::new() }] {
        let frames: Vec<_> = (0..=255).map(|tos| Frame::echo(version.clone(), tos)).collect();
        assert_same(&mut sender, &frames);
    }
}

/// States the expected behaviour of the kernel, to detect a kernel that differs.
#[test]
fn kernel_copies_ecn_and_not_dscp_to_outer_header() {
    let mut sender = Sender::start();
    let frames: Vec<_> =
        (0..4).map(|ecn| Frame::echo(Version::V4 { dont_fragment: true, options: Vec::new() }, 0xb8 | ecn)).collect();
    for packet in sender.send(Path::Kernel, &numbered(&frames)).packets().values() {
        assert_eq!(packet[15], ecn::encapsulate(tos(&packet[50..])), "outer DSCP and ECN");
        assert_eq!(packet[20..22], [0, 0], "DF and fragment offset");
        assert_eq!(packet[22], 64, "TTL");
    }
}

/// RFC 7348 §5: the source port is derived from the inner flow.
#[test]
fn source_port_is_stable_per_flow_and_differs_between_flows() {
    use crate::frames::L4;
    use std::collections::BTreeSet;

    let mut sender = Sender::start();
    let flow = |dst| Frame {
        l4: L4::Udp { src: 4000, dst },
        ..Frame::echo(Version::V4 { dont_fragment: false, options: Vec::new() }, 0)
    };
    for path in [Path::Fast, Path::Kernel] {
        let mut ports = |frames: Vec<Frame>| -> BTreeSet<[u8; 2]> {
            sender.send(path, &numbered(&frames)).packets().values().map(|packet| [packet[34], packet[35]]).collect()
        };
        assert_eq!(ports(vec![flow(80); 20]).len(), 1, "{path:?}: one flow");
        let many = ports((1..=100).map(flow).collect()).len();
        assert!(many > 90, "{path:?}: {many} source ports for 100 flows");
    }
}
