//! Keys and values of the BPF maps.
//!
//! Addresses are byte arrays in network order. Numbers (VNI, interface index, UDP port, MTU) are in host order, so that
//! `bpftool map dump` prints them in the usual form. MAC addresses are plain arrays, because a newtype would be printed
//! as a structure. No type has hidden padding: the kernel hashes every byte of a key.
//!
//! A change of a key or a value that a program of an earlier version would misread raises [`LAYOUT`]. The daemon fills
//! maps of another layout from its configuration. State that only the maps hold has the same offset in every layout:
//! [`Network`] begins with `slot`, [`Vtep`] with the outer header, [`Count`] and [`Traffic`] are `u64`s and only ever
//! grow at the end, [`Heartbeat`] begins with `epoch`, and a [`crate::Reason`] keeps its number.

use bytemuck::{Pod, Zeroable};

use crate::{outer::OuterHeader, wire::MacAddr};

/// Version of the keys and values, recorded as `record/layout:` in the pin root.
pub const LAYOUT: u32 = 5;

/// How the contents of a map survive when a new map replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Written by the daemon. A new map is filled again.
    Planned,
    /// Written by the programs, not planned. A map of the same layout is reused.
    Learned,
    /// Counters of the programs. A new map starts with the old values.
    Counter,
}

/// A BPF map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Name in `bpftool map` and below the pin root.
    pub name: &'static str,
    /// How the contents survive a replacement.
    pub class: Class,
    /// Maximum number of entries; for a ring buffer its size in bytes.
    pub entries: u32,
    /// Leading bytes of a value that are copied to a map of another layout or size: indices, headers, the epoch.
    pub prefix_len: usize,
}

const fn map(name: &'static str, class: Class, entries: u32) -> Map {
    Map { name, class, entries, prefix_len: 0 }
}

/// [`PortKey`] → [`Port`].
pub const PORTS: Map = map("OVL_PORTS", Class::Planned, 8_192);
/// [`FdbKey`] → [`FdbEntry`]. The size is configurable.
pub const FDB: Map = map("OVL_FDB", Class::Planned, 131_072);
/// Index → [`Vtep`].
pub const VTEPS: Map = Map { prefix_len: size_of::<OuterHeader>(), ..map("OVL_VTEPS", Class::Planned, 8_192) };
/// [`PeerKey`] → [`Peer`].
pub const PEERS: Map = map("OVL_PEERS", Class::Planned, 65_536);
/// VNI → [`Network`].
pub const NETWORKS: Map = Map { prefix_len: size_of::<u32>(), ..map("OVL_NETWORKS", Class::Planned, 4_096) };
/// 0 → [`Underlay`].
pub const UNDERLAY: Map = map("OVL_UNDERLAY", Class::Planned, 1);
/// [`FdbEntry::tx`] → target device of XDP redirects.
pub const TXPORTS: Map = map("OVL_TXPORTS", Class::Planned, PORTS.entries);
/// [`crate::Reason`] → [`Count`], per CPU. Larger than the list of reasons, so that a new reason does not change the
/// map.
pub const REASONS: Map = map("OVL_REASONS", Class::Counter, 64);
/// [`Network::slot`] → [`Traffic`], per CPU.
pub const VNI_STATS: Map = map("OVL_VNI_STATS", Class::Counter, NETWORKS.entries);
/// VTEP index → [`Traffic`], per CPU.
pub const VTEP_STATS: Map = map("OVL_VTEP_STATS", Class::Counter, VTEPS.entries);
/// 0 → [`Heartbeat`].
pub const HEARTBEAT: Map = Map { prefix_len: size_of::<u64>(), ..map("OVL_HEARTBEAT", Class::Planned, 1) };
/// Sampled events: a ring buffer for about 740 [`crate::Event`]s. Its size is a power of two and a multiple of every
/// page size.
pub const EVENTS: Map = map("OVL_EVENTS", Class::Learned, 1 << 17);
/// [`crate::Reason`] → [`Sampled`], per CPU.
pub const SAMPLED: Map = map("OVL_SAMPLED", Class::Learned, REASONS.entries);

/// VTEP index modulo the number of entries → [`Identification`]. The entries are shared by all CPUs.
pub const IP_IDS: Map = map("OVL_IP_IDS", Class::Learned, 1_024);

