//! The host's netfilter rules for outer packets: whether they plainly accept the VXLAN packets to and from a VTEP.
//!
//! The chains are walked for all packets of one VTEP and direction, which differ in source port, length and inner frame.
//! A test that depends on these matches some of them. VXLAN flows have one direction, so connection tracking never sees a
//! reply; they are walked as new and as established.

use overlay_common::{Vni, VtepAddr};

use super::{
    bridged_path::DEPTH,
    packet::{Known, Match},
};
use crate::kernel::{Base, Chain, ChainTable, Chains, Effect, Field, NetfilterHook, Tool, Verdict};

/// States of connections (`NF_CT_STATE_BIT`).
const INVALID: u32 = 1;
const ESTABLISHED: u32 = 1 << 1;
const NEW: u32 = 1 << 3;
const UNTRACKED: u32 = 1 << 6;
/// `NF_IP_PRI_CONNTRACK`: chains of lower priority see no connection, which is the state "invalid".
const TRACKING: i32 = -200;

/// The outer packets between this host and a VTEP, in one direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OuterPacket {
    /// They are received.
    pub is_received: bool,
    /// The address of this host.
    pub local: VtepAddr,
    /// The other address.
    pub vtep: VtepAddr,
    /// UDP port.
    pub port: u16,
    /// The network; `None`: any.
    pub vni: Option<Vni>,
    /// Name and index of the device that receives or sends them.
    pub device: (String, u32),
}

/// The result for packets that the rules plainly accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// The mark that they have at the last routing decision; `None`: unknown.
    pub mark: Option<u32>,
    /// A rule masquerades them: their source address is that of the device.
    pub masquerade: Option<Refusing>,
}

/// A rule that does not plainly accept packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusing {
    /// The rule, what it does, and the packets: `rule 1 in chain INPUT of iptables table filter drops packets from it`.
    pub problem: String,
    /// A command that shows the rules.
    pub remedy: String,
}

/// Whether a test of a rule depends on the VNI.
pub(crate) fn asks_for_vni(chains: &Chains) -> bool {
    let rules = chains.tables.iter().flat_map(|table| table.chains.values()).flat_map(|chain| &chain.rules);
    rules.flat_map(|rule| &rule.tests).any(|test| test.asks(Field::Vni))
}

/// Walks the chains that the packets pass.
///
/// # Errors
/// The first rule that may do something else than accept them.
pub(crate) fn judge(chains: &Chains, packet: &OuterPacket) -> Result<Accepted, Refusing> {
    let new = Walk::new(packet, NEW).pass(chains)?;
    let established = Walk::new(packet, ESTABLISHED).pass(chains)?;
    Ok(Accepted { mark: new.mark.filter(|mark| established.mark == Some(*mark)), ..new })
}

impl OuterPacket {
    /// The hooks on their path.
    fn hooks(&self) -> &'static [NetfilterHook] {
        use NetfilterHook::{Egress, Ingress, Input, Output, Postrouting, Prerouting};
        if self.is_received { &[Ingress, Prerouting, Input] } else { &[Output, Postrouting, Egress] }
    }

    fn known(&self) -> Known<'_> {
        const IPV4: u32 = 0x0800;
        const UDP: u32 = 17;
        /// `RTN_UNICAST`, `RTN_LOCAL`.
        const UNICAST: u32 = 1;
        const LOCAL: u32 = 2;
        let (local, vtep) = (self.local.ipv4().to_bits(), self.vtep.ipv4().to_bits());
        let (name, index) = (self.device.0.as_str(), self.device.1);
        let mut known = Known::default();
        let (source, destination, types) =
            if self.is_received { (vtep, local, (UNICAST, LOCAL)) } else { (local, vtep, (LOCAL, UNICAST)) };
        for (field, number) in [
            (Field::EtherType, IPV4),
            (Field::Family, libc::NFPROTO_IPV4.cast_unsigned()),
            (Field::Protocol, UDP),
            (Field::Source, source),
            (Field::Destination, destination),
            (Field::DestinationPort, self.port.into()),
            (Field::SourceType, types.0),
            (Field::DestinationType, types.1),
        ] {
            known.set(field, number);
        }
        if let Some(vni) = self.vni {
            known.set(Field::Vni, vni.get());
        }
        let (here, there) = (Field::InputIndex, Field::OutputIndex);
        let (with, without) = if self.is_received { (here, there) } else { (there, here) };
        known.set(with, index);
        known.set(without, 0);
        (known.input, known.output) = if self.is_received { (Some(name), Some("")) } else { (Some(""), Some(name)) };
        if self.is_received {
            // `PACKET_HOST`.
            known.set(Field::PacketType, 0);
        }
        known
    }
}

/// The end of a chain.
enum End {
    Accepted,
    Returned,
}

/// The way of the packets.
struct Walk<'a> {
    packet: &'a OuterPacket,
    known: Known<'a>,
    /// The state of their connections, after tracking; `None`: unknown.
    state: Option<u32>,
    masquerade: Option<Refusing>,
    /// Some packets have left the base chain.
    is_partial: bool,
}

/// A chain of a table.
#[derive(Clone, Copy)]
struct Place<'a> {
    table: &'a ChainTable,
    chain: &'a str,
}

impl<'a> Walk<'a> {
    fn new(packet: &'a OuterPacket, state: u32) -> Self {
        let mut known = packet.known();
        known.set(Field::Mark, 0);
        Self { packet, known, state: Some(state), masquerade: None, is_partial: false }
    }

    fn mark(&self) -> Option<u32> {
        self.known.numbers.get(&Field::Mark).map(|(mark, _)| *mark)
    }

