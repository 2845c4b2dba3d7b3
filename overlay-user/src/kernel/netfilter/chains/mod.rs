//! The chains that packets pass: those that a bridge forwards, which br_netfilter can pass to iptables as well
//! (`net/bridge/br_netfilter_hooks.c`), and the outer packets of this host. Tables of nftables, iptables, ip6tables and
//! ebtables.
//!
//! A rule is a list of tests, effects and a verdict. What is not understood is [`Test::Other`], and
//! [`Effect::Changed`] if it can do more than match.

use std::{collections::BTreeMap, fs, io};

use super::{
    NetfilterHook,
    legacy::{ebtables_rules, has_ebtables, has_tables},
};

pub(in super::super) mod legacy;
pub(in super::super) mod nft;
mod register;
pub(in super::super) mod set;
mod test;
mod xtables;

pub(crate) use test::{Field, Interface, Test};

/// A table with its chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChainTable {
    /// The command that changes it.
    pub tool: Tool,
    /// Its name.
    pub name: String,
    /// Its chains, by name.
    pub chains: BTreeMap<String, Chain>,
}

/// The command that changes a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tool {
    /// `iptables` or a related command, for one IP version.
    Iptables {
        /// Name of the command.
        command: &'static str,
        /// 4 or 6.
        version: u8,
    },
    /// `nft`, with the name of a family that sees this IP version, or both.
    Nft {
        /// Name of the family.
        family: &'static str,
        /// `None`: both.
        version: Option<u8>,
    },
    /// `nft` or `ebtables-legacy`, for frames of bridges.
    Bridge {
        /// What precedes the table's name in messages.
        label: &'static str,
    },
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Its hook and policy; `None`: only rules lead to it.
    pub base: Option<Base>,
    /// Its rules, in order.
    pub rules: Vec<ChainRule>,
    /// The number of its last rule.
    pub number: usize,
}

/// Hook and policy of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    /// Its hook.
    pub hook: NetfilterHook,
    /// The policy is to drop.
    pub drops: bool,
    /// Chains of lower priority are first.
    pub priority: i32,
    /// The chain is of type `nat`: only the first packet of a connection passes it.
    pub is_nat: bool,
    /// The devices whose packets pass it, for the hooks of devices.
    pub devices: Vec<Interface>,
}

/// A rule: all of its tests must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChainRule {
    /// Its tests.
    pub tests: Vec<Test>,
    /// What it does besides its verdict.
    pub effects: Vec<Effect>,
    /// What follows.
    pub verdict: Verdict,
    /// Its number in the chain, from 1. Several have the same if they are one rule with a map of verdicts.
    pub number: usize,
}

/// An effect of a rule on the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The packet's mark becomes `mark & keep ^ xor`.
    Mark {
        /// Bits that are kept.
        keep: u32,
        /// Bits that are inverted after that.
        xor: u32,
    },
    /// The packet gets an unknown mark.
    UnknownMark,
    /// The packet is excluded from connection tracking.
    Untracked,
    /// The source address becomes that of the output interface, with the same port if it is free.
    Masquerade,
    /// The packet is changed, copied or passed elsewhere: by this target or expression.
    Changed(String),
}

/// The verdict of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The next rule follows.
    #[default]
    Next,
    /// The packet passes the hook's other chains.
    Accept,
    /// The packet is dropped or rejected.
    Drop,
    /// The chain ends.
    Return,
    /// Another chain follows, then the next rule.
    Jump(String),
    /// Another chain replaces the rest of this one.
    Goto(String),
}

/// The tables of a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chains {
    /// Every bridge passes its IPv4 packets to the chains (`net.bridge.bridge-nf-call-iptables`).
    pub ipv4: bool,
    /// Every bridge passes its IPv6 packets to the chains (`net.bridge.bridge-nf-call-ip6tables`).
    pub ipv6: bool,
    /// The tables, in no particular order.
    pub tables: Vec<ChainTable>,
    /// Rules that cannot be read: their command, and the error.
    pub unreadable: Vec<(&'static str, String)>,
}

/// Reads the chains of the calling thread's network namespace.
///
/// # Errors
/// The kernel's, for instance while another process changes the rules. Missing privileges are no error.
pub(crate) fn chains() -> io::Result<Chains> {
    let [ipv4, ipv6] = bridge_nf();
    let mut chains = Chains { ipv4, ipv6, ..Chains::default() };
    for (command, tables) in [("nft", nft::tables()), (IPTABLES_LEGACY, legacy::tables()), (EBTABLES, ebtables())] {
        match tables {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                chains.unreadable.push((command, error.to_string()));
            }
            tables => chains.tables.extend(tables?),
        }
    }
    Ok(chains)
}

/// A value that changes with the result of [`chains`]; `None`: there is none.
pub(crate) fn chains_version() -> Option<ChainsVersion> {
    let generation = nft::generation().ok()?;
    // The tables of iptables-legacy and ebtables-legacy have no version.
    (!has_tables() && !has_ebtables()).then(|| (generation, bridge_nf()))
}

/// The number of changes of nftables, and [`bridge_nf`].
pub(crate) type ChainsVersion = (u32, [bool; 2]);

/// In [`Chains::unreadable`]: only IP packets pass these tables.
pub(crate) const IPTABLES_LEGACY: &str = "iptables-legacy";
const EBTABLES: &str = "ebtables-legacy";

/// Whether all bridges of the calling thread's network namespace pass their packets to `iptables`, and to `ip6tables`.
/// Without the module they do not.
fn bridge_nf() -> [bool; 2] {
    ["iptables", "ip6tables"].map(|which| {
        match fs::read_to_string(format!("/proc/sys/net/bridge/bridge-nf-call-{which}")) {
            Ok(value) => value.trim() != "0",
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    })
}

/// The tables of ebtables-legacy, each as one chain.
fn ebtables() -> io::Result<Vec<ChainTable>> {
    let of = |(name, has_rules): (&str, bool)| {
        let base = Base { hook: NetfilterHook::Forward, drops: false, priority: 0, is_nat: false, devices: Vec::new() };
        let rules = has_rules.then(ChainRule::default).into_iter().collect();
        let chains = [(String::new(), Chain { base: Some(base), rules, number: 1 })].into();
        ChainTable { tool: Tool::Bridge { label: "ebtables-legacy table" }, name: name.to_owned(), chains }
    };
    Ok(ebtables_rules()?.into_iter().map(of).collect())
}

impl Chain {
    /// Adds a rule, which can be several alternatives.
    fn add(&mut self, rule: Vec<ChainRule>) {
        self.number += 1;
        let number = self.number;
        self.rules.extend(rule.into_iter().map(|rule| ChainRule { number, ..rule }));
    }
}

impl ChainRule {
    /// Sets a verdict that only some packets get.
    fn end(&mut self, verdict: Verdict) {
        self.tests.push(Test::Other);
        self.verdict = verdict;
    }
}
