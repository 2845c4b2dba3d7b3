//! The reference model: a second implementation of the programs' behaviour, to compare with `BPF_PROG_TEST_RUN`.
//!
//! The model parses packets byte by byte in slices, after the RFCs. It shares with the programs only the types of the
//! tables and the list of reasons.
//!
//! Inputs from the network stack are the packet type ([`Packet::to_host`]), the flow hash ([`Packet::flow_hash`]) and the
//! local addresses ([`Tables::local_addresses`]). The model sees VLAN tags in the packet, not those that a NIC or the stack has
//! removed.
//!
//! | file | contents |
//! |---|---|
//! | `port` | `ovl_port_in`: RFC 7348 encapsulation, and delivery on the same host |
//! | `nic` | `ovl_nic_in` and `ovl_nic_xdp`: RFC 7348 decapsulation, RFC 6040 |
//! | `shim` | `ovl_shim_out` and `ovl_shim_in` |
//! | `strict` | anti-spoofing in strict networks |
//! | `read` | Ethernet, IPv4, IPv6, UDP and VXLAN headers in a slice |

use std::collections::{BTreeMap, BTreeSet};

use overlay_common::{
    Reason, Verdict,
    maps::{Count, FdbEntry, FdbKey, Network, Peer, PeerKey, Port, PortKey, Traffic, Underlay, Vtep},
};

mod nic;
mod port;
mod read;
mod shim;
mod strict;
#[cfg(test)]
mod tests;

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// `ovl_port_in`.
    PortIn,
    /// `ovl_nic_in`.
    NicIn,
    /// `ovl_nic_xdp`.
    NicXdp,
    /// `ovl_shim_out`.
    ShimOut,
    /// `ovl_shim_in`.
    ShimIn,
}

/// Constants that the loader sets before verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constants {
    /// The network namespace that the program runs in, as [`PortKey::netns_id`].
    pub netns_id: u32,
    /// Interface index of the shim's end in that namespace; 0: the NIC is in the same namespace.
    pub shim: u32,
    /// VNI of the shim's network.
    pub vni: u32,
    /// The kernel supports decapsulation of IPv6 in TC.
    pub decap_ipv6: bool,
}

impl Default for Constants {
    /// The namespace of the NIC, on a kernel with all features.
    fn default() -> Self {
        Self { netns_id: 0, shim: 0, vni: 0, decap_ipv6: true }
    }
}

/// Contents of the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// `OVL_PORTS`.
    pub ports: BTreeMap<PortKey, Port>,
    /// `OVL_FDB`.
    pub fdb: BTreeMap<FdbKey, FdbEntry>,
    /// `OVL_VTEPS`. Missing entries are zero.
    pub vteps: Slots<Vtep>,
    /// `OVL_IP_IDS`: the next identification by VTEP. Missing entries are 0.
    pub ip_ids: BTreeMap<u32, u64>,
    /// `OVL_PEERS`.
    pub peers: BTreeMap<PeerKey, Peer>,
    /// `OVL_NETWORKS`.
    pub networks: BTreeMap<u32, Network>,
    /// `OVL_UNDERLAY`.
    pub underlay: Underlay,
    /// Not a map: local addresses in the kernel's routing table, in addition to that of the underlay.
    pub local_addresses: BTreeSet<[u8; 4]>,
    /// Keys of `OVL_TXPORTS`.
    pub txports: BTreeSet<u32>,
    /// The deadline in `OVL_HEARTBEAT` has expired.
    pub expired: bool,
    /// `OVL_REASONS`, by index, summed over the CPUs.
    pub reasons: BTreeMap<u32, Count>,
    /// `OVL_VNI_STATS`, summed over the CPUs.
    pub vni_stats: Slots<Traffic>,
    /// `OVL_VTEP_STATS`, summed over the CPUs.
    pub vtep_stats: Slots<Traffic>,
}

/// The used slots of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots<T> {
    /// Values by index.
    pub used: BTreeMap<u32, T>,
    /// Size of the array.
    pub size: u32,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { used: BTreeMap::new(), size: 0 }
    }
}

impl<T> Slots<T> {
    const fn has(&self, index: u32) -> bool {
        index < self.size
    }
}

/// Input of a program: a packet with its Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// All bytes.
    pub bytes: &'a [u8],
    /// Number of bytes that the program can access: XDP has the rest in further buffers.
    pub reachable: usize,
    /// Ingress interface.
    pub ifindex: u32,
    /// TC: the packet type is `PACKET_HOST`.
    pub to_host: bool,
    /// TC: payload bytes in each segment of a super-packet; 0: no super-packet.
    pub gso_size: u32,
    /// TC: segments of a super-packet, or 0.
    pub gso_segs: u32,
    /// TC: the packet's mark.
    pub mark: u32,
    /// TC: `bpf_skb_adjust_room` accepts the packet. It rejects super-packets without `gso_type`, as in test runs.
    pub resizable: bool,
    /// TC: the kernel's flow hash.
    pub flow_hash: u32,
}

