//! The outer packet on the NIC, as TC and XDP both read it: is it ours, and to which port does it go?

use network_types::{ip::Ipv4Hdr, udp::UdpHdr, vxlan::VxlanHdr};
use overlay_common::{
    MacAddr, Reason, ecn,
    maps::{FdbEntry, FdbKey, Sender, SenderKey, flags},
    outer::{EthWords, VXLAN_FLAG_I, fold_checksum},
    wire::{
        ENCAP_LEN, ETH_LEN, ETH_P_8021AD, ETH_P_8021Q, ETH_P_IPV4, ETH_P_IPV6, IPPROTO_UDP, IPV4_LEN, IPV6_LEN,
        OVERHEAD, UDP_LEN,
    },
};

use crate::{
    lease,
    maps::{OVL_FDB, OVL_NETWORKS, OVL_SENDERS, OVL_UNDERLAY},
    packet::{Packet, Size, antispoof},
};

const IP: usize = ETH_LEN;
const UDP: usize = IP + IPV4_LEN;
const VXLAN: usize = UDP + UDP_LEN;

/// All that is read of a packet at most: outer headers, inner Ethernet and inner IPv6.
pub(crate) const HEADERS: u32 = (ENCAP_LEN + IPV6_LEN) as u32;

/// A packet that is ours, with all that is needed to deliver its inner frame.
pub(crate) struct Received {
    pub(crate) sender: Sender,
    pub(crate) to: FdbEntry,
    /// The inner Ethernet header.
    pub(crate) eth: EthWords,
    pub(crate) is_ipv6: bool,
    /// Protocol or next header of the inner IP packet.
    pub(crate) protocol: u8,
    /// The inner codepoint to set, where the underlay marked the packet.
    pub(crate) mark: Option<u8>,
}

/// How a hook knows that a packet is addressed to this host at layer 2.
pub(crate) enum L2 {
    /// The stack has decided.
    Stack { to_host: bool },
    /// The destination MAC has to be compared with the NIC's.
    Compare,
}

/// Reads and judges a packet; changes nothing.
#[inline(always)]
pub(crate) fn receive(packet: Packet, size: Size, l2: L2) -> Result<Received, Reason> {
    let dst: *const [u8; 6] = packet.at(0).ok_or(Reason::NotVxlan)?;
    let ethertype: *const u16 = packet.at(ETH_LEN - 2).ok_or(Reason::NotVxlan)?;
    let ip: *const Ipv4Hdr = packet.at(IP).ok_or(Reason::NotVxlan)?;
    // SAFETY: bounds were checked by `at`, here and below.
    let (ethertype, ip) = unsafe { (u16::from_be(*ethertype), &*ip) };
    if ethertype != ETH_P_IPV4 || ip.proto != IPPROTO_UDP || ip.vihl >> 4 != 4 {
        return Err(Reason::NotVxlan);
    }
    if ip.vihl != 0x45 {
        return Err(Reason::IpOptions);
    }
    if ip.frags[0] & 0x3f | ip.frags[1] != 0 {
        return Err(Reason::Fragment);
    }
    let udp: *const UdpHdr = packet.at(UDP).ok_or(Reason::NotVxlan)?;
    // SAFETY: as above. The words are read as words: one load each.
    let (udp_dst, udp_len) = unsafe { (word(&raw const (*udp).dst), word(&raw const (*udp).len)) };
    let underlay = OVL_UNDERLAY.get(0).ok_or(Reason::NotVxlan)?;
    if !underlay.has_port(udp_dst) {
        return Err(Reason::NotVxlan);
    }
    let to_host = match l2 {
        L2::Stack { to_host } => to_host,
        // SAFETY: as above.
        L2::Compare => unsafe { *dst == underlay.mac },
    };
    if !to_host || ip.dst_addr != underlay.addr {
        return Err(Reason::NotOurAddress);
    }
    check_lengths(packet, size, udp_len)?;

    let vxlan: *const VxlanHdr = packet.at(VXLAN).ok_or(Reason::Truncated)?;
    // SAFETY: as above.
    let (flag_word, vni_word) =
        unsafe { (u32::from_be(*vxlan.cast::<u32>()), u32::from_be(*vxlan.cast::<u32>().add(1))) };
    if flag_word != (VXLAN_FLAG_I as u32) << 24 || vni_word & 0xff != 0 {
        let has_vni = flag_word & (VXLAN_FLAG_I as u32) << 24 != 0;
        return Err(if has_vni { Reason::VxlanReserved } else { Reason::VxlanNoVni });
    }
    let vni = vni_word >> 8;
    // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
    let Some(sender) = (unsafe { OVL_SENDERS.get(SenderKey { vni, addr: ip.src_addr }) }) else {
        return Err(not_a_sender(vni));
    };
    if !sender.is_plain(udp_dst) {
        if sender.port != udp_dst {
            return Err(Reason::WrongPort);
        }
        antispoof::check_inner(packet, vni, sender)?;
    }
    inner(packet, size, vni, *sender, ip.tos)
}

