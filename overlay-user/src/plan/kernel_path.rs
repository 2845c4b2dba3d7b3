//! Managed networks whose packets the host's netfilter rules drop on the kernel path. Their connections work as long as
//! the fast path carries them, and are lost when it does not.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;

use super::packet::{Known, Match};
use crate::{
    kernel::{BridgeChains, Chain, ChainTable, Field, NetfilterHook, Tool, Verdict, bridge_name},
    model::{Finding, NetworkSpec},
};

/// The chain for the administrator's rules, which Docker creates and calls first.
const DOCKER_USER: &str = "DOCKER-USER";

/// Deepest nesting of chains (`NFT_JUMP_STACK_SIZE`).
pub(super) const DEPTH: usize = 16;

/// The rules that drop packets of these networks, one finding for each network and chain. `true`: an option of the
/// network's bridge passes its packets to the chains.
pub(crate) fn findings<'a>(
    chains: &BridgeChains,
    networks: impl IntoIterator<Item = (&'a NetworkSpec, bool)>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (network, is_passed) in networks {
        let bridge = bridge_name(network.vni);
        let versions = [(4, chains.ipv4 || is_passed), (6, chains.ipv6 || is_passed)];
        for table in &chains.tables {
            for (name, chain) in &table.chains {
                let Some(base) = &chain.base else { continue };
                let seen = versions.into_iter().filter(|(version, is_on)| *is_on && table.tool.sees(*version));
                let dropped = seen.filter_map(|(version, _)| {
                    let packet = bridged(version, base.hook, &bridge, network.subnet);
                    Walk::new(&table.chains, &packet).base(name, base.hook, base.drops)
                });
                // One rule of nft accepts both versions.
                findings.extend(dropped.min().map(|drop| {
                    let command = drop.command(table, name, base.hook, &bridge);
                    let object = format!("network {:?}", network.name);
                    Finding::new(object, drop.problem(table, name), format!("run `{command}`"))
                }));
            }
        }
    }
    findings.extend(chains.unreadable.iter().map(|(command, error)| {
        Finding::new(
            "netfilter",
            format!("the rules of {command} cannot be read ({error}), and may drop packets on the kernel path"),
            "give the daemon CAP_NET_ADMIN and the group root, or run it as root",
        )
    }));
    findings
}

/// Packets that a bridge forwards from one port to another. The other interface is not known at some hooks.
fn bridged(version: u8, hook: NetfilterHook, bridge: &str, subnet: Ipv4Net) -> Known<'_> {
    let name = |is_known: bool| Some(if is_known { bridge } else { "" });
    let mut packet = Known {
        input: name(hook != NetfilterHook::Postrouting),
        output: name(hook != NetfilterHook::Prerouting),
        is_bridged: true,
        ..Known::default()
    };
    packet.set(Field::Family, family(version));
    if version == 4 {
        let addresses = (subnet.network().to_bits(), subnet.netmask().to_bits());
        packet.numbers.extend([Field::Source, Field::Destination].map(|field| (field, addresses)));
    }
    packet
}

/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
fn family(version: u8) -> u32 {
    let family = if version == 4 { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 };
    family.cast_unsigned()
}

/// Packets of a network that a chain drops. The certain drop is the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Dropped {
    packets: Packets,
    /// The packets pass [`DOCKER_USER`] first.
    after_docker_user: bool,
}

/// The dropped packets of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Packets {
    All,
    /// Depending on the state of their connection.
    Untracked,
    /// Depending on anything else.
    Some,
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
    dropped: Option<Dropped>,
}

impl Tool {
    /// Whether the table sees packets of this IP version.
    pub(super) fn sees(self, wanted: u8) -> bool {
        match self {
            Self::Iptables { version, .. } => version == wanted,
            Self::Nft { version, .. } => version.is_none_or(|version| version == wanted),
        }
    }
}

impl<'a> Walk<'a> {
    fn new(chains: &'a BTreeMap<String, Chain>, packet: &'a Known<'a>) -> Self {
        Self { chains, packet, passed_docker_user: false, dropped: None }
    }

    /// The packets that a chain at a hook drops.
    fn base(mut self, name: &str, hook: NetfilterHook, drops: bool) -> Option<Dropped> {
        let on_path = [NetfilterHook::Prerouting, NetfilterHook::Forward, NetfilterHook::Postrouting];
        if !on_path.contains(&hook) {
            return None;
        }
        match self.chain(name, Packets::All, 0) {
            End::Returned if drops => self.drop(Packets::All),
            End::Accepted | End::Dropped | End::Returned => {}
        }
        self.dropped
    }

    /// `packets`: those that reach the chain.
    fn chain(&mut self, name: &str, packets: Packets, depth: usize) -> End {
        let rules = self.chains.get(name).map(|chain| chain.rules.as_slice()).unwrap_or_default();
        for rule in rules {
            let packets = match self.packet.matches(rule) {
                Match::None => continue,
                Match::All => packets,
                Match::Some if rule.tests.iter().any(|test| test.asks(Field::State)) => packets.max(Packets::Untracked),
                Match::Some => packets.max(Packets::Some),
            };
            let end = match &rule.verdict {
                Verdict::Next => continue,
                Verdict::Accept => End::Accepted,
                Verdict::Return => End::Returned,
                Verdict::Drop => {
                    self.drop(packets);
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

    /// Notes a drop. Where the packets go first decides about the remedy, the most certain drop about the problem.
    fn drop(&mut self, packets: Packets) {
        let after_docker_user = self.dropped.map_or(self.passed_docker_user, |first| first.after_docker_user);
        let packets = self.dropped.map_or(packets, |first| first.packets.min(packets));
        self.dropped = Some(Dropped { packets, after_docker_user });
    }
}

impl ChainTable {
    /// The place of a chain, for messages.
    pub(super) fn place(&self, chain: &str) -> String {
        match self.tool {
            Tool::Iptables { command, .. } => format!("chain {chain} of {command} table {}", self.name),
            Tool::Nft { family, .. } => format!("chain {chain} of nft table {family} {}", self.name),
        }
    }
}

impl Dropped {
    fn problem(self, table: &ChainTable, chain: &str) -> String {
        let place = table.place(chain);
        match self.packets {
            Packets::All => format!("{place} drops its packets when they fall back to the kernel path"),
            Packets::Untracked => format!(
                "{place} can drop packets of its connections when they fall back to the kernel path, because connection \
                 tracking does not see the packets of the fast path"
            ),
            Packets::Some => format!("{place} can drop its packets when they fall back to the kernel path"),
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
        }
    }
}

#[cfg(test)]
#[path = "kernel_path_tests.rs"]
mod tests;