impl<'a> Packet<'a> {
    /// A packet for this host, not a super-packet.
    #[must_use]
    pub const fn new(bytes: &'a [u8], ifindex: u32) -> Self {
        Self {
            bytes,
            reachable: bytes.len(),
            ifindex,
            to_host: true,
            gso_size: 0,
            gso_segs: 0,
            mark: 0,
            resizable: true,
            flow_hash: 0,
        }
    }

    /// The bytes that the program can access.
    fn head(&self) -> &'a [u8] {
        self.bytes.get(..self.reachable).unwrap_or(self.bytes)
    }

    /// Increment of the counters for this packet.
    fn count(&self) -> Count {
        Count { packets: self.gso_segs.max(1).into(), bytes: self.bytes.len() as u64 }
    }
}

/// Target of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// `bpf_redirect`: egress of this interface.
    Egress(u32),
    /// `bpf_redirect_peer`: ingress of the peer of this veth.
    Peer(u32),
    /// XDP: egress of the device at this key of `OVL_TXPORTS`.
    TxPort(u32),
}

/// Action on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It leaves by this redirect: as these bytes.
    Forwarded(Redirect, Vec<u8>),
    /// The packet is passed to the kernel, unmodified.
    Kernel,
    /// The packet is dropped.
    Dropped,
}

/// Increment of the counters of a network and a VTEP; indices outside the arrays are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrafficCount {
    /// Index in `OVL_VNI_STATS`.
    pub slot: u32,
    /// Index in `OVL_VTEP_STATS`.
    pub vtep: u32,
    /// Increment.
    pub traffic: Traffic,
}

/// Expected result of a program run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// Action on the packet.
    pub action: Action,
    /// Reason; `None`: forwarded by a program of a shim, which counts only drops.
    pub reason: Option<Reason>,
    /// Increment of `OVL_REASONS`; `None`: not counted, because TC counts the packet.
    pub counted: Option<Count>,
    /// Increment of the traffic counters.
    pub traffic: Option<TrafficCount>,
}

/// A packet that is forwarded.
struct Sent {
    reason: Option<Reason>,
    redirect: Redirect,
    frame: Vec<u8>,
    traffic: Option<TrafficCount>,
}

/// Predicts the result of a program run.
#[must_use]
pub fn predict(program: Program, constants: &Constants, tables: &Tables, packet: &Packet<'_>) -> Prediction {
    let outcome = match program {
        Program::PortIn => port::forward(constants, tables, packet)
            .map_err(|reason| strict::at_port(constants, tables, packet, reason).unwrap_or(reason)),
        Program::NicIn => nic::by_tc(constants, tables, packet)
            .map_err(|reason| strict::at_nic(tables, packet, reason).unwrap_or(reason)),
        Program::NicXdp => nic::by_xdp(tables, packet),
        Program::ShimOut => shim::out(tables, packet),
        Program::ShimIn => shim::inward(constants, tables, packet),
    };
    let (action, reason, traffic) = match outcome {
        Ok(Sent { reason, redirect, frame, traffic }) => (Action::Forwarded(redirect, frame), reason, traffic),
        Err(reason) => {
            let action = if reason.verdict() == Verdict::Drop { Action::Dropped } else { Action::Kernel };
            (action, Some(reason), None)
        }
    };
    // TC counts the packets that XDP passes, except those with a reason of XDP.
    let left_to_tc = |reason: &Reason| !matches!(reason, Reason::XdpTcp | Reason::XdpPort);
    let counted_by_tc =
        program == Program::NicXdp && action == Action::Kernel && reason.as_ref().is_some_and(left_to_tc);
    let counted = (reason.is_some() && !counted_by_tc).then(|| packet.count());
    Prediction { action, reason, counted, traffic }
}

impl Tables {
    /// Updates the counters after a program run.
    pub fn count(&mut self, prediction: &Prediction) {
        if let (Some(reason), Some(Count { packets, bytes })) = (prediction.reason, prediction.counted) {
            self.reasons.entry(reason as u32).or_default().add(packets, bytes);
        }
        let Some(TrafficCount { slot, vtep, traffic }) = prediction.traffic else { return };
        if traffic.tx.packets != 0 {
            *self.ip_ids.entry(vtep).or_default() += traffic.tx.packets;
        }
        for (slots, index) in [(&mut self.vni_stats, slot), (&mut self.vtep_stats, vtep)] {
            if slots.has(index) {
                let sum = slots.used.entry(index).or_default();
                sum.tx.add(traffic.tx.packets, traffic.tx.bytes);
                sum.rx.add(traffic.rx.packets, traffic.rx.bytes);
            }
        }
    }
}

/// Redirect to a port of this host.
const fn delivery(to: &FdbEntry) -> Redirect {
    if to.kind == FdbEntry::LOCAL_PEER { Redirect::Peer(to.target) } else { Redirect::Egress(to.target) }
}
