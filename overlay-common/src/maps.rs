//! Keys and values of the BPF maps.
//!
//! Addresses are byte arrays in network order. Numbers (VNI, interface index, UDP port, MTU) are in host order, so that
//! `bpftool map dump` shows them as people write them. MAC addresses are plain arrays, because a newtype would show as
//! a structure of its own. No type has hidden padding: the kernel hashes every byte of a key.
//!
//! A change of a key or a value that a program of an earlier version would misread raises [`LAYOUT`]. The daemon fills maps
//! of another layout from its configuration, except for state that only the maps hold, whose place is the same in every
//! layout: [`Network`] begins with `slot`, [`Vtep`] with the outer header, [`Count`] and [`Traffic`] are `u64`s that are
//! added to at the end alone, [`Heartbeat`] begins with `epoch`, and a [`crate::Reason`] keeps its number.

use bytemuck::{Pod, Zeroable};

use crate::{outer::OuterHeader, wire::MacAddr};

/// Version of the keys and values, as `record/layout:` in the pin root records it.
pub const LAYOUT: u32 = 3;

/// How the contents of a map survive when other maps take its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The daemon writes it. Maps that take its place are filled anew.
    Planned,
    /// The programs write it, and no plan has it. Maps of the same layout are used again.
    Learned,
    /// The programs count in it. Maps that take its place continue from its values.
    Counter,
}

/// A BPF map, as programs, daemon and operators know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Its name in `bpftool map` and below the pin root.
    pub name: &'static str,
    /// How its contents survive.
    pub class: Class,
    /// Most entries; bytes of a ring buffer.
    pub entries: u32,
    /// Bytes at the beginning of a value that maps of another layout or size take over: indices, headers, the epoch.
    pub numbered: usize,
}

const fn map(name: &'static str, class: Class, entries: u32) -> Map {
    Map { name, class, entries, numbered: 0 }
}

/// [`PortKey`] → [`Port`].
pub const PORTS: Map = map("OVL_PORTS", Class::Planned, 8_192);
/// [`FdbKey`] → [`FdbEntry`]. The configuration may say another size.
pub const FDB: Map = map("OVL_FDB", Class::Planned, 131_072);
/// Index → [`Vtep`].
pub const VTEPS: Map = Map { numbered: size_of::<OuterHeader>(), ..map("OVL_VTEPS", Class::Planned, 8_192) };
/// [`PeerKey`] → [`Peer`].
pub const PEERS: Map = map("OVL_PEERS", Class::Planned, 65_536);
/// VNI → [`Network`].
pub const NETWORKS: Map = Map { numbered: size_of::<u32>(), ..map("OVL_NETWORKS", Class::Planned, 4_096) };
/// 0 → [`Underlay`].
pub const UNDERLAY: Map = map("OVL_UNDERLAY", Class::Planned, 1);
/// [`FdbEntry::tx`] → the device that XDP redirects to.
pub const TXPORTS: Map = map("OVL_TXPORTS", Class::Planned, PORTS.entries);
/// [`crate::Reason`] → [`Count`], per CPU. There is room for more reasons, so that a new one does not change the map.
pub const REASONS: Map = map("OVL_REASONS", Class::Counter, 64);
/// [`Network::slot`] → [`Traffic`], per CPU.
pub const VNI_STATS: Map = map("OVL_VNI_STATS", Class::Counter, NETWORKS.entries);
/// VTEP index → [`Traffic`], per CPU.
pub const VTEP_STATS: Map = map("OVL_VTEP_STATS", Class::Counter, VTEPS.entries);
/// 0 → [`Heartbeat`].
pub const HEARTBEAT: Map = Map { numbered: size_of::<u64>(), ..map("OVL_HEARTBEAT", Class::Planned, 1) };
/// Samples of refused packets: a ring buffer of [`crate::Event`]s, about 740 of them. A power of two, and of every page
/// size a multiple.
pub const EVENTS: Map = map("OVL_EVENTS", Class::Learned, 1 << 17);
/// [`crate::Reason`] → [`Sampled`], per CPU.
pub const SAMPLED: Map = map("OVL_SAMPLED", Class::Learned, REASONS.entries);

