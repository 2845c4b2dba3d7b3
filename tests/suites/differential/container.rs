//! What gindemo2 can see of a packet: its bytes after segmentation, and what a program there can read.

use std::cell::RefCell;

use overlay_tests::lab::Offload;
use proptest::{collection::vec, prop_assert, prop_assert_eq, test_runner::TestCaseResult};

use crate::{
    compare::{Comparison, Fields, NO_TUNNEL, Sample, Value, number},
    frames::{Frame, Version},
    offload::{Work, numbered, work},
    pair::{Delivered, Pair, Place, Wire, offload_fields},
    probe::{MARK, PRIORITY, Probe},
    runner,
    sender::Path,
};

fn cause<const N: usize>(values: [(&'static str, i64); N]) -> Fields {
    values.into_iter().map(|(name, number)| (name, Value::Number(number))).collect()
}

/// Properties of one packet.
fn packet(kernel: &Delivered, fast: &Delivered) -> Sample {
    let properties = |delivered: &Delivered| {
        let mut fields = delivered.fields.clone();
        fields.extend(offload_fields(delivered.packet.0));
        fields.insert("frame", Value::Bytes(delivered.packet.1.clone()));
        fields
    };
    let tunnel = fast.at_nic.as_ref().map_or(NO_TUNNEL, |fields| number(fields, "tunnel"));
    Sample {
        cause: cause([
            ("by_program", fast.is_fast().into()),
            ("by_xdp", fast.at_nic.is_none().into()),
            ("tunnel", tunnel),
            ("segments", fast.count() as i64),
        ]),
        kernel: properties(kernel),
        fast: properties(fast),
    }
}

/// Properties of all packets that one packet of the sender became.
fn batch(is_tcp: bool, kernel: &[Delivered], fast: &[Delivered]) -> Sample {
    let properties = |delivered: &[Delivered]| {
        let each: Vec<_> = delivered.iter().map(Delivered::segments).collect();
        let lengths = each.iter().map(|segments| segments.len() as u8).collect();
        let mut all = each.concat();
        all.sort();
        Fields::from([("packets", Value::Bytes(lengths)), ("segments", Value::Bytes(all.concat()))])
    };
    let by_program = fast.iter().all(Delivered::is_fast);
    Sample {
        cause: cause([("by_program", by_program.into()), ("is_tcp", is_tcp.into())]),
        kernel: properties(kernel),
        fast: properties(fast),
    }
}

/// A test's hosts and comparison.
struct Test {
    pair: Pair,
    comparison: Comparison,
    /// Super-packets that were compared as a whole.
    supers: u64,
}

impl Test {
    fn assert_same(&mut self, from: Path, works: &[Work]) -> TestCaseResult {
        let packets = numbered(works);
        let case = self.pair.case();
        let (by_kernel, counts) = self.pair.deliver(from, Path::Kernel, &packets);
        prop_assert_eq!(counts.by_program, 0, "{:?} from {:?}: packets by the programs", case, from);
        let (by_program, counts) = self.pair.deliver(from, Path::Fast, &packets);
        let fast = by_program.values().flatten().filter(|delivered| delivered.is_fast());
        let fast: usize = fast.map(Delivered::count).sum();
        // Single packets ahead of a refused super-packet take the fast path, those behind it do not.
        let either = by_program.values().flatten().filter(|delivered| delivered.is_beside()).count();
        let expected = fast as u64..=(fast + either) as u64;
        prop_assert!(
            expected.contains(&counts.by_program) && counts.unknown == 0,
            "{:?} from {:?}: packets by the programs: {:?}, not {:?}",
            case,
            from,
            counts,
            expected
        );
        for (index, work) in works.iter().enumerate() {
            let [kernel, fast] = [&by_kernel, &by_program].map(|by| by.get(&index).map_or(&[][..], Vec::as_slice));
            let mut wrong = Vec::new();
            if kernel.is_empty() || fast.is_empty() {
                wrong.push(format!("not delivered: {} and {} packets", kernel.len(), fast.len()));
            }
            wrong.extend(self.comparison.add(&case, &batch(work.is_tcp(), kernel, fast)));
            if kernel.len() == fast.len() {
                for (kernel, fast) in kernel.iter().zip(fast) {
                    if fast.at_nic.is_none() && case.wire != Wire::Xdp {
                        wrong.push("no record at the NIC".to_owned());
                    }
                    if !fast.is_beside() {
                        wrong.extend(self.comparison.add(&case, &packet(kernel, fast)));
                    }
                    self.supers += u64::from(fast.packet.0.gso_type != 0 && fast.is_fast());
                }
            }
            prop_assert!(wrong.is_empty(), "{:?} from {:?}: {:?}\n{}", case, from, work, wrong.join("\n"));
        }
        Ok(())
    }
}

fn container_sees_the_same(place: Place, wire: Wire) {
    let mut pair = Pair::start(place, wire);
    pair.congest();
    let test = RefCell::new(Test { pair, comparison: Comparison::new(), supers: 0 });
    let result = runner(3).run(&vec(work(), 20), |works| {
        let paths = [Path::Kernel, Path::Fast];
        paths.into_iter().try_for_each(|from| test.borrow_mut().assert_same(from, &works))
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let Test { comparison, supers, .. } = test.into_inner();
    assert!(supers > 0 || wire == Wire::Segments, "no super-packet was compared");
    comparison.finish();
}

#[test]
fn tc_delivers_super_packets_as_kernel_does() {
    container_sees_the_same(Place::Host, Wire::Whole);
}

#[test]
fn tc_delivers_segments_as_kernel_does() {
    container_sees_the_same(Place::Host, Wire::Segments);
}

#[test]
fn tc_behind_gro_delivers_as_kernel_does() {
    container_sees_the_same(Place::Host, Wire::Gro);
}

#[test]
fn xdp_delivers_as_kernel_does() {
    container_sees_the_same(Place::Host, Wire::Xdp);
}

#[test]
fn tc_delivers_super_packets_into_sandbox_as_kernel_does() {
    container_sees_the_same(Place::Sandbox, Wire::Whole);
}

#[test]
fn tc_delivers_segments_into_sandbox_as_kernel_does() {
    container_sees_the_same(Place::Sandbox, Wire::Segments);
}

#[test]
fn tc_behind_gro_delivers_into_sandbox_as_kernel_does() {
    container_sees_the_same(Place::Sandbox, Wire::Gro);
}

#[test]
fn xdp_delivers_into_sandbox_as_kernel_does() {
    container_sees_the_same(Place::Sandbox, Wire::Xdp);
}

/// A program that changes the packets of one path, in the container.
#[test]
fn changed_mark_and_priority_are_noticed() {
    let mut pair = Pair::start(Place::Host, Wire::Whole);
    let frame = Frame::echo(Version::V4 { dont_fragment: true, options: Vec::new() }, 0);
    let packets = numbered(&[Work { frame, partial: false, gso: None, linear: true }]);
    let delivered = |path, pair: &mut Pair| pair.deliver(Path::Kernel, path, &packets).0.remove(&0).unwrap().remove(0);
    let kernel = delivered(Path::Kernel, &mut pair);
    let _change = Probe::change(pair.container(2), "eth0");
    let fast = delivered(Path::Fast, &mut pair);
    let wrong = Comparison::new().add(&pair.case(), &packet(&kernel, &fast));
    let expected = [("mark", MARK), ("priority", PRIORITY)];
    assert_eq!(wrong, expected.map(|(name, value)| format!("{name}: kernel path 0, fast path {value}")));
}

#[cfg(test)]
mod controls {
    //! The comparison notices packets that are missing, divided or changed.

    use super::*;
    use crate::{compare::Case, frames::L4};

    /// A stream of three segments, merged or not.
    fn delivered(is_merged: bool) -> Vec<Delivered> {
        let frame = Frame {
            l4: L4::Tcp { src: 4000, dst: 80, flags: 0x10, options: 3 },
            ..Frame::echo(Version::V4 { dont_fragment: true, options: Vec::new() }, 0)
        };
        let work = Work { frame, partial: true, gso: Some((100, 3)), linear: true };
        let packet = work.bytes(64);
        let new = |packet| Delivered { packet, fields: Fields::new(), at_nic: None, follows: false };
        let merged = new(packet);
        if is_merged {
            return vec![merged];
        }
        merged.segments().into_iter().map(|frame| new((Offload::default(), frame))).collect()
    }

    /// Names of the properties that differ, of the batch and of its packets.
    fn wrong(wire: Wire, kernel: &[Delivered], fast: &[Delivered]) -> Vec<String> {
        let case = Case { place: Place::Host, wire };
        let mut comparison = Comparison::new();
        let mut wrong = comparison.add(&case, &batch(true, kernel, fast));
        if kernel.len() == fast.len() {
            wrong.extend(
                kernel.iter().zip(fast).flat_map(|(kernel, fast)| comparison.add(&case, &super::packet(kernel, fast))),
            );
        }
        wrong.iter().map(|text| text.split(':').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn equal_packets_are_accepted() {
        for is_merged in [false, true] {
            assert_eq!(wrong(Wire::Gro, &delivered(is_merged), &delivered(is_merged)), [""; 0]);
        }
        assert_eq!(wrong(Wire::Segments, &delivered(true), &delivered(false)), [""; 0], "merged by the kernel path");
    }

    #[test]
    fn merged_packets_are_noticed_where_no_path_merges() {
        assert_eq!(wrong(Wire::Segments, &delivered(false), &delivered(true)), ["packets"]);
    }

    #[test]
    fn missing_and_additional_segments_are_noticed() {
        let all = delivered(false);
        for index in 0..all.len() {
            let (mut fewer, mut more) = (all.clone(), all.clone());
            fewer.remove(index);
            more.push(all[index].clone());
            assert!(wrong(Wire::Gro, &all, &fewer).contains(&"segments".to_owned()));
            assert!(wrong(Wire::Gro, &all, &more).contains(&"segments".to_owned()));
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        for is_merged in [false, true] {
            let all = delivered(is_merged);
            // Not the checksum, which is computed for the segments.
            for at in (0..all[0].packet.1.len()).filter(|at| !(50..52).contains(at)) {
                let mut changed = all.clone();
                changed[0].packet.1[at] ^= 1;
                assert!(wrong(Wire::Gro, &all, &changed).contains(&"frame".to_owned()), "{at}");
            }
        }
    }

    #[test]
    fn changed_offload_is_noticed() {
        let all = delivered(true);
        type Change = fn(&mut Offload);
        let changes: [(&str, Change); 5] = [
            ("gso_size", |offload| offload.gso_size -= 1),
            ("gso_type", |offload| offload.gso_type |= Offload::TCP_ECN),
            ("needs_checksum", |offload| offload.flags = 0),
            ("csum_start", |offload| offload.csum_start += 4),
            ("csum_offset", |offload| offload.csum_offset -= 2),
        ];
        for (name, change) in changes {
            let mut changed = all.clone();
            change(&mut changed[0].packet.0);
            assert!(wrong(Wire::Gro, &all, &changed).contains(&name.to_owned()), "{name}");
        }
    }
}
