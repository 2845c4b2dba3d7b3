//! Negative controls: one fault of one packet on the wire is exactly one difference between the paths.

use overlay_tests::{
    frame::OUTER_LEN,
    lab::{Fault, FaultyWire, Injector, Lab},
    program::to_node2,
};

use crate::{
    arrivals::Difference::{self, Bytes, Duplicate, Lost, Reordered},
    frames::{Frame, L4, Version, numbered},
    receiver::{self, Receiver, Rx},
    send::normalise,
    sender::{self, Sender, with_fixed_macs},
};

/// Datagrams of one flow.
fn frames() -> Vec<Vec<u8>> {
    let l4 = L4::Udp { src: 4000, dst: 9 };
    let frame = Frame { l4, ..Frame::echo(Version::V4 { dont_fragment: true, options: Vec::new() }, 0) };
    numbered(&vec![frame; 20])
}

/// Two hosts, and a relay in the wire of node01.
fn faulty_wire() -> (Lab, FaultyWire) {
    let lab = with_fixed_macs(Lab::builder(2).with_switch().build().unwrap());
    let wire = FaultyWire::insert(&lab, 1).unwrap();
    (lab, wire)
}

/// The fault of frame 8.
fn injector(fault: Fault) -> Injector {
    Injector::datagram(fault, 7, 20)
}

/// The difference that the fault of frame 8 causes; the frame is `at` this offset of the packet.
fn expected(fault: Fault, at: usize) -> Vec<Difference> {
    // Offsets of the UDP checksum and of the last byte of the payload.
    let (checksum, last) = ([at + 40, at + 41], at + 61);
    match fault {
        Fault::Loss => vec![Lost(8)],
        Fault::Reordering => vec![Reordered(8)],
        Fault::Duplication => vec![Duplicate(8)],
        Fault::Corruption => vec![Bytes(8, vec![checksum[1], last])],
        // A packet socket receives what a UDP socket does not.
        Fault::InvalidChecksum => vec![Bytes(8, vec![last])],
    }
}

#[test]
fn comparison_detects_each_fault_of_one_encapsulated_packet() {
    let (lab, wire) = faulty_wire();
    let mut sender = Sender::start_in(lab);
    let frames = frames();
    let by_kernel = sender.send(sender::Path::Kernel, &frames).map(normalise);
    assert_eq!(sender.send(sender::Path::Fast, &frames).map(normalise).differences_from(&by_kernel), []);
    for fault in Fault::ALL {
        wire.inject(injector(fault));
        let by_program = sender.collect(sender::Path::Fast, &frames).map(normalise);
        wire.wait_until_injected().unwrap();
        assert_eq!(by_program.differences_from(&by_kernel), expected(fault, OUTER_LEN), "{fault:?}");
    }
}

fn decapsulated(rx: Rx) {
    let (lab, wire) = faulty_wire();
    let mut receiver = Receiver::start_in(lab, rx);
    let packets: Vec<_> = frames().iter().map(|frame| to_node2().encapsulate(frame)).collect();
    let (by_kernel, _) = receiver.receive(receiver::Path::Kernel, &packets, packets.len());
    let (by_program, _) = receiver.receive(receiver::Path::Fast, &packets, packets.len());
    assert_eq!(by_program.differences_from(&by_kernel), []);
    for fault in Fault::ALL {
        wire.inject(injector(fault));
        let (by_program, counts) = receiver.collect(receiver::Path::Fast, &packets, packets.len());
        wire.wait_until_injected().unwrap();
        assert_eq!(by_program.differences_from(&by_kernel), expected(fault, 0), "{rx:?} {fault:?}");
        let delivered = match fault {
            Fault::Loss => 19,
            Fault::Duplication => 21,
            _ => 20,
        };
        assert_eq!(counts.tc + counts.xdp, delivered, "{rx:?} {fault:?}");
    }
}

#[test]
fn comparison_detects_each_fault_of_one_packet_that_tc_decapsulates() {
    decapsulated(Rx::Tc);
}

#[test]
fn comparison_detects_each_fault_of_one_packet_that_xdp_decapsulates() {
    decapsulated(Rx::Xdp);
}