/// Every map, in the order of the packet path.
pub const MAPS: [Map; 13] =
    [PORTS, FDB, VTEPS, PEERS, NETWORKS, UNDERLAY, TXPORTS, REASONS, VNI_STATS, VTEP_STATS, HEARTBEAT, EVENTS, SAMPLED];

/// Most different UDP ports that the networks of one host can use.
pub const UDP_PORTS: usize = 4;

/// Bits of [`Port::flags`], [`Network::flags`], [`Peer::flags`] and [`Underlay::flags`].
pub mod flags {
    /// Frames with a spoofed source are dropped; without it they are passed to the kernel. Of the underlay: a network of this
    /// host is strict.
    pub const STRICT: u32 = 1;
}

/// Key of `OVL_PORTS`: an interface. Interface indices are unique within a network namespace only.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct PortKey {
    /// The network namespace, by the daemon's own numbers; 0: the daemon's.
    pub netns_id: u32,
    /// Interface index in that namespace, host order.
    pub ifindex: u32,
}

impl PortKey {
    /// An interface of the daemon's own namespace.
    #[must_use]
    pub const fn host(ifindex: u32) -> Self {
        Self { netns_id: 0, ifindex }
    }
}

/// Value of `OVL_PORTS`: the source that may send through a port, and its network.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Port {
    /// The network of this port, host order.
    pub vni: u32,
    /// The network's index in `OVL_VNI_STATS`.
    pub slot: u32,
    /// [`flags`].
    pub flags: u32,
    /// The IPv4 address that may send through this port, network order.
    pub ip: [u8; 4],
    /// The MAC address that may send through this port.
    pub mac: [u8; 6],
    /// Largest layer-3 packet of the network, in bytes.
    pub mtu: u16,
}

/// Key of `OVL_FDB`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct FdbKey {
    /// Host order.
    pub vni: u32,
    /// Destination MAC address of the inner frame.
    pub mac: [u8; 6],
    padding: [u8; 2],
}

impl FdbKey {
    /// The key of one MAC address in one network.
    #[inline(always)]
    #[must_use]
    pub const fn new(vni: u32, mac: MacAddr) -> Self {
        Self { vni, mac: mac.0, padding: [0; 2] }
    }

    /// The key of the destination of an Ethernet frame, from the frame's first eight bytes in memory order.
    #[inline(always)]
    #[must_use]
    pub fn from_word(vni: u32, first: u64) -> Self {
        // Three word stores instead of eight byte stores.
        let words: [u32; 2] = bytemuck::must_cast(first);
        let last = if cfg!(target_endian = "little") { words[1] & 0xffff } else { words[1] & 0xffff_0000 };
        bytemuck::must_cast([vni, words[0], last])
    }
}

/// Value of `OVL_FDB`: where a MAC address is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FdbEntry {
    /// [`FdbEntry::REMOTE`], [`FdbEntry::LOCAL_PEER`] or [`FdbEntry::LOCAL`].
    pub kind: u16,
    /// The port's network namespace, as [`PortKey::netns_id`]; 0 for `REMOTE`.
    pub netns_id: u16,
    /// `REMOTE`: index into `OVL_VTEPS`. Otherwise the port's interface index in its namespace.
    pub target: u32,
    /// Interface index of the host end of the shim that leads to the port's namespace; 0: the port is in the NIC's.
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

    /// An entry for a MAC behind the VTEP at `index`, whose IPv4 address is known.
    #[must_use]
    pub const fn remote_with_ip(index: u32, ip: [u8; 4]) -> Self {
        Self { shim_or_ip: u32::from_ne_bytes(ip), ..Self::remote(index) }
    }

    /// The IPv4 address that belongs to a MAC behind a VTEP, as it is on the wire; all zeros: any.
    #[inline(always)]
    #[must_use]
    pub const fn remote_ip(self) -> [u8; 4] {
        self.shim_or_ip.to_ne_bytes()
    }

    /// An entry for a MAC behind a port of the daemon's own namespace: `kind` is `LOCAL_PEER` or `LOCAL`.
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

