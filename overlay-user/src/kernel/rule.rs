//! Rules of the routing policy database.
//!
//! The kernel evaluates the rules in a route lookup. They are read for what a lookup cannot ask: the source port
//! differs between flows.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use overlay_common::VtepAddr;

use super::{
    KernelError, Reader,
    query::{Obstacle, RouteQuery},
};
use crate::sys::netlink::attribute::{attributes, be32, ne16, ne32};

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    priority: u32,
    /// The table that it looks up; `None`: the table of a VRF, or none.
    table: Option<u32>,
    is_inverted: bool,
    source: Option<Ipv4Net>,
    destination: Option<Ipv4Net>,
    mark: u32,
    mask: Option<u32>,
    protocol: Option<u8>,
    destination_ports: Option<(u16, u16)>,
    source_ports: Option<(u16, u16)>,
    /// A selector that is not known.
    unknown: Option<String>,
}

/// The result of matching a rule with the packets of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    No,
    Yes,
    /// It matches the packets of some flows, or has an unknown selector.
    Maybe,
}

/// Attributes of rules (`include/uapi/linux/fib_rules.h`).
mod fra {
    pub(super) const DST: u16 = 1;
    pub(super) const SRC: u16 = 2;
    pub(super) const PRIORITY: u16 = 6;
    pub(super) const FWMARK: u16 = 10;
    pub(super) const TABLE: u16 = 15;
    pub(super) const FWMASK: u16 = 16;
    pub(super) const L3MDEV: u16 = 19;
    pub(super) const IP_PROTO: u16 = 22;
    pub(super) const SPORT_RANGE: u16 = 23;
    pub(super) const DPORT_RANGE: u16 = 24;
    pub(super) const SPORT_MASK: u16 = 28;
    pub(super) const DPORT_MASK: u16 = 29;
    /// `FRA_DSCP_MASK`, the last of Linux 6.18. The others up to it select by what a lookup asks: interfaces, tunnel,
    /// user, DSCP; or they are no selectors.
    pub(super) const LAST: u16 = 30;
}

impl Reader {
    /// The IPv4 rules, in order.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) fn rules(&self) -> Result<Vec<Rule>, KernelError> {
        /// `RTM_GETRULE`.
        const GET: u16 = 34;
        let mut header = [0; Rule::HEADER];
        header[0] = libc::AF_INET.to_ne_bytes()[0];
        let answers = self.dump_raw(GET, &header).map_err(KernelError::netlink("list the routing rules"))?;
        Ok(answers.iter().map(|(_, body)| Rule::new(body)).collect())
    }
}

impl Rule {
    /// Length of a `struct fib_rule_hdr`.
    const HEADER: usize = 12;

    /// Reads a rule.
    pub(crate) fn new(body: &[u8]) -> Self {
        const TABLE: usize = 4;
        const ACTION: usize = 7;
        const FLAGS: usize = 8;
        /// `FR_ACT_PROHIBIT`, the last action.
        const LAST_ACTION: u8 = 8;
        const INVERT: u32 = 2;
        /// `FIB_RULE_PERMANENT` to `FIB_RULE_OIF_DETACHED`, `FIB_RULE_FIND_SADDR`.
        const KNOWN_FLAGS: u32 = 0x1001f;
        let (Some(header), Some(flags)) = (body.get(..Self::HEADER), ne32(body, FLAGS)) else {
            return Self { unknown: Some("a message that is too short".into()), ..Self::default() };
        };
        let mut rule = Self {
            table: Some(header[TABLE].into()).filter(|table| *table != 0),
            is_inverted: flags & INVERT != 0,
            ..Self::default()
        };
        if header[ACTION] > LAST_ACTION {
            rule.unknown = Some(format!("action {}", header[ACTION]));
        }
        if flags & !KNOWN_FLAGS != 0 {
            rule.unknown = Some(format!("flags {flags:#x}"));
        }
        let net = |value: &[u8], prefix: u8| Ipv4Net::new(Ipv4Addr::from(be32(value)?), prefix).ok();
        for (kind, value) in attributes(&body[Self::HEADER..]) {
            match kind {
                fra::DST => rule.destination = net(value, header[1]),
                fra::SRC => rule.source = net(value, header[2]),
                fra::PRIORITY => rule.priority = ne32(value, 0).unwrap_or_default(),
                fra::FWMARK => rule.mark = ne32(value, 0).unwrap_or_default(),
                fra::FWMASK => rule.mask = ne32(value, 0),
                fra::TABLE => rule.table = ne32(value, 0).filter(|table| *table != 0),
                fra::L3MDEV => rule.table = None,
                fra::IP_PROTO => rule.protocol = value.first().copied().filter(|protocol| *protocol != 0),
                fra::SPORT_RANGE => rule.source_ports = ne16(value, 0).zip(ne16(value, 2)),
                fra::DPORT_RANGE => rule.destination_ports = ne16(value, 0).zip(ne16(value, 2)),
                // The kernel reports the mask of a single port, too.
                fra::SPORT_MASK if ne16(value, 0) != Some(u16::MAX) => rule.unknown = Some("source port mask".into()),
                // The kernel evaluates it; its rules are taken for matching ones.
                fra::DPORT_MASK if ne16(value, 0) != Some(u16::MAX) => rule.destination_ports = None,
                0..=fra::LAST => {}
                kind => rule.unknown = Some(format!("attribute {kind}")),
            }
        }
        rule
    }

