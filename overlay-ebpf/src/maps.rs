//! All maps. Sizes are defaults; the loader may change them. `btf_map`, so that `bpftool map dump` prints field names.

use aya_ebpf::{
    btf_maps::{Array, DevMapHash, HashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use overlay_common::{
    Event,
    maps::{
        Count, FdbEntry, FdbKey, Lease, Network, Port, PortKey, Sampled, Sender, SenderKey, Traffic, Underlay, Vtep,
    },
    names,
};

#[btf_map]
pub(crate) static OVL_PORTS: HashMap<PortKey, Port, { names::PORTS_SIZE as usize }> = HashMap::new();

#[btf_map]
pub(crate) static OVL_FDB: HashMap<FdbKey, FdbEntry, { names::FDB_SIZE as usize }> = HashMap::new();

#[btf_map]
pub(crate) static OVL_VTEPS: Array<Vtep, { names::VTEPS_SIZE as usize }> = Array::new();

#[btf_map]
pub(crate) static OVL_SENDERS: HashMap<SenderKey, Sender, { names::SENDERS_SIZE as usize }> = HashMap::new();

#[btf_map]
pub(crate) static OVL_NETWORKS: HashMap<u32, Network, { names::NETWORKS_SIZE as usize }> = HashMap::new();

#[btf_map]
pub(crate) static OVL_UNDERLAY: Array<Underlay, 1> = Array::new();

#[btf_map]
pub(crate) static OVL_LEASE: Array<Lease, 1> = Array::new();

#[btf_map]
pub(crate) static OVL_TXPORTS: DevMapHash<{ names::PORTS_SIZE as usize }> = DevMapHash::new();

#[btf_map]
pub(crate) static OVL_REASONS: PerCpuArray<Count, { names::REASONS_SIZE as usize }> = PerCpuArray::new();

#[btf_map]
pub(crate) static OVL_VNI_STATS: PerCpuArray<Traffic, { names::NETWORKS_SIZE as usize }> = PerCpuArray::new();

#[btf_map]
pub(crate) static OVL_VTEP_STATS: PerCpuArray<Traffic, { names::VTEPS_SIZE as usize }> = PerCpuArray::new();

#[btf_map]
pub(crate) static OVL_EVENTS: RingBuf<Event, { names::EVENTS_SIZE as usize }> = RingBuf::new();

#[btf_map]
pub(crate) static OVL_SAMPLED: PerCpuArray<Sampled, { names::REASONS_SIZE as usize }> = PerCpuArray::new();
