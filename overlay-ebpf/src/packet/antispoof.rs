//! Strict networks: what their ports would leave to the kernel, and what the NIC would, is looked at once more, because the
//! kernel does not ask who sends. Never on the way of a packet that is forwarded, except for [`check_inner`].

use core::mem::zeroed;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, bpf_fib_lookup as FibLookup},
    helpers::generated::bpf_fib_lookup,
};
use bytemuck::AnyBitPattern;
use overlay_common::{
    MacAddr, Reason,
    maps::{FdbEntry, FdbKey, Network, Port, PortKey, Sender, SenderKey, Underlay, flags},
    wire::{ETH_LEN, ETH_P_8021AD, ETH_P_8021Q, ETH_P_ARP, ETH_P_IPV4, IPPROTO_UDP, OVERHEAD, UDP_LEN, VXLAN_LEN},
};

use super::{
    Load, PACKET_OTHERHOST, Packet, Skb,
    inner::{self, Claim, L3},
};
use crate::{
    config,
    maps::{OVL_FDB, OVL_NETWORKS, OVL_PORTS, OVL_SENDERS, OVL_UNDERLAY},
};

/// `AF_INET`.
const AF_INET: u8 = 2;
/// The number of a VLAN in a tag.
const VLAN_ID: u32 = 0x0fff;

/// An inner frame in a strict network: whether it may come from `sender`.
///
/// # Errors
/// The reason to drop it. What is not there is left to those who read on; of a frame that ends early, bridges learn the MAC.
#[inline(always)]
pub(crate) fn check_inner(packet: Packet, vni: u32, sender: &Sender) -> Result<(), Reason> {
    let Some(claim) = Claim::read(&packet, OVERHEAD) else { return Ok(()) };
    judge(claim, vni, sender)
}

#[inline(always)]
fn judge(claim: Claim, vni: u32, sender: &Sender) -> Result<(), Reason> {
    // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
    let entry = match unsafe { OVL_FDB.get(FdbKey::new(vni, MacAddr(claim.mac))) } {
        Some(entry) if entry.kind == FdbEntry::REMOTE && entry.target == sender.vtep => *entry,
        _ => return Err(Reason::StrictVtep),
    };
    let known = entry.remote_ip();
    match claim.l3 {
        L3::Tagged => Err(Reason::StrictVlan),
        L3::Arp(mac, ip) if mac != claim.mac || !may_say(ip, known) => Err(Reason::StrictArp),
        L3::Ipv4(ip) if known != [0; 4] && ip != known => Err(Reason::StrictInnerIp),
        _ => Ok(()),
    }
}

/// Whether ARP may name `ip` as its sender's: its own, or none, as somebody does who asks whether an address is free
/// (RFC 5227).
#[inline(always)]
fn may_say(ip: [u8; 4], known: [u8; 4]) -> bool {
    ip == known || ip == [0; 4] || known == [0; 4]
}

/// What a port leaves to the kernel for `reason`: the same reason, or that to drop it.
#[inline(always)]
pub(crate) fn at_port(skb: *mut __sk_buff, reason: Reason) -> Reason {
    // SAFETY: the context pointer is valid for the whole program.
    let key = PortKey { site: config::site(), ifindex: unsafe { (*skb).ifindex } };
    // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
    let Some(port) = (unsafe { OVL_PORTS.get(key) }) else { return reason };
    let is_strict = port.flags & flags::STRICT != 0;
    if is_strict && matches!(reason, Reason::Vlan) {
        return Reason::StrictVlan;
    }
    // SAFETY: as above.
    let refused = match u16::from_be(unsafe { (*skb).protocol } as u16) {
        ETH_P_ARP if is_strict => lies(Skb(skb), port),
        ETH_P_IPV4 => injects(Skb(skb), port, is_strict),
        // A port that is not strict may send tags, but not hide VXLAN behind them.
        ETH_P_8021Q | ETH_P_8021AD if is_strict_host() && has_second_tag_of_none(skb) => Some(Reason::StrictVlan),
        _ => None,
    };
    refused.unwrap_or(reason)
}

