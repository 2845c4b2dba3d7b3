//! Chains of iptables-legacy and ip6tables-legacy (`include/uapi/linux/netfilter/x_tables.h`).

use std::{collections::BTreeMap, io, net::Ipv4Addr};

use ipnet::Ipv4Net;

use super::{Base, ChainRule, ChainTable, Field, Interface, Test, Tool, Verdict};
use crate::{
    kernel::netfilter::{
        NetfilterHook,
        legacy::{self, HOOKS, MATCH_HEADER, Version, extension, field},
    },
    sys::netlink::attribute::{ne16, ne32, text},
};

/// Names of the chains at the hooks.
const BASES: [&str; HOOKS] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// `IFNAMSIZ`.
const NAME: usize = 16;

pub(super) fn tables() -> io::Result<Vec<ChainTable>> {
    let mut tables = Vec::new();
    legacy::for_each(|version, name, info, entries| tables.push(read(version, name, info, entries)))?;
    Ok(tables)
}

/// Reads a table from a `struct ipt_getinfo` and its entries.
pub(in super::super) fn read(version: &Version, name: &str, info: &[u8], entries: &[u8]) -> ChainTable {
    let tool = Tool::Iptables { command: version.command, version: version.number };
    let mut table = ChainTable { tool, name: name.to_owned(), chains: BTreeMap::new() };
    let hooks: Vec<usize> = (0..HOOKS).filter(|hook| field(info, 0) & 1 << hook != 0).collect();
    let base = |at: usize| hooks.iter().find(|hook| field(info, 1 + **hook) as usize == at).copied();
    let policy = |at: usize| hooks.iter().any(|hook| field(info, 1 + HOOKS + *hook) as usize == at);
    // A jump has an offset: that of the first rule of a chain.
    let mut starts = BTreeMap::<usize, String>::new();
    let mut entered = String::new();
    let mut list = Vec::new();
    for (at, entry) in version.entries(entries) {
        if let Some(hook) = base(at) {
            BASES[hook].clone_into(&mut entered);
            let hook = NetfilterHook::new(u32::try_from(hook).unwrap_or(u32::MAX));
            let base =
                Base { hook, drops: false, priority: priority(name, hook), is_nat: name == "nat", devices: Vec::new() };
            table.chains.entry(entered.clone()).or_default().base = Some(base);
        }
        let target = version.target(entry);
        if extension(entry, target) == "ERROR" {
            // `struct xt_error_target`: the name of the chain that follows.
            entered = entry.get(target + MATCH_HEADER..).map(text).unwrap_or_default();
            starts.insert(at + version.length(entry), entered.clone());
        } else if policy(at) {
            let base = table.chains.get_mut(&entered).and_then(|chain| chain.base.as_mut());
            base.into_iter().for_each(|base| base.drops = verdict(version, entry) == Some(-1));
        } else {
            list.push((entered.clone(), entry));
        }
    }
    for (chain, entry) in list {
        let rule = rule(version, entry, &starts);
        table.chains.entry(chain).or_default().add(vec![rule]);
    }
    table
}

/// `enum nf_ip_hook_priorities` (`include/uapi/linux/netfilter_ipv4.h`).
fn priority(table: &str, hook: NetfilterHook) -> i32 {
    match (table, hook) {
        ("raw", _) => -300,
        ("mangle", _) => -150,
        ("nat", NetfilterHook::Prerouting | NetfilterHook::Output) => -100,
        ("nat", _) => 100,
        ("security", _) => 50,
        _ => 0,
    }
}

