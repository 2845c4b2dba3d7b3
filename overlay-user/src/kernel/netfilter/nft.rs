//! nftables, read through its netlink family (`include/uapi/linux/netfilter/nf_tables.h`).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use super::{Hooked, NetfilterHook, NetfilterTable, Rule};
use crate::sys::netlink::{
    NetlinkError,
    attribute::{attribute, attributes, be32, ne32, text},
    raw::{Message, Raw},
};

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN`.
const GET_CHAIN: u16 = 0x0a04;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE`.
const GET_RULE: u16 = 0x0a07;
/// `struct nfgenmsg`: all families, version 0, no resource.
pub(super) const EVERYTHING: [u8; 4] = [0; 4];
/// Length of a `struct nfgenmsg`.
pub(super) const HEADER: usize = 4;

/// A table by its family (`NFPROTO_*`) and name.
type Key = (u8, String);

pub(crate) fn tables() -> io::Result<Vec<NetfilterTable>> {
    Ok(dumps()?.map(|(chains, rules)| read(&chains, &rules, vnis)).unwrap_or_default())
}

/// All chains and rules; `None`: the kernel has no nftables.
pub(super) fn dumps() -> io::Result<Option<(Vec<Message>, Vec<Message>)>> {
    let Some(socket) = Raw::open(NETLINK_NETFILTER)? else { return Ok(None) };
    let chains = match socket.dump(GET_CHAIN, &EVERYTHING) {
        Err(error) if is_unsupported(&error) => return Ok(None),
        chains => chains?,
    };
    Ok(Some((chains, socket.dump(GET_RULE, &EVERYTHING)?)))
}

/// Whether the kernel does not support nftables (`nfnetlink_rcv_msg` in net/netfilter/nfnetlink.c).
pub(super) fn is_unsupported(error: &NetlinkError) -> bool {
    matches!(error.errno, libc::EINVAL | libc::EOPNOTSUPP)
}