/// ARP that speaks for somebody else.
#[inline(always)]
fn lies(skb: Skb, port: &Port) -> Option<Reason> {
    let (mac, ip) = inner::arp_sender(&skb, 0)?;
    if mac != port.mac || !may_say(ip, port.ip) { Some(Reason::StrictArp) } else { None }
}

/// UDP for a VXLAN port that the kernel would take or route: whoever is at the other end, this host's own VXLAN device
/// perhaps, may hold it for a VTEP's. Within the network it is traffic like any other. From a port that is not strict only
/// what is for a strict network is refused: of one that is not here no other host takes anything from this one.
#[inline(always)]
fn injects(skb: Skb, port: &Port, is_strict: bool) -> Option<Reason> {
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
    let inside = !MacAddr(key.mac).is_group() && unsafe { OVL_FDB.get(key) }.is_some();
    let refused = !inside
        && match udp.network() {
            _ if is_strict => true,
            Some(network) => network.flags & flags::STRICT != 0,
            None => udp.has_more && udp.vni().is_none(),
        };
    if refused { Some(Reason::StrictVxlan) } else { None }
}

/// An IPv4 packet with a UDP header: no fragment, or the first one. A datagram without its first is none.
struct Udp {
    skb: Skb,
    src: [u8; 4],
    dst: [u8; 4],
    has_more: bool,
    /// Destination port.
    port: u16,
    /// Offset of what is behind the UDP header, in bytes.
    payload: usize,
    /// Offset of the end, by the IPv4 header: what the kernel cuts off says nothing about what it takes.
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
        // Of a fragment that others follow the kernel takes whole units of eight bytes (`ip_frag_queue`).
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

    /// The VNI of a VXLAN packet, if it is in this fragment.
    #[inline(always)]
    fn vni(&self) -> Option<u32> {
        self.load(self.payload + 4).map(|word| u32::from_be_bytes(word) >> 8)
    }

    /// The network of a VXLAN packet, if this host is in it.
    #[inline(always)]
    fn network(&self) -> Option<&'static Network> {
        // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
        unsafe { OVL_NETWORKS.get(self.vni()?) }
    }
}

/// Reasons for which the NIC leaves packets to the kernel that its VXLAN device may get all the same.
const SIDE_WAYS: u64 = 1 << Reason::NotOurAddress as u32
    | 1 << Reason::IpOptions as u32
    | 1 << Reason::Fragment as u32
    | 1 << Reason::Malformed as u32;

/// Whether more has to be done about a packet of the NIC that is refused for `reason` than to count it.
#[inline(always)]
pub(crate) fn concerns_nic(reason: Reason) -> bool {
    SIDE_WAYS >> reason as u32 & 1 != 0 || reason.is_sampled()
}

/// Why a tagged packet on the NIC is refused: the kernel looks behind tags of VLAN 0.
#[inline(never)]
pub(crate) fn tagged(skb: *mut __sk_buff) -> Reason {
    // SAFETY: the context pointer is valid for the whole program.
    let (protocol, vlan, kind) = unsafe { ((*skb).protocol, (*skb).vlan_tci & VLAN_ID, (*skb).pkt_type) };
    match u16::from_be(protocol as u16) {
        _ if vlan != 0 || kind == PACKET_OTHERHOST => Reason::NotVxlan,
        ETH_P_IPV4 => strict_on_nic(skb, Reason::NotVxlan),
        ETH_P_8021Q | ETH_P_8021AD if is_strict_host() && has_second_tag_of_none(skb) => Reason::StrictVlan,
        _ => Reason::NotVxlan,
    }
}

/// Whether the tag that was taken off and the one that is still in the packet are of VLAN 0. No honest packet has two of
/// these, and the kernel takes off as many as there are.
#[inline(always)]
fn has_second_tag_of_none(skb: *mut __sk_buff) -> bool {
    // SAFETY: the context pointer is valid for the whole program.
    let first = unsafe { (*skb).vlan_present != 0 && (*skb).vlan_tci & VLAN_ID == 0 };
    first && Skb(skb).load(ETH_LEN).is_some_and(|tag| u32::from(u16::from_be_bytes(tag)) & VLAN_ID == 0)
}

