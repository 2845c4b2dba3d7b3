//! Marks and VNIs of rules, as the kernel describes them to `nft --debug=netlink`.

use super::*;
use crate::sys::netlink::raw::Message;

/// Docker's mark for encryption (libnetwork, `drivers/overlay/encryption.go`).
const DOCKER: u32 = 0x00d0_c4e3;
const HEADER: [u8; 4] = [2, 0, 0, 0];

/// An attribute with these parts.
fn nla(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
    let value = parts.concat();
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn number(kind: u16, number: u32) -> Vec<u8> {
    nla(kind, &[&number.to_be_bytes()])
}

/// An expression with these attributes.
fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
    nla(1, &[&nla(1, &[name.as_bytes(), &[0]]), &nla(2, &[&data.concat()])])
}

fn set_mark() -> Vec<u8> {
    expression("meta", &[number(2, 3), number(3, 1)])
}

fn load_mark() -> Vec<u8> {
    expression("meta", &[number(1, 1), number(2, 3)])
}

fn immediate(value: u32) -> Vec<u8> {
    expression("immediate", &[number(1, 1), nla(2, &[&nla(1, &[&value.to_ne_bytes()])])])
}

fn bitwise(mask: u32, xor: u32) -> Vec<u8> {
    let operand = |kind, value: u32| nla(kind, &[&nla(1, &[&value.to_ne_bytes()])]);
    expression("bitwise", &[number(1, 1), number(2, 1), number(3, 4), operand(4, mask), operand(5, xor)])
}

/// `@th,OFFSET,LEN`, in bytes.
fn transport(offset: u32, len: u32) -> Vec<u8> {
    expression("payload", &[number(1, 1), number(2, 2), number(3, offset), number(4, len)])
}

fn equals(value: &[u8]) -> Vec<u8> {
    expression("cmp", &[number(1, 1), number(2, 0), nla(3, &[&nla(1, &[value])])])
}

/// `@set`, or with a flag `!= @set`.
fn in_set(set: &str, flags: u32) -> Vec<u8> {
    expression("lookup", &[nla(1, &[set.as_bytes(), &[0]]), number(2, 1), number(5, flags)])
}

fn counter() -> Vec<u8> {
    expression("counter", &[])
}

/// `udp dport 4789 @th,96,24`, or another offset.
fn vxlan(offset: u32) -> Vec<u8> {
    [transport(2, 2), equals(&[0x12, 0xb5]), transport(offset, 3)].concat()
}

/// A rule of `table ip docker-overlay`.
fn message(expressions: &[Vec<u8>]) -> Message {
    let table = nla(1, &[b"docker-overlay\0"]);
    (0x0a06, [&HEADER[..], &table, &nla(2, &[b"enc-out\0"]), &nla(4, &[&expressions.concat()])].concat())
}

/// The table of these rules, where `encrypted-vnis` has VNI 4097.
fn table(rules: &[Vec<Vec<u8>>]) -> NetfilterTable {
    let rules: Vec<_> = rules.iter().map(|rule| message(rule)).collect();
    let vnis = |key: &(u8, String), set: &str| {
        assert_eq!(*key, (2, "docker-overlay".to_owned()));
        (set == "encrypted-vnis").then(|| [4097].into())
    };
    nft::read(&[], &rules, vnis).pop().unwrap()
}

fn limited(bits: u32) -> Mark {
    Mark { bits, vnis: Some([4097].into()) }
}

fn unlimited(bits: u32) -> Mark {
    Mark { bits, vnis: None }
}

#[test]
fn rules_of_docker_29_mark_only_encrypted_vnis() {
    let skuid = expression("meta", &[number(1, 1), number(2, 10)]);
    let jump = expression("immediate", &[number(1, 0), nla(2, &[&nla(2, &[&number(1, -4_i32 as u32)])])]);
    let found = table(&[
        vec![transport(2, 2), equals(&[0x12, 0xb5]), skuid, counter(), jump],
        // The anonymous chain for spoofed packets.
        vec![load_mark(), equals(&DOCKER.to_ne_bytes()), counter(), immediate(0), set_mark()],
        vec![vxlan(12), in_set("encrypted-vnis", 0), counter(), immediate(DOCKER), set_mark()],
    ]);
    assert_eq!((found.marks, found.vnis), (vec![limited(DOCKER)], [4097].into()));
}

#[test]
fn marks_have_the_bits_that_rules_set() {
    for (expressions, bits) in [
        (vec![immediate(5), set_mark()], 5),
        (vec![load_mark(), bitwise(!0x4000, 0x4000), set_mark()], 0x4000),
        (vec![load_mark(), bitwise(u32::MAX, 0x10), set_mark()], 0x10),
        (vec![immediate(0xff), bitwise(0x0f, 0x100), set_mark()], 0x10f),
        (vec![immediate(5), set_mark(), immediate(8), set_mark()], 0xd),
        (vec![expression("ct", &[number(1, 1), number(2, 3)]), bitwise(0x8000, 0), set_mark()], 0x8000),
        // The connection's mark, a value that another expression may have replaced, an operator, a verdict of a program.
        (vec![expression("ct", &[number(1, 1), number(2, 3)]), set_mark()], u32::MAX),
        (vec![immediate(5), counter(), set_mark()], u32::MAX),
        (vec![expression("bitwise", &[number(1, 1), number(2, 1), number(6, 1)]), set_mark()], u32::MAX),
        (vec![expression("queue", &[])], u32::MAX),
        (vec![expression("unknown", &[])], u32::MAX),
    ] {
        assert_eq!(table(&[expressions]).marks, [unlimited(bits)]);
    }
    for expressions in
        [vec![load_mark(), bitwise(0xff, 0), set_mark()], vec![load_mark(), equals(&[1, 0, 0, 0]), counter()]]
    {
        assert_eq!(table(&[expressions]).marks, []);
    }
}