    fn pass(mut self, chains: &'a Chains) -> Result<Accepted, Refusing> {
        let mut routed = self.mark();
        for hook in self.packet.hooks() {
            for (base, place) in self.chains_at(chains, *hook) {
                self.base(base, place)?;
            }
            // The mark counts where the packets are routed.
            if matches!(hook, NetfilterHook::Prerouting | NetfilterHook::Output) {
                routed = self.mark();
            }
        }
        Ok(Accepted { mark: routed, masquerade: self.masquerade })
    }

    /// The base chains at a hook, in order.
    fn chains_at(&self, chains: &'a Chains, hook: NetfilterHook) -> Vec<(&'a Base, Place<'a>)> {
        let is_of_device = matches!(hook, NetfilterHook::Ingress | NetfilterHook::Egress);
        let has_device = |base: &Base| base.devices.iter().any(|device| device.matches(&self.packet.device.0));
        let mut found = Vec::new();
        for table in chains.tables.iter().filter(|table| table.tool.sees(4)) {
            for (chain, Chain { base, .. }) in &table.chains {
                found.extend(base.as_ref().map(|base| (base, Place { table, chain })));
            }
        }
        found.retain(|(base, _)| base.hook == hook && (!is_of_device || has_device(base)));
        found.sort_by_key(|(base, _)| base.priority);
        found
    }

    fn base(&mut self, base: &Base, place: Place<'a>) -> Result<(), Refusing> {
        // Only the first packet of a connection passes chains that translate.
        let state = if base.is_nat {
            Some(NEW)
        } else if base.hook == NetfilterHook::Ingress || base.priority < TRACKING {
            self.state.map(|state| if state == UNTRACKED { UNTRACKED } else { INVALID })
        } else if base.priority == TRACKING {
            // Before or after connection tracking, as they were registered.
            None
        } else {
            self.state
        };
        match state {
            Some(state) => self.known.set(Field::State, state),
            None => _ = self.known.numbers.remove(&Field::State),
        }
        self.is_partial = false;
        match self.chain(place, Match::All, 0)? {
            End::Returned if base.drops => {
                let what = format!("the policy of {}", place.table.place(place.chain));
                Err(self.refusing(place, &what, self.certain(Match::All), "drops"))
            }
            End::Accepted | End::Returned => Ok(()),
        }
    }

    /// `reached`: whether all packets reach the chain.
    fn chain(&mut self, place: Place<'a>, reached: Match, depth: usize) -> Result<End, Refusing> {
        let rules = place.table.chains.get(place.chain).map(|chain| chain.rules.as_slice()).unwrap_or_default();
        for rule in rules {
            let matched = self.known.matches(rule);
            let certain = self.certain(matched.min(reached));
            if matched == Match::None {
                continue;
            }
            let what = || format!("rule {} in {}", rule.number, place.table.place(place.chain));
            for effect in &rule.effects {
                if let Effect::Changed(name) = effect {
                    return Err(self.refusing(place, &format!("{} ({name})", what()), certain, "changes"));
                }
                if *effect == Effect::Masquerade && self.masquerade.is_none() {
                    self.masquerade = Some(self.refusing(place, &what(), certain, "masquerades"));
                }
                self.apply(effect, certain);
            }
            let end = match &rule.verdict {
                Verdict::Next => continue,
                Verdict::Accept => End::Accepted,
                Verdict::Return => End::Returned,
                Verdict::Drop => return Err(self.refusing(place, &what(), certain, "drops")),
                Verdict::Jump(chain) | Verdict::Goto(chain) if depth < DEPTH => {
                    let end = self.chain(Place { chain, ..place }, certain, depth + 1)?;
                    if matches!((&end, &rule.verdict), (End::Returned, Verdict::Jump(_))) {
                        continue;
                    }
                    end
                }
                // The kernel refuses deeper chains.
                Verdict::Jump(_) | Verdict::Goto(_) => continue,
            };
            if matched == Match::All {
                return Ok(end);
            }
            // The other packets reach the next rule.
            self.is_partial = true;
        }
        Ok(End::Returned)
    }

    /// Whether all packets reach a rule.
    fn certain(&self, matched: Match) -> Match {
        if self.is_partial { matched.min(Match::Some) } else { matched }
    }

    fn apply(&mut self, effect: &Effect, certain: Match) {
        let before = self.mark();
        let after = match effect {
            Effect::Mark { keep, xor } => before.map(|mark| mark & keep ^ xor),
            Effect::UnknownMark => None,
            Effect::Untracked => {
                let is_certain = certain == Match::All || self.state == Some(UNTRACKED);
                self.state = is_certain.then_some(UNTRACKED);
                return;
            }
            Effect::Masquerade | Effect::Changed(_) => return,
        };
        match after.filter(|after| certain == Match::All || before == Some(*after)) {
            Some(mark) => self.known.set(Field::Mark, mark),
            None => _ = self.known.numbers.remove(&Field::Mark),
        }
    }

    fn refusing(&self, place: Place<'_>, what: &str, certain: Match, verb: &str) -> Refusing {
        let packets = if self.packet.is_received { "packets from it" } else { "packets to it" };
        let does = if certain == Match::All { verb.to_owned() } else { format!("can {}", verb.trim_end_matches('s')) };
        let name = &place.table.name;
        let show = match place.table.tool {
            Tool::Iptables { command, .. } => format!("{command} -t {name} -nvL --line-numbers"),
            Tool::Nft { family, .. } => format!("nft list table {family} {name}"),
            Tool::Bridge { label } => format!("{label} {name}"),
        };
        Refusing {
            problem: format!("{what} {does} {packets}"),
            remedy: format!("keep the kernel path, or accept its packets before (see `{show}`)"),
        }
    }
}

#[cfg(test)]
#[path = "outer_path_tests.rs"]
mod tests;
