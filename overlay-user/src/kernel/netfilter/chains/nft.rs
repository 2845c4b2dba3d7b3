//! Chains of nftables, with those of iptables-nft (`include/uapi/linux/netfilter/nf_tables.h`).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use super::{
    Base, Chain, ChainRule, ChainTable, Effect, Field, Interface, Test, Tool, Verdict,
    register::{Loaded, Number, Registers},
    set::{self, Element, Sets, verdict},
};
use crate::{
    kernel::netfilter::{NetfilterHook, nft},
    sys::netlink::{
        attribute::{attribute, attributes, be32, text},
        raw::{Message, Raw},
    },
};

/// Tables and chains of iptables-nft (`iptables/nft.c` of iptables).
const IPTABLES: ([&str; 5], [&str; 5]) =
    (["filter", "mangle", "nat", "raw", "security"], ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]);

/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;

/// Attempts to read rules and sets that do not change meanwhile.
const ATTEMPTS: u32 = 4;

pub(super) fn tables() -> io::Result<Vec<ChainTable>> {
    for _ in 0..ATTEMPTS {
        let before = generation()?;
        let Some((chains, rules)) = nft::dumps()? else { return Ok(Vec::new()) };
        let Some(socket) = Raw::open(NETLINK_NETFILTER)? else { return Ok(Vec::new()) };
        let sets = set::sets(&socket, &looked_up(&rules))?;
        if generation()? == before {
            return Ok(read(&chains, &rules, &sets));
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "the rules change all the time"))
}