    /// The obstacle if this rule decides about a lookup.
    fn obstacle(&self) -> Obstacle {
        let selector = match (&self.unknown, self.source_ports) {
            (None, Some((first, last))) => format!("the source ports {first} to {last}"),
            (unknown, _) => format!("an unknown {}", unknown.as_deref().unwrap_or("attribute")),
        };
        Obstacle::new(
            format!("the routing rule {} selects by {selector}, which the programs do not evaluate", self.priority),
            format!("keep the kernel path, or remove the rule (`ip rule del pref {}`)", self.priority),
        )
    }

    /// Why a lookup for packets with a mark may differ from one without; `None`: the mark is not known.
    pub(crate) fn by_mark(&self, mark: Option<u32>) -> Option<String> {
        let mask = self.mask.filter(|mask| *mask != 0)?;
        let is_same = mark.is_some_and(|mark| (mark & mask == self.mark) == (self.mark == 0));
        (!is_same).then(|| format!("the routing rule {} selects by marks", self.priority))
    }

    /// Whether the rule selects by protocol or ports, or by what is not known.
    pub(super) fn selects_transport(&self) -> bool {
        self.protocol.is_some()
            || self.source_ports.is_some()
            || self.destination_ports.is_some()
            || self.unknown.is_some()
    }

    /// Whether a lookup may have found its result in `table` by this rule.
    fn may_look_up(&self, table: u32, query: RouteQuery, vtep: VtepAddr) -> bool {
        self.table.is_none_or(|looked_up| looked_up == table)
            && (self.is_inverted || self.matches(query, vtep) != Match::No)
    }

    /// Selectors that are not read, such as interfaces and users, count as matching.
    fn matches(&self, query: RouteQuery, vtep: VtepAddr) -> Match {
        const IPPROTO_UDP: u8 = 17;
        let source = query.source.map_or(Ipv4Addr::UNSPECIFIED, VtepAddr::ipv4);
        let has = |net: Option<Ipv4Net>, address: Ipv4Addr| net.is_none_or(|net| net.contains(&address));
        let is_known_match = has(self.source, source)
            && has(self.destination, vtep.ipv4())
            && self.mark & self.mask.unwrap_or(u32::MAX) == 0
            && self.protocol.is_none_or(|protocol| protocol == IPPROTO_UDP)
            && self.destination_ports.is_none_or(|(first, last)| (first..=last).contains(&query.port));
        let (lowest, highest) = query.source_ports;
        let by_source_port = match self.source_ports {
            None => Match::Yes,
            Some((first, last)) if first <= lowest && highest <= last => Match::Yes,
            Some((first, last)) if last < lowest || highest < first => Match::No,
            Some(_) => Match::Maybe,
        };
        let matched = match (is_known_match, &self.unknown, by_source_port) {
            (false, ..) => Match::No,
            (true, Some(_), _) => Match::Maybe,
            (true, None, by_source_port) => by_source_port,
        };
        match (self.is_inverted, matched) {
            (true, Match::No) => Match::Yes,
            (true, Match::Yes) => Match::No,
            (_, matched) => matched,
        }
    }
}

/// Why it is unknown whether a lookup for other flows has the same result, which it found in `table`: a rule before the
/// result matches only some flows.
pub(super) fn obstacle(rules: &[Rule], query: RouteQuery, vtep: VtepAddr, table: u32) -> Option<Obstacle> {
    let last = rules.iter().rposition(|rule| rule.may_look_up(table, query, vtep));
    let before = &rules[..last.map_or(rules.len(), |last| last + 1)];
    before.iter().find(|rule| rule.matches(query, vtep) == Match::Maybe).map(Rule::obstacle)
}

#[cfg(test)]
#[path = "rule_tests.rs"]
mod tests;