/// The VNIs in a set of a table; `None`: it cannot be read, or has other keys.
fn vnis((family, table): &Key, set: &str) -> Option<BTreeSet<u32>> {
    /// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSET`, and `NFT_MSG_GETSETELEM`.
    const GET_SET: u16 = 0x0a0a;
    const GET_ELEMENTS: u16 = 0x0a0d;
    // `NFTA_SET_TABLE` and `NFTA_SET_NAME`; `NFTA_SET_ELEM_LIST_TABLE` and `NFTA_SET_ELEM_LIST_SET`.
    let mut request = vec![*family, 0, 0, 0];
    for (kind, name) in [(1_u16, table.as_str()), (2, set)] {
        request.extend(u16::try_from(4 + name.len() + 1).ok()?.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(name.bytes().chain([0]));
        request.resize(request.len().next_multiple_of(4), 0);
    }
    let socket = Raw::open(NETLINK_NETFILTER).ok()??;
    let (_, set) = socket.get(GET_SET, &request).ok()?;
    vnis_of(&set, &socket.dump(GET_ELEMENTS, &request).ok()?)
}

/// The VNIs in a set, by its description and elements.
pub(in super::super) fn vnis_of(set: &[u8], elements: &[Message]) -> Option<BTreeSet<u32>> {
    /// `NFT_SET_INTERVAL`, `NFT_SET_EVAL` (packets add elements, without an event), `NFT_SET_CONCAT`.
    const UNSUPPORTED: u32 = 0x4 | 0x20 | 0x80;
    // `NFTA_SET_FLAGS` and `NFTA_SET_KEY_LEN`.
    let number = |kind| attribute(set.get(HEADER..)?, kind).and_then(be32);
    if number(3).is_some_and(|flags| flags & UNSUPPORTED != 0) || number(5) != Some(VNI_LEN) {
        return None;
    }
    let lists = elements.iter().filter_map(|(_, message)| attribute(message.get(HEADER..)?, 3));
    let vni = |element: &[u8]| {
        // `NFTA_SET_ELEM_FLAGS`: the end of an interval, or any key.
        let is_plain = attribute(element, 3).and_then(be32).is_none_or(|flags| flags == 0);
        // `NFTA_SET_ELEM_KEY` with `NFTA_DATA_VALUE`.
        attribute(element, 1).and_then(|key| attribute(key, 1)).and_then(vni_of).filter(|_| is_plain)
    };
    lists.flat_map(attributes).map(|(_, element)| vni(element)).collect()
}

/// The tables of chains and rules. `vnis` reads the VNIs in a set of a table.
pub(in super::super) fn read(
    chains: &[Message],
    rules: &[Message],
    vnis: impl Fn(&Key, &str) -> Option<BTreeSet<u32>>,
) -> Vec<NetfilterTable> {
    let mut tables = BTreeMap::<Key, NetfilterTable>::new();
    let mut filled = BTreeSet::new();
    for (_, message) in rules {
        let Some((key, attributes)) = table_of(message) else { continue };
        let chain = attribute(attributes, 2).map(text).unwrap_or_default();
        rule(attribute(attributes, 4).unwrap_or_default(), |set| vnis(&key, set))
            .add_to(tables.entry(key.clone()).or_insert_with(|| new_table(&key)));
        filled.insert((key, chain));
    }
    for (_, message) in chains {
        let Some((key, attributes)) = table_of(message) else { continue };
        let Some(hook) = attribute(attributes, 4) else { continue };
        let name = attribute(attributes, 3).map(text).unwrap_or_default();
        let drops = attribute(attributes, 5).and_then(be32) == Some(0);
        let acts = drops || filled.contains(&(key.clone(), name));
        let nat = attribute(attributes, 7).map(text).as_deref() == Some("nat");
        let number = attribute(hook, 1).and_then(be32);
        let hook = Hooked { hook: hook_of(key.0, number), nat, acts };
        tables.entry(key.clone()).or_insert_with(|| new_table(&key)).hooks.push(hook);
    }
    tables.into_values().collect()
}

/// A chain's or rule's table (`NFTA_CHAIN_TABLE` and `NFTA_RULE_TABLE` are both 1), and its attributes.
pub(super) fn table_of(message: &[u8]) -> Option<(Key, &[u8])> {
    let attributes = message.get(HEADER..)?;
    Some(((*message.first()?, text(attribute(attributes, 1)?)), attributes))
}

fn new_table(key: &Key) -> NetfilterTable {
    let family = match i32::from(key.0) {
        libc::NFPROTO_INET => "inet",
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_IPV6 => "ip6",
        libc::NFPROTO_BRIDGE => "bridge",
        libc::NFPROTO_NETDEV => "netdev",
        libc::NFPROTO_ARP => "arp",
        _ => "unknown",
    };
    let label = format!("nft table {family} {}", key.1);
    NetfilterTable { label, hooks: Vec::new(), marks: Vec::new(), vnis: BTreeSet::new() }
}

/// The hook with this number. The netdev family has other numbers: 0 is ingress, 1 egress.
fn hook_of(family: u8, number: Option<u32>) -> NetfilterHook {
    match number {
        Some(0) if i32::from(family) == libc::NFPROTO_NETDEV => NetfilterHook::Ingress,
        Some(number) if i32::from(family) != libc::NFPROTO_NETDEV => NetfilterHook::new(number),
        _ => NetfilterHook::Other,
    }
}

/// What an expression leaves in a register for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loaded {
    /// The bits that a mark may have and the packet's own did not.
    Mark(u32),
    Vni,
}

