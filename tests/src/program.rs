//! The programs alone, one packet at a time, through `BPF_PROG_TEST_RUN`.
//!
//! A test has three parts: it builds the packet ([`crate::frame`]), sets the maps ([`Programs`]), and checks every byte
//! and the verdict of what came out ([`Outcome`]). The kernel's side is `net/bpf/test_run.c`.

use std::{
    cell::Cell,
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray, xdp::DevMapHash},
    programs::{ProgramFd, SchedClassifier, Xdp},
};
use overlay_common::{
    MacAddr, Reason,
    maps::{Count, FdbEntry, FdbKey, Network, Port, Sender, SenderKey, Traffic, Underlay, Vtep},
    names,
    outer::OuterHeader,
};

use crate::frame::{Inner, L4, Outer, Station, UdpChecksum, Version};

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

/// The network of the running example.
pub const VNI: u32 = 4097;
/// Its index in `OVL_VNI_STATS`.
pub const SLOT: u32 = 3;
/// Its MTU.
pub const MTU: u16 = 1450;
/// Its UDP port.
pub const UDP_PORT: u16 = 4789;
/// Another UDP port of this host, that this network does not use.
pub const OTHER_UDP_PORT: u16 = 8472;
/// Index of node 2 in `OVL_VTEPS`.
pub const VTEP: u32 = 2;
/// The network with [`maps::flags::STRICT`](overlay_common::maps::flags::STRICT): another VNI, the same containers.
pub const STRICT_VNI: u32 = 4098;

/// node 1, this host: VTEP address.
pub const NODE1: [u8; 4] = [192, 168, 1, 9];
/// node 1: MAC of the NIC.
pub const NODE1_MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 9]);
/// node 2, the peer: VTEP address.
pub const NODE2: [u8; 4] = [192, 168, 1, 10];
/// node 2: MAC of the NIC, and so of the next hop.
pub const NODE2_MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 10]);
/// gindemo1, the container of node 1.
pub const GINDEMO1: Station = Station::container([10, 0, 1, 2]);
/// gindemo2, the container of node 2.
pub const GINDEMO2: Station = Station::container([10, 0, 1, 6]);
/// Another container of node 1.
pub const NEIGHBOUR: Station = Station::container([10, 0, 1, 3]);

/// Where a packet comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `ovl_port_in`, on the host side of gindemo1's veth.
    PortIn,
    /// `ovl_nic_in`, on the NIC.
    NicIn,
    /// `ovl_nic_xdp`, on the NIC.
    NicXdp,
}

impl Hook {
    /// What the hook returns for a packet that it leaves to the kernel.
    #[must_use]
    pub const fn kernel(self) -> u32 {
        if matches!(self, Self::NicXdp) { XDP_PASS } else { TC_NEXT }
    }

    /// What the hook returns for a packet that it drops.
    #[must_use]
    pub const fn drop(self) -> u32 {
        if matches!(self, Self::NicXdp) { XDP_DROP } else { TC_DROP }
    }

    /// What the hook returns for a packet that it forwards.
    #[must_use]
    pub const fn redirect(self) -> u32 {
        if matches!(self, Self::NicXdp) { XDP_REDIRECT } else { TC_REDIRECT }
    }
}

/// What a test can say about the skb around the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skb {
    /// The interface, where it is not the hook's own.
    pub ifindex: Option<u32>,
    /// `gso_size`; the kernel leaves `gso_type` 0.
    pub gso_size: u32,
    /// `gso_segs`.
    pub gso_segs: u32,
    /// Sets `skb->csum` as a NIC with `CHECKSUM_COMPLETE` does; the kernel checks it again after the program and
    /// answers `EBADMSG` when it does not hold (Linux 6.11).
    pub checksum_complete: bool,
    /// XDP: how many bytes are in the first buffer; the rest is in others (Linux 6.18).
    pub linear: Option<u32>,
}

/// What came out of a program.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The hook that ran.
    pub hook: Hook,
    /// What it returned.
    pub action: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// The reasons that were counted, and by how much.
    pub counted: Vec<(Reason, Count)>,
}