/// Lower 15 bits of the outer UDP source port, times 2, plus 1 for TCP → [`Flow`]. The entries are shared by all CPUs.
pub const FLOWS: Map = map("OVL_FLOWS", Class::Learned, 65_536);

/// All maps, in the order of the packet path.
pub const MAPS: [Map; 15] = [
    PORTS, FDB, VTEPS, IP_IDS, PEERS, NETWORKS, UNDERLAY, FLOWS, TXPORTS, REASONS, VNI_STATS, VTEP_STATS, HEARTBEAT,
    EVENTS, SAMPLED,
];

/// Maximum number of different UDP ports of the networks of one host.
pub const UDP_PORTS: usize = 4;

/// Bits of [`Port::flags`], [`Network::flags`], [`Peer::flags`] and [`Underlay::flags`].
pub mod flags {
    /// Frames with a spoofed source are dropped; if clear, they are passed to the kernel. In [`super::Underlay`]: a
    /// network of this host is strict.
    pub const STRICT: u32 = 1;
    /// In [`super::Port`]: outer headers have a UDP checksum.
    pub const UDP_CHECKSUM: u32 = 2;
    /// In [`super::Underlay`]: the NIC does not merge TCP segments (GRO is off).
    pub const SEGMENTS: u32 = 4;
    /// In [`super::Peer`]: the VXLAN device learns the source MAC addresses of the frames that it receives.
    pub const LEARNING: u32 = 8;
}

/// Key of `OVL_PORTS`: an interface. Interface indices are unique only within a network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct PortKey {
    /// The netns id that the daemon assigned; 0: the daemon's own netns.
    pub netns_id: u32,
    /// Interface index in that netns, host order.
    pub ifindex: u32,
}

impl PortKey {
    /// An interface in the daemon's own netns.
    #[must_use]
    pub const fn host(ifindex: u32) -> Self {
        Self { netns_id: 0, ifindex }
    }
}

/// Value of `OVL_PORTS`: a port's network and its allowed source addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Port {
    /// The network of this port, host order.
    pub vni: u32,
    /// The network's index in `OVL_VNI_STATS`.
    pub slot: u32,
    /// [`flags`].
    pub flags: u32,
    /// Allowed source IPv4 address, network order.
    pub ip: [u8; 4],
    /// Allowed source MAC address.
    pub mac: [u8; 6],
    /// Largest layer-3 packet of the network, in bytes.
    pub mtu: u16,
    /// Smallest outer UDP source port, host order.
    pub udp_src_first: u16,
    /// Number of outer UDP source ports.
    pub udp_src_span: u16,
}

/// Key of `OVL_FDB`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct FdbKey {
    /// Host order.
    pub vni: u32,
    /// MAC address in the network.
    pub mac: [u8; 6],
    padding: [u8; 2],
}

impl FdbKey {
    /// The key of a MAC address in a network.
    #[inline(always)]
    #[must_use]
    pub const fn new(vni: u32, mac: MacAddr) -> Self {
        Self { vni, mac: mac.0, padding: [0; 2] }
    }

    /// The key of an Ethernet frame's destination, from the frame's first eight bytes in memory order.
    #[inline(always)]
    #[must_use]
    pub fn from_word(vni: u32, first: u64) -> Self {
        // Three word stores instead of eight byte stores.
        let words: [u32; 2] = bytemuck::must_cast(first);
        let last = if cfg!(target_endian = "little") { words[1] & 0xffff } else { words[1] & 0xffff_0000 };
        bytemuck::must_cast([vni, words[0], last])
    }
}

/// Value of `OVL_FDB`: the location of a MAC address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FdbEntry {
    /// [`FdbEntry::REMOTE`], [`FdbEntry::LOCAL_PEER`] or [`FdbEntry::LOCAL`].
    pub kind: u16,
    /// The port's netns, as [`PortKey::netns_id`]; 0 for `REMOTE`.
    pub netns_id: u16,
    /// `REMOTE`: index into `OVL_VTEPS`. Otherwise the port's interface index in its namespace.
    pub target: u32,
    /// Interface index of the host end of the cross-netns veth (shim) to the port's netns; 0: the port is in the NIC's.
    /// `REMOTE`: the IPv4 address that belongs to the MAC, see [`FdbEntry::remote_ip`].
    pub shim_or_ip: u32,
    /// The port's key in `OVL_TXPORTS`; 0: XDP cannot deliver to it.
    pub tx: u32,
}