/// Reads `NFTA_RULE_EXPRESSIONS`: a list of expressions, each with a name (1) and data (2). `vnis` reads the VNIs in a set.
fn rule(expressions: &[u8], vnis: impl Fn(&str) -> Option<BTreeSet<u32>>) -> Rule {
    /// `NFT_META_MARK`.
    const MARK: Option<u32> = Some(3);
    /// Expressions that set no mark, besides those below.
    const OTHERS: [&str; 30] = [
        "byteorder",
        "connlimit",
        "counter",
        "ct",
        "dup",
        "dynset",
        "exthdr",
        "fib",
        "flow_offload",
        "fwd",
        "hash",
        "inner",
        "last",
        "limit",
        "log",
        "masq",
        "nat",
        "notrack",
        "numgen",
        "objref",
        "osf",
        "quota",
        "range",
        "redir",
        "reject",
        "rt",
        "socket",
        "synproxy",
        "tproxy",
        "xfrm",
    ];
    let mut rule = Rule::default();
    let mut loaded = None;
    for (_, expression) in attributes(expressions) {
        let name = attribute(expression, 1).map(text).unwrap_or_default();
        let data = attribute(expression, 2).unwrap_or_default();
        let number = |kind| attribute(data, kind).and_then(be32);
        let value = |kind| attribute(data, kind).and_then(|data| attribute(data, 1));
        // A value that is not from the expression before is not known.
        let before = loaded.take();
        let from = |register| before.filter(|(from, _)| *from == register).map(|(_, loaded)| loaded);
        let mut load = |register: Option<u32>, value| loaded = register.map(|register| (Some(register), value));
        match name.as_str() {
            // `NFTA_IMMEDIATE_DREG` and `NFTA_IMMEDIATE_DATA`.
            "immediate" => {
                if let Some(bits) = value(2).and_then(|value| ne32(value, 0)) {
                    load(number(1), Loaded::Mark(bits));
                }
            }
            // `NFTA_META_DREG`, `NFTA_META_KEY` and `NFTA_META_SREG`.
            "meta" if number(2) == MARK && number(3).is_some() => {
                let Some(Loaded::Mark(bits)) = from(number(3)) else {
                    rule.bits = u32::MAX;
                    continue;
                };
                rule.bits |= bits;
            }
            "meta" if number(2) == MARK => load(number(1), Loaded::Mark(0)),
            // `NFTA_CT_DREG`: the connection's mark, which may be any.
            "ct" if number(1).is_some() => load(number(1), Loaded::Mark(u32::MAX)),
            // `NFTA_BITWISE_SREG`, `…_DREG`, `…_MASK`, `…_XOR` and `…_OP` (`NFT_BITWISE_MASK_XOR`).
            "bitwise" if number(6).is_none_or(|operator| operator == 0) => {
                let operand = |kind| value(kind).and_then(|value| ne32(value, 0));
                if let (Some(Loaded::Mark(bits)), Some(mask), Some(xor)) = (from(number(1)), operand(4), operand(5)) {
                    load(number(2), Loaded::Mark(bits & mask | xor));
                }
            }
            // `NFTA_PAYLOAD_DREG`, `…_BASE`, `…_OFFSET` and `…_LEN`: after the UDP header and the flags.
            "payload" if [number(2), number(3), number(4)] == [Some(TRANSPORT_HEADER), Some(12), Some(VNI_LEN)] => {
                load(number(1), Loaded::Vni);
            }
            // `NFTA_CMP_SREG`, `NFTA_CMP_OP` (`NFT_CMP_EQ`) and `NFTA_CMP_DATA`.
            "cmp" if from(number(1)) == Some(Loaded::Vni) && number(2) == Some(0) => {
                rule.limit(|| Some([value(3).and_then(vni_of)?].into()));
            }
            // `NFTA_LOOKUP_SET`, `NFTA_LOOKUP_SREG` and `NFTA_LOOKUP_FLAGS` (`NFT_LOOKUP_F_INV`).
            "lookup" if from(number(2)) == Some(Loaded::Vni) && number(5).is_none_or(|flags| flags == 0) => {
                rule.limit(|| vnis(&attribute(data, 1).map(text)?));
            }
            // Matches and targets of xtables: name 1, revision 2, data 3.
            "match" => {
                rule.read_match(
                    &attribute(data, 1).map(text).unwrap_or_default(),
                    attribute(data, 3).unwrap_or_default(),
                );
            }
            "target" => {
                let revision = number(2).and_then(|revision| u8::try_from(revision).ok()).unwrap_or(u8::MAX);
                rule.read_target(
                    &attribute(data, 1).map(text).unwrap_or_default(),
                    revision,
                    attribute(data, 3).unwrap_or_default(),
                );
            }
            "meta" | "bitwise" | "payload" | "cmp" | "lookup" => {}
            name if OTHERS.contains(&name) => {}
            // One of a newer kernel, or `queue`: a program may set the mark.
            _ => rule.bits = u32::MAX,
        }
    }
    rule
}

/// `NFT_PAYLOAD_TRANSPORT_HEADER`.
const TRANSPORT_HEADER: u32 = 2;
/// Length of a VNI in a VXLAN header, in bytes.
const VNI_LEN: u32 = 3;

/// The VNI in the bytes of a VXLAN header.
fn vni_of(bytes: &[u8]) -> Option<u32> {
    let [high, middle, low] = *bytes else { return None };
    Some(u32::from_be_bytes([0, high, middle, low]))
}
