//! Super-packets and incomplete checksums, as node01 sends them: each segment, outer and inner.

use std::cell::RefCell;

use overlay_tests::{frame::internet_checksum, lab::Offload};
use proptest::{collection::vec, prop_assert, prop_assert_eq, test_runner::TestCaseResult};

use crate::{
    compare::{Comparison, Fields, Sample, Value},
    frames::{L4, Version},
    offload::{Work, numbered, segments, work},
    pair::{Counts, OUTER, Packet, Pair, Place, Wire, offload_fields},
    runner,
    sender::Path,
};

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn number(value: impl Into<i64>) -> Value {
    Value::Number(value.into())
}

/// A packet whose outer checksum is not left to a device. Docker's devices leave it.
fn complete(packet: &Packet) -> Packet {
    match packet {
        (offload, bytes) if offload.csum_start == 34 => (Offload::default(), segments(*offload, bytes).concat()),
        packet => packet.clone(),
    }
}

/// Properties of one packet on the wire.
fn properties((offload, packet): &Packet) -> Fields {
    let mut outer = packet[..OUTER].to_vec();
    let is_valid = internet_checksum(&outer[14..34]) == 0;
    for field in [18..20, 24..26, 34..36, 40..42] {
        outer[field].fill(0);
    }
    let mut fields = offload_fields(*offload);
    fields.extend([
        ("outer", Value::Bytes(outer)),
        ("outer_id", number(word(packet, 18))),
        ("outer_ip_checksum_is_valid", number(is_valid)),
        ("outer_udp_source", number(word(packet, 34))),
        ("outer_udp_checksum", number(word(packet, 40))),
        ("frame", Value::Bytes(packet[OUTER..].to_vec())),
    ]);
    fields
}

/// Properties of all packets that one packet of the container became.
fn batch(packets: &[Packet]) -> Fields {
    let lengths = packets.iter().map(|packet| segments_of(packet).len() as u8).collect();
    // The IPv4 identification from each packet to the next.
    let steps = packets.windows(2).map(|pair| word(&pair[1].1, 18).wrapping_sub(word(&pair[0].1, 18)));
    let steps = steps.flat_map(u16::to_be_bytes).collect();
    [("packets", Value::Bytes(lengths)), ("outer_id_steps", Value::Bytes(steps))].into()
}

/// The inner frames of a packet.
fn segments_of((offload, packet): &Packet) -> Vec<Vec<u8>> {
    let start = offload.csum_start.wrapping_sub(OUTER as u16);
    segments(Offload { csum_start: start, ..*offload }, &packet[OUTER..])
}

/// Whether `ovl_port_in` sends the frame. It refuses super-packets with IP options or extension headers, and those
/// without room for the outer headers (the outer total length has 16 bits).
fn is_fast(place: Place, work: &Work, frame: &[u8]) -> bool {
    let has_options = match &work.frame.version {
        Version::V4 { options, .. } => !options.is_empty(),
        Version::V6 { extensions } => !extensions.is_empty(),
    };
    // Docker's devices send a UDP checksum, which follows from that of the packet.
    let has_sum = || !has_options && work.frame.fragment.is_none() && !matches!(work.frame.l4, L4::Other(_));
    match work.gso {
        Some(_) => !has_options && frame.len() + OUTER - 14 <= usize::from(u16::MAX),
        None => place == Place::Host || has_sum(),
    }
}