impl FdbEntry {
    /// Behind another VTEP.
    pub const REMOTE: u16 = 1;
    /// Behind a veth whose peer is in another network namespace: `bpf_redirect_peer`.
    pub const LOCAL_PEER: u16 = 2;
    /// Behind any other port: `bpf_redirect` to its egress.
    pub const LOCAL: u16 = 3;

    /// An entry for a MAC behind the VTEP at `index`.
    #[must_use]
    pub const fn remote(index: u32) -> Self {
        Self { kind: Self::REMOTE, netns_id: 0, target: index, shim_or_ip: 0, tx: 0 }
    }

    /// An entry for a MAC with a known IPv4 address behind the VTEP at `index`.
    #[must_use]
    pub const fn remote_with_ip(index: u32, ip: [u8; 4]) -> Self {
        Self { shim_or_ip: u32::from_ne_bytes(ip), ..Self::remote(index) }
    }

    /// The IPv4 address of a MAC behind a VTEP, in network order; all zeros: any.
    #[inline(always)]
    #[must_use]
    pub const fn remote_ip(self) -> [u8; 4] {
        self.shim_or_ip.to_ne_bytes()
    }

    /// An entry for a MAC behind a port in the daemon's own netns: `kind` is `LOCAL_PEER` or `LOCAL`.
    #[must_use]
    pub const fn local(kind: u16, ifindex: u32) -> Self {
        Self { kind, netns_id: 0, target: ifindex, shim_or_ip: 0, tx: 0 }
    }

    /// Whether the MAC is behind a port of this host.
    #[inline(always)]
    #[must_use]
    pub const fn is_local(self) -> bool {
        self.kind == Self::LOCAL_PEER || self.kind == Self::LOCAL
    }
}

/// Value of `OVL_VTEPS`: the data for encapsulation towards one VTEP, in one cache line.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Vtep {
    /// Outer headers in network order; fields that differ between packets are 0.
    pub outer: OuterHeader,
    /// Largest inner layer-3 packet that fits the route to this VTEP, in bytes.
    pub mtu: u16,
    /// Interface index towards the next hop, host order.
    pub ifindex: u32,
    /// Sum over the constant part of the outer IPv4 header: [`OuterHeader::ip_sum`].
    pub ip_sum: u32,
    /// 1: next hop, interface and MACs are known; 0: packets are passed to the kernel.
    pub resolved: u32,
}

/// Value of `OVL_IP_IDS`, in a cache line of its own.
///
/// DF is clear and routers may fragment, so each packet between two addresses needs an identification (RFC 6864 §4.2),
/// on all CPUs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Identification {
    /// The next IPv4 identification, in the lower 16 bits.
    pub next: u64,
    unused: [u64; 7],
}

/// Key of `OVL_PEERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct PeerKey {
    /// Host order.
    pub vni: u32,
    /// Source address of the outer IPv4 header, network order.
    pub addr: [u8; 4],
}

/// Value of `OVL_PEERS`: a VTEP that may send on a VNI.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Peer {
    /// The VTEP's index in `OVL_VTEPS` and `OVL_VTEP_STATS`.
    pub vtep: u32,
    /// The network's index in `OVL_VNI_STATS`.
    pub slot: u32,
    /// The MAC address of the network's VXLAN device.
    pub device_mac: [u8; 6],
    /// Largest layer-3 packet of the network, in bytes.
    pub mtu: u16,
    /// The network's UDP port, host order; 0: its packets take the kernel path.
    pub port: u16,
    /// [`flags`].
    pub flags: u16,
}

impl Peer {
    /// Whether the peer uses this UDP port and has no flags, in one comparison.
    #[inline(always)]
    #[must_use]
    pub fn is_plain(&self, port: u16) -> bool {
        let [.., port_and_flags] = bytemuck::must_cast_ref::<Self, [u32; 5]>(self);
        let expected = if cfg!(target_endian = "little") { u32::from(port) } else { u32::from(port) << 16 };
        *port_and_flags == expected
    }
}

/// Value of `OVL_NETWORKS`: a network of this host.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Network {
    /// Index in `OVL_VNI_STATS`.
    pub slot: u32,
    /// [`flags`].
    pub flags: u32,
    /// Largest layer-3 packet, in bytes.
    pub mtu: u16,
    /// UDP port, host order.
    pub port: u16,
}