impl Outcome {
    /// That the packet went on to the kernel, unchanged.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn assert_left_to_kernel(&self, packet: &[u8]) {
        assert_eq!(self.action, self.hook.kernel(), "verdict of {:?}: {:?}", self.hook, self.counted);
        assert_bytes(&self.packet, packet);
    }

    /// That the packet went on to the kernel, unchanged, and that the hook counted it once, under `reason`. XDP does
    /// not count what TC will see again under the same name.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn assert_kernel(&self, reason: Reason, packet: &[u8]) {
        self.assert_left_to_kernel(packet);
        if self.hook == Hook::NicXdp && !matches!(reason, Reason::XdpTcp | Reason::XdpPort) {
            assert_eq!(self.counted, []);
        } else {
            self.assert_counted(reason, packet.len());
        }
    }

    /// That the packet was dropped and counted once, under `reason`.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    pub fn assert_dropped(&self, reason: Reason, bytes: usize) {
        assert_eq!(self.action, self.hook.drop(), "verdict of {:?}: {:?}", self.hook, self.counted);
        self.assert_counted(reason, bytes);
    }

    /// That the packet was forwarded as `expected`, and counted once, with `bytes`, as what the hook does.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    pub fn assert_forwarded(&self, reason: Reason, bytes: usize, expected: &[u8]) {
        assert_eq!(self.action, self.hook.redirect(), "verdict of {:?}: {:?}", self.hook, self.counted);
        assert_bytes(&self.packet, expected);
        self.assert_counted(reason, bytes);
    }

    #[track_caller]
    fn assert_counted(&self, reason: Reason, bytes: usize) {
        assert_eq!(self.counted, [(reason, Count { packets: 1, bytes: bytes as u64 })]);
    }
}

/// Compares packets and shows the first difference.
///
/// # Panics
/// When there is one.
#[track_caller]
pub fn assert_bytes(found: &[u8], expected: &[u8]) {
    if let Some(at) = (0..found.len().max(expected.len())).find(|at| found.get(*at) != expected.get(*at)) {
        panic!("packets differ from byte {at} on\n   found {found:02x?}\nexpected {expected:02x?}");
    }
}

/// The programs, loaded for one test, in a network namespace of the test's own.
pub struct Programs {
    ebpf: Ebpf,
    port_in: ProgramFd,
    nic_in: ProgramFd,
    nic_xdp: ProgramFd,
    reasons: PerCpuArray<MapData, Count>,
    counted: Cell<[Count; Reason::ALL.len()]>,
    /// The NIC.
    pub nic: u32,
    /// The host side of gindemo1's veth.
    pub port: u32,
    /// The host side of the other container's veth.
    pub neighbour_port: u32,
    /// An interface that is not a port.
    pub stranger: u32,
}

impl Programs {
    /// The programs with empty maps.
    ///
    /// # Panics
    /// Without root, and when the kernel refuses the programs.
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

    /// The programs of the running example, with constants set to other values.
    ///
    /// # Panics
    /// As [`Self::empty`].
    #[must_use]
    pub fn cluster_with_globals(globals: &[(&str, u32)]) -> Self {
        let mut programs = Self::with_globals(globals);
        programs.fill();
        programs
    }

    fn with_globals(globals: &[(&str, u32)]) -> Self {
        enter_namespace();
        let mut loader = EbpfLoader::new();
        for (name, value) in globals {
            loader.override_global(name, value, true);
        }
        for name in names::MAPS.into_iter().filter(|name| ![names::UNDERLAY, names::REASONS].contains(name)) {
            loader.map_max_entries(name, 16);
        }
        let mut ebpf = loader.load(overlay_user::datapath::OBJECT).expect("the kernel takes the maps");
        let port_in = load_tc(&mut ebpf, names::PORT_IN);
        let nic_in = load_tc(&mut ebpf, names::NIC_IN);
        let nic_xdp = load_xdp(&mut ebpf, names::NIC_XDP);
        let reasons = ebpf.take_map(names::REASONS).expect("the object has the map");
        Self {
            reasons: PerCpuArray::try_from(reasons).expect("the map holds counts"),
            counted: Cell::new([Count::default(); Reason::ALL.len()]),
            nic: interface(c"nic"),
            port: interface(c"port"),
            neighbour_port: interface(c"port2"),
            stranger: interface(c"stranger"),
            ebpf,
            port_in,
            nic_in,
            nic_xdp,
        }
    }

