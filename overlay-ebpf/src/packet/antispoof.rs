//! Anti-spoofing in strict networks. The kernel does not check sources, so packets are checked here before they are
//! passed to it. Forwarded packets run [`check_inner`] only.

use core::mem::zeroed;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, bpf_fib_lookup as FibLookup},
    helpers::generated::bpf_fib_lookup,
};
use bytemuck::AnyBitPattern;
use overlay_common::{
    MacAddr, Reason,
    maps::{FdbEntry, FdbKey, Network, Peer, PeerKey, Port, PortKey, Underlay, flags},
    wire::{ETH_LEN, ETH_P_8021AD, ETH_P_8021Q, ETH_P_ARP, ETH_P_IPV4, IPPROTO_UDP, OVERHEAD, UDP_LEN, VXLAN_LEN},
};

use super::{
    Load, PACKET_OTHERHOST, Packet, Skb,
    inner::{self, FrameSource, L3},
};
use crate::{
    config,
    maps::{OVL_FDB, OVL_NETWORKS, OVL_PEERS, OVL_PORTS, OVL_UNDERLAY},
};

/// `AF_INET`.
const AF_INET: u8 = 2;
/// The VLAN ID in a tag.
const VLAN_ID: u32 = 0x0fff;

/// Checks that an inner frame of a strict network may come from `peer`. A truncated frame is checked as far as it can
/// be read, because bridges learn its source MAC; the switch refuses it.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub(crate) fn check_inner(packet: Packet, vni: u32, peer: &Peer) -> Result<(), Reason> {
    let Some(source) = FrameSource::read(&packet, OVERHEAD) else { return Ok(()) };
    check_source(source, vni, peer)
}

#[inline(always)]
fn check_source(source: FrameSource, vni: u32, peer: &Peer) -> Result<(), Reason> {
    // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
    let entry = match unsafe { OVL_FDB.get(FdbKey::new(vni, MacAddr(source.mac))) } {
        Some(entry) if entry.kind == FdbEntry::REMOTE && entry.target == peer.vtep => *entry,
        _ => return Err(Reason::StrictVtep),
    };
    let known = entry.remote_ip();
    match source.l3 {
        L3::Tagged => Err(Reason::StrictVlan),
        L3::Arp(mac, ip) if mac != source.mac || !is_own_or_probe(ip, known) => Err(Reason::StrictArp),
        L3::Ipv4(ip) if known != [0; 4] && ip != known => Err(Reason::StrictInnerIp),
        _ => Ok(()),
    }
}

/// Whether ARP may have `ip` as its sender address: the known one, or none in a probe (RFC 5227).
#[inline(always)]
fn is_own_or_probe(ip: [u8; 4], known: [u8; 4]) -> bool {
    ip == known || ip == [0; 4] || known == [0; 4]
}

/// All checks of a packet of a port, whatever its path: the reason to drop it.
#[inline(always)]
pub(crate) fn check_port(skb: *mut __sk_buff) -> Option<Reason> {
    // SAFETY: the context pointer is valid for the whole program.
    let key = PortKey { netns_id: config::netns_id(), ifindex: unsafe { (*skb).ifindex } };
    // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
    let port = unsafe { OVL_PORTS.get(key) }?;
    let is_strict = port.flags & flags::STRICT != 0;
    // SAFETY: the context pointer is valid for the whole program.
    let (protocol, vlan) = unsafe { (u16::from_be((*skb).protocol as u16), (*skb).vlan_present != 0) };
    if is_strict {
        // Before other checks: bridges learn the source MAC of every frame.
        if let Some(source) = Skb(skb).load::<[u8; 6]>(6)
            && source != port.mac
        {
            return Some(Reason::StrictMac);
        }
        if vlan || matches!(protocol, ETH_P_8021Q | ETH_P_8021AD) {
            return Some(Reason::StrictVlan);
        }
        if protocol == ETH_P_IPV4
            && let Some(source) = Skb(skb).load::<[u8; 4]>(ETH_LEN + 12)
            && source != port.ip
        {
            return Some(Reason::StrictIp);
        }
    }
    refused_at_port(skb, port, is_strict)
}

