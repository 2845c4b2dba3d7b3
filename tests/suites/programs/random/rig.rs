//! Runs one packet through one program and through the reference model.

use std::collections::BTreeMap;

use overlay_common::{
    Reason,
    maps::{Count, flags},
};
use overlay_tests::reference::{Action, Constants, Packet, Prediction, Program, Tables, predict};
use overlay_tests::{
    frame::{L4, Version},
    program::{Hook, NODE1_MAC, Programs, Skb, from_node2, inbound},
};

use super::tables::Interfaces;

/// A packet with its program and skb.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) program: Program,
    pub(super) skb: Skb,
    pub(super) bytes: Vec<u8>,
}

/// Label for delivery behind a shim, which has no reason.
const FINISHED: &str = "(shim)";

/// The programs, and the contents of their maps.
pub(super) struct Rig {
    pub(super) programs: Programs,
    pub(super) constants: Constants,
    pub(super) tables: Tables,
    pub(super) runs: u64,
    /// Number of predictions by reason.
    pub(super) counts: BTreeMap<&'static str, u64>,
    /// `BPF_PROG_TEST_RUN` supports multi-buffer XDP packets with a size for the first buffer (Linux 6.18).
    pub(super) splits_buffers: bool,
    /// `BPF_PROG_TEST_RUN` supports `CHECKSUM_COMPLETE` (Linux 6.11).
    pub(super) sums_checksums: bool,
}

pub(super) const fn hook(program: Program) -> Hook {
    match program {
        Program::PortIn => Hook::PortIn,
        Program::NicIn => Hook::NicIn,
        Program::NicXdp => Hook::NicXdp,
        Program::ShimOut => Hook::ShimOut,
        Program::ShimIn => Hook::ShimIn,
    }
}

impl Rig {
    pub(super) fn new(programs: Programs, constants: Constants) -> Self {
        let packet = from_node2().encapsulate(&inbound(Version::V4, L4::Icmp).bytes());
        let takes = |hook, skb| programs.execute(hook, &packet, skb).is_ok();
        let splits_buffers = takes(Hook::NicXdp, Skb { linear: Some(80), ..Skb::default() });
        let sums_checksums = takes(Hook::NicIn, Skb { checksum_complete: true, ..Skb::default() });
        let mut tables = Tables::default();
        programs.read_counters(&mut tables);
        Self { programs, constants, tables, runs: 0, counts: BTreeMap::new(), splits_buffers, sums_checksums }
    }

    pub(super) fn interfaces(&self) -> Interfaces {
        let Programs { nic, port, neighbour_port, other_interface, .. } = self.programs;
        Interfaces { nic, ports: [port, neighbour_port], other: other_interface }
    }

    /// Replaces the tables, and reads the counters from the kernel.
    pub(super) fn replace(&mut self, new: Tables) {
        self.programs.replace(&self.tables, &new);
        self.tables = new;
        self.sync();
    }

    pub(super) fn sync(&mut self) {
        self.programs.read_counters(&mut self.tables);
    }

