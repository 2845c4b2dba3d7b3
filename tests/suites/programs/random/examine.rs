//! One packet through one program, and through the model.

use std::collections::BTreeMap;

use overlay_common::{Reason, maps::Count};
use overlay_tests::reference::{Constants, Fate, Packet, Prediction, Program, Tables, predict};
use overlay_tests::{
    frame::{L4, Version},
    program::{Hook, NODE1_MAC, Programs, Skb, from_node2, inbound},
};

use super::world::Interfaces;

/// A packet and what is around it.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) program: Program,
    pub(super) skb: Skb,
    pub(super) bytes: Vec<u8>,
}

/// What has no reason: the second half of a way through a shim.
const FINISHED: &str = "(shim)";

/// The programs, and what their maps hold.
pub(super) struct Rig {
    programs: Programs,
    pub(super) constants: Constants,
    pub(super) tables: Tables,
    pub(super) runs: u64,
    /// Every reason that the model has given, and how often.
    pub(super) met: BTreeMap<&'static str, u64>,
    /// The kernel's test run splits a packet for XDP into buffers (Linux 6.18).
    pub(super) splits_buffers: bool,
    /// The kernel's test run follows `CHECKSUM_COMPLETE` (Linux 6.11).
    pub(super) sums: bool,
}

const fn hook(program: Program) -> Hook {
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
        let packet = from_node2().around(&inbound(Version::V4, L4::Icmp).bytes());
        let takes = |hook, skb| programs.execute(hook, &packet, skb).is_ok();
        let splits_buffers = takes(Hook::NicXdp, Skb { linear: Some(80), ..Skb::default() });
        let sums = takes(Hook::NicIn, Skb { checksum_complete: true, ..Skb::default() });
        let mut tables = Tables::default();
        programs.read_counters(&mut tables);
        Self { programs, constants, tables, runs: 0, met: BTreeMap::new(), splits_buffers, sums }
    }

    pub(super) fn interfaces(&self) -> Interfaces {
        let Programs { nic, port, neighbour_port, stranger, .. } = self.programs;
        Interfaces { nic, ports: [port, neighbour_port], stranger }
    }

    /// Changes the tables, and begins to count from what the kernel has counted.
    pub(super) fn replace(&mut self, new: Tables) {
        self.programs.replace(&self.tables, &new);
        self.tables = new;
        self.sync();
    }

    pub(super) fn sync(&mut self) {
        self.programs.read_counters(&mut self.tables);
    }

    /// What the program did and the model did not say; with `deep`, all counters are compared too.
    pub(super) fn examine(&mut self, case: &Case, deep: bool) -> Result<(), String> {
        let predicted = predict(case.program, &self.constants, &self.tables, &self.packet(case));
        self.runs += 1;
        let found = match self.programs.execute(hook(case.program), &case.bytes, case.skb) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && is_refused(case) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBADMSG) && is_zero(&predicted) => {
                self.sync();
                return Ok(());
            }
            found => found.map_err(|error| format!("the kernel answers {error}; the model says {predicted:?}"))?,
        };
        self.tables.count(&predicted);
        *self.met.entry(predicted.reason.map_or(FINISHED, Reason::name)).or_default() += 1;
        compare(case, &predicted, found)?;
        if let (Some(reason), Some(_)) = (predicted.reason, predicted.counted) {
            let (expected, found) = (self.tables.reasons[&(reason as u32)], self.programs.count(reason));
            if found != expected {
                return Err(format!("{} stands at {found:?}; the model says {expected:?}", reason.name()));
            }
        }
        if deep { self.compare_counters() } else { Ok(()) }
    }

    fn packet<'a>(&self, case: &'a Case) -> Packet<'a> {
        let interfaces = self.interfaces();
        let ifindex = case.skb.ifindex.unwrap_or(match case.program {
            Program::PortIn => interfaces.ports[0],
            Program::NicIn | Program::NicXdp => interfaces.nic,
            Program::ShimOut | Program::ShimIn => interfaces.stranger,
        });
        Packet {
            reachable: case.skb.linear.map_or(case.bytes.len(), |linear| linear as usize),
            // `eth_type_trans`: the device's own address.
            to_host: case.bytes.starts_with(&NODE1_MAC.0),
            gso_size: case.skb.gso_size,
            gso_segs: case.skb.gso_segs,
            // The test run leaves `gso_type` 0.
            resizable: case.skb.gso_size == 0,
            ..Packet::new(&case.bytes, ifindex)
        }
    }

    /// Every counter of the maps.
    pub(super) fn compare_counters(&mut self) -> Result<(), String> {
        let mut found = self.tables.clone();
        self.programs.read_counters(&mut found);
        for reason in Reason::ALL {
            let of = |tables: &Tables| tables.reasons.get(&(reason as u32)).copied().unwrap_or_default();
            let (found, expected): (Count, Count) = (of(&found), of(&self.tables));
            if found != expected {
                return Err(format!("{} stands at {found:?}; the model says {expected:?}", reason.name()));
            }
        }
        for (what, found, expected) in [
            ("OVL_VNI_STATS", &found.vni_stats, &self.tables.vni_stats),
            ("OVL_VTEP_STATS", &found.vtep_stats, &self.tables.vtep_stats),
        ] {
            if found != expected {
                return Err(format!("{what} has {found:?}; the model says {expected:?}"));
            }
        }
        Ok(())
    }
}

/// The test run itself takes no IP packet without its header.
fn is_refused(case: &Case) -> bool {
    case.program != Program::NicXdp && case.bytes.len() < 54
}

/// An inner packet of zeros alone. Sums in ones' complement have two zeros: the kernel sums such a packet up to the one, and
/// has the other left when it takes the outer headers off the sum. Only its test run tells them apart.
fn is_zero(predicted: &Prediction) -> bool {
    matches!(&predicted.fate, Fate::Forwarded(_, frame) if frame[14..].iter().all(|byte| *byte == 0))
}

fn compare(case: &Case, predicted: &Prediction, (action, packet): (u32, Vec<u8>)) -> Result<(), String> {
    let hook = hook(case.program);
    let (expected_action, expected) = match &predicted.fate {
        Fate::Forwarded(_, frame) => (hook.redirect(), frame),
        Fate::Kernel => (hook.kernel(), &case.bytes),
        Fate::Dropped => (hook.drop(), &case.bytes),
    };
    let reason = predicted.reason.map_or(FINISHED, Reason::name);
    if action != expected_action {
        return Err(format!("the program returns {action}; the model says {expected_action}: {reason}"));
    }
    let differs = |at: &usize| packet.get(*at) != expected.get(*at);
    match (0..packet.len().max(expected.len())).find(differs) {
        None => Ok(()),
        Some(at) => Err(format!("{reason}: byte {at} differs\n   found {packet:02x?}\nexpected {expected:02x?}")),
    }
}
