//! The programs alone, one packet at a time, by `BPF_PROG_TEST_RUN` (`net/bpf/test_run.c`).
//!
//! A test builds the packet ([`crate::frame`]), sets the maps ([`Programs`]), and checks the verdict and every byte of
//! the result ([`Outcome`]).

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf, xdp::DevMapHash},
    programs::{ProgramFd, SchedClassifier, Xdp},
};
use overlay_common::{
    Event, MacAddr, Reason,
    maps::{
        self, Count, FdbEntry, FdbKey, Flow, Heartbeat, Identification, Network, Peer, PeerKey, Port, PortKey, Traffic,
        Underlay, Vtep, flags,
    },
    names,
    outer::OuterHeader,
    wire::ETH_LEN,
};
use overlay_user::testing::{apply::object, sys::ticks};

mod example;
pub mod kernel;
mod outcome;
mod run;
mod tables;

pub use example::*;
pub use outcome::{Outcome, assert_bytes};
pub use tables::SIZE;

use crate::bench::OBJECT;
use kernel::{enter_namespace, interface, sk_buff, test_run};

/// `TC_ACT_UNSPEC`: the next program, then the kernel.
pub const TC_NEXT: u32 = u32::MAX;
/// `TC_ACT_SHOT`.
pub const TC_DROP: u32 = 2;
/// `TC_ACT_REDIRECT`.
pub const TC_REDIRECT: u32 = 7;
/// `XDP_DROP`.
pub const XDP_DROP: u32 = 1;
/// `XDP_PASS`.
pub const XDP_PASS: u32 = 2;
/// `XDP_REDIRECT`.
pub const XDP_REDIRECT: u32 = 4;

/// Netns id of a namespace other than the daemon's.
pub const SANDBOX: u16 = 3;
/// Interface index of either end of a shim. A test run does not execute redirects, so the interface need not exist.
pub const SHIM: u32 = 77;

/// The hook of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `ovl_port_in`, on the host side of gindemo1's veth.
    PortIn,
    /// `ovl_nic_in`, on the NIC.
    NicIn,
    /// `ovl_nic_xdp`, on the NIC.
    NicXdp,
    /// `ovl_port_check`, on the host side of gindemo1's veth.
    PortCheck,
    /// `ovl_nic_check`, on the NIC.
    NicCheck,
    /// `ovl_shim_out`, on the end of the shim in the namespace of the NIC.
    ShimOut,
    /// `ovl_shim_in`, on the end of the shim in the namespace of the ports.
    ShimIn,
}

impl Hook {
    /// Number of the hook in an [`Event`].
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::PortIn | Self::PortCheck => overlay_common::Hook::Port as u16,
            Self::NicIn | Self::NicCheck => overlay_common::Hook::Nic as u16,
            Self::NicXdp => overlay_common::Hook::Xdp as u16,
            Self::ShimOut => overlay_common::Hook::ShimOut as u16,
            Self::ShimIn => overlay_common::Hook::ShimIn as u16,
        }
    }

    /// Return value for a packet that is passed to the kernel.
    #[must_use]
    pub const fn kernel(self) -> u32 {
        if matches!(self, Self::NicXdp) { XDP_PASS } else { TC_NEXT }
    }

    /// Return value for a packet that is dropped.
    #[must_use]
    pub const fn drop(self) -> u32 {
        if matches!(self, Self::NicXdp) { XDP_DROP } else { TC_DROP }
    }

    /// Return value for a packet that is forwarded.
    #[must_use]
    pub const fn redirect(self) -> u32 {
        if matches!(self, Self::NicXdp) { XDP_REDIRECT } else { TC_REDIRECT }
    }
}

/// Fields of the skb in a test run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skb {
    /// Ingress interface; `None`: the interface of the hook.
    pub ifindex: Option<u32>,
    /// `gso_size`; the kernel leaves `gso_type` 0.
    pub gso_size: u32,
    /// `gso_segs`.
    pub gso_segs: u32,
    /// `mark`.
    pub mark: u32,
    /// Sets `skb->csum` like a NIC with `CHECKSUM_COMPLETE`; the kernel verifies it after the program and returns
    /// `EBADMSG` if it is wrong (Linux 6.11).
    pub checksum_complete: bool,
    /// XDP: number of bytes in the first buffer; the rest is in further buffers (Linux 6.18).
    pub linear: Option<u32>,
}

/// The programs, loaded for one test in a new network namespace.
pub struct Programs {
    ebpf: Ebpf,
    port_in: ProgramFd,
    nic_in: ProgramFd,
    port_check: ProgramFd,
    nic_check: ProgramFd,
    nic_xdp: ProgramFd,
    shim_out: ProgramFd,
    shim_in: ProgramFd,
    clock: ProgramFd,
    flow_hash: ProgramFd,
    reasons: PerCpuArray<MapData, Count>,
    events: RefCell<RingBuf<MapData>>,
    counted: Cell<[Count; Reason::ALL.len()]>,
    /// The NIC.
    pub nic: u32,
    /// The host side of gindemo1's veth.
    pub port: u32,
    /// The host side of the other container's veth.
    pub neighbour_port: u32,
    /// An interface that is not a port.
    pub other_interface: u32,
}