/// Checks a packet of a port before it is passed to the kernel: returns `reason`, or a reason to drop it.
#[inline(always)]
pub(crate) fn at_port(skb: *mut __sk_buff, reason: Reason) -> Reason {
    // SAFETY: the context pointer is valid for the whole program.
    let key = PortKey { netns_id: config::netns_id(), ifindex: unsafe { (*skb).ifindex } };
    // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
    let Some(port) = (unsafe { OVL_PORTS.get(key) }) else { return reason };
    let is_strict = port.flags & flags::STRICT != 0;
    if is_strict && matches!(reason, Reason::Vlan) {
        return Reason::StrictVlan;
    }
    refused_at_port(skb, port, is_strict).unwrap_or(reason)
}

/// The checks of a packet beyond those of its Ethernet and IP header.
#[inline(always)]
fn refused_at_port(skb: *mut __sk_buff, port: &Port, is_strict: bool) -> Option<Reason> {
    // SAFETY: the context pointer is valid for the whole program.
    match u16::from_be(unsafe { (*skb).protocol } as u16) {
        ETH_P_ARP if is_strict => check_arp(Skb(skb), port),
        ETH_P_IPV4 => check_vxlan(Skb(skb), port, is_strict),
        // A port that is not strict may send tagged frames, but not VXLAN behind two tags of VLAN 0.
        ETH_P_8021Q | ETH_P_8021AD if is_strict_host() && has_two_priority_tags(skb) => Some(Reason::StrictVlan),
        _ => None,
    }
}

/// The reason to drop ARP whose sender is not the port's address.
#[inline(always)]
fn check_arp(skb: Skb, port: &Port) -> Option<Reason> {
    let (mac, ip) = inner::arp_sender(&skb, 0)?;
    if mac != port.mac || !is_own_or_probe(ip, port.ip) { Some(Reason::StrictArp) } else { None }
}

/// The reason to drop UDP for a VXLAN port that the kernel would receive or route: its VXLAN device, or another host's,
/// would accept the container as a VTEP. Datagrams to a MAC of the network are not affected. From a port that is not
/// strict only VXLAN for a strict network of this host is refused: other hosts refuse its packets for other strict
/// networks.
#[inline(always)]
fn check_vxlan(skb: Skb, port: &Port, is_strict: bool) -> Option<Reason> {
    let underlay = OVL_UNDERLAY.get(0)?;
    if !is_strict && underlay.flags & flags::STRICT as u16 == 0 {
        return None;
    }
    let udp = Udp::read(skb)?;
    if !underlay.has_port(udp.port) {
        return None;
    }
    let key = FdbKey::from_word(port.vni, skb.load(0)?);
    // SAFETY: as for the ports.
    let is_in_network = !MacAddr(key.mac).is_group() && unsafe { OVL_FDB.get(key) }.is_some();
    let is_refused = !is_in_network
        && match udp.network() {
            _ if is_strict => true,
            Some(network) => network.flags & flags::STRICT != 0,
            None => udp.has_more && udp.vni().is_none(),
        };
    if is_refused { Some(Reason::StrictVxlan) } else { None }
}

/// An IPv4 packet with a UDP header: unfragmented, or the first fragment. Later fragments are useless without it.
struct Udp {
    skb: Skb,
    src: [u8; 4],
    dst: [u8; 4],
    has_more: bool,
    /// Destination port.
    port: u16,
    /// Offset of the UDP payload, in bytes.
    payload: usize,
    /// Offset of the end according to the IPv4 header: the kernel trims bytes after it.
    end: usize,
}

impl Load for Udp {
    #[inline(always)]
    fn load<T: AnyBitPattern>(&self, offset: usize) -> Option<T> {
        if offset + size_of::<T>() > self.end { None } else { self.skb.load(offset) }
    }
}