fn rule(version: &Version, entry: &[u8], starts: &BTreeMap<usize, String>) -> ChainRule {
    /// `IPT_INV_VIA_IN`, `IPT_INV_VIA_OUT`, `IPT_INV_SRCIP`, `IPT_INV_DSTIP`, `IPT_INV_PROTO`; the same for IPv6.
    const INVERTED: [u8; 5] = [0x01, 0x02, 0x08, 0x10, 0x40];
    let mut rule = ChainRule::default();
    let byte = |at: usize| entry.get(at).copied().unwrap_or_default();
    let (flags, inverted) = (byte(version.flags), byte(version.flags + 1));
    let [via_in, via_out, source, destination, not_protocol] = INVERTED.map(|flag| inverted & flag != 0);
    let names = entry.get(version.interfaces..version.interfaces + 4 * NAME).unwrap_or(&[0; 4 * NAME]);
    rule.tests.extend(interface(&names[..NAME], &names[2 * NAME..], via_in).map(Test::Input));
    rule.tests.extend(interface(&names[NAME..], &names[3 * NAME..], via_out).map(Test::Output));
    if version.number == 4 {
        rule.tests.extend(address(entry, 0, |network| Test::network(Field::Source, network, source)));
        rule.tests.extend(address(entry, 4, |network| Test::network(Field::Destination, network, destination)));
    } else if entry.get(..version.interfaces).is_some_and(|addresses| addresses.iter().any(|byte| *byte != 0)) {
        rule.tests.push(Test::Other);
    }
    if let Some(protocol) = ne16(entry, version.interfaces + 4 * NAME).map(u32::from).filter(|number| *number != 0) {
        rule.tests.push(Test::range(Field::Protocol, protocol, protocol, not_protocol));
    }
    // `IPT_F_FRAG` matches later fragments. `IP6T_F_PROTO` only says that there is a protocol.
    let known = version.goto | if version.number == 6 { 1 } else { 0 };
    if flags & !known != 0 {
        rule.tests.push(Test::Other);
    }
    version.matches(entry, |name, info| rule.read_match(name, info));
    let target = version.target(entry);
    let name = extension(entry, target);
    if !name.is_empty() {
        let end = target + usize::from(ne16(entry, target).unwrap_or_default());
        rule.read_target(&name, entry.get(target + MATCH_HEADER..end).unwrap_or_default());
        return rule;
    }
    match verdict(version, entry) {
        Some(-1) => rule.verdict = Verdict::Drop,
        Some(-2) => rule.verdict = Verdict::Accept,
        // `QUEUE`.
        Some(-4) => rule.end(Verdict::Drop),
        Some(-5) => rule.verdict = Verdict::Return,
        verdict => {
            let next = verdict.and_then(|offset| usize::try_from(offset).ok());
            if let Some(chain) = next.and_then(|next| starts.get(&next)) {
                let is_jump = flags & version.goto == 0;
                rule.verdict = if is_jump { Verdict::Jump(chain.clone()) } else { Verdict::Goto(chain.clone()) };
            }
        }
    }
    rule
}

/// The verdict of a `struct xt_standard_target`: `-NF_… - 1`, `XT_RETURN`, or the offset of an entry: of a chain's
/// first rule, or of the next rule.
fn verdict(version: &Version, entry: &[u8]) -> Option<i32> {
    ne32(entry, version.target(entry) + MATCH_HEADER).map(u32::cast_signed)
}

/// The pattern of a name and its mask, which covers the final zero unless only the beginning counts.
fn interface(name: &[u8], mask: &[u8], is_inverted: bool) -> Option<Interface> {
    let length = mask.iter().take(NAME).take_while(|byte| **byte != 0).count();
    let name = text(&name[..length]);
    (length > 0).then_some(Interface { is_prefix: name.len() == length, name, is_inverted })
}

/// The test of the address at an offset of a `struct ipt_ip`, whose mask is 8 bytes later.
fn address(entry: &[u8], at: usize, test: impl FnOnce(Ipv4Net) -> Test) -> Option<Test> {
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(entry.get(at..at + 4)?).ok()?));
    let mask = address(at + 8).filter(|mask| !mask.is_unspecified())?;
    Some(Ipv4Net::with_netmask(address(at)?, mask).map_or(Test::Other, test))
}