#[test]
fn only_comparisons_of_the_vni_before_the_mark_limit_it() {
    let mark = [immediate(5), set_mark()].concat();
    for (tests, limit) in [
        (vec![vxlan(12), equals(&[0, 0x10, 1])], Some(4097)),
        (vec![vxlan(12), in_set("encrypted-vnis", 0)], Some(4097)),
        (vec![vxlan(12), in_set("encrypted-vnis", 1)], None),
        (vec![vxlan(12), in_set("unreadable", 0)], None),
        (vec![vxlan(13), equals(&[0, 0x10, 1])], None),
        (vec![vxlan(12), counter(), equals(&[0, 0x10, 1])], None),
        (vec![vxlan(12), expression("cmp", &[number(1, 1), number(2, 1), nla(3, &[&nla(1, &[&[0, 0x10, 1]])])])], None),
    ] {
        let found = table(&[[tests.clone(), vec![mark.clone()]].concat()]);
        assert_eq!(found.marks, [Mark { bits: 5, vnis: limit.map(|vni| [vni].into()) }], "{tests:?}");
        assert_eq!(found.vnis, limit.into_iter().collect());
        let after = table(&[[vec![mark.clone()], tests].concat()]);
        assert_eq!((after.marks, after.vnis), (vec![unlimited(5)], BTreeSet::new()), "the mark is set first");
    }
}

#[test]
fn set_contains_its_vnis_if_it_contains_nothing_else() {
    let set = |flags, len| [&HEADER[..], &number(3, flags), &number(5, len)].concat();
    let element = |key: &[u8], flags: &[u8]| nla(1, &[&nla(1, &[&nla(1, &[key])]), flags]);
    let elements = |list: &[Vec<u8>]| vec![(0x0a0c, [&HEADER[..], &nla(3, &[&list.concat()])].concat())];
    let two = elements(&[element(&[0, 0x10, 1], &[]), element(&[1, 0, 0], &[])]);
    assert_eq!(nft::vnis_of(&set(0, 3), &two), Some([4097, 0x1_0000].into()));
    assert_eq!(nft::vnis_of(&set(0, 3), &[]), Some(BTreeSet::new()));
    for (flags, len) in [(0x4, 3), (0x20, 3), (0x80, 3), (0, 4)] {
        assert_eq!(nft::vnis_of(&set(flags, len), &two), None, "flags {flags:#x}, length {len}");
    }
    // `NFT_SET_ELEM_CATCHALL`.
    assert_eq!(nft::vnis_of(&set(0, 3), &elements(&[element(&[0, 0x10, 1], &[]), nla(1, &[&number(3, 2)])])), None);
    assert_eq!(nft::vnis_of(&set(0, 3), &elements(&[element(&[0, 0x10, 1], &number(3, 1))])), None);
    assert_eq!(nft::vnis_of(&set(0, 3), &elements(&[element(&[0, 0, 0x10, 1], &[])])), None);
}

#[test]
fn targets_of_xtables_set_these_bits() {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
    // ctmark, ctmask, nfmask; mode, or shift and mode.
    let connmark = |tail: &[u8]| [&words(&[1, 0xf0, 0xff])[..], tail].concat();
    for (name, revision, info, bits) in [
        ("MARK", 2, words(&[0x4000, 0x4000]), 0x4000),
        ("MARK", 3, words(&[0x4000, 0x4000]), u32::MAX),
        ("MARK", 2, vec![1, 2], u32::MAX),
        ("TPROXY", 1, words(&[0xff, 0x10, 0, 0]), 0x10),
        ("CONNMARK", 1, connmark(&[2]), 0xf0),
        ("CONNMARK", 2, connmark(&[0, 0, 2]), 0xf0),
        ("CONNMARK", 2, connmark(&[0, 4, 2]), u32::MAX),
        ("CONNMARK", 2, connmark(&[0, 0, 1]), 0),
        ("CONNMARK", 1, connmark(&[0]), 0),
        ("CONNMARK", 2, connmark(&[]), u32::MAX),
        ("HMARK", 0, Vec::new(), u32::MAX),
        ("SET", 3, Vec::new(), u32::MAX),
        ("NFQUEUE", 3, Vec::new(), u32::MAX),
        ("", 0, words(&[1]), 0),
        ("LOG", 0, Vec::new(), 0),
    ] {
        let mut rule = Rule::default();
        rule.read_target(name, revision, &info);
        assert_eq!(rule.bits, bits, "{name} {revision} {info:?}");
    }
}