impl Udp {
    #[inline(always)]
    fn read(skb: Skb) -> Option<Self> {
        let ip: [u8; 20] = skb.load(ETH_LEN)?;
        let fragment = u16::from_be_bytes([ip[6], ip[7]]);
        if ip[0] >> 4 != 4 || ip[9] != IPPROTO_UDP || fragment & 0x1fff != 0 {
            return None;
        }
        let has_more = fragment & 0x2000 != 0;
        let header_len = usize::from(ip[0] & 15) * 4;
        let len = usize::from(u16::from_be_bytes([ip[2], ip[3]])).checked_sub(header_len)?;
        // The kernel rounds a fragment with more to follow down to units of eight bytes (`ip_frag_queue`).
        let len = if has_more { len & !7 } else { len };
        let at = ETH_LEN + header_len;
        let mut udp = Self {
            skb,
            src: [ip[12], ip[13], ip[14], ip[15]],
            dst: [ip[16], ip[17], ip[18], ip[19]],
            has_more,
            port: 0,
            payload: at + UDP_LEN,
            end: at + len,
        };
        udp.port = u16::from_be_bytes(udp.load(at + 2)?);
        Some(udp)
    }

    /// The VNI of a VXLAN packet, if this fragment contains it.
    #[inline(always)]
    fn vni(&self) -> Option<u32> {
        self.load(self.payload + 4).map(|word| u32::from_be_bytes(word) >> 8)
    }

    /// The network of a VXLAN packet, if it is a network of this host.
    #[inline(always)]
    fn network(&self) -> Option<&'static Network> {
        // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
        unsafe { OVL_NETWORKS.get(self.vni()?) }
    }
}

/// Reasons to pass a packet to the kernel with which it can still reach the VXLAN device.
const REACHES_VXLAN: u64 = 1 << Reason::NotOurAddress as u32
    | 1 << Reason::IpOptions as u32
    | 1 << Reason::Fragment as u32
    | 1 << Reason::Malformed as u32
    | 1 << Reason::Segments as u32;

/// Whether a packet on the NIC that is not forwarded for `reason` must be checked or sampled.
#[inline(always)]
pub(crate) fn concerns_nic(reason: Reason) -> bool {
    REACHES_VXLAN >> reason as u32 & 1 != 0 || reason.is_sampled()
}

/// The reason for not forwarding a packet on the NIC that the kernel may receive for a strict network. The kernel
/// receives packets behind tags of VLAN 0.
#[inline(never)]
pub(crate) fn unforwarded(skb: *mut __sk_buff) -> Reason {
    // SAFETY: the context pointer is valid for the whole program.
    let (protocol, kind) = unsafe { ((*skb).protocol, (*skb).pkt_type) };
    // Kernels before 6.2 keep the ID of a removed tag.
    // SAFETY: as above.
    let vlan = unsafe { if (*skb).vlan_present == 0 { 0 } else { (*skb).vlan_tci & VLAN_ID } };
    match u16::from_be(protocol as u16) {
        _ if vlan != 0 || kind == PACKET_OTHERHOST => Reason::NotVxlan,
        ETH_P_IPV4 => strict_on_nic(skb, Reason::NotVxlan),
        ETH_P_8021Q | ETH_P_8021AD if is_strict_host() && has_two_priority_tags(skb) => Reason::StrictVlan,
        _ => Reason::NotVxlan,
    }
}

/// Whether the removed tag and the one that is still in the packet are of VLAN 0. The kernel removes any number of such
/// tags; legitimate packets have at most one.
#[inline(always)]
fn has_two_priority_tags(skb: *mut __sk_buff) -> bool {
    // SAFETY: the context pointer is valid for the whole program.
    let first = unsafe { (*skb).vlan_present != 0 && (*skb).vlan_tci & VLAN_ID == 0 };
    first && Skb(skb).load(ETH_LEN).is_some_and(|tag| u32::from(u16::from_be_bytes(tag)) & VLAN_ID == 0)
}

/// Whether a network of this host is strict.
#[inline(always)]
fn is_strict_host() -> bool {
    OVL_UNDERLAY.get(0).is_some_and(|underlay| underlay.flags & flags::STRICT as u16 != 0)
}