impl Programs {
    /// The programs with empty maps.
    ///
    /// # Panics
    /// Without root, and when the kernel rejects the programs.
    #[must_use]
    pub fn empty() -> Self {
        Self::with_globals(&[])
    }

    /// The programs with the tables of the running example on node 1: see [`Self::fill`].
    ///
    /// # Panics
    /// As [`Self::empty`].
    #[must_use]
    pub fn cluster() -> Self {
        let mut programs = Self::empty();
        programs.fill();
        programs
    }

    /// The programs of the running example with other values of constants.
    ///
    /// # Panics
    /// As [`Self::empty`].
    #[must_use]
    pub fn cluster_with_globals(globals: &[(&str, u32)]) -> Self {
        let mut programs = Self::with_globals(globals);
        programs.fill();
        programs
    }

    /// The programs of the running example with a strict network [`VNI`] and port.
    ///
    /// # Panics
    /// As [`Self::empty`].
    #[must_use]
    pub fn strict() -> Self {
        let mut programs = Self::cluster();
        let underlay = Underlay::new(NODE1, NODE1_MAC, programs.nic, &[UDP_PORT, OTHER_UDP_PORT]);
        programs.underlay(Underlay { flags: flags::STRICT as u16, ..underlay.expect("two UDP ports") });
        programs.network(VNI, network(flags::STRICT));
        programs.peer(VNI, NODE2, Peer { flags: flags::STRICT as u16, ..peer() });
        programs.fdb(VNI, GINDEMO2.mac, FdbEntry::remote_with_ip(VTEP, GINDEMO2.ipv4));
        programs.port(programs.port, Port { flags: flags::STRICT, ..port() });
        programs
    }

    /// The programs of the running example as loaded for a sandbox: gindemo1 is in the namespace with netns id
    /// [`SANDBOX`], behind a shim.
    ///
    /// # Panics
    /// As [`Self::empty`].
    #[must_use]
    pub fn sandbox() -> Self {
        let constants = [("OVL_NETNS_ID", SANDBOX.into()), ("OVL_SHIM", SHIM), ("OVL_VNI", VNI)];
        let mut programs = Self::cluster_with_globals(&constants);
        let key = PortKey { netns_id: SANDBOX.into(), ifindex: programs.port };
        programs.insert(maps::PORTS.name, key, port());
        programs.fdb(VNI, GINDEMO1.mac, programs.behind_shim());
        programs
    }

    /// FDB entry of gindemo1 in [`Self::sandbox`].
    #[must_use]
    pub fn behind_shim(&self) -> FdbEntry {
        FdbEntry { netns_id: SANDBOX, shim_or_ip: SHIM, ..FdbEntry::local(FdbEntry::LOCAL_PEER, self.port) }
    }

    /// The programs with empty maps and other values of constants.
    ///
    /// # Panics
    /// As [`Self::empty`].
    #[must_use]
    pub fn with_globals(globals: &[(&str, u32)]) -> Self {
        enter_namespace();
        let mut loader = EbpfLoader::new();
        for (name, value) in globals {
            loader.override_global(name, value, true);
        }
        let sized = [maps::UNDERLAY, maps::HEARTBEAT, maps::REASONS, maps::EVENTS, maps::SAMPLED, maps::FLOWS];
        for map in maps::MAPS.iter().filter(|map| !sized.contains(map)) {
            loader.map_max_entries(map.name, tables::SIZE);
        }
        let mut ebpf = loader.load(object()).expect("the kernel accepts the maps");
        let port_in = load_tc(&mut ebpf, names::PORT_IN);
        let nic_in = load_tc(&mut ebpf, names::NIC_IN);
        let port_check = load_tc(&mut ebpf, names::PORT_CHECK);
        let nic_check = load_tc(&mut ebpf, names::NIC_CHECK);
        let nic_xdp = load_xdp(&mut ebpf, names::NIC_XDP);
        let shim_out = load_tc(&mut ebpf, names::SHIM_OUT);
        let shim_in = load_tc(&mut ebpf, names::SHIM_IN);
        let clock = load_tc(&mut ebpf, names::CLOCK);
        let mut own = EbpfLoader::new().load(OBJECT).expect("the kernel accepts the maps");
        let flow_hash = load_tc(&mut own, "flow_hash");
        let reasons = ebpf.take_map(maps::REASONS.name).expect("the object has the map");
        let events = ebpf.take_map(maps::EVENTS.name).expect("the object has the map");
        Self {
            events: RefCell::new(RingBuf::try_from(events).expect("the map is a ring buffer")),
            reasons: PerCpuArray::try_from(reasons).expect("the map holds counts"),
            counted: Cell::new([Count::default(); Reason::ALL.len()]),
            nic: interface(c"nic"),
            port: interface(c"port"),
            neighbour_port: interface(c"port2"),
            other_interface: interface(c"other"),
            ebpf,
            port_in,
            nic_in,
            port_check,
            nic_check,
            nic_xdp,
            shim_out,
            shim_in,
            clock,
            flow_hash,
        }
    }