fn assert_same(pair: &mut Pair, comparison: &mut Comparison, works: &[Work]) -> TestCaseResult {
    let packets = numbered(works);
    let case = pair.case();
    let (mut by_kernel, counts) = pair.send(Path::Kernel, &packets);
    by_kernel.values_mut().flatten().for_each(|packet| *packet = complete(packet));
    prop_assert_eq!(counts.by_program, 0, "{:?}: packets by the programs", case);
    let (mut by_program, counts) = pair.send(Path::Fast, &packets);
    by_program.values_mut().flatten().for_each(|packet| *packet = complete(packet));
    let mut fast = 0;
    for (index, (work, (offload, frame))) in works.iter().zip(&packets).enumerate() {
        let [kernel, program] = [&by_kernel, &by_program].map(|by| by.get(&index).map_or(&[][..], Vec::as_slice));
        let expected = segments(*offload, frame);
        let mut wrong = Vec::new();
        for (path, packets) in [("kernel", kernel), ("fast", program)] {
            let sent = packets.iter().flat_map(segments_of).collect::<Vec<_>>();
            if sent != expected {
                wrong.push(format!(
                    "{path} path: {} segments, {} expected, or other bytes",
                    sent.len(),
                    expected.len()
                ));
            }
        }
        let is_fast = is_fast(case.place, work, frame);
        let cause: Fields = [("by_program", number(is_fast)), ("is_super", number(work.gso.is_some()))].into();
        fast += if is_fast { expected.len() as u64 } else { 0 };
        let whole = Sample { cause: Fields::new(), kernel: batch(kernel), fast: batch(program) };
        wrong.extend(comparison.add(&case, &whole));
        for (kernel, fast) in kernel.iter().zip(program) {
            let sample = Sample { cause: cause.clone(), kernel: properties(kernel), fast: properties(fast) };
            wrong.extend(comparison.add(&case, &sample));
        }
        prop_assert!(wrong.is_empty(), "{:?}: {:?}\n{}", case, work, wrong.join("\n"));
    }
    let expected = Counts { by_program: fast, unknown: 0 };
    prop_assert_eq!(counts, expected, "{:?}: packets by the programs", case);
    Ok(())
}

fn wire_has_the_same(place: Place, wire: Wire) {
    let test = RefCell::new((Pair::start(place, wire), Comparison::new()));
    let result = runner(5).run(&vec(work(), 20), |works| {
        let (pair, comparison) = &mut *test.borrow_mut();
        assert_same(pair, comparison, &works)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    test.into_inner().1.finish();
}

#[test]
fn super_packets_are_encapsulated_as_kernel_does() {
    wire_has_the_same(Place::Host, Wire::Whole);
}

#[test]
fn super_packets_are_segmented_as_kernel_does() {
    wire_has_the_same(Place::Host, Wire::Segments);
}

#[test]
fn super_packets_of_sandbox_are_encapsulated_as_kernel_does() {
    wire_has_the_same(Place::Sandbox, Wire::Whole);
}

#[test]
fn super_packets_of_sandbox_are_segmented_as_kernel_does() {
    wire_has_the_same(Place::Sandbox, Wire::Segments);
}

#[cfg(test)]
mod controls {
    //! The comparison notices a changed byte, and another sequence of identifications.

    use overlay_tests::{frame::Outer, program::to_node2};

    use super::*;
    use crate::{
        compare::Case,
        frames::{Frame, Version},
    };

    fn packets() -> Vec<Packet> {
        let frame = Frame::echo(Version::V4 { dont_fragment: true, options: Vec::new() }, 0);
        let new = |id| (Offload::default(), Outer { id, ..to_node2() }.encapsulate(&frame.bytes(64 + id)));
        (1..4).map(new).collect()
    }

    fn wrong(kernel: Fields, fast: Fields) -> Vec<String> {
        let case = Case { place: Place::Host, wire: Wire::Segments };
        let cause = [("by_program", number(true))].into();
        let wrong = Comparison::new().add(&case, &Sample { cause, kernel, fast });
        wrong.iter().map(|text| text.split(':').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let kernel = &packets()[0];
        for at in 0..kernel.1.len() {
            let mut fast = kernel.clone();
            fast.1[at] ^= 1;
            let expected = match at {
                ..34 => &["outer", "outer_ip_checksum_is_valid"][..],
                34..36 => &["outer_udp_source"],
                40..42 => &["outer_udp_checksum"],
                36..OUTER => &["outer"],
                _ => &["frame"],
            };
            let wrong = wrong(properties(kernel), properties(&fast));
            assert!(!wrong.is_empty(), "{at}");
            assert!(wrong.iter().all(|name| expected.contains(&name.as_str())), "{at}: {wrong:?}");
        }
    }

    #[test]
    fn missing_packet_and_other_identifications_are_noticed() {
        let all = packets();
        assert_eq!(wrong(batch(&all), batch(&all)), [""; 0]);
        for index in 0..all.len() {
            let mut fewer = all.clone();
            fewer.remove(index);
            assert!(wrong(batch(&all), batch(&fewer)).contains(&"packets".to_owned()), "{index}");
        }
        let mut other = all.clone();
        other.swap(0, 1);
        assert_eq!(wrong(batch(&all), batch(&other)), ["outer_id_steps"]);
    }
}
