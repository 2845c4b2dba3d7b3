//! nftables, read through its netlink family (`include/uapi/linux/netfilter/nf_tables.h`).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use super::{Family, Hooked, NetfilterHook, NetfilterTable, Rule};
use crate::sys::netlink::{
    attribute::{attribute, attributes, be32, text},
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
    Ok(dumps()?.map(|(chains, rules)| read(&chains, &rules)).unwrap_or_default())
}

/// All chains and rules; `None`: the kernel has no nftables.
pub(super) fn dumps() -> io::Result<Option<(Vec<Message>, Vec<Message>)>> {
    let Some(socket) = Raw::open(NETLINK_NETFILTER)? else { return Ok(None) };
    let chains = match socket.dump(GET_CHAIN, &EVERYTHING) {
        // The kernel does not support nftables (`nfnetlink_rcv_msg`).
        Err(error) if matches!(error.errno, libc::EINVAL | libc::EOPNOTSUPP) => return Ok(None),
        chains => chains?,
    };
    Ok(Some((chains, socket.dump(GET_RULE, &EVERYTHING)?)))
}

/// The tables of chains and rules.
pub(in super::super) fn read(chains: &[Message], rules: &[Message]) -> Vec<NetfilterTable> {
    let mut tables = BTreeMap::<Key, NetfilterTable>::new();
    let mut filled = BTreeSet::new();
    for (_, message) in rules {
        let Some((key, attributes)) = table_of(message) else { continue };
        let chain = attribute(attributes, 2).map(text).unwrap_or_default();
        rule(attribute(attributes, 4).unwrap_or_default())
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
        let hook = Hooked { hook: hook_of(key.0, number), nat, devices: devices(hook), acts };
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
    let (family, name) = match i32::from(key.0) {
        libc::NFPROTO_INET => (Family::Ip, "inet"),
        libc::NFPROTO_IPV4 => (Family::Ip, "ip"),
        libc::NFPROTO_IPV6 => (Family::Ip, "ip6"),
        libc::NFPROTO_BRIDGE => (Family::Bridge, "bridge"),
        libc::NFPROTO_NETDEV => (Family::Netdev, "netdev"),
        libc::NFPROTO_ARP => (Family::Other, "arp"),
        _ => (Family::Other, "unknown"),
    };
    let label = format!("nft table {name} {}", key.1);
    NetfilterTable { label, family, hooks: Vec::new(), marks: Vec::new(), vnis: BTreeSet::new() }
}

/// The hook with this number. The netdev family has other numbers: 0 is ingress, 1 egress.
fn hook_of(family: u8, number: Option<u32>) -> NetfilterHook {
    match number {
        Some(0) if i32::from(family) == libc::NFPROTO_NETDEV => NetfilterHook::Ingress,
        Some(number) if i32::from(family) != libc::NFPROTO_NETDEV => NetfilterHook::new(number),
        _ => NetfilterHook::Other,
    }
}

/// `NFTA_HOOK_DEV`, and `NFTA_HOOK_DEVS` with one `NFTA_DEVICE_NAME` or `NFTA_DEVICE_PREFIX` for each.
fn devices(hook: &[u8]) -> Vec<String> {
    let one = attribute(hook, 3).map(text);
    let several = attribute(hook, 4).into_iter().flat_map(attributes).map(|(_, name)| text(name));
    one.into_iter().chain(several).collect()
}

/// Reads `NFTA_RULE_EXPRESSIONS`: a list of expressions, each with a name (1) and data (2).
fn rule(expressions: &[u8]) -> Rule {
    /// `NFTA_META_KEY`, `NFTA_META_SREG`, `NFT_META_MARK`.
    const META: (u16, u16, u32) = (2, 3, 3);
    let mut rule = Rule::default();
    for (_, expression) in attributes(expressions) {
        let name = attribute(expression, 1).map(text).unwrap_or_default();
        let data = attribute(expression, 2).unwrap_or_default();
        // Matches and targets of xtables: name 1, revision 2, data 3.
        let xtables = attribute(data, 1).map(text).unwrap_or_default();
        match name.as_str() {
            "match" => rule.read_match(&xtables, attribute(data, 3).unwrap_or_default()),
            "target" => rule.read_target(&xtables),
            "meta" => {
                let key = attribute(data, META.0).and_then(be32);
                rule.marks |= attribute(data, META.1).is_some() && key == Some(META.2);
            }
            _ => {}
        }
    }
    rule
}