/// The one value of `OVL_UNDERLAY`: destination addresses and UDP ports of this host's VXLAN packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Underlay {
    /// The address of this VTEP, network order.
    pub addr: [u8; 4],
    /// The MAC address of the NIC.
    pub mac: [u8; 6],
    /// UDP ports of the networks, host order; unused elements repeat the first.
    pub ports: [u16; UDP_PORTS],
    /// [`flags`].
    pub flags: u16,
    /// The NIC's interface index, host order.
    pub ifindex: u32,
}

impl Underlay {
    /// A host that receives at `addr` through the NIC `ifindex` with `mac`, on `ports`; `None` if there are no ports or
    /// more than [`UDP_PORTS`].
    #[must_use]
    pub fn new(addr: [u8; 4], mac: MacAddr, ifindex: u32, ports: &[u16]) -> Option<Self> {
        let mut all = [*ports.first()?; UDP_PORTS];
        all.get_mut(..ports.len())?.copy_from_slice(ports);
        Some(Self { addr, mac: mac.0, ports: all, flags: 0, ifindex })
    }

    /// Whether a network of this host uses `port` (host order).
    #[inline(always)]
    #[must_use]
    pub const fn has_port(&self, port: u16) -> bool {
        let [a, b, c, d] = self.ports;
        port == a || port == b || port == c || port == d
    }
}

/// Value of `OVL_FLOWS`: whether flows from the underlay take the kernel path.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Flow {
    /// Tick of the last packet that counted or took the kernel path: the lower bits of `bpf_jiffies64`.
    pub jiffies: u32,
    /// TCP: large segments in that tick, without a super-packet between them. [`Flow::MANY`]: the flow takes the kernel
    /// path.
    pub packets: u32,
}

impl Flow {
    /// From this number of segments in a tick on, the kernel can merge what the NIC does not.
    pub const MANY: u32 = 16;
    /// Length of a large segment from the outer Ethernet header on, in bytes.
    pub const LARGE: u32 = 1_000;
    /// A flow returns after this number of ticks without a packet: longer than the kernel has packets in its queues.
    pub const PAUSE: u32 = 64;

    /// Whether packets take the kernel path at the tick `now`.
    #[inline(always)]
    #[must_use]
    pub const fn takes_kernel_path(&self, now: u32) -> bool {
        self.packets >= Self::MANY && now.wrapping_sub(self.jiffies) < Self::PAUSE
    }
}

/// The one value of `OVL_HEARTBEAT`: the heartbeat deadline and the epoch.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Heartbeat {
    /// Learned state is valid only in the epoch in which it was learned. The daemon writes [`Heartbeat::FIRST_EPOCH`]
    /// to a new map; restarts and other layouts keep the epoch.
    pub epoch: u64,
    /// Deadline in ticks of `bpf_jiffies64`, host order; 0: none. The programs compare with this field.
    pub deadline_jiffies: u64,
    /// The same deadline in ns of `CLOCK_MONOTONIC_COARSE`, host order, for user space, which cannot read ticks.
    pub deadline_ns: u64,
}

impl Heartbeat {
    /// The epoch of a new map. An all-zero entry is not valid in it.
    pub const FIRST_EPOCH: u64 = 1;

    /// Whether the deadline has passed at the tick `now`.
    #[inline(always)]
    #[must_use]
    pub const fn is_expired(self, now: u64) -> bool {
        self.deadline_jiffies != 0 && now > self.deadline_jiffies
    }
}

/// Value of `OVL_REASONS`, and one direction of [`Traffic`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Count {
    /// Packets on the wire: each segment of a GSO super-packet counts.
    pub packets: u64,
    /// Bytes as received by the program, from the Ethernet header on.
    pub bytes: u64,
}

impl Count {
    /// Adds one packet, or the segments of one super-packet.
    #[inline(always)]
    pub fn add(&mut self, packets: u64, bytes: u64) {
        self.packets = self.packets.wrapping_add(packets);
        self.bytes = self.bytes.wrapping_add(bytes);
    }
}