/// Whether a network of this host is strict.
#[inline(always)]
fn is_strict_host() -> bool {
    OVL_UNDERLAY.get(0).is_some_and(|underlay| underlay.flags & flags::STRICT as u16 != 0)
}

/// What the NIC leaves to the kernel for `reason`: the same reason, or that to drop it.
///
/// The kernel puts fragments together, accepts options, cuts off what trails, takes what is for any address of the host,
/// and looks behind a tag of VLAN 0. Its VXLAN device delivers all that without asking who sends.
#[inline(always)]
pub(crate) fn at_nic(skb: *mut __sk_buff, reason: Reason) -> Reason {
    // SAFETY: the context pointer is valid for the whole program.
    if SIDE_WAYS >> reason as u32 & 1 == 0 || unsafe { (*skb).pkt_type } == PACKET_OTHERHOST {
        return reason;
    }
    strict_on_nic(skb, reason)
}

#[inline(always)]
fn strict_on_nic(skb: *mut __sk_buff, reason: Reason) -> Reason {
    match OVL_UNDERLAY.get(0) {
        Some(underlay) if underlay.flags & flags::STRICT as u16 != 0 => received(Skb(skb), underlay).unwrap_or(reason),
        _ => reason,
    }
}

/// The reason to drop what the kernel would take for a packet of a strict network.
#[inline(always)]
fn received(skb: Skb, underlay: &Underlay) -> Option<Reason> {
    let udp = Udp::read(skb)?;
    if !underlay.has_port(udp.port) || (udp.dst != underlay.addr && !is_local(&udp)) {
        return None;
    }
    // A fragment that ends too early hides something; a whole packet that does is nothing to the kernel either.
    let hidden = if udp.has_more { Some(Reason::StrictFragment) } else { None };
    let Some(vni) = udp.vni() else { return hidden };
    // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
    let network = unsafe { OVL_NETWORKS.get(vni) }?;
    if network.flags & flags::STRICT == 0 {
        return None;
    }
    // SAFETY: as above.
    let Some(sender) = (unsafe { OVL_SENDERS.get(SenderKey { vni, addr: udp.src }) }) else {
        return Some(Reason::StrictSender);
    };
    let Some(claim) = Claim::read(&udp, udp.payload + VXLAN_LEN) else { return hidden };
    if matches!(claim.l3, L3::Truncated) && udp.has_more {
        return hidden;
    }
    judge(claim, vni, sender).err()
}

/// Whether the kernel keeps a packet for this address, instead of routing it on.
#[inline(always)]
fn is_local(udp: &Udp) -> bool {
    // Of groups it may be a member, and a limited broadcast it takes from everywhere, with a source or from nobody to
    // nobody (`ip_route_input_slow`); the look-up finds routes alone.
    let is_broadcast = udp.dst == [0xff; 4] || (udp.dst == [0; 4] && udp.src == [0; 4]);
    if is_broadcast || udp.dst[0] >> 4 == 14 {
        return true;
    }
    // SAFETY: all-zero is a value of this plain C structure.
    let mut lookup: FibLookup = unsafe { zeroed() };
    lookup.family = AF_INET;
    lookup.l4_protocol = IPPROTO_UDP;
    let Skb(skb) = udp.skb;
    // SAFETY: the context pointer is valid for the whole program.
    lookup.ifindex = unsafe { (*skb).ifindex };
    lookup.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(udp.src);
    lookup.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(udp.dst);
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: the context pointer is valid, and the parameters are of the size given.
    let found = unsafe { bpf_fib_lookup(skb.cast(), &raw mut lookup, size, 0) };
    found == BPF_FIB_LKUP_RET_NOT_FWDED.into() || found == BPF_FIB_LKUP_RET_FWD_DISABLED.into()
}