    /// Compares the program's result with the model's prediction; with `deep`, all counters too. The error is the
    /// difference.
    pub(super) fn compare_case(&mut self, case: &Case, deep: bool) -> Result<(), String> {
        // Otherwise the path of a packet depends on those before it, and on the time between them: `flows.rs`.
        if let (Program::NicIn, Some(&[high, low])) = (case.program, case.bytes.get(34..36)) {
            self.programs.no_super_packets(u16::from_be_bytes([high, low]));
        }
        let predicted = predict(case.program, &self.constants, &self.tables, &self.packet(case));
        self.runs += 1;
        let found = match self.programs.execute(hook(case.program), &case.bytes, case.skb) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && is_rejected(case) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBADMSG) && is_zero(&predicted) => {
                self.sync();
                return Ok(());
            }
            found => found.map_err(|error| format!("the kernel answers {error}; the model predicts {predicted:?}"))?,
        };
        self.tables.count(&predicted);
        *self.counts.entry(predicted.reason.map_or(FINISHED, Reason::name)).or_default() += 1;
        compare(case, &predicted, found)?;
        if let (Some(reason), Some(_)) = (predicted.reason, predicted.counted) {
            let (expected, found) = (self.tables.reasons[&(reason as u32)], self.programs.count(reason));
            if found != expected {
                return Err(format!("{} is {found:?}; the model predicts {expected:?}", reason.name()));
            }
        }
        self.compare_check(case, &predicted)?;
        if deep { self.compare_counters() } else { Ok(()) }
    }

    /// Runs the checking program of the same hook: it drops what the forwarding program drops, for the same reason, and
    /// nothing that the forwarding program forwards. It may drop what that program passes to the kernel before it has
    /// looked at the source.
    fn compare_check(&mut self, case: &Case, predicted: &Prediction) -> Result<(), String> {
        let check = match case.program {
            Program::PortIn => Hook::PortCheck,
            Program::NicIn => Hook::NicCheck,
            _ => return Ok(()),
        };
        if !self.is_consistent() {
            return Ok(());
        }
        let (action, packet) =
            self.programs.execute(check, &case.bytes, case.skb).map_err(|error| format!("{check:?}: {error}"))?;
        if packet != case.bytes {
            return Err(format!("{check:?} changes the packet: {packet:02x?}"));
        }
        let is_dropped = action == check.drop();
        match (&predicted.action, predicted.reason) {
            _ if !is_dropped && action != check.kernel() => Err(format!("{check:?} returns {action}")),
            (Action::Dropped, _) if !is_dropped => {
                Err(format!("{check:?} passes the packet; predicted: {predicted:?}"))
            }
            (Action::Dropped, Some(reason)) => {
                self.tables.count(predicted);
                let (expected, found) = (self.tables.reasons[&(reason as u32)], self.programs.count(reason));
                if found == expected { Ok(()) } else { Err(format!("{check:?}: {} is {found:?}", reason.name())) }
            }
            (Action::Forwarded(..), _) if is_dropped => Err(format!("{check:?} drops the packet: {predicted:?}")),
            _ => {
                if is_dropped {
                    self.sync();
                }
                Ok(())
            }
        }
    }

    /// Whether peers and underlay have the flags of their networks, as the daemon writes them. The forwarding programs read
    /// the former, the checking programs the latter.
    fn is_consistent(&self) -> bool {
        let Tables { networks, peers, underlay, .. } = &self.tables;
        let is_strict = |vni: u32| networks.get(&vni).is_some_and(|network| network.flags & flags::STRICT != 0);
        let any_strict = networks.keys().any(|vni| is_strict(*vni));
        underlay.flags == u16::from(any_strict)
            && peers.iter().all(|(key, peer)| u32::from(peer.flags) & flags::STRICT == u32::from(is_strict(key.vni)))
    }

    pub(super) fn packet<'a>(&self, case: &'a Case) -> Packet<'a> {
        let interfaces = self.interfaces();
        let ifindex = case.skb.ifindex.unwrap_or(match case.program {
            Program::PortIn => interfaces.ports[0],
            Program::NicIn | Program::NicXdp => interfaces.nic,
            Program::ShimOut | Program::ShimIn => interfaces.other,
        });
        Packet {
            reachable: case.skb.linear.map_or(case.bytes.len(), |linear| linear as usize),
            // `eth_type_trans`: the device's own address.
            to_host: case.bytes.starts_with(&NODE1_MAC.0),
            gso_size: case.skb.gso_size,
            gso_segs: case.skb.gso_segs,
            mark: case.skb.mark,
            // `BPF_PROG_TEST_RUN` does not set `gso_type`.
            resizable: case.skb.gso_size == 0,
            flow_hash: match case.program {
                Program::PortIn => self.programs.flow_hash(&case.bytes).unwrap_or_default(),
                _ => 0,
            },
            ..Packet::new(&case.bytes, ifindex)
        }
    }

    /// Compares every counter of the maps.
    pub(super) fn compare_counters(&mut self) -> Result<(), String> {
        let mut found = self.tables.clone();
        self.programs.read_counters(&mut found);
        for reason in Reason::ALL {
            let of = |tables: &Tables| tables.reasons.get(&(reason as u32)).copied().unwrap_or_default();
            let (found, expected): (Count, Count) = (of(&found), of(&self.tables));
            if found != expected {
                return Err(format!("{} is {found:?}; the model predicts {expected:?}", reason.name()));
            }
        }
        for (what, found, expected) in [
            ("OVL_VNI_STATS", &found.vni_stats, &self.tables.vni_stats),
            ("OVL_VTEP_STATS", &found.vtep_stats, &self.tables.vtep_stats),
        ] {
            if found != expected {
                return Err(format!("{what} has {found:?}; the model predicts {expected:?}"));
            }
        }
        if found.ip_ids != self.tables.ip_ids {
            let (found, expected) = (&found.ip_ids, &self.tables.ip_ids);
            return Err(format!("OVL_IP_IDS has {found:?}; the model predicts {expected:?}"));
        }
        Ok(())
    }
}

/// `BPF_PROG_TEST_RUN` rejects an IP packet without its header.
fn is_rejected(case: &Case) -> bool {
    case.program != Program::NicXdp && case.bytes.len() < 54
}

/// An inner packet of zeros. Ones' complement has two zeros: the kernel computes one of them for such a packet, and has
/// the other after it subtracts the outer headers from the sum. Only `BPF_PROG_TEST_RUN` distinguishes them.
fn is_zero(predicted: &Prediction) -> bool {
    matches!(&predicted.action, Action::Forwarded(_, frame) if frame[14..].iter().all(|byte| *byte == 0))
}

/// Compares a program's verdict and packet with the prediction. The error is the difference.
pub(super) fn compare(case: &Case, predicted: &Prediction, (action, packet): (u32, Vec<u8>)) -> Result<(), String> {
    let hook = hook(case.program);
    let (expected_action, expected) = match &predicted.action {
        Action::Forwarded(_, frame) => (hook.redirect(), frame),
        Action::Kernel => (hook.kernel(), &case.bytes),
        Action::Dropped => (hook.drop(), &case.bytes),
    };
    let reason = predicted.reason.map_or(FINISHED, Reason::name);
    if action != expected_action {
        return Err(format!("the program returns {action}; the model predicts {expected_action}: {reason}"));
    }
    let differs = |at: &usize| packet.get(*at) != expected.get(*at);
    match (0..packet.len().max(expected.len())).find(differs) {
        None => Ok(()),
        Some(at) => Err(format!("{reason}: byte {at} differs\n   found {packet:02x?}\nexpected {expected:02x?}")),
    }
}