/// The number of changes of the rules; 0 if the kernel has no nftables.
pub(super) fn generation() -> io::Result<u32> {
    /// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN`.
    const GET_GENERATION: u16 = 0x0a10;
    let Some(socket) = Raw::open(NETLINK_NETFILTER)? else { return Ok(0) };
    let message = match socket.get(GET_GENERATION, &nft::EVERYTHING) {
        Err(error) if nft::is_unsupported(&error) => return Ok(0),
        answer => answer?.1,
    };
    let attributes = message.get(nft::HEADER..).unwrap_or_default();
    attribute(attributes, 1).and_then(be32).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The sets that rules use.
fn looked_up(rules: &[Message]) -> BTreeSet<set::Key> {
    let mut sets = BTreeSet::new();
    for (_, message) in rules {
        let Some(((family, table), attributes_of)) = nft::table_of(message) else { continue };
        for (_, expression) in attributes(attribute(attributes_of, 4).unwrap_or_default()) {
            if attribute(expression, 1).map(text).as_deref() == Some("lookup")
                && let Some(name) = attribute(expression, 2).and_then(|data| attribute(data, 1))
            {
                sets.insert((family, table.clone(), text(name)));
            }
        }
    }
    sets
}

/// The tables of chains and rules, for IP packets and for frames of bridges.
pub(in crate::kernel) fn read(chains: &[Message], rules: &[Message], sets: &Sets) -> Vec<ChainTable> {
    let mut tables = BTreeMap::<(u8, String), BTreeMap<String, Chain>>::new();
    for (_, message) in chains {
        let Some((key, attributes)) = nft::table_of(message) else { continue };
        let name = attribute(attributes, 3).map(text).unwrap_or_default();
        let base = attribute(attributes, 4).map(|hook| Base {
            hook: hook_of(key.0, attribute(hook, 1).and_then(be32)),
            drops: attribute(attributes, 5).and_then(be32) == Some(0),
            priority: attribute(hook, 2).and_then(be32).unwrap_or_default().cast_signed(),
            is_nat: attribute(attributes, 7).map(text).as_deref() == Some("nat"),
            devices: devices(hook),
        });
        tables.entry(key).or_default().entry(name).or_default().base = base;
    }
    for (_, message) in rules {
        let Some((key, attributes)) = nft::table_of(message) else { continue };
        let name = attribute(attributes, 2).map(text).unwrap_or_default();
        let elements = |name: String| sets.get(&(key.0, key.1.clone(), name)).map(Vec::as_slice);
        let read = read_rule(attribute(attributes, 4).unwrap_or_default(), elements);
        tables.entry(key.clone()).or_default().entry(name).or_default().add(read);
    }
    let tables = tables.into_iter().filter_map(|((family, name), chains)| {
        let is_base = |(name, chain): (&String, &Chain)| chain.base.is_none() || IPTABLES.1.contains(&name.as_str());
        let is_iptables = IPTABLES.0.contains(&name.as_str()) && chains.iter().all(is_base);
        let tool = match i32::from(family) {
            libc::NFPROTO_INET => Tool::Nft { family: "inet", version: None },
            libc::NFPROTO_NETDEV => Tool::Nft { family: "netdev", version: None },
            libc::NFPROTO_IPV4 if is_iptables => Tool::Iptables { command: "iptables", version: 4 },
            libc::NFPROTO_IPV6 if is_iptables => Tool::Iptables { command: "ip6tables", version: 6 },
            libc::NFPROTO_IPV4 => Tool::Nft { family: "ip", version: Some(4) },
            libc::NFPROTO_IPV6 => Tool::Nft { family: "ip6", version: Some(6) },
            libc::NFPROTO_BRIDGE => Tool::Bridge { label: "nft table bridge" },
            _ => return None,
        };
        Some(ChainTable { tool, name, chains })
    });
    tables.collect()
}

/// The hook with this number. The netdev family has other numbers.
fn hook_of(family: u8, number: Option<u32>) -> NetfilterHook {
    match (i32::from(family), number) {
        (libc::NFPROTO_NETDEV, Some(0)) => NetfilterHook::Ingress,
        (libc::NFPROTO_NETDEV, Some(1)) => NetfilterHook::Egress,
        (libc::NFPROTO_NETDEV, _) | (_, None) => NetfilterHook::Other,
        (_, Some(number)) => NetfilterHook::new(number),
    }
}

/// `NFTA_HOOK_DEV`, and `NFTA_HOOK_DEVS` with one `NFTA_DEVICE_NAME` or `NFTA_DEVICE_PREFIX` for each.
fn devices(hook: &[u8]) -> Vec<Interface> {
    const PREFIX: u16 = 2;
    let of = |(kind, name): (u16, &[u8])| Interface { name: text(name), is_prefix: kind == PREFIX, is_inverted: false };
    let one = attribute(hook, 3).map(|name| of((1, name)));
    one.into_iter().chain(attribute(hook, 4).into_iter().flat_map(attributes).map(of)).collect()
}

/// Reads `NFTA_RULE_EXPRESSIONS`: a list of expressions, each with a name (1) and data (2). `elements` has those of a
/// set, if they are known. A map of verdicts is one rule for each of its elements.
fn read_rule<'s>(expressions: &[u8], elements: impl Fn(String) -> Option<&'s [Element]>) -> Vec<ChainRule> {
    let mut rule = ChainRule::default();
    let mut verdicts = None;
    let mut registers = Registers::default();
    for (_, expression) in attributes(expressions) {
        let name = attribute(expression, 1).map(text).unwrap_or_default();
        let data = attribute(expression, 2).unwrap_or_default();
        let number = |kind| attribute(data, kind).and_then(be32);
        let value = |kind| attribute(data, kind).and_then(|data| attribute(data, 1)).unwrap_or_default();
        match name.as_str() {
            // `NFTA_META_DREG`, `NFTA_META_KEY`, `NFTA_META_SREG`.
            "meta" => match (number(1), number(3)) {
                (Some(register), _) => registers.load(Some(register), loaded_meta(number(2))),
                (None, register) => rule.effects.extend(set_meta(number(2), &registers.get(register))),
            },
            // `NFTA_CT_DREG`, `NFTA_CT_KEY`. Without a register, it sets a property of the connection.
            "ct" => {
                let is_state = number(2) == Some(0);
                let state = Loaded::Number(Number::new(Field::State, 4, false));
                registers.load(number(1), if is_state { state } else { Loaded::Other });
            }
            // `NFTA_PAYLOAD_DREG`; without, it changes the packet.
            "payload" if number(1).is_some() => load_payload(&mut registers, data),
            // `NFTA_BITWISE_SREG` to `NFTA_BITWISE_OP`, `NFT_BITWISE_MASK_XOR`.
            "bitwise" => {
                let is_mask = number(6).unwrap_or_default() == 0;
                let result = if is_mask { registers.get(number(1)).masked(value(4), value(5)) } else { Loaded::Other };
                registers.load(number(2), result);
            }
            // `NFTA_BYTEORDER_SREG`, `NFTA_BYTEORDER_DREG`, `NFTA_BYTEORDER_SIZE`.
            "byteorder" => {
                let size = number(5).and_then(|size| usize::try_from(size).ok()).unwrap_or_default();
                registers.load(number(2), registers.get(number(1)).swapped(size));
            }
            // `NFTA_CMP_SREG`, `NFTA_CMP_OP`, `NFTA_CMP_DATA`.
            "cmp" => {
                let value = value(3);
                let compared = |first, last| registers.tests(number(1), first, last);
                let (least, most) = (vec![0; value.len()], vec![u8::MAX; value.len()]);
                rule.tests.extend(match number(2) {
                    Some(0) => compared(value, value),
                    Some(1) => vec![Test::AnyOf(vec![compared(value, value)], true)],
                    // `NFT_CMP_LT`, `NFT_CMP_LTE`, `NFT_CMP_GT`, `NFT_CMP_GTE`.
                    Some(2) => vec![Test::AnyOf(vec![compared(value, &most)], true)],
                    Some(3) => compared(&least, value),
                    Some(4) => vec![Test::AnyOf(vec![compared(&least, value)], true)],
                    Some(5) => compared(value, &most),
                    _ => vec![Test::Other],
                });
            }
            // `NFTA_RANGE_SREG` to `NFTA_RANGE_TO_DATA`.
            "range" => {
                let tests = registers.tests(number(1), value(3), value(4));
                rule.tests.push(Test::AnyOf(vec![tests], number(2) != Some(0)));
            }
            // `NFTA_LOOKUP_SET` to `NFTA_LOOKUP_FLAGS`.
            "lookup" => {
                let elements = elements(attribute(data, 1).map(text).unwrap_or_default());
                let test = elements.map_or(Test::Other, |elements| any_of(&registers, number(2), elements));
                let is_inverted = number(5).unwrap_or_default() & 1 != 0;
                match (number(3), elements) {
                    (Some(VERDICT), Some(elements)) => verdicts = Some(verdicts_of(&registers, number(2), elements)),
                    // Some packets get any verdict.
                    (Some(VERDICT), None) => rule.end(Verdict::Drop),
                    (register, _) => {
                        rule.tests.push(Test::AnyOf(vec![vec![test]], is_inverted));
                        registers.load(register, Loaded::Other);
                    }
                }
            }
            "immediate" if number(1) == Some(VERDICT) => {
                match verdict(attribute(data, 2).and_then(|data| attribute(data, 2)).unwrap_or_default()) {
                    Some(verdict) => rule.verdict = verdict,
                    None => rule.end(Verdict::Drop),
                }
            }
            "immediate" => {
                let constant = <[u8; 4]>::try_from(value(2)).map(u32::from_ne_bytes);
                registers.load(number(1), constant.map_or(Loaded::Other, Loaded::Constant));
            }
            // `NFTA_FIB_DREG`, `NFTA_FIB_RESULT` (the type of an address), `NFTA_FIB_FLAGS` (of one address).
            "fib" => {
                let field = match (number(2), number(3)) {
                    (Some(3), Some(1)) => Some(Field::SourceType),
                    (Some(3), Some(2)) => Some(Field::DestinationType),
                    _ => None,
                };
                let loaded = field.map_or(Loaded::Other, |field| Loaded::Number(Number::new(field, 4, false)));
                registers.load(number(1), loaded);
            }
            "reject" => rule.verdict = Verdict::Drop,
            // A program decides, or the packet is dropped if there is none.
            "queue" => rule.end(Verdict::Drop),
            "match" => rule.read_match(&xtables_name(data), attribute(data, 3).unwrap_or_default()),
            "target" => rule.read_target(&xtables_name(data), attribute(data, 3).unwrap_or_default()),
            "counter" | "log" | "last" => {}
            "notrack" => rule.effects.push(Effect::Untracked),
            // `NFTA_MASQ_FLAGS`, `NFTA_MASQ_REG_PROTO_MIN`.
            "masq" if number(1).unwrap_or_default() == 0 && number(2).is_none() => {
                rule.effects.push(Effect::Masquerade);
            }
            // `NFTA_OBJREF_IMM_TYPE`: counters, helpers, timeouts and expectations of connections.
            "objref" if matches!(number(1), Some(1 | 3 | 7 | 9)) => {}
            // They match, or load a register.
            "exthdr" if number(1).is_some() => registers.load(number(1), Loaded::Other),
            "objref" if matches!(number(1), Some(2 | 4 | 5)) => rule.tests.push(Test::Other),
            "limit" | "quota" | "connlimit" | "dynset" => rule.tests.push(Test::Other),
            "rt" | "socket" | "osf" | "hash" | "numgen" | "xfrm" | "tunnel" => {
                registers.clear();
                rule.tests.push(Test::Other);
            }
            // They change, copy or redirect the packet, or are not known.
            name => {
                registers.clear();
                rule.tests.push(Test::Other);
                rule.effects.push(Effect::Changed(name.to_owned()));
            }
        }
    }
    let Some(verdicts) = verdicts else { return vec![rule] };
    let of = |(tests, verdict)| ChainRule { tests: [&rule.tests[..], tests].concat(), verdict, ..rule.clone() };
    verdicts.iter().map(|(tests, verdict)| of((tests, verdict.clone()))).collect()
}