/// Value of `OVL_SAMPLED`: the rate limit of the samples of one reason in `OVL_EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Sampled {
    /// Earliest time of the next sample, in ticks of `bpf_jiffies64`, host order.
    pub next_jiffies: u64,
    /// Packets not sampled since the last sample.
    pub skipped: u64,
    /// Samples lost because `OVL_EVENTS` was full.
    pub lost: u64,
}

/// Value of `OVL_VNI_STATS` and `OVL_VTEP_STATS`: traffic on the fast path.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Traffic {
    /// Inner frames sent by containers of this host.
    pub tx: Count,
    /// Inner frames delivered from the underlay to containers of this host.
    pub rx: Count,
}

impl Traffic {
    /// Traffic in both directions.
    #[must_use]
    pub const fn new(tx: Count, rx: Count) -> Self {
        Self { tx, rx }
    }
}

// Offsets that are the same in every layout.
const _: () = assert!(
    core::mem::offset_of!(Network, slot) == 0
        && core::mem::offset_of!(Vtep, outer) == 0
        && size_of::<OuterHeader>() == 50
        && core::mem::offset_of!(Count, packets) == 0
        && core::mem::offset_of!(Traffic, tx) == 0
        && core::mem::offset_of!(Traffic, rx) == 16
        && core::mem::offset_of!(Heartbeat, epoch) == 0
);

#[cfg(feature = "user")]
mod user {
    macro_rules! pod {
        ($($t:ty),*) => { $(
            // SAFETY: the type implements bytemuck::Pod: any bytes are a value, and there is no padding.
            unsafe impl aya::Pod for $t {}
        )* };
    }
    pod!(
        super::PortKey,
        super::Port,
        super::FdbKey,
        super::FdbEntry,
        super::Vtep,
        super::Identification,
        super::PeerKey,
        super::Peer,
        super::Network,
        super::Underlay,
        super::Flow,
        super::Heartbeat,
        super::Count,
        super::Sampled,
        super::Traffic
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_names_fit_15_characters() {
        for map in MAPS {
            assert!(map.name.len() <= 15, "{}", map.name);
        }
    }

    #[test]
    fn reasons_map_holds_every_reason() {
        assert!(crate::Reason::ALL.len() <= REASONS.entries as usize);
    }

    #[test]
    fn vtep_fills_one_cache_line() {
        assert_eq!(size_of::<Vtep>(), 64);
    }

    #[test]
    fn fdb_key_is_read_from_frame() {
        let frame = [2, 0x42, 10, 0, 1, 6, 0xaa, 0xbb];
        let expected = FdbKey::new(4097, MacAddr([2, 0x42, 10, 0, 1, 6]));
        assert_eq!(FdbKey::from_word(4097, u64::from_ne_bytes(frame)), expected);
    }

    #[test]
    fn peer_is_plain_on_its_port_without_flags() {
        let peer = Peer { vtep: 1, slot: 2, device_mac: [2; 6], mtu: 1450, port: 4789, flags: 0 };
        assert!(peer.is_plain(4789));
        assert!(!peer.is_plain(4790) && !peer.is_plain(0));
        assert!(!Peer { flags: flags::STRICT as u16, ..peer }.is_plain(4789));
    }

    #[test]
    fn remote_ip_is_stored_in_network_order() {
        assert_eq!(FdbEntry::remote_with_ip(3, [10, 0, 1, 6]).remote_ip(), [10, 0, 1, 6]);
        assert_eq!(FdbEntry::remote(3).remote_ip(), [0; 4]);
    }

    #[test]
    fn heartbeat_expires_after_its_deadline() {
        let heartbeat = Heartbeat { epoch: 1, deadline_jiffies: 1000, deadline_ns: 0 };
        assert!(!heartbeat.is_expired(0) && !heartbeat.is_expired(1000));
        assert!(heartbeat.is_expired(1001));
        assert!(!Heartbeat::default().is_expired(u64::MAX));
    }

    #[test]
    fn underlay_has_only_its_ports() {
        let underlay = Underlay::new([192, 168, 1, 9], MacAddr::default(), 2, &[4789, 8472]).unwrap();
        assert!(underlay.has_port(4789) && underlay.has_port(8472));
        assert!(!underlay.has_port(0) && !underlay.has_port(4790));
        assert_eq!(Underlay::new([0; 4], MacAddr::default(), 2, &[]), None);
        assert_eq!(Underlay::new([0; 4], MacAddr::default(), 2, &[1, 2, 3, 4, 5]), None);
    }
}
