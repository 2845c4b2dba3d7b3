//! The reference model: what the programs do with a packet, said a second time. `BPF_PROG_TEST_RUN` is compared with it.
//!
//! It reads packets as the RFCs describe them, byte by byte over slices, and shares with the programs only what both are
//! given: the tables' types, the list of reasons, and the hash of a flow.
//!
//! Of the stack around the programs it is told: which packets are for this host ([`Packet::to_host`]) and which addresses
//! are this host's ([`Tables::kept`]). It knows of VLAN tags in the packet alone, not of those that a NIC or the stack took off.
//!
//! | file | what it says |
//! |---|---|
//! | `port` | `ovl_port_in`: RFC 7348 encapsulation, and delivery on the same host |
//! | `nic` | `ovl_nic_in` and `ovl_nic_xdp`: RFC 7348 decapsulation, RFC 6040 |
//! | `shim` | `ovl_shim_out` and `ovl_shim_in` |
//! | `strict` | what of all that strict networks do not let pass |
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

/// What the loader sets before a program is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constants {
    /// The network namespace that the program runs in, as [`PortKey::netns_id`].
    pub netns_id: u32,
    /// Interface index of the shim's end in that namespace; 0: the NIC is in the same one.
    pub shim: u32,
    /// The network that the shim serves.
    pub vni: u32,
    /// The kernel can decapsulate IPv6 in TC.
    pub decap_ipv6: bool,
}

impl Default for Constants {
    /// The namespace of the NIC, on a kernel that can do everything.
    fn default() -> Self {
        Self { netns_id: 0, shim: 0, vni: 0, decap_ipv6: true }
    }
}

/// What the maps hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// `OVL_PORTS`.
    pub ports: BTreeMap<PortKey, Port>,
    /// `OVL_FDB`.
    pub fdb: BTreeMap<FdbKey, FdbEntry>,
    /// `OVL_VTEPS`, and how many places it has. What is not here is zero.
    pub vteps: Places<Vtep>,
    /// `OVL_PEERS`.
    pub peers: BTreeMap<PeerKey, Peer>,
    /// `OVL_NETWORKS`.
    pub networks: BTreeMap<u32, Network>,
    /// `OVL_UNDERLAY`.
    pub underlay: Underlay,
    /// Not a map but the kernel's routes: the single addresses that it keeps packets for, instead of routing them on.
    pub kept: BTreeSet<[u8; 4]>,
    /// Keys of `OVL_TXPORTS`.
    pub txports: BTreeSet<u32>,
    /// The deadline in `OVL_HEARTBEAT` is over.
    pub expired: bool,
    /// `OVL_REASONS`, by index, summed over the CPUs.
    pub reasons: BTreeMap<u32, Count>,
    /// `OVL_VNI_STATS`, summed over the CPUs.
    pub vni_stats: Places<Traffic>,
    /// `OVL_VTEP_STATS`, of the one CPU that the packets are on.
    pub vtep_stats: Places<Traffic>,
}

/// The places of an array that are in use, and how many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places<T> {
    /// By index.
    pub used: BTreeMap<u32, T>,
    /// Places of the array.
    pub size: u32,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { used: BTreeMap::new(), size: 0 }
    }
}

impl<T> Places<T> {
    const fn has(&self, index: u32) -> bool {
        index < self.size
    }
}

/// A packet as it comes to a program, from the Ethernet header on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// All of it.
    pub bytes: &'a [u8],
    /// How many of the bytes the program can reach: XDP has the rest in other buffers.
    pub reachable: usize,
    /// The interface that it came in by.
    pub ifindex: u32,
    /// TC: the stack says that it is for this host (`PACKET_HOST`).
    pub to_host: bool,
    /// TC: bytes of payload in each segment of a super-packet; 0: it is none.
    pub gso_size: u32,
    /// TC: segments of a super-packet, or 0.
    pub gso_segs: u32,
    /// TC: `bpf_skb_adjust_room` takes it. It does not take a super-packet of no kind, as test runs make them.
    pub resizable: bool,
}

