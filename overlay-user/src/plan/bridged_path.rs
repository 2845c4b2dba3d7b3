//! The rules of a network namespace for the frames of a network's bridge: whether they plainly accept them. The fast path
//! bypasses all of them.
//!
//! Rules of the bridge family, and of the hooks of devices, are not interpreted: any of them counts. With br_netfilter,
//! bridges also pass their IP packets to the chains of iptables and of nftables, which are walked. A container can send
//! packets with any address, so that a test of addresses matches some of them, as every test does that depends on the
//! packet.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use super::packet::{Known, Match};
use crate::{
    kernel::{Chain, ChainTable, Chains, Effect, Field, IPTABLES_LEGACY, Interface, NetfilterHook, Tool, Verdict},
    model::Finding,
};

/// The chain for the administrator's rules, which Docker creates and calls first.
const DOCKER_USER: &str = "DOCKER-USER";

/// Deepest nesting of chains (`NFT_JUMP_STACK_SIZE`).
pub(super) const DEPTH: usize = 16;

/// The remedy where rules cannot be read.
pub(crate) const TO_READ_RULES: &str = "give the daemon CAP_NET_ADMIN and the group root, or run it as root";

/// The rules of a network namespace, and what they do with the packets of its bridges.
#[derive(Debug, Default)]
pub(crate) struct BridgedRules {
    pub(crate) chains: Chains,
    /// Results of [`Self::walk`], by bridge: there can be many rules.
    walked: Mutex<BTreeMap<(String, bool), Option<Finding>>>,
}

impl BridgedRules {
    pub(crate) fn new(chains: Chains) -> Self {
        Self { chains, walked: Mutex::default() }
    }

    /// Why rules do not plainly accept the frames of a bridge; `None`: they do. The finding has no object.
    ///
    /// `is_passed`: an option of the bridge passes its packets to iptables. `is_inside`: whether a pattern may be the name
    /// of the bridge or of one of its ports.
    #[must_use]
    pub(crate) fn judge(
        &self,
        bridge: &str,
        is_passed: bool,
        is_inside: impl Fn(&Interface) -> bool,
    ) -> Option<Finding> {
        let Chains { ipv4, ipv6, tables, unreadable } = &self.chains;
        let concerns = |command: &str| command != IPTABLES_LEGACY || *ipv4 || *ipv6 || is_passed;
        if let Some((command, error)) = unreadable.iter().find(|(command, _)| concerns(command)) {
            return Some(Finding::unnamed(format!("the rules of {command} cannot be read ({error})"), TO_READ_RULES));
        }
        let sees = |table: &ChainTable, chain: &Chain| {
            let Some(base) = &chain.base else { return false };
            let is_of_bridge = || match base.hook {
                NetfilterHook::Ingress | NetfilterHook::Egress => base.devices.iter().any(&is_inside),
                _ => matches!(table.tool, Tool::Bridge { .. }),
            };
            (base.drops || !chain.rules.is_empty()) && is_of_bridge()
        };
        if let Some(table) = tables.iter().find(|table| table.chains.values().any(|chain| sees(table, chain))) {
            let problem = format!("{} has rules that apply to frames of {bridge}", table.label());
            return Some(Finding::unnamed(problem, "remove the rules"));
        }
        let mut walked = self.walked.lock().unwrap_or_else(PoisonError::into_inner);
        walked.entry((bridge.to_owned(), is_passed)).or_insert_with(|| self.walk(bridge, is_passed)).clone()
    }

    /// What the chains of iptables and nftables do with IP packets of a bridge.
    fn walk(&self, bridge: &str, is_passed: bool) -> Option<Finding> {
        let versions = [(4, self.chains.ipv4 || is_passed), (6, self.chains.ipv6 || is_passed)];
        let (mut problems, mut commands) = (Vec::new(), Vec::new());
        for table in &self.chains.tables {
            for (name, chain) in &table.chains {
                let Some(base) = &chain.base else { continue };
                let seen = versions.into_iter().filter(|(version, is_on)| *is_on && table.tool.sees(*version));
                let treated = seen.filter_map(|(version, _)| {
                    let packet = bridged(version, base.hook, bridge);
                    Walk::new(&table.chains, &packet).base(name, base.hook, base.drops)
                });
                // One rule of nft accepts both versions.
                if let Some(treated) = treated.min() {
                    problems.push(format!("{} {} its packets", table.place(name), treated.verb()));
                    commands.push(format!("`{}`", treated.command(table, name, base.hook, bridge)));
                }
            }
        }
        let off = if is_passed { "" } else { ", or set net.bridge.bridge-nf-call-iptables and -ip6tables to 0" };
        let remedy = format!("run {}{off}", commands.join(" and "));
        (!problems.is_empty()).then(|| Finding::unnamed(problems.join(", and "), remedy))
    }
}

/// Packets that a bridge forwards from one port to another. The other interface is not known at some hooks.
fn bridged(version: u8, hook: NetfilterHook, bridge: &str) -> Known<'_> {
    let name = |is_known: bool| Some(if is_known { bridge } else { "" });
    let mut packet = Known {
        input: name(hook != NetfilterHook::Postrouting),
        output: name(hook != NetfilterHook::Prerouting),
        is_bridged: true,
        ..Known::default()
    };
    let (family, ether_type) = if version == 4 { (libc::NFPROTO_IPV4, 0x0800) } else { (libc::NFPROTO_IPV6, 0x86dd) };
    packet.set(Field::Family, family.cast_unsigned());
    packet.set(Field::EtherType, ether_type);
    packet
}