/// Checks a packet on the NIC before it is passed to the kernel: returns `reason`, or a reason to drop it.
///
/// The kernel reassembles fragments, accepts options, trims trailing bytes, and receives on any address of the host and
/// behind a tag of VLAN 0. Its VXLAN device delivers such packets without checking the source.
#[inline(always)]
pub(crate) fn at_nic(skb: *mut __sk_buff, reason: Reason) -> Reason {
    // SAFETY: the context pointer is valid for the whole program.
    if REACHES_VXLAN >> reason as u32 & 1 == 0 || unsafe { (*skb).pkt_type } == PACKET_OTHERHOST {
        return reason;
    }
    strict_on_nic(skb, reason)
}

/// All checks of a packet on a device that receives VXLAN, whatever its path: the reason to drop it.
#[inline(always)]
pub(crate) fn check_nic(skb: *mut __sk_buff) -> Option<Reason> {
    // SAFETY: the context pointer is valid for the whole program.
    match u16::from_be(unsafe { (*skb).protocol } as u16) {
        ETH_P_IPV4 | ETH_P_8021Q | ETH_P_8021AD => Some(unforwarded(skb)).filter(|reason| reason.is_drop()),
        _ => None,
    }
}

#[inline(always)]
fn strict_on_nic(skb: *mut __sk_buff, reason: Reason) -> Reason {
    match OVL_UNDERLAY.get(0) {
        Some(underlay) if underlay.flags & flags::STRICT as u16 != 0 => received(Skb(skb), underlay).unwrap_or(reason),
        _ => reason,
    }
}

/// The reason to drop a packet that the kernel would receive for a strict network.
#[inline(always)]
fn received(skb: Skb, underlay: &Underlay) -> Option<Reason> {
    let udp = Udp::read(skb)?;
    if !underlay.has_port(udp.port) || (udp.dst != underlay.addr && !is_local(&udp)) {
        return None;
    }
    // A fragment that is too short hides the source; the kernel refuses an unfragmented packet that is too short.
    let hidden = if udp.has_more { Some(Reason::StrictFragment) } else { None };
    let Some(vni) = udp.vni() else { return hidden };
    // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
    let network = unsafe { OVL_NETWORKS.get(vni) }?;
    if network.flags & flags::STRICT == 0 {
        return None;
    }
    // SAFETY: as above.
    let Some(peer) = (unsafe { OVL_PEERS.get(PeerKey { vni, addr: udp.src }) }) else {
        return Some(Reason::StrictPeer);
    };
    let Some(source) = FrameSource::read(&udp, udp.payload + VXLAN_LEN) else { return hidden };
    if matches!(source.l3, L3::Truncated) && udp.has_more {
        return hidden;
    }
    check_source(source, vni, peer).err()
}

/// Whether the kernel receives a packet for this address, instead of forwarding it.
#[inline(always)]
fn is_local(udp: &Udp) -> bool {
    // The host may be a member of any group, and receives limited broadcasts, also with zero addresses
    // (`ip_route_input_slow`); the FIB lookup covers routes only.
    let is_broadcast = udp.dst == [0xff; 4] || (udp.dst == [0; 4] && udp.src == [0; 4]);
    if is_broadcast || udp.dst[0] >> 4 == 14 {
        return true;
    }
    // SAFETY: all zeros is a valid value of this plain C structure.
    let mut lookup: FibLookup = unsafe { zeroed() };
    lookup.family = AF_INET;
    lookup.l4_protocol = IPPROTO_UDP;
    let Skb(skb) = udp.skb;
    // SAFETY: the context pointer is valid for the whole program.
    lookup.ifindex = unsafe { (*skb).ifindex };
    lookup.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(udp.src);
    lookup.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(udp.dst);
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: the context pointer is valid, and `size` is the size of the parameters.
    let found = unsafe { bpf_fib_lookup(skb.cast(), &raw mut lookup, size, 0) };
    found == BPF_FIB_LKUP_RET_NOT_FWDED.into() || found == BPF_FIB_LKUP_RET_FWD_DISABLED.into()
}
