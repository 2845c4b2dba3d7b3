//! The chains that IP packets pass which a bridge forwards, if br_netfilter passes them to iptables
//! (`net/bridge/br_netfilter_hooks.c`): tables of nftables, iptables and ip6tables. Of a rule, only tests that a bridge
//! or a subnet can decide are known.

use std::{collections::BTreeMap, fs, io};

use ipnet::Ipv4Net;

use super::NetfilterHook;

pub(in super::super) mod legacy;
pub(in super::super) mod nft;

/// The chains of one network namespace that see packets of its bridges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BridgeChains {
    /// Every bridge passes IPv4 packets to the chains (`net.bridge.bridge-nf-call-iptables`).
    pub ipv4: bool,
    /// Every bridge passes IPv6 packets to the chains (`net.bridge.bridge-nf-call-ip6tables`).
    pub ipv6: bool,
    /// The tables, in the order of the kernel.
    pub tables: Vec<ChainTable>,
    /// Rules that cannot be read: their command, and the error.
    pub unreadable: Vec<(&'static str, String)>,
}

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
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Its hook and policy; `None`: only rules lead to it.
    pub base: Option<Base>,
    /// Its rules, in order.
    pub rules: Vec<ChainRule>,
}

/// Hook and policy of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    /// Its hook.
    pub hook: NetfilterHook,
    /// The policy is to drop.
    pub drops: bool,
}

/// A rule: all of its tests must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChainRule {
    /// Its tests.
    pub tests: Vec<Test>,
    /// Its effect.
    pub verdict: Verdict,
}

/// A test of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    /// The input interface: the bridge, for a bridged packet.
    Input(Interface),
    /// The output interface: the bridge, for a bridged packet.
    Output(Interface),
    /// The source address is in a network, or with `true` outside of it.
    Source(Ipv4Net, bool),
    /// The destination address is in a network, or with `true` outside of it.
    Destination(Ipv4Net, bool),
    /// The IP version, for a table with both.
    Version(u8),
    /// The state of the packet's connection.
    State,
    /// Anything else.
    Other,
}

/// A pattern for the name of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// The name, or its beginning.
    pub name: String,
    /// Only the beginning counts.
    pub is_prefix: bool,
    /// Other interfaces match.
    pub is_inverted: bool,
}

/// The effect of a rule.
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

impl Interface {
    /// Whether the pattern matches the interface with this name.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let is_named = if self.is_prefix { name.starts_with(&self.name) } else { name == self.name };
        is_named != self.is_inverted
    }
}

/// Reads the chains of the calling thread's network namespace; none if neither a sysctl nor `is_wanted` (an option of a
/// bridge) passes packets to them.
///
/// # Errors
/// The kernel's, for instance while another process changes the rules. Missing privileges are no error.
pub(crate) fn bridge_chains(is_wanted: bool) -> io::Result<BridgeChains> {
    let [ipv4, ipv6] = SYSCTLS.map(bridge_nf);
    let mut chains = BridgeChains { ipv4, ipv6, ..BridgeChains::default() };
    if ipv4 || ipv6 || is_wanted {
        for (command, tables) in [("nft", nft::tables()), ("iptables-legacy", legacy::tables())] {
            match tables {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    chains.unreadable.push((command, error.to_string()));
                }
                tables => chains.tables.extend(tables?),
            }
        }
    }
    Ok(chains)
}

/// A number that changes with the result of [`bridge_chains`]; `None`: there is none.
pub(crate) fn chains_version() -> Option<([bool; 2], u32)> {
    let generation = nft::generation().ok()?;
    // The tables of iptables-legacy have no version.
    (!legacy::exists()).then(|| (SYSCTLS.map(bridge_nf), generation))
}

/// The IP versions of [`bridge_nf`].
const SYSCTLS: [&str; 2] = ["iptables", "ip6tables"];

/// Whether all bridges of the calling thread's network namespace pass their packets to `iptables` or `ip6tables`.
/// Without the module they do not.
pub(crate) fn bridge_nf(which: &str) -> bool {
    match fs::read_to_string(format!("/proc/sys/net/bridge/bridge-nf-call-{which}")) {
        Ok(value) => value.trim() != "0",
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

impl ChainRule {
    /// Reads a match of xtables: name and data.
    fn read_match(&mut self, name: &str, info: &[u8]) {
        /// Offset of `bitmask` in `struct xt_physdev_info`, after `invert`; `XT_PHYSDEV_OP_BRIDGED`.
        const PHYSDEV: (usize, u8) = (65, 4);
        match name {
            "comment" => {}
            // `--physdev-is-bridged`: true for packets that a bridge forwards.
            "physdev" if info.get(PHYSDEV.0 - 1..=PHYSDEV.0) == Some(&[0, PHYSDEV.1]) => {}
            "conntrack" | "state" => self.tests.push(Test::State),
            _ => self.tests.push(Test::Other),
        }
    }

    /// Reads a target of xtables that is not the standard one.
    fn read_target(&mut self, name: &str) {
        match name {
            "REJECT" => self.verdict = Verdict::Drop,
            // A program decides, or the packet is dropped if there is none.
            "NFQUEUE" => self.end(Verdict::Drop),
            _ => {}
        }
    }

    /// Sets a verdict that only some packets get.
    fn end(&mut self, verdict: Verdict) {
        self.tests.push(Test::Other);
        self.verdict = verdict;
    }
}