/// What a chain does with packets of a network, other than accept them. The most certain is the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Treated {
    packets: Packets,
    what: What,
    /// The packets pass [`DOCKER_USER`] first.
    after_docker_user: bool,
}

/// The treated packets of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Packets {
    All,
    Some,
}

/// What happens to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Dropped,
    Changed,
}

/// The end of a chain.
enum End {
    Accepted,
    Dropped,
    Returned,
}

/// The way of a packet through the chains of a hook.
struct Walk<'a> {
    chains: &'a BTreeMap<String, Chain>,
    packet: &'a Known<'a>,
    passed_docker_user: bool,
    treated: Option<Treated>,
}

impl Tool {
    /// Whether the table sees packets of this IP version.
    pub(super) fn sees(self, wanted: u8) -> bool {
        match self {
            Self::Iptables { version, .. } => version == wanted,
            Self::Nft { version, .. } => version.is_none_or(|version| version == wanted),
            Self::Bridge { .. } => false,
        }
    }
}

impl<'a> Walk<'a> {
    fn new(chains: &'a BTreeMap<String, Chain>, packet: &'a Known<'a>) -> Self {
        Self { chains, packet, passed_docker_user: false, treated: None }
    }

    /// What a chain at a hook does.
    fn base(mut self, name: &str, hook: NetfilterHook, drops: bool) -> Option<Treated> {
        let on_path = [NetfilterHook::Prerouting, NetfilterHook::Forward, NetfilterHook::Postrouting];
        if !on_path.contains(&hook) {
            return None;
        }
        match self.chain(name, Packets::All, 0) {
            End::Returned if drops => self.treat(Packets::All, What::Dropped),
            End::Accepted | End::Dropped | End::Returned => {}
        }
        self.treated
    }

    /// `packets`: those that reach the chain.
    fn chain(&mut self, name: &str, packets: Packets, depth: usize) -> End {
        let rules = self.chains.get(name).map(|chain| chain.rules.as_slice()).unwrap_or_default();
        for rule in rules {
            let packets = match self.packet.matches(rule) {
                Match::None => continue,
                Match::All => packets,
                Match::Some => Packets::Some,
            };
            // Connection tracking alone changes no packet.
            if rule.effects.iter().any(|effect| *effect != Effect::Untracked) {
                self.treat(packets, What::Changed);
            }
            let end = match &rule.verdict {
                Verdict::Next => continue,
                Verdict::Accept => End::Accepted,
                Verdict::Return => End::Returned,
                Verdict::Drop => {
                    self.treat(packets, What::Dropped);
                    End::Dropped
                }
                Verdict::Jump(chain) | Verdict::Goto(chain) if depth < DEPTH => {
                    self.passed_docker_user |= chain == DOCKER_USER && packets == Packets::All;
                    let end = self.chain(chain, packets, depth + 1);
                    if matches!((&end, &rule.verdict), (End::Returned, Verdict::Jump(_))) {
                        continue;
                    }
                    end
                }
                Verdict::Jump(_) | Verdict::Goto(_) => continue,
            };
            // Otherwise the other packets reach the next rule.
            if self.packet.matches(rule) == Match::All {
                return end;
            }
        }
        End::Returned
    }

    /// Notes what happens to packets. Where they go first decides about the remedy, the most certain about the problem.
    fn treat(&mut self, packets: Packets, what: What) {
        let after_docker_user = self.treated.map_or(self.passed_docker_user, |first| first.after_docker_user);
        let treated = Treated { packets, what, after_docker_user };
        self.treated = Some(self.treated.map_or(treated, |first| first.min(treated)));
    }
}

impl ChainTable {
    /// The table, for messages.
    fn label(&self) -> String {
        let name = &self.name;
        match self.tool {
            Tool::Iptables { command, .. } => format!("{command} table {name}"),
            Tool::Nft { family, .. } => format!("nft table {family} {name}"),
            Tool::Bridge { label } => format!("{label} {name}"),
        }
    }

    /// The place of a chain, for messages.
    pub(super) fn place(&self, chain: &str) -> String {
        format!("chain {chain} of {}", self.label())
    }
}

impl Treated {
    fn verb(self) -> &'static str {
        match (self.packets, self.what) {
            (Packets::All, What::Dropped) => "drops",
            (Packets::Some, What::Dropped) => "can drop",
            (Packets::All, What::Changed) => "changes",
            (Packets::Some, What::Changed) => "can change",
        }
    }

    /// The command that accepts the network's packets before any other rule drops them.
    fn command(self, table: &ChainTable, chain: &str, hook: NetfilterHook, bridge: &str) -> String {
        let (input, output) = (hook != NetfilterHook::Postrouting, hook != NetfilterHook::Prerouting);
        let tests = |names: [&str; 2]| -> String {
            let used = names.into_iter().zip([input, output]).filter(|(_, is_used)| *is_used);
            used.map(|(name, _)| format!(" {name} {bridge}")).collect()
        };
        let name = &table.name;
        match table.tool {
            Tool::Iptables { command, .. } => {
                let option = if name == "filter" { String::new() } else { format!("-t {name} ") };
                let chain = if self.after_docker_user { DOCKER_USER } else { chain };
                format!("{command} {option}-I {chain}{} -j ACCEPT", tests(["-i", "-o"]))
            }
            Tool::Nft { family, .. } => {
                format!("nft insert rule {family} {name} {chain}{} accept", tests(["iifname", "oifname"]))
            }
            Tool::Bridge { .. } => String::new(),
        }
    }
}

#[cfg(test)]
#[path = "bridged_path_tests.rs"]
mod tests;