    /// node 1 of the running example: gindemo1 and a neighbour here, gindemo2 behind node 2, in a network that is not
    /// strict; the same containers in one that is, where no port is in.
    pub fn fill(&mut self) {
        self.underlay(Underlay::new(NODE1, NODE1_MAC, &[UDP_PORT, OTHER_UDP_PORT]).expect("two UDP ports"));
        self.vtep(VTEP, self.node2());
        self.network(VNI, network(0));
        self.network(STRICT_VNI, network(overlay_common::maps::flags::STRICT));
        for vni in [VNI, STRICT_VNI] {
            self.sender(vni, NODE2, sender());
            self.fdb(vni, GINDEMO1.mac, FdbEntry { kind: FdbEntry::LOCAL_PEER, target: self.port });
            self.fdb(vni, NEIGHBOUR.mac, FdbEntry { kind: FdbEntry::LOCAL, target: self.neighbour_port });
            self.fdb(vni, GINDEMO2.mac, FdbEntry::remote(VTEP));
        }
        self.port(self.port, port());
        self.txport(self.port);
        self.txport(self.neighbour_port);
    }

    /// node 2, with its next hop known.
    #[must_use]
    pub fn node2(&self) -> Vtep {
        let mut outer = OuterHeader::template(NODE1, NODE2, UDP_PORT);
        outer.eth_dst = NODE2_MAC.0;
        outer.eth_src = NODE1_MAC.0;
        Vtep { outer, mtu: MTU, ifindex: self.nic, ip_sum: outer.ip_sum(), resolved: 1 }
    }

    /// Says who may send through an interface.
    pub fn port(&mut self, ifindex: u32, port: Port) {
        self.insert(names::PORTS, ifindex, port);
    }

    /// Says where a MAC address is.
    pub fn fdb(&mut self, vni: u32, mac: MacAddr, entry: FdbEntry) {
        self.insert(names::FDB, FdbKey::new(vni, mac), entry);
    }

    /// Forgets a MAC address.
    pub fn forget(&mut self, vni: u32, mac: MacAddr) {
        let map = self.ebpf.map_mut(names::FDB).expect("the object has the map");
        let mut map = HashMap::<_, FdbKey, FdbEntry>::try_from(map).expect("the map is a hash");
        map.remove(&FdbKey::new(vni, mac)).expect("the MAC is known");
    }

    /// Says how to reach a VTEP.
    pub fn vtep(&mut self, index: u32, vtep: Vtep) {
        self.set(names::VTEPS, index, vtep);
    }

    /// Lets a VTEP send on a VNI.
    pub fn sender(&mut self, vni: u32, addr: [u8; 4], sender: Sender) {
        self.insert(names::SENDERS, SenderKey { vni, addr }, sender);
    }

    /// Takes part in a network.
    pub fn network(&mut self, vni: u32, network: Network) {
        self.insert(names::NETWORKS, vni, network);
    }

    /// Says what makes a packet on the NIC ours.
    pub fn underlay(&mut self, underlay: Underlay) {
        self.set(names::UNDERLAY, 0, underlay);
    }

    /// Lets XDP redirect to an interface.
    pub fn txport(&mut self, ifindex: u32) {
        let map = self.ebpf.map_mut(names::TXPORTS).expect("the object has the map");
        let mut map = DevMapHash::try_from(map).expect("the map is a devmap");
        map.insert(ifindex, ifindex, None, 0).expect("the interface exists");
    }