/// Name of a match or target of xtables.
fn xtables_name(data: &[u8]) -> String {
    attribute(data, 1).map(text).unwrap_or_default()
}

/// `NFT_META_*`.
fn loaded_meta(key: Option<u32>) -> Loaded {
    let number = |field, length, is_network_order| Loaded::Number(Number::new(field, length, is_network_order));
    match key {
        Some(1) => number(Field::EtherType, 2, true),
        Some(3) => number(Field::Mark, 4, false),
        Some(4) => number(Field::InputIndex, 4, false),
        Some(5) => number(Field::OutputIndex, 4, false),
        Some(6) => Loaded::Input,
        Some(7) => Loaded::Output,
        Some(15) => number(Field::Family, 1, false),
        Some(16) => number(Field::Protocol, 1, false),
        Some(19) => number(Field::PacketType, 1, false),
        _ => Loaded::Other,
    }
}

/// The effect of setting a property of the packet.
fn set_meta(key: Option<u32>, value: &Loaded) -> Option<Effect> {
    match (key, value) {
        (Some(3), Loaded::Constant(mark)) => Some(Effect::Mark { keep: 0, xor: *mark }),
        (Some(3), Loaded::Number(Number { field: Field::Mark, mask, xor, .. })) => {
            Some(Effect::Mark { keep: *mask, xor: *xor })
        }
        (Some(3), _) => Some(Effect::UnknownMark),
        // `NFT_META_NFTRACE`.
        (Some(12), _) => None,
        (Some(2), _) => Some(Effect::Changed("meta priority".to_owned())),
        _ => Some(Effect::Changed("meta".to_owned())),
    }
}

