//! Matches and targets of xtables, of iptables-legacy and iptables-nft. Numbers are in host order.

use super::{ChainRule, Effect, Field, Test, Verdict};
use crate::{
    kernel::netfilter::vni,
    sys::netlink::attribute::{be32, ne16, ne32},
};

const TCP: u32 = 6;
const UDP: u32 = 17;

impl ChainRule {
    /// Reads a match: name and data (`include/uapi/linux/netfilter/xt_*.h`).
    pub(super) fn read_match(&mut self, name: &str, info: &[u8]) {
        let tests = match name {
            "comment" => Some(Vec::new()),
            "physdev" => bridged(info).map(|test| vec![test]),
            "conntrack" => state_of_conntrack(info).map(|test| vec![test]),
            "state" => ne32(info, 0).map(|mask| vec![Test::has_bit(Field::State, mask, false)]),
            "mark" => mark(info).map(|test| vec![test]),
            "udp" => udp(info),
            "tcp" => Some(vec![Test::is(Field::Protocol, TCP), Test::Other]),
            "icmp" => Some(vec![Test::is(Field::Protocol, 1), Test::Other]),
            "icmp6" => Some(vec![Test::is(Field::Protocol, 58), Test::Other]),
            "multiport" => multiport(info).map(|test| vec![test]),
            "addrtype" => address_types(info),
            "iprange" => address_ranges(info),
            "pkttype" => packet_type(info).map(|test| vec![test]),
            "u32" | "bpf" => vni::of_match(name, info).map(|vni| vec![Test::is(Field::Vni, vni)]),
            _ => None,
        };
        self.tests.extend(tests.unwrap_or_else(|| vec![Test::Other]));
    }

    /// Reads a target that is not the standard one: name and data.
    pub(super) fn read_target(&mut self, name: &str, info: &[u8]) {
        let changed = || Effect::Changed(name.to_owned());
        let effect = match name {
            "REJECT" => return self.verdict = Verdict::Drop,
            // A program decides, or the packet is dropped if there is none.
            "NFQUEUE" => return self.end(Verdict::Drop),
            "LOG" | "NFLOG" | "TRACE" | "AUDIT" | "SET" | "RATEEST" | "IDLETIMER" | "LED" => return,
            "MARK" => match (ne32(info, 0), ne32(info, 4)) {
                (Some(mark), Some(mask)) => Effect::Mark { keep: !mask, xor: mark },
                _ => Effect::UnknownMark,
            },
            // `mode` of `struct xt_connmark_tginfo1` or `_tginfo2` is not `XT_CONNMARK_RESTORE`: the connection gets a mark.
            "CONNMARK" if info.get(12..15).is_some_and(|modes| !modes.contains(&2)) => return,
            "CONNMARK" => Effect::UnknownMark,
            "NOTRACK" => Effect::Untracked,
            // `flags` of `struct xt_ct_target_info`, `XT_CT_NOTRACK`.
            "CT" if ne16(info, 0).is_some_and(|flags| flags & 1 == 0) => return,
            "CT" => Effect::Untracked,
            // `flags` of the first range: none, such as `--random`.
            "MASQUERADE" if ne32(info, 4) == Some(0) => Effect::Masquerade,
            _ => changed(),
        };
        self.effects.push(effect);
    }
}

/// `struct xt_physdev_info`: `--physdev-is-bridged`.
fn bridged(info: &[u8]) -> Option<Test> {
    /// Offset of `bitmask`, after `invert`; `XT_PHYSDEV_OP_BRIDGED`.
    const BITMASK: (usize, u8) = (65, 4);
    (info.get(BITMASK.0 - 1..=BITMASK.0) == Some(&[0, BITMASK.1])).then_some(Test::Bridged)
}

/// `struct xt_conntrack_mtinfo2` and `_mtinfo3`, with no other condition than the state.
fn state_of_conntrack(info: &[u8]) -> Option<Test> {
    const FLAGS: usize = 146;
    const INVERTED: usize = 148;
    const MASK: usize = 150;
    /// `XT_CONNTRACK_STATE`, `XT_CONNTRACK_STATE_ALIAS`.
    const STATE: u16 = 1;
    const ALIAS: u16 = 1 << 13;
    /// `XT_CONNTRACK_STATE_UNTRACKED` here, and in [`Field::State`].
    const UNTRACKED: (u32, u32) = (1 << 8, 1 << 6);
    let mask = u32::from(ne16(info, MASK)?);
    let untracked = if mask & UNTRACKED.0 == 0 { 0 } else { UNTRACKED.1 };
    let is_inverted = ne16(info, INVERTED)? & STATE != 0;
    // Translated addresses are states, too. A rule that translates counts for itself.
    (ne16(info, FLAGS)? & !ALIAS == STATE).then_some(Test::has_bit(Field::State, mask & 0x1f | untracked, is_inverted))
}