    /// No longer lets XDP redirect to an interface.
    pub fn no_txport(&mut self, ifindex: u32) {
        let map = self.ebpf.map_mut(names::TXPORTS).expect("the object has the map");
        let mut map = DevMapHash::try_from(map).expect("the map is a devmap");
        map.remove(ifindex).expect("the interface was there");
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

    /// What the fast path carried for a network.
    #[must_use]
    pub fn vni_stats(&self, slot: u32) -> Traffic {
        self.traffic(names::VNI_STATS, slot)
    }

    /// What the fast path carried to and from a VTEP.
    #[must_use]
    pub fn vtep_stats(&self, index: u32) -> Traffic {
        self.traffic(names::VTEP_STATS, index)
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

    /// Runs a hook's program over a packet.
    ///
    /// # Panics
    /// When the kernel refuses the run.
    #[track_caller]
    pub fn run(&self, hook: Hook, packet: &[u8]) -> Outcome {
        self.run_skb(hook, packet, Skb::default())
    }

    /// Runs a hook's program over a packet with an skb as described.
    ///
    /// # Panics
    /// When the kernel refuses the run.
    #[track_caller]
    pub fn run_skb(&self, hook: Hook, packet: &[u8], skb: Skb) -> Outcome {
        let length = packet.len();
        self.try_run(hook, packet, skb).unwrap_or_else(|error| {
            panic!("the kernel runs {hook:?} over {length} bytes with {skb:?}: {error}");
        })
    }

    /// Runs a hook's program over a packet with an skb as described.
    ///
    /// # Errors
    /// What the kernel answers to `BPF_PROG_TEST_RUN`.
    pub fn try_run(&self, hook: Hook, packet: &[u8], skb: Skb) -> io::Result<Outcome> {
        let (program, ifindex) = match hook {
            Hook::PortIn => (&self.port_in, self.port),
            Hook::NicIn => (&self.nic_in, self.nic),
            Hook::NicXdp => (&self.nic_xdp, 0),
        };
        let context = match (hook, skb.linear) {
            (Hook::NicXdp, None) => Vec::new(),
            // struct xdp_md: `data_end` is the second of six words.
            (Hook::NicXdp, Some(linear)) => vec![0, linear, 0, 0, 0, 0],
            _ => sk_buff(skb.ifindex.unwrap_or(ifindex), skb),
        };
        let flags = if skb.checksum_complete { TEST_SKB_CHECKSUM_COMPLETE } else { 0 };
        let (action, packet) = test_run(program, packet, &context, flags)?;
        let counts = Reason::ALL.map(|reason| {
            let values = self.reasons.get(&(reason as u32), 0).expect("every reason has a place");
            values.iter().fold(Count::default(), |mut sum, value| {
                sum.add(value.packets, value.bytes);
                sum
            })
        });
        let before = self.counted.replace(counts);
        let counted = Reason::ALL.into_iter().zip(before.into_iter().zip(counts)).filter(|(_, (old, new))| old != new);
        let difference =
            |(old, new): (Count, Count)| Count { packets: new.packets - old.packets, bytes: new.bytes - old.bytes };
        Ok(Outcome { hook, action, packet, counted: counted.map(|(r, pair)| (r, difference(pair))).collect() })
    }
}

/// gindemo1's port, not strict.
#[must_use]
pub fn port() -> Port {
    Port { vni: VNI, slot: SLOT, flags: 0, ip: GINDEMO1.ipv4, mac: GINDEMO1.mac.0, mtu: MTU }
}

/// The network, with these flags.
#[must_use]
pub fn network(flags: u32) -> Network {
    Network { slot: SLOT, flags, mtu: MTU, port: UDP_PORT }
}

/// node 2 as a sender.
#[must_use]
pub fn sender() -> Sender {
    Sender { vtep: VTEP, slot: SLOT, port: UDP_PORT.into() }
}

/// A frame from gindemo1 to gindemo2.
#[must_use]
pub fn outbound(version: Version, l4: L4) -> Inner {
    Inner::new(GINDEMO1, GINDEMO2, version, l4)
}

/// A frame from gindemo2 to gindemo1.
#[must_use]
pub fn inbound(version: Version, l4: L4) -> Inner {
    Inner::new(GINDEMO2, GINDEMO1, version, l4)
}

/// The outer header of a packet that node 1 sends to node 2, as the example and RFC 7348 have it.
#[must_use]
pub fn to_node2() -> Outer {
    Outer {
        eth_dst: NODE2_MAC,
        eth_src: NODE1_MAC,
        src: NODE1,
        dst: NODE2,
        tos: 0,
        id: 0,
        dont_fragment: false,
        fragment: (0, false),
        ttl: 64,
        options: Vec::new(),
        udp_src: 50730,
        udp_dst: UDP_PORT,
        udp_checksum: UdpChecksum::Absent,
        vxlan_flags: 8,
        vxlan_reserved1: [0; 3],
        vni: VNI,
        vxlan_reserved2: 0,
    }
}

/// The outer header of a packet that node 1 gets from node 2.
#[must_use]
pub fn from_node2() -> Outer {
    Outer { eth_dst: NODE1_MAC, eth_src: NODE2_MAC, src: NODE2, dst: NODE1, ..to_node2() }
}

fn load_tc(ebpf: &mut Ebpf, name: &str) -> ProgramFd {
    let program = ebpf.program_mut(name).expect("the object has the program");
    let program: &mut SchedClassifier = program.try_into().expect("the program is a classifier");
    program.load().expect("the verifier takes the program");
    program.fd().and_then(|fd| Ok(fd.try_clone()?)).expect("the program is loaded")
}

fn load_xdp(ebpf: &mut Ebpf, name: &str) -> ProgramFd {
    let program = ebpf.program_mut(name).expect("the object has the program");
    let program: &mut Xdp = program.try_into().expect("the program is XDP");
    program.load().expect("the verifier takes the program");
    program.fd().and_then(|fd| Ok(fd.try_clone()?)).expect("the program is loaded")
}

/// Moves this thread to a network namespace of its own, with a NIC and two containers' veths. It is gone with the
/// thread.
fn enter_namespace() {
    // SAFETY: no memory is involved.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    let why = "program tests need root, to load programs and to make interfaces";
    assert_eq!(result, 0, "{why}: {}", io::Error::last_os_error());
    stay_on_one_cpu();
    let nic = NODE1_MAC.to_string();
    for arguments in [
        ["nic", "address", &nic, "type", "veth", "peer", "name", "wire"].as_slice(),
        &["port", "type", "veth", "peer", "name", "eth0"],
        &["port2", "type", "veth", "peer", "name", "eth1"],
        &["stranger", "type", "veth", "peer", "name", "eth2"],
    ] {
        let output = Command::new("ip").args(["link", "add"]).args(arguments).output().expect("`ip` runs");
        assert!(output.status.success(), "ip link add {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The IPv4 identification counts per CPU.
fn stay_on_one_cpu() {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let turn = NEXT.fetch_add(1, Ordering::Relaxed) + std::process::id() as usize;
    // SAFETY: a set of CPUs is plain data, and both calls get its size.
    let pinned = unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        let got = libc::sched_getaffinity(0, size_of_val(&allowed), &raw mut allowed);
        let cpus: Vec<usize> = (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &allowed)).collect();
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpus[turn % cpus.len()], &mut one);
        got | libc::sched_setaffinity(0, size_of_val(&one), &raw const one)
    };
    assert_eq!(pinned, 0, "the thread stays on one CPU: {}", io::Error::last_os_error());
}

fn interface(name: &std::ffi::CStr) -> u32 {
    // SAFETY: the name is a C string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "{name:?}: {}", io::Error::last_os_error());
    index
}

/// `struct __sk_buff` (`include/uapi/linux/bpf.h`), which has 192 bytes; the fields that a test may set are few.
fn sk_buff(ifindex: u32, skb: Skb) -> Vec<u32> {
    let mut context = vec![0; 48];
    context[40 / 4] = ifindex;
    context[164 / 4] = skb.gso_segs;
    context[176 / 4] = skb.gso_size;
    context
}

/// `BPF_F_TEST_SKB_CHECKSUM_COMPLETE`.
const TEST_SKB_CHECKSUM_COMPLETE: u32 = 1 << 2;

/// The part of `union bpf_attr` for `BPF_PROG_TEST_RUN`. aya's own call cannot set the flags.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

fn test_run(program: &ProgramFd, packet: &[u8], context: &[u32], flags: u32) -> io::Result<(u32, Vec<u8>)> {
    const BPF_PROG_TEST_RUN: libc::c_int = 10;
    let mut out = vec![0u8; packet.len() + 256];
    let mut attr = TestRun {
        prog_fd: program.as_fd().as_raw_fd().cast_unsigned(),
        data_size_in: u32::try_from(packet.len()).expect("a short packet"),
        data_size_out: u32::try_from(out.len()).expect("a short packet"),
        data_in: packet.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat: 1,
        ctx_size_in: size_of_val(context) as u32,
        ctx_in: if context.is_empty() { 0 } else { context.as_ptr() as u64 },
        flags,
        ..TestRun::default()
    };
    // SAFETY: the attributes are of the size given, and the buffers in them live, with the sizes given, until after the
    // call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<TestRun>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    out.truncate(attr.data_size_out as usize);
    Ok((attr.retval, out))
}