impl<'a> Packet<'a> {
    /// A packet for this host that is no super-packet.
    #[must_use]
    pub const fn new(bytes: &'a [u8], ifindex: u32) -> Self {
        Self { bytes, reachable: bytes.len(), ifindex, to_host: true, gso_size: 0, gso_segs: 0, resizable: true }
    }

    /// The bytes that the program can reach.
    fn head(&self) -> &'a [u8] {
        self.bytes.get(..self.reachable).unwrap_or(self.bytes)
    }

    /// What it counts.
    fn count(&self) -> Count {
        Count { packets: self.gso_segs.max(1).into(), bytes: self.bytes.len() as u64 }
    }
}

/// By which way a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `bpf_redirect`: out of this interface.
    Egress(u32),
    /// `bpf_redirect_peer`: in at the other end of this veth.
    Peer(u32),
    /// XDP: out of the device at this key of `OVL_TXPORTS`.
    TxPort(u32),
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It leaves by this way, as these bytes.
    Forwarded(Way, Vec<u8>),
    /// It goes on to the kernel, unchanged.
    Kernel,
    /// It is dropped.
    Dropped,
}

/// What is counted for a network and a VTEP; indices that an array does not have are not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Index in `OVL_VNI_STATS`.
    pub slot: u32,
    /// Index in `OVL_VTEP_STATS`.
    pub vtep: u32,
    /// What to add.
    pub traffic: Traffic,
}

/// What a program does with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// What becomes of it.
    pub fate: Fate,
    /// Why; `None`: a shim's program, which counts only what it drops, has done the second half of its way.
    pub reason: Option<Reason>,
    /// What `OVL_REASONS` counts under the reason; `None`: XDP leaves the counting to TC.
    pub counted: Option<Count>,
    /// What it counts besides.
    pub carried: Option<Carried>,
}

/// A packet that is forwarded.
struct Sent {
    reason: Option<Reason>,
    way: Way,
    frame: Vec<u8>,
    carried: Option<Carried>,
}

/// What a program does with a packet.
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
    let (fate, reason, carried) = match outcome {
        Ok(Sent { reason, way, frame, carried }) => (Fate::Forwarded(way, frame), reason, carried),
        Err(reason) => {
            let fate = if reason.verdict() == Verdict::Drop { Fate::Dropped } else { Fate::Kernel };
            (fate, Some(reason), None)
        }
    };
    // TC sees again what XDP passes on, and counts it, under the same name unless XDP had a reason of its own.
    let left_to_tc = |reason: &Reason| !matches!(reason, Reason::XdpTcp | Reason::XdpPort);
    let counted_by_tc = program == Program::NicXdp && fate == Fate::Kernel && reason.as_ref().is_some_and(left_to_tc);
    let counted = (reason.is_some() && !counted_by_tc).then(|| packet.count());
    Prediction { fate, reason, counted, carried }
}

impl Tables {
    /// Counts what a program has done.
    pub fn count(&mut self, prediction: &Prediction) {
        if let (Some(reason), Some(Count { packets, bytes })) = (prediction.reason, prediction.counted) {
            self.reasons.entry(reason as u32).or_default().add(packets, bytes);
        }
        let Some(Carried { slot, vtep, traffic }) = prediction.carried else { return };
        for (places, index) in [(&mut self.vni_stats, slot), (&mut self.vtep_stats, vtep)] {
            if places.has(index) {
                let place = places.used.entry(index).or_default();
                place.tx.add(traffic.tx.packets, traffic.tx.bytes);
                place.rx.add(traffic.rx.packets, traffic.rx.bytes);
            }
        }
    }
}

/// The way to a port of this host.
const fn delivery(to: &FdbEntry) -> Way {
    if to.kind == FdbEntry::LOCAL_PEER { Way::Peer(to.target) } else { Way::Egress(to.target) }
}