/// `NFTA_PAYLOAD_DREG`, `NFTA_PAYLOAD_BASE`, `NFTA_PAYLOAD_OFFSET` and `NFTA_PAYLOAD_LEN`. An address can be loaded in part
/// (`ip saddr 10.0.1.0/24` compares three bytes), and both at once.
fn load_payload(registers: &mut Registers, data: &[u8]) {
    /// `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`, `NFT_PAYLOAD_INNER_HEADER`.
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    const INNER: u32 = 3;
    let number = |kind| attribute(data, kind).and_then(be32).unwrap_or(u32::MAX);
    let of = |field, length| Loaded::Number(Number::new(field, length, true));
    let loaded = match (number(2), number(3), number(4)) {
        (NETWORK, 12, 8) => {
            return registers.load_both(Some(number(1)), [of(Field::Source, 4), of(Field::Destination, 4)]);
        }
        (NETWORK, 12, length @ 1..=4) => of(Field::Source, length as usize),
        (NETWORK, 16, length @ 1..=4) => of(Field::Destination, length as usize),
        (NETWORK, 9, 1) => of(Field::Protocol, 1),
        (TRANSPORT, 0, 2) => of(Field::SourcePort, 2),
        (TRANSPORT, 2, 2) => of(Field::DestinationPort, 2),
        (TRANSPORT, 12, 3) | (INNER, 4, 3) => of(Field::Vni, 3),
        _ => Loaded::Other,
    };
    registers.load(Some(number(1)), loaded);
}

/// The tests of an element's values, if it has some.
fn tests_of(registers: &Registers, register: Option<u32>, element: &Element) -> Option<Vec<Test>> {
    let (first, last) = element.values.as_ref()?;
    let mut tests = registers.tests(register, first, last);
    if element.is_conditional {
        tests.push(Test::Other);
    }
    Some(tests)
}

/// Whether a set has an element.
fn any_of(registers: &Registers, register: Option<u32>, elements: &[Element]) -> Test {
    let lists = elements.iter().map(|element| tests_of(registers, register, element).unwrap_or_default());
    Test::AnyOf(lists.collect(), false)
}

/// The verdicts of a map, and the tests of the values that have them.
fn verdicts_of(registers: &Registers, register: Option<u32>, elements: &[Element]) -> Vec<(Vec<Test>, Verdict)> {
    let known = elements.iter().filter(|element| element.values.is_some());
    let others = || vec![Test::AnyOf(known.clone().filter_map(|of| tests_of(registers, register, of)).collect(), true)];
    let of = |element: &Element| {
        let tests = tests_of(registers, register, element).unwrap_or_else(others);
        (tests, element.verdict.clone().unwrap_or_default())
    };
    elements.iter().map(of).collect()
}