/// Value of `OVL_VTEPS`: all that encapsulation towards one VTEP needs, in one cache line.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Vtep {
    /// Headers as they go on the wire, with the fields of the single packet left 0.
    pub outer: OuterHeader,
    /// Largest inner layer-3 packet that fits the route to this VTEP, in bytes.
    pub mtu: u16,
    /// The interface that the next hop is behind, host order.
    pub ifindex: u32,
    /// Sum over the constant part of the outer IPv4 header: [`OuterHeader::ip_sum`].
    pub ip_sum: u32,
    /// 1 when next hop, interface and MACs are known; 0 passes packets to the kernel.
    pub resolved: u32,
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
    /// The network's UDP port, host order.
    pub port: u16,
    /// [`flags`].
    pub flags: u16,
}

impl Peer {
    /// Whether the peer uses this UDP port and is not strict, with one comparison.
    #[inline(always)]
    #[must_use]
    pub fn is_plain(&self, port: u16) -> bool {
        let [_, _, port_and_flags] = bytemuck::must_cast_ref::<Self, [u32; 3]>(self);
        let expected = if cfg!(target_endian = "little") { u32::from(port) } else { u32::from(port) << 16 };
        *port_and_flags == expected
    }
}

/// Value of `OVL_NETWORKS`: the networks that this host takes part in.
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

/// The one value of `OVL_UNDERLAY`: the addresses and UDP ports of packets on the NIC that are for this host.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Underlay {
    /// The address of this VTEP, network order.
    pub addr: [u8; 4],
    /// The MAC address of the NIC.
    pub mac: [u8; 6],
    /// UDP ports of the networks, host order; unused places repeat the first.
    pub ports: [u16; UDP_PORTS],
    /// [`flags`].
    pub flags: u16,
    /// The NIC's interface index, host order.
    pub ifindex: u32,
}

impl Underlay {
    /// A host that receives at `addr` through the NIC `ifindex` with `mac`, on `ports`; `None` for no ports or more than
    /// [`UDP_PORTS`].
    #[must_use]
    pub fn new(addr: [u8; 4], mac: MacAddr, ifindex: u32, ports: &[u16]) -> Option<Self> {
        let mut all = [*ports.first()?; UDP_PORTS];
        all.get_mut(..ports.len())?.copy_from_slice(ports);
        Some(Self { addr, mac: mac.0, ports: all, flags: 0, ifindex })
    }

    /// Whether `port` (host order) is one of ours.
    #[inline(always)]
    #[must_use]
    pub const fn has_port(&self, port: u16) -> bool {
        let [a, b, c, d] = self.ports;
        port == a || port == b || port == c || port == d
    }
}

/// The one value of `OVL_HEARTBEAT`: until when the programs trust the maps, and the epoch.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Heartbeat {
    /// What the programs learn is valid in the epoch in which they learned it. The daemon writes
    /// [`Heartbeat::FIRST_EPOCH`] into a new map; restarts and other layouts keep the epoch.
    pub epoch: u64,
    /// The kernel's ticks, as `bpf_jiffies64` counts them, host order; 0: for ever. What the programs compare with.
    pub deadline_jiffies: u64,
    /// The same in ns of `CLOCK_MONOTONIC_COARSE`, host order, for the daemon and for operators: only programs can read
    /// ticks.
    pub deadline_ns: u64,
}

impl Heartbeat {
    /// The epoch that a new map begins with: no entry of a map that is all zeros is valid in it.
    pub const FIRST_EPOCH: u64 = 1;

    /// Whether the maps may no longer be trusted at the tick `now`.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(self, now: u64) -> bool {
        self.deadline_jiffies != 0 && now > self.deadline_jiffies
    }
}