/// `struct xt_mark_mtinfo1`.
fn mark(info: &[u8]) -> Option<Test> {
    let (mark, mask) = (ne32(info, 0)?, ne32(info, 4)?);
    let is_inverted = *info.get(8)? != 0;
    Some(Test::Number { field: Field::Mark, mask, first: mark, last: mark, is_inverted })
}

/// `struct xt_udp`.
fn udp(info: &[u8]) -> Option<Vec<Test>> {
    let invert = info.get(8)?;
    let ports = |at: usize, field: Field, flag: u8| {
        Some(Test::range(field, ne16(info, at)?.into(), ne16(info, at + 2)?.into(), invert & flag != 0))
    };
    let tests = [ports(0, Field::SourcePort, 1)?, ports(4, Field::DestinationPort, 2)?];
    let is_any = |test: &Test| *test == Test::range(Field::SourcePort, 0, u16::MAX.into(), false);
    Some([Test::is(Field::Protocol, UDP)].into_iter().chain(tests.into_iter().filter(|test| !is_any(test))).collect())
}

/// `struct xt_multiport_v1`.
fn multiport(info: &[u8]) -> Option<Test> {
    const PORTS: usize = 2;
    const IS_RANGE: usize = 32;
    const INVERT: usize = 47;
    let fields = match info.first()? {
        0 => vec![Field::SourcePort],
        1 => vec![Field::DestinationPort],
        _ => vec![Field::SourcePort, Field::DestinationPort],
    };
    let port = |index: usize| ne16(info, PORTS + 2 * index).map(u32::from);
    let mut ranges = Vec::new();
    let mut index = 0;
    while index < usize::from(*info.get(1)?).min(15) {
        let length = usize::from(*info.get(IS_RANGE + index)? != 0);
        ranges.push((port(index)?, port(index + length)?));
        index += 1 + length;
    }
    let of = |field| ranges.iter().map(move |(first, last)| vec![Test::range(field, *first, *last, false)]);
    Some(Test::AnyOf(fields.into_iter().flat_map(of).collect(), *info.get(INVERT)? != 0))
}

/// `struct xt_addrtype_info_v1`, and `struct xt_addrtype_info`, which is longer.
fn address_types(info: &[u8]) -> Option<Vec<Test>> {
    const LENGTH: usize = 8;
    let (source, destination, flags) = (ne16(info, 0)?, ne16(info, 2)?, ne32(info, 4)?);
    // Another flag limits the lookup to an interface.
    if info.len() != LENGTH || flags & !3 != 0 {
        return None;
    }
    let test = |types: u16, field: Field, flag: u32| {
        let lists = (0..16).filter(|number| types >> number & 1 != 0).map(|number| vec![Test::is(field, number)]);
        (types != 0).then(|| Test::AnyOf(lists.collect(), flags & flag != 0))
    };
    let tests = [test(source, Field::SourceType, 1), test(destination, Field::DestinationType, 2)];
    Some(tests.into_iter().flatten().collect())
}

/// `struct xt_iprange_mtinfo`.
fn address_ranges(info: &[u8]) -> Option<Vec<Test>> {
    const ADDRESS: usize = 16;
    const FLAGS: usize = 4 * ADDRESS;
    let flags = *info.get(FLAGS)?;
    let address = |index: usize| be32(info.get(index * ADDRESS..)?);
    let mut tests = Vec::new();
    for (index, field, flag) in [(0, Field::Source, 1), (2, Field::Destination, 2)] {
        if flags & flag != 0 {
            tests.push(Test::range(field, address(index)?, address(index + 1)?, flags & flag << 4 != 0));
        }
    }
    Some(tests)
}

/// `struct xt_pkttype_info`.
fn packet_type(info: &[u8]) -> Option<Test> {
    let kind = ne32(info, 0)?;
    Some(Test::range(Field::PacketType, kind, kind, ne32(info, 4)? != 0))
}