    /// Enables forwarding in the namespace of the test: [`NODE1`] and [`SECOND`] are local addresses, all other packets
    /// have a route.
    ///
    /// # Panics
    /// When the namespace already has these addresses.
    pub fn enable_forwarding(&self) {
        kernel::enable_forwarding([NODE1, SECOND]);
    }

    /// Fills the tables of node 1 of the running example: gindemo1 and a neighbour on node 1, gindemo2 on node 2, in a
    /// network that is not strict; and the same containers in a strict network without ports.
    pub fn fill(&mut self) {
        self.underlay(Underlay::new(NODE1, NODE1_MAC, self.nic, &[UDP_PORT, OTHER_UDP_PORT]).expect("two UDP ports"));
        self.vtep(VTEP, self.node2());
        self.network(VNI, network(0));
        self.network(STRICT_VNI, network(flags::STRICT));
        for vni in [VNI, STRICT_VNI] {
            self.peer(vni, NODE2, peer());
            for (container, kind, port) in
                [(GINDEMO1, FdbEntry::LOCAL_PEER, self.port), (NEIGHBOUR, FdbEntry::LOCAL, self.neighbour_port)]
            {
                self.fdb(vni, container.mac, FdbEntry { tx: port, ..FdbEntry::local(kind, port) });
            }
            self.fdb(vni, GINDEMO2.mac, FdbEntry::remote(VTEP));
        }
        self.port(self.port, port());
        self.txport(self.port);
        self.txport(self.neighbour_port);
    }

    /// VTEP of node 2, with its next hop resolved.
    #[must_use]
    pub fn node2(&self) -> Vtep {
        let mut outer = OuterHeader::template(NODE1, NODE2, UDP_PORT);
        outer.eth_dst = NODE2_MAC.0;
        outer.eth_src = NODE1_MAC.0;
        Vtep { outer, mtu: MTU, ifindex: self.nic, ip_sum: outer.ip_sum(), resolved: 1 }
    }

    /// Sets the entry of an interface in `OVL_PORTS`.
    pub fn port(&mut self, ifindex: u32, port: Port) {
        self.insert(maps::PORTS.name, PortKey::host(ifindex), port);
    }

    /// Sets the entry of a MAC address in `OVL_FDB`.
    pub fn fdb(&mut self, vni: u32, mac: MacAddr, entry: FdbEntry) {
        self.insert(maps::FDB.name, FdbKey::new(vni, mac), entry);
    }

    /// Removes the entry of a MAC address from `OVL_FDB`.
    pub fn remove_fdb(&mut self, vni: u32, mac: MacAddr) {
        let map = self.ebpf.map_mut(maps::FDB.name).expect("the object has the map");
        let mut map = HashMap::<_, FdbKey, FdbEntry>::try_from(map).expect("the map is a hash");
        map.remove(&FdbKey::new(vni, mac)).expect("the map has the MAC");
    }

    /// Sets an entry in `OVL_VTEPS`.
    pub fn vtep(&mut self, index: u32, vtep: Vtep) {
        self.set(maps::VTEPS.name, index, vtep);
    }

    /// Sets the entry of a VTEP and a VNI in `OVL_PEERS`.
    pub fn peer(&mut self, vni: u32, addr: [u8; 4], peer: Peer) {
        self.insert(maps::PEERS.name, PeerKey { vni, addr }, peer);
    }

    /// Sets the entry of a VNI in `OVL_NETWORKS`.
    pub fn network(&mut self, vni: u32, network: Network) {
        self.insert(maps::NETWORKS.name, vni, network);
    }

    /// Sets `OVL_UNDERLAY`.
    pub fn underlay(&mut self, underlay: Underlay) {
        self.set(maps::UNDERLAY.name, 0, underlay);
    }

    /// Sets the heartbeat deadline: seconds from now; `None`: none.
    pub fn deadline(&mut self, left: Option<i64>) {
        let deadline_jiffies = left.map_or(0, |seconds: i64| {
            let now = self.jiffies();
            let ticks = i64::try_from(ticks(Duration::from_secs(seconds.unsigned_abs()))).expect("the ticks fit");
            now.saturating_add_signed(ticks * seconds.signum())
        });
        self.set(
            maps::HEARTBEAT.name,
            0,
            Heartbeat { epoch: Heartbeat::FIRST_EPOCH, deadline_jiffies, deadline_ns: 0 },
        );
    }