/// Value of `OVL_REASONS`, and half of [`Traffic`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Count {
    /// Packets as they are on the wire: a GSO super-packet counts as its segments.
    pub packets: u64,
    /// Bytes as the program saw them, from the Ethernet header on.
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

/// Value of `OVL_SAMPLED`: when the next packet of a reason may be sampled into `OVL_EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Sampled {
    /// The kernel's ticks, as `bpf_jiffies64` counts them, host order.
    pub next_jiffies: u64,
    /// Packets within the interval since the last sample.
    pub skipped: u64,
    /// Samples lost because `OVL_EVENTS` was full.
    pub lost: u64,
}

/// Value of `OVL_VNI_STATS` and `OVL_VTEP_STATS`: what the fast path carried.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Traffic {
    /// Sent by containers of this host, inner frames.
    pub tx: Count,
    /// Delivered to containers of this host from the underlay, inner frames.
    pub rx: Count,
}

impl Traffic {
    /// Of both ways.
    #[must_use]
    pub const fn new(tx: Count, rx: Count) -> Self {
        Self { tx, rx }
    }
}

// What stays where it is in every layout.
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
            // SAFETY: bytemuck::Pod holds for the type: any bytes are a value, and there is no padding.
            unsafe impl aya::Pod for $t {}
        )* };
    }
    pod!(
        super::PortKey,
        super::Port,
        super::FdbKey,
        super::FdbEntry,
        super::Vtep,
        super::PeerKey,
        super::Peer,
        super::Network,
        super::Underlay,
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
    fn map_names_fit_the_kernels_15_characters() {
        for map in MAPS {
            assert!(map.name.len() <= 15, "{}", map.name);
        }
    }

    #[test]
    fn there_is_room_for_every_reason() {
        assert!(crate::Reason::ALL.len() <= REASONS.entries as usize);
    }

    #[test]
    fn a_vtep_fills_one_cache_line() {
        assert_eq!(size_of::<Vtep>(), 64);
    }

    #[test]
    fn a_key_can_be_read_off_a_frame() {
        let frame = [2, 0x42, 10, 0, 1, 6, 0xaa, 0xbb];
        let expected = FdbKey::new(4097, MacAddr([2, 0x42, 10, 0, 1, 6]));
        assert_eq!(FdbKey::from_word(4097, u64::from_ne_bytes(frame)), expected);
    }

    #[test]
    fn peer_is_plain_on_its_port_and_without_flags() {
        let peer = Peer { vtep: 1, slot: 2, port: 4789, flags: 0 };
        assert!(peer.is_plain(4789));
        assert!(!peer.is_plain(4790) && !peer.is_plain(0));
        assert!(!Peer { flags: flags::STRICT as u16, ..peer }.is_plain(4789));
    }

    #[test]
    fn the_address_of_a_remote_mac_is_kept_as_it_is_on_the_wire() {
        assert_eq!(FdbEntry::remote_with_ip(3, [10, 0, 1, 6]).remote_ip(), [10, 0, 1, 6]);
        assert_eq!(FdbEntry::remote(3).remote_ip(), [0; 4]);
    }

    #[test]
    fn a_heartbeat_is_over_after_its_deadline_or_never() {
        let heartbeat = Heartbeat { epoch: 1, deadline_jiffies: 1000, deadline_ns: 0 };
        assert!(!heartbeat.is_over(0) && !heartbeat.is_over(1000));
        assert!(heartbeat.is_over(1001));
        assert!(!Heartbeat::default().is_over(u64::MAX));
    }

    #[test]
    fn an_underlay_knows_its_ports_and_no_others() {
        let underlay = Underlay::new([192, 168, 1, 9], MacAddr::default(), 2, &[4789, 8472]).unwrap();
        assert!(underlay.has_port(4789) && underlay.has_port(8472));
        assert!(!underlay.has_port(0) && !underlay.has_port(4790));
        assert_eq!(Underlay::new([0; 4], MacAddr::default(), 2, &[]), None);
        assert_eq!(Underlay::new([0; 4], MacAddr::default(), 2, &[1, 2, 3, 4, 5]), None);
    }
}
