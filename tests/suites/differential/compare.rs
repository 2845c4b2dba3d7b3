//! The comparison of two paths, property by property, and the known differences.

use std::{collections::BTreeMap, fmt};

use crate::pair::{Place, Wire};

/// The value of one property.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Number(i64),
    Bytes(Vec<u8>),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Bytes(bytes) if bytes.len() > 200 => write!(f, "{} bytes", bytes.len()),
            Self::Bytes(bytes) => write!(f, "{bytes:02x?}"),
        }
    }
}

/// The properties of one packet, by name.
pub(crate) type Fields = BTreeMap<&'static str, Value>;

/// The number of a property; 0 when the packet does not have it.
pub(crate) fn number(fields: &Fields, name: &str) -> i64 {
    match fields.get(name) {
        Some(Value::Number(number)) => *number,
        _ => 0,
    }
}

/// The network of a packet, and how it is received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) place: Place,
    pub(crate) wire: Wire,
}

/// One packet by both paths.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Properties that determine a difference, and are not compared.
    pub(crate) cause: Fields,
    pub(crate) kernel: Fields,
    pub(crate) fast: Fields,
}

/// Whether a packet has a known difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// The values are equal.
    Equal,
    /// The values may be equal by chance; in every run at least one packet differs.
    Differs,
    /// Depends on timing.
    Either,
}

/// A property in which the fast path differs from the kernel path. `docs/limits.md` has the same list.
struct Known {
    field: &'static str,
    why: &'static str,
    expect: fn(&Case, &Sample) -> Expect,
    /// What both values are if they are expected to differ.
    holds: fn(&Sample, kernel: &Value, fast: &Value) -> bool,
}

/// Values of `bpf_skb_adjust_room` and `bpf_csum_level` (`include/uapi/asm-generic/errno.h`).
pub(crate) const NO_TUNNEL: i64 = -22;
const TUNNEL: i64 = -114;
const NOT_VERIFIED: i64 = -13;

fn when(condition: bool) -> Expect {
    if condition { Expect::Differs } else { Expect::Equal }
}

/// Whether a program handles the packet, on the host that is compared.
fn by_program(sample: &Sample) -> bool {
    number(&sample.cause, "by_program") == 1
}

const KNOWN: [Known; 8] = [
    // Sent.
    Known {
        field: "outer_id",
        why: "A counter of the VTEP. The kernel's counter is chosen by a hash (`__ip_select_ident`).",
        expect: |_, _| Expect::Differs,
        holds: |_, _, _| true,
    },
    Known {
        field: "outer_udp_checksum",
        why: "No helper makes the segments of a super-packet have one (`SKB_GSO_UDP_TUNNEL_CSUM`). Docker's devices send \
              one (`udpcsum`).",
        expect: |case, sample| {
            when(by_program(sample) && case.place == Place::Sandbox && number(&sample.cause, "is_super") == 1)
        },
        holds: |_, kernel, fast| *kernel != Value::Number(0) && *fast == Value::Number(0),
    },
    // Received.
    Known {
        field: "gso_segs",
        why: "`bpf_skb_net_shrink` (`net/core/filter.c`) clears it, and no helper sets it.",
        expect: |_, sample| when(by_program(sample) && number(&sample.kernel, "gso_size") != 0),
        holds: |sample, kernel, fast| {
            *kernel == Value::Number(number(&sample.cause, "segments")) && *fast == Value::Number(0)
        },
    },
    Known {
        field: "tunnel",
        why: "No helper clears `skb->encapsulation`, as `iptunnel_pull_offloads` does.",
        expect: |_, sample| when(by_program(sample) && number(&sample.cause, "tunnel") == TUNNEL),
        holds: |_, kernel, fast| *kernel == Value::Number(NO_TUNNEL) && *fast == Value::Number(TUNNEL),
    },
    Known {
        field: "csum_level",
        why: "The kernel path keeps what GRO or a NIC has verified, and verifies TCP behind the VXLAN device \
              (`gro_cells`). `bpf_skb_adjust_room` drops it. GRO of the container's veth verifies what XDP has \
              delivered.",
        expect: |_, sample| {
            let is_verified = sample.kernel.get("csum_level") != Some(&Value::Number(NOT_VERIFIED));
            when(by_program(sample) && number(&sample.cause, "by_xdp") == 0 && is_verified)
        },
        holds: |_, kernel, fast| *kernel == Value::Number(0) && *fast == Value::Number(NOT_VERIFIED),
    },
    Known {
        field: "hash",
        why: "XDP has none, and TC keeps one that is not of layer 4, which the kernel clears \
              (`skb_clear_hash_if_not_l4`). The container's stack computes another one if it needs it.",
        expect: |_, sample| match (number(&sample.cause, "by_xdp"), number(&sample.kernel, "hash")) {
            (1, 0) => Expect::Equal,
            (1, _) => Expect::Differs,
            (_, 0) if by_program(sample) => Expect::Either,
            _ => Expect::Equal,
        },
        holds: |sample, kernel, fast| {
            let none = if number(&sample.cause, "by_xdp") == 1 { fast } else { kernel };
            *none == Value::Number(0)
        },
    },
    Known {
        field: "packets",
        why: "`gro_cells` merges TCP segments behind the VXLAN device also where the NIC does not.",
        expect: |case, sample| match case.wire {
            _ if !by_program(sample) || number(&sample.cause, "is_tcp") == 0 => Expect::Equal,
            Wire::Segments => Expect::Differs,
            _ => Expect::Either,
        },
        holds: |_, kernel, fast| match (kernel, fast) {
            (Value::Bytes(kernel), Value::Bytes(fast)) => kernel.len() <= fast.len(),
            _ => false,
        },
    },
    Known {
        field: "tcpi_segs_in",
        why: "`tcp_segs_in` adds `gso_segs`, or 1.",
        expect: |case, _| when(case.wire != Wire::Segments),
        holds: |_, kernel, fast| match (kernel, fast) {
            (Value::Number(kernel), Value::Number(fast)) => fast < kernel,
            _ => false,
        },
    },
];

