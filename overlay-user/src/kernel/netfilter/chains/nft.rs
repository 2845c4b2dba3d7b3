//! Chains of nftables, with those of iptables-nft (`include/uapi/linux/netfilter/nf_tables.h`).

use std::{collections::BTreeMap, io, net::Ipv4Addr};

use ipnet::Ipv4Net;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use super::{Base, Chain, ChainRule, ChainTable, Interface, Test, Tool, Verdict};
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

pub(super) fn tables() -> io::Result<Vec<ChainTable>> {
    let Some((chains, rules)) = nft::dumps()? else { return Ok(Vec::new()) };
    Ok(read(&chains, &rules))
}

/// The number of changes of the rules; 0 if the kernel has no nftables.
pub(super) fn generation() -> io::Result<u32> {
    /// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN`.
    const GET_GENERATION: u16 = 0x0a10;
    let Some(socket) = Raw::open(NETLINK_NETFILTER)? else { return Ok(0) };
    let (_, message) = socket.get(GET_GENERATION, &nft::EVERYTHING)?;
    let attributes = message.get(nft::HEADER..).unwrap_or_default();
    attribute(attributes, 1).and_then(be32).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The tables of chains and rules, for IP packets.
pub(in super::super::super) fn read(chains: &[Message], rules: &[Message]) -> Vec<ChainTable> {
    let mut tables = BTreeMap::<(u8, String), BTreeMap<String, Chain>>::new();
    for (_, message) in chains {
        let Some((key, attributes)) = nft::table_of(message) else { continue };
        let name = attribute(attributes, 3).map(text).unwrap_or_default();
        let base = attribute(attributes, 4).map(|hook| Base {
            hook: attribute(hook, 1).and_then(be32).map_or(NetfilterHook::Other, NetfilterHook::new),
            drops: attribute(attributes, 5).and_then(be32) == Some(0),
        });
        tables.entry(key).or_default().entry(name).or_default().base = base;
    }
    for (_, message) in rules {
        let Some((key, attributes)) = nft::table_of(message) else { continue };
        let name = attribute(attributes, 2).map(text).unwrap_or_default();
        let rule = rule(attribute(attributes, 4).unwrap_or_default());
        tables.entry(key).or_default().entry(name).or_default().rules.push(rule);
    }
    let tables = tables.into_iter().filter_map(|((family, name), chains)| {
        let is_base = |(name, chain): (&String, &Chain)| chain.base.is_none() || IPTABLES.1.contains(&name.as_str());
        let is_iptables = IPTABLES.0.contains(&name.as_str()) && chains.iter().all(is_base);
        let tool = match i32::from(family) {
            libc::NFPROTO_INET => Tool::Nft { family: "inet", version: None },
            libc::NFPROTO_IPV4 if is_iptables => Tool::Iptables { command: "iptables", version: 4 },
            libc::NFPROTO_IPV6 if is_iptables => Tool::Iptables { command: "ip6tables", version: 6 },
            libc::NFPROTO_IPV4 => Tool::Nft { family: "ip", version: Some(4) },
            libc::NFPROTO_IPV6 => Tool::Nft { family: "ip6", version: Some(6) },
            _ => return None,
        };
        Some(ChainTable { tool, name, chains })
    });
    tables.collect()
}

/// The content of a register.
#[derive(Clone, Debug)]
enum Loaded {
    Input,
    Output,
    Version,
    State,
    /// Bytes of the IPv4 source address from the first on, and the mask that was applied to them.
    Source(u32),
    /// The same of the destination address.
    Destination(u32),
    Other,
}

/// Reads `NFTA_RULE_EXPRESSIONS`: a list of expressions, each with a name (1) and data (2).
fn rule(expressions: &[u8]) -> ChainRule {
    let mut rule = ChainRule::default();
    let mut registers = BTreeMap::<u32, Loaded>::new();
    for (_, expression) in attributes(expressions) {
        let name = attribute(expression, 1).map(text).unwrap_or_default();
        let data = attribute(expression, 2).unwrap_or_default();
        let number = |kind| attribute(data, kind).and_then(be32);
        let loaded = |register: Option<u32>| registers.get(&register.unwrap_or(u32::MAX)).cloned();
        match name.as_str() {
            // `NFTA_META_DREG`, `NFTA_META_KEY`; without a destination it sets a property.
            "meta" => {
                let loaded = match number(2) {
                    Some(6) => Loaded::Input,
                    Some(7) => Loaded::Output,
                    Some(15) => Loaded::Version,
                    _ => Loaded::Other,
                };
                registers.extend(number(1).map(|register| (register, loaded)));
            }
            // `NFTA_CT_DREG`, `NFTA_CT_KEY`.
            "ct" => {
                let loaded = if number(2) == Some(0) { Loaded::State } else { Loaded::Other };
                registers.extend(number(1).map(|register| (register, loaded)));
            }
            "payload" => registers.extend(number(1).map(|register| (register, payload(data)))),
            // `NFTA_BITWISE_SREG`, `NFTA_BITWISE_DREG`.
            "bitwise" => {
                let result = loaded(number(1)).map_or(Loaded::Other, |loaded| masked(loaded, data));
                registers.extend(number(2).map(|register| (register, result)));
            }
            "cmp" => rule.tests.push(loaded(number(1)).map_or(Test::Other, |loaded| compared(&loaded, data))),
            // `NFTA_LOOKUP_SREG`, `NFTA_LOOKUP_DREG`. A map of verdicts is not read: of states, it probably drops one;
            // of interfaces, it leads to chains of other bridges.
            "lookup" => {
                let is_state = matches!(loaded(number(2)), Some(Loaded::State));
                rule.tests.push(if is_state { Test::State } else { Test::Other });
                if number(3) == Some(VERDICT) && is_state {
                    rule.verdict = Verdict::Drop;
                }
            }
            "immediate" if number(1) == Some(VERDICT) => rule.verdict = verdict(data),
            "reject" => rule.verdict = Verdict::Drop,
            // A program decides, or the packet is dropped if there is none.
            "queue" => rule.end(Verdict::Drop),
            "match" => rule.read_match(&xtables_name(data), attribute(data, 3).unwrap_or_default()),
            "target" => rule.read_target(&xtables_name(data)),
            "counter" | "log" | "immediate" | "notrack" | "objref" | "nat" | "masq" | "redir" | "dup" | "byteorder" => {
            }
            _ => {
                registers.clear();
                rule.tests.push(Test::Other);
            }
        }
    }
    rule
}

/// Name of a match or target of xtables.
fn xtables_name(data: &[u8]) -> String {
    attribute(data, 1).map(text).unwrap_or_default()
}

/// `NFTA_PAYLOAD_BASE`, `NFTA_PAYLOAD_OFFSET` and `NFTA_PAYLOAD_LEN`: an address of an IPv4 header, or the beginning of
/// one (`ip saddr 10.0.1.0/24` compares three bytes).
fn payload(data: &[u8]) -> Loaded {
    /// `NFT_PAYLOAD_NETWORK_HEADER`.
    const NETWORK: u32 = 1;
    let number = |kind| attribute(data, kind).and_then(be32);
    let (Some(NETWORK), Some(offset), Some(length @ 1..=4)) = (number(2), number(3), number(4)) else {
        return Loaded::Other;
    };
    let mask = u32::MAX << (32 - 8 * length);
    match offset {
        12 => Loaded::Source(mask),
        16 => Loaded::Destination(mask),
        _ => Loaded::Other,
    }
}

/// `NFTA_BITWISE_MASK` of a register.
fn masked(loaded: Loaded, data: &[u8]) -> Loaded {
    let mask = attribute(data, 4).and_then(|data| attribute(data, 1)).and_then(be32);
    match (loaded, mask) {
        (Loaded::State, _) => Loaded::State,
        (Loaded::Source(so_far), Some(mask)) => Loaded::Source(so_far & mask),
        (Loaded::Destination(so_far), Some(mask)) => Loaded::Destination(so_far & mask),
        _ => Loaded::Other,
    }
}

/// `NFTA_CMP_OP` and `NFTA_CMP_DATA` of a register.
fn compared(loaded: &Loaded, data: &[u8]) -> Test {
    /// `NFT_CMP_EQ`, `NFT_CMP_NEQ`.
    const OPERATORS: [u32; 2] = [0, 1];
    let Some(operator) = attribute(data, 2).and_then(be32).filter(|operator| OPERATORS.contains(operator)) else {
        return if matches!(loaded, Loaded::State) { Test::State } else { Test::Other };
    };
    let is_inverted = operator == OPERATORS[1];
    let value = attribute(data, 3).and_then(|data| attribute(data, 1)).unwrap_or_default();
    let interface = || Interface { name: text(value), is_prefix: !value.contains(&0), is_inverted };
    let network = |mask: u32| {
        let mut bytes = [0; 4];
        bytes.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
        Ipv4Net::with_netmask(bytes.into(), Ipv4Addr::from(mask)).ok()
    };
    match loaded {
        Loaded::Input => Test::Input(interface()),
        Loaded::Output => Test::Output(interface()),
        Loaded::State => Test::State,
        Loaded::Source(mask) => network(*mask).map_or(Test::Other, |network| Test::Source(network, is_inverted)),
        Loaded::Destination(mask) => {
            network(*mask).map_or(Test::Other, |network| Test::Destination(network, is_inverted))
        }
        Loaded::Version if !is_inverted && value.first() == Some(&2) => Test::Version(4),
        Loaded::Version if !is_inverted && value.first() == Some(&10) => Test::Version(6),
        Loaded::Version | Loaded::Other => Test::Other,
    }
}

/// `NFTA_IMMEDIATE_DATA` with `NFTA_DATA_VERDICT`: `NFTA_VERDICT_CODE` and `NFTA_VERDICT_CHAIN`.
fn verdict(data: &[u8]) -> Verdict {
    let data = attribute(data, 2).and_then(|data| attribute(data, 2)).unwrap_or_default();
    let chain = || attribute(data, 2).map(text).unwrap_or_default();
    match attribute(data, 1).and_then(be32).map(u32::cast_signed) {
        Some(0) => Verdict::Drop,
        Some(1) => Verdict::Accept,
        Some(-3) => Verdict::Jump(chain()),
        Some(-4) => Verdict::Goto(chain()),
        Some(-5) => Verdict::Return,
        _ => Verdict::Next,
    }
}