    /// The time that the programs read, in ticks.
    fn jiffies(&self) -> u64 {
        let (_, now) =
            test_run(&self.clock, &[0; ETH_LEN], &sk_buff(0, Skb::default()), 0).expect("the clock program runs");
        u64::from_ne_bytes(now[..8].try_into().expect("eight bytes"))
    }

    /// Makes TCP flows with this outer source port take the kernel path.
    pub fn many_segments(&mut self, udp_src: u16) {
        let index = u32::from(udp_src) * 2 % maps::FLOWS.entries + 1;
        self.set(maps::FLOWS.name, index, Flow { jiffies: self.jiffies() as u32, packets: Flow::MANY });
    }

    /// Makes other flows than TCP with this outer source port take the fast path.
    pub fn no_super_packets(&mut self, udp_src: u16) {
        self.set(maps::FLOWS.name, u32::from(udp_src) * 2 % maps::FLOWS.entries, Flow::default());
    }

    /// Adds an interface to `OVL_TXPORTS`, the redirect targets of XDP.
    pub fn txport(&mut self, ifindex: u32) {
        let map = self.ebpf.map_mut(maps::TXPORTS.name).expect("the object has the map");
        let mut map = DevMapHash::try_from(map).expect("the map is a devmap");
        map.insert(ifindex, ifindex, None, 0).expect("the interface exists");
    }

    /// Removes an interface from `OVL_TXPORTS`.
    pub fn no_txport(&mut self, ifindex: u32) {
        let map = self.ebpf.map_mut(maps::TXPORTS.name).expect("the object has the map");
        let mut map = DevMapHash::try_from(map).expect("the map is a devmap");
        map.remove(ifindex).expect("the map has the interface");
    }

    fn insert<K: Pod, V: Pod>(&mut self, name: &str, key: K, value: V) {
        let map = self.ebpf.map_mut(name).expect("the object has the map");
        let mut map = HashMap::try_from(map).expect("the map is a hash of these types");
        map.insert(key, value, 0).expect("the map has room");
    }

    fn set<V: Pod>(&mut self, name: &str, index: u32, value: V) {
        let map = self.ebpf.map_mut(name).expect("the object has the map");
        let mut map = Array::try_from(map).expect("the map is an array of this type");
        map.set(index, value, 0).expect("the index is in the array");
    }

    /// Sampled events since the last call.
    ///
    /// # Panics
    /// When a sample is not an [`Event`].
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        let mut ring = self.events.borrow_mut();
        std::iter::from_fn(|| ring.next().map(|item| bytemuck::pod_read_unaligned(&item))).collect()
    }

    /// Fast path traffic of a network.
    #[must_use]
    pub fn vni_stats(&self, slot: u32) -> Traffic {
        self.traffic(maps::VNI_STATS.name, slot)
    }

    /// Fast path traffic to and from a VTEP.
    #[must_use]
    pub fn vtep_stats(&self, index: u32) -> Traffic {
        self.traffic(maps::VTEP_STATS.name, index)
    }

    /// The next IPv4 identification of packets to a VTEP.
    fn next_id(&self, index: u32) -> u64 {
        let map =
            Array::<_, Identification>::try_from(self.ebpf.map(maps::IP_IDS.name).expect("the object has the map"));
        map.expect("the map holds identifications").get(&index, 0).expect("the index is in the array").next
    }

    fn traffic(&self, name: &str, index: u32) -> Traffic {
        let map = PerCpuArray::<_, Traffic>::try_from(self.ebpf.map(name).expect("the object has the map"));
        let values = map.expect("the map holds traffic").get(&index, 0).expect("the index is in the array");
        values.iter().fold(Traffic::default(), |mut sum, value| {
            sum.tx.add(value.tx.packets, value.tx.bytes);
            sum.rx.add(value.rx.packets, value.rx.bytes);
            sum
        })
    }
}

fn load_tc(ebpf: &mut Ebpf, name: &str) -> ProgramFd {
    let program = ebpf.program_mut(name).expect("the object has the program");
    let program: &mut SchedClassifier = program.try_into().expect("the program is a classifier");
    program.load().expect("the verifier accepts the program");
    program.fd().and_then(|fd| Ok(fd.try_clone()?)).expect("the program is loaded")
}

fn load_xdp(ebpf: &mut Ebpf, name: &str) -> ProgramFd {
    let program = ebpf.program_mut(name).expect("the object has the program");
    let program: &mut Xdp = program.try_into().expect("the program is XDP");
    program.load().expect("the verifier accepts the program");
    program.fd().and_then(|fd| Ok(fd.try_clone()?)).expect("the program is loaded")
}