/// Reads and judges the inner frame.
#[inline(always)]
fn inner(packet: Packet, size: Size, vni: u32, sender: Sender, outer_tos: u8) -> Result<Received, Reason> {
    let first: *const u64 = packet.at(OVERHEAD).ok_or(Reason::Truncated)?;
    let last: *const u64 = packet.at(ENCAP_LEN - 8).ok_or(Reason::Truncated)?;
    let ethertype: *const u16 = packet.at(ENCAP_LEN - 2).ok_or(Reason::Truncated)?;
    // SAFETY: bounds were checked by `at`, here and below.
    let (eth, ethertype) = unsafe { (EthWords { first: *first, last: *last }, u16::from_be(*ethertype)) };
    let key = FdbKey::from_word(vni, eth.first);
    let is_ipv6 = match ethertype {
        ETH_P_IPV4 => false,
        ETH_P_IPV6 => true,
        ETH_P_8021Q | ETH_P_8021AD => return Err(Reason::Vlan),
        _ => return Err(Reason::NotIp),
    };
    if MacAddr(key.mac).is_group() {
        return Err(Reason::GroupAddress);
    }
    let header_len = if is_ipv6 { IPV6_LEN } else { IPV4_LEN };
    if (size.bytes as usize) < ENCAP_LEN + header_len {
        return Err(Reason::Truncated);
    }
    let (tos, protocol) = if is_ipv6 {
        let head: *const [u8; 7] = packet.at(ENCAP_LEN).ok_or(Reason::Truncated)?;
        // SAFETY: as above.
        unsafe { ((*head)[0] << 4 | (*head)[1] >> 4, (*head)[6]) }
    } else {
        let head: *const Ipv4Hdr = packet.at(ENCAP_LEN).ok_or(Reason::Truncated)?;
        // SAFETY: as above.
        unsafe { ((*head).tos, (*head).proto) }
    };
    // SAFETY: as for the senders.
    let to = *unsafe { OVL_FDB.get(key) }.ok_or(Reason::UnknownMac)?;
    if !to.is_local() {
        return Err(Reason::NotLocal);
    }
    let codepoint = ecn::decapsulate(outer_tos, tos).ok_or(Reason::Ecn)?;
    lease::check()?;
    let mark = if codepoint == tos & ecn::MASK { None } else { Some(codepoint) };
    Ok(Received { sender, to, eth, is_ipv6, protocol, mark })
}

/// Why a sender is not known: the VNI is not ours, or it is and the sender is a stranger.
#[inline(always)]
fn not_a_sender(vni: u32) -> Reason {
    // SAFETY: as for the senders.
    match unsafe { OVL_NETWORKS.get(vni) } {
        None => Reason::UnknownVni,
        Some(network) if network.flags & flags::STRICT != 0 => Reason::StrictSender,
        Some(_) => Reason::UnknownSender,
    }
}

/// The frame is exactly as long as IPv4 and UDP say, and the IPv4 header checksum is right. The kernel would trim or
/// drop; it shall.
#[inline(always)]
fn check_lengths(packet: Packet, size: Size, udp_len: u16) -> Result<(), Reason> {
    let halves: *const [u16; IPV4_LEN / 2] = packet.at(IP).ok_or(Reason::Truncated)?;
    // SAFETY: bounds were checked by `at`.
    let halves = unsafe { &*halves };
    let total_len = u16::from_be(halves[1]);
    if u32::from(total_len) + ETH_LEN as u32 != size.bytes || u32::from(udp_len) + IPV4_LEN as u32 != total_len.into() {
        return Err(Reason::Malformed);
    }
    // The checksum does not depend on byte order (RFC 1071 §2).
    let words: *const [u32; IPV4_LEN / 4] = packet.at(IP).ok_or(Reason::Truncated)?;
    // SAFETY: bounds were checked by `at`.
    let [a, b, c, d, e] = unsafe { *words };
    let sum = u64::from(a) + u64::from(b) + u64::from(c) + u64::from(d) + u64::from(e);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    if fold_checksum(sum as u32) != 0 { Err(Reason::Malformed) } else { Ok(()) }
}

/// A big-endian half-word with a single load.
///
/// # Safety
/// `at` is inside the packet.
#[inline(always)]
unsafe fn word(at: *const [u8; 2]) -> u16 {
    // SAFETY: the caller's; BPF loads need no alignment.
    u16::from_be(unsafe { *at.cast::<u16>() })
}