/// Where bytes differ first.
fn offset(one: &Value, other: &Value) -> String {
    match (one, other) {
        (Value::Bytes(one), Value::Bytes(other)) => {
            let at = one.iter().zip(other).position(|(one, other)| one != other);
            let part = |bytes: &[u8], at: usize| format!("{:02x?}", &bytes[at..bytes.len().min(at + 8)]);
            at.map_or_else(String::new, |at| format!(", from byte {at}: {}, {}", part(one, at), part(other, at)))
        }
        _ => String::new(),
    }
}

/// The comparison of one test. The known differences are checked at its end: each that a packet should have had was
/// seen.
pub(crate) struct Comparison {
    /// For each known difference: packets that are expected to have it, and packets that have it.
    seen: BTreeMap<&'static str, [u64; 2]>,
    compared: u64,
}

impl Comparison {
    pub(crate) fn new() -> Self {
        Self { seen: BTreeMap::new(), compared: 0 }
    }

    /// Compares one packet; returns what is wrong.
    pub(crate) fn add(&mut self, case: &Case, sample: &Sample) -> Vec<String> {
        self.compared += 1;
        let Sample { kernel, fast, .. } = sample;
        let names: Vec<_> = kernel.keys().chain(fast.keys().filter(|name| !kernel.contains_key(*name))).collect();
        let mut wrong = Vec::new();
        for name in names {
            let (Some(kernel), Some(fast)) = (kernel.get(name), fast.get(name)) else {
                wrong.push(format!("{name}: only one path has it"));
                continue;
            };
            let known = KNOWN.iter().find(|known| known.field == *name);
            let expect = known.map_or(Expect::Equal, |known| (known.expect)(case, sample));
            let is_right = match (known, expect) {
                (Some(known), Expect::Differs) => (known.holds)(sample, kernel, fast),
                (Some(_), Expect::Either) => true,
                _ => kernel == fast,
            };
            if expect == Expect::Differs {
                let [expected, found] = self.seen.entry(name).or_default();
                *expected += 1;
                *found += u64::from(kernel != fast);
            }
            if !is_right {
                wrong.push(format!("{name}: kernel path {kernel:?}, fast path {fast:?}{}", offset(kernel, fast)));
            }
        }
        wrong
    }

    /// Asserts that packets were compared, and that every known difference was seen where it was expected.
    #[track_caller]
    pub(crate) fn finish(self) {
        assert!(self.compared > 0, "no packet was compared");
        for (name, [expected, found]) in self.seen {
            assert!(
                found > 0,
                "{name}: all of {expected} packets are equal by both paths; remove the known difference from KNOWN \
                 (tests/suites/differential/compare.rs) and from docs/limits.md. Its cause was: {}",
                KNOWN.iter().find(|known| known.field == name).map_or("", |known| known.why)
            );
        }
    }
}

#[cfg(test)]
mod controls {
    //! The comparison notices a difference in every property, and a known difference that is gone.

    use std::{fs, path::Path as FilePath};

    use super::*;

    const CASE: Case = Case { place: Place::Sandbox, wire: Wire::Segments };

