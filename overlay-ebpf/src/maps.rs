//! All maps. The loader may change the sizes. They are `btf_map`s, so that `bpftool map dump` prints field names.

use aya_ebpf::{
    btf_maps::{Array, DevMapHash, HashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use overlay_common::{
    Event,
    maps::{
        self, Count, FdbEntry, FdbKey, Flow, Heartbeat, Identification, Network, Peer, PeerKey, Port, PortKey, Sampled,
        Traffic, Underlay, Vtep,
    },
};

#[btf_map]
pub(crate) static OVL_PORTS: HashMap<PortKey, Port, { maps::PORTS.entries as usize }> = HashMap::new();

#[btf_map]
pub(crate) static OVL_FDB: HashMap<FdbKey, FdbEntry, { maps::FDB.entries as usize }> = HashMap::new();

#[btf_map]
pub(crate) static OVL_VTEPS: Array<Vtep, { maps::VTEPS.entries as usize }> = Array::new();

#[btf_map]
pub(crate) static OVL_IP_IDS: Array<Identification, { maps::IP_IDS.entries as usize }> = Array::new();

#[btf_map]
pub(crate) static OVL_PEERS: HashMap<PeerKey, Peer, { maps::PEERS.entries as usize }> = HashMap::new();

#[btf_map]
pub(crate) static OVL_NETWORKS: HashMap<u32, Network, { maps::NETWORKS.entries as usize }> = HashMap::new();

#[btf_map]
pub(crate) static OVL_UNDERLAY: Array<Underlay, 1> = Array::new();

#[btf_map]
pub(crate) static OVL_FLOWS: Array<Flow, { maps::FLOWS.entries as usize }> = Array::new();

#[btf_map]
pub(crate) static OVL_HEARTBEAT: Array<Heartbeat, 1> = Array::new();

#[btf_map]
pub(crate) static OVL_TXPORTS: DevMapHash<{ maps::PORTS.entries as usize }> = DevMapHash::new();

#[btf_map]
pub(crate) static OVL_REASONS: PerCpuArray<Count, { maps::REASONS.entries as usize }> = PerCpuArray::new();

#[btf_map]
pub(crate) static OVL_VNI_STATS: PerCpuArray<Traffic, { maps::NETWORKS.entries as usize }> = PerCpuArray::new();

#[btf_map]
pub(crate) static OVL_VTEP_STATS: PerCpuArray<Traffic, { maps::VTEPS.entries as usize }> = PerCpuArray::new();

#[btf_map]
pub(crate) static OVL_EVENTS: RingBuf<Event, { maps::EVENTS.entries as usize }> = RingBuf::new();

#[btf_map]
pub(crate) static OVL_SAMPLED: PerCpuArray<Sampled, { maps::REASONS.entries as usize }> = PerCpuArray::new();