    /// A packet with all known differences.
    fn sample() -> Sample {
        let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec());
        let both: [(&'static str, Value, Value); 16] = [
            ("outer_id", Value::Number(5), Value::Number(9)),
            ("outer_udp_source", Value::Number(40_000), Value::Number(40_000)),
            ("outer_udp_checksum", Value::Number(0x1234), Value::Number(0)),
            ("outer", bytes(&[1, 2, 3]), bytes(&[1, 2, 3])),
            ("gso_segs", Value::Number(7), Value::Number(0)),
            ("tunnel", Value::Number(NO_TUNNEL), Value::Number(TUNNEL)),
            ("csum_level", Value::Number(0), Value::Number(NOT_VERIFIED)),
            ("packets", bytes(&[7]), bytes(&[3, 4])),
            ("tcpi_segs_in", Value::Number(7), Value::Number(2)),
            ("hash", Value::Number(0), Value::Number(0)),
            ("mark", Value::Number(0), Value::Number(0)),
            ("priority", Value::Number(0), Value::Number(0)),
            ("gso_size", Value::Number(1400), Value::Number(1400)),
            ("gso_type", Value::Number(1), Value::Number(1)),
            ("needs_checksum", Value::Number(1), Value::Number(1)),
            ("frame", bytes(&[1, 2, 3]), bytes(&[1, 2, 3])),
        ];
        let cause = [("by_program", 1), ("is_tcp", 1), ("is_super", 1), ("tunnel", TUNNEL), ("segments", 7)];
        Sample {
            cause: cause.into_iter().map(|(name, number)| (name, Value::Number(number))).collect(),
            kernel: both.iter().map(|(name, kernel, _)| (*name, kernel.clone())).collect(),
            fast: both.iter().map(|(name, _, fast)| (*name, fast.clone())).collect(),
        }
    }

    fn wrong(case: Case, sample: &Sample) -> Vec<String> {
        Comparison::new().add(&case, sample)
    }

    fn names(wrong: &[String]) -> Vec<&str> {
        wrong.iter().map(|text| text.split(':').next().unwrap()).collect()
    }

    #[test]
    fn packet_with_all_known_differences_is_accepted() {
        let case = Case { wire: Wire::Whole, ..CASE };
        let mut comparison = Comparison::new();
        assert_eq!(comparison.add(&case, &sample()), [""; 0]);
        comparison.finish();
    }

    #[test]
    fn difference_in_any_property_is_noticed() {
        let case = Case { wire: Wire::Whole, ..CASE };
        for name in sample().kernel.into_keys() {
            for change in [Value::Number(3), Value::Bytes(vec![1, 2, 4, 5, 6]), Value::Bytes(vec![1, 2])] {
                // These have any value by the kernel path, or by both.
                let is_any = ["outer_id", "packets", "tcpi_segs_in", "hash"].contains(&name);
                let mut sample = sample();
                sample.fast.insert(name, change.clone());
                let is_noticed = names(&wrong(case, &sample)) == [name];
                assert!(is_noticed || is_any, "{name} {change:?}");
            }
            let mut sample = sample();
            sample.fast.remove(name);
            assert_eq!(names(&wrong(case, &sample)), [name], "missing");
        }
    }

    #[test]
    fn known_difference_that_is_gone_is_noticed() {
        for known in &KNOWN {
            let mut sample = sample();
            if known.field == "hash" {
                sample.cause.insert("by_xdp", Value::Number(1));
                sample.kernel.insert("hash", Value::Number(7));
            }
            sample.kernel.retain(|name, _| *name == known.field || *name == "gso_size");
            sample.fast = sample.kernel.clone();
            let case = if known.field == "tcpi_segs_in" { Case { wire: Wire::Whole, ..CASE } } else { CASE };
            let mut comparison = Comparison::new();
            let wrong = comparison.add(&case, &sample);
            let gone = std::panic::catch_unwind(|| comparison.finish());
            assert!(gone.is_err() && names(&wrong).iter().all(|name| *name == known.field), "{}", known.field);
        }
    }

    /// A packet that the programs pass to the kernel has no difference but those of two packets that the kernel sends.
    #[test]
    fn packet_by_kernel_path_must_be_equal() {
        let mut sample = sample();
        sample.cause.insert("by_program", Value::Number(0));
        let fields = KNOWN.iter().map(|known| known.field);
        let mut expected: Vec<_> = fields.filter(|field| !["outer_id", "hash"].contains(field)).collect();
        expected.sort_unstable();
        assert_eq!(names(&wrong(CASE, &sample)), expected);
    }

    #[test]
    fn comparison_without_packets_fails() {
        std::panic::catch_unwind(|| Comparison::new().finish()).unwrap_err();
    }

    #[test]
    fn limits_lists_known_differences() {
        let page = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../docs/limits.md");
        let page = fs::read_to_string(page).unwrap();
        let section =
            page.split("\n## ").find(|section| section.starts_with("Differences from the kernel path")).unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        let mut documented: Vec<_> = rows.map(|(name, _)| name).collect();
        documented.sort_unstable();
        let mut known: Vec<_> = KNOWN.iter().map(|known| known.field).collect();
        known.sort_unstable();
        assert_eq!(documented, known, "docs/limits.md, KNOWN");
    }
}
