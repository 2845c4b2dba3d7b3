//! Reads inner frames, of a container or behind outer headers. Uses no maps.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use overlay_common::{
    Reason,
    encap::{self, EthWords},
    wire::{
        ENCAP_LEN, ETH_LEN, ETH_P_8021AD, ETH_P_8021Q, ETH_P_ARP, ETH_P_IPV4, ETH_P_IPV6, IPPROTO_ICMP, IPPROTO_ICMPV6,
        IPPROTO_TCP, IPPROTO_UDP, IPV4_LEN, IPV6_LEN, ND_NEIGHBOUR_SOLICIT, OVERHEAD, UDP_LEN,
    },
};

use super::{Load, Packet, Size};

/// Offset of the sender MAC in an ARP packet for Ethernet and IPv4 (RFC 826); the sender address comes next.
const ARP_SENDER: usize = 8;

/// The parts of an inner IP header that encapsulation uses.
#[derive(Clone, Copy)]
pub(crate) struct Ip {
    /// Type of service or traffic class: DSCP and ECN.
    pub(crate) tos: u8,
    /// Offset of the layer-4 header in the frame; `None` after IPv4 options and in fragments.
    l4: Option<usize>,
    protocol: u8,
}

/// Reads an inner IPv4 header.
#[inline(always)]
pub(crate) fn ipv4(packet: Packet) -> Option<Ip> {
    let header: *const Ipv4Hdr = packet.at(ETH_LEN)?;
    // SAFETY: bounds were checked by `at`.
    let header = unsafe { &*header };
    let fragment = header.frags[0] & 0x3f | header.frags[1] != 0;
    let plain = header.vihl == 0x45 && !fragment;
    Some(Ip { tos: header.tos, l4: if plain { Some(ETH_LEN + IPV4_LEN) } else { None }, protocol: header.proto })
}

/// Reads an inner IPv6 header.
#[inline(always)]
pub(crate) fn ipv6(packet: Packet) -> Option<Ip> {
    let header: *const Ipv6Hdr = packet.at(ETH_LEN)?;
    // SAFETY: bounds were checked by `at`.
    let header = unsafe { &*header };
    Some(Ip { tos: header.vcf[0] << 4 | header.vcf[1] >> 4, l4: Some(ETH_LEN + IPV6_LEN), protocol: header.next_hdr })
}

/// Whether the frame behind the outer headers is TCP, as far as its first IP header shows.
#[inline(always)]
pub(crate) fn is_tcp(packet: Packet) -> bool {
    let protocol = match packet.load(OVERHEAD + ETH_LEN - 2).map(u16::from_be) {
        Some(ETH_P_IPV4) => packet.load(ENCAP_LEN + 9),
        Some(ETH_P_IPV6) => packet.load(ENCAP_LEN + 6),
        _ => None,
    };
    protocol == Some(IPPROTO_TCP)
}

/// The reason why an IPv6 packet at `offset` with this next header takes the kernel path: a bridge with suppression of
/// neighbour solicitations and a VXLAN device with `proxy` answer these, as they do ARP. Like the programs, they do not
/// look behind extension headers (`br_is_nd_neigh_msg` in net/bridge/br_arp_nd_proxy.c, `vxlan_xmit` in
/// drivers/net/vxlan/vxlan_core.c).
#[inline(always)]
pub(crate) fn check_solicitation(packet: Packet, offset: usize, next_header: u8) -> Result<(), Reason> {
    if next_header == IPPROTO_ICMPV6 {
        let type_and_code: [u8; 2] = packet.load(offset + IPV6_LEN).ok_or(Reason::Truncated)?;
        if type_and_code == [ND_NEIGHBOUR_SOLICIT, 0] {
            return Err(Reason::Solicitation);
        }
    }
    Ok(())
}

impl Ip {
    /// Checks an IPv6 packet of a container as [`check_solicitation`].
    #[inline(always)]
    pub(crate) fn check_solicitation(self, packet: Packet) -> Result<(), Reason> {
        check_solicitation(packet, ETH_LEN, self.protocol)
    }

    /// Ones' complement sum of the layer-3 packet in a frame of `bytes`, from its headers: they determine the sum of a
    /// payload with a valid checksum, also of one that a device computes later.
    ///
    /// # Errors
    /// `UdpChecksum`: the packet has no checksum of its own, or not all of it (a fragment), or its protocol is not
    /// known.
    #[inline(always)]
    pub(crate) fn sum(self, packet: Packet, bytes: u32) -> Result<u64, Reason> {
        let l4 = self.l4.ok_or(Reason::UdpChecksum)?;
        if self.protocol == IPPROTO_UDP {
            let checksum: u16 = packet.load(l4 + 6).ok_or(Reason::Truncated)?;
            if checksum == 0 {
                return Err(Reason::UdpChecksum);
            }
        }
        let l4_len = bytes - l4 as u32;
        let (length, sum) = if l4 == ETH_LEN + IPV6_LEN {
            let first: u64 = packet.load(ETH_LEN).ok_or(Reason::Truncated)?;
            let length: u16 = packet.load(ETH_LEN + 4).ok_or(Reason::Truncated)?;
            if !matches!(self.protocol, IPPROTO_TCP | IPPROTO_UDP | IPPROTO_ICMPV6) {
                return Err(Reason::UdpChecksum);
            }
            (u32::from(u16::from_be(length)), encap::ipv6_sum(first, self.protocol))
        } else {
            let length: u16 = packet.load(ETH_LEN + 2).ok_or(Reason::Truncated)?;
            let addresses: u64 = packet.load(ETH_LEN + 12).ok_or(Reason::Truncated)?;
            let sum = match self.protocol {
                IPPROTO_TCP | IPPROTO_UDP => encap::ipv4_sum(addresses, self.protocol, l4_len as u16),
                // ICMP has no pseudo-header.
                IPPROTO_ICMP => 0,
                _ => return Err(Reason::UdpChecksum),
            };
            (u32::from(u16::from_be(length)).wrapping_sub(IPV4_LEN as u32), sum)
        };
        // Bytes after the packet are part of the datagram.
        if length == l4_len { Ok(sum) } else { Err(Reason::UdpChecksum) }
    }

    /// Length in bytes of the layer-3 packets that a super-packet with `gso_size` is segmented into.
    #[inline(always)]
    pub(crate) fn segment_len(self, packet: Packet, gso_size: u32) -> Result<u32, Reason> {
        let l4 = self.l4.ok_or(Reason::Gso)?;
        let l4_len = match self.protocol {
            IPPROTO_TCP => {
                // The upper four bits count 32-bit words.
                let offset: u8 = packet.load(l4 + 12).ok_or(Reason::Truncated)?;
                u32::from(offset >> 4) * 4
            }
            IPPROTO_UDP => UDP_LEN as u32,
            _ => return Err(Reason::Gso),
        };
        Ok((l4 - ETH_LEN) as u32 + l4_len + gso_size)
    }
}

/// The parts of the frame behind outer headers that delivery uses.
pub(crate) struct Inner {
    pub(crate) eth: EthWords,
    pub(crate) is_ipv6: bool,
    /// Type of service or traffic class.
    pub(crate) tos: u8,
    /// Protocol or next header.
    pub(crate) protocol: u8,
}

impl Inner {
    /// Reads the frame behind outer headers.
    ///
    /// # Errors
    /// `Vlan`, `NotIp`, `GroupAddress`, `Solicitation` and `Truncated`.
    #[inline(always)]
    pub(crate) fn read(packet: Packet, size: Size) -> Result<Self, Reason> {
        let eth = ethernet(packet, OVERHEAD).ok_or(Reason::Truncated)?;
        let is_ipv6 = match u16::from_be(packet.load(ENCAP_LEN - 2).ok_or(Reason::Truncated)?) {
            ETH_P_IPV4 => false,
            ETH_P_IPV6 => true,
            ETH_P_8021Q | ETH_P_8021AD => return Err(Reason::Vlan),
            _ => return Err(Reason::NotIp),
        };
        // Bridges drop frames without a valid source (`br_handle_frame` in net/bridge/br_input.c).
        if eth.destination().is_group() || !eth.source_is_unicast() {
            return Err(Reason::GroupAddress);
        }
        let header_len = if is_ipv6 { IPV6_LEN } else { IPV4_LEN };
        if (size.bytes as usize) < ENCAP_LEN + header_len {
            return Err(Reason::Truncated);
        }
        let (tos, protocol) = if is_ipv6 {
            let head: [u8; 7] = packet.load(ENCAP_LEN).ok_or(Reason::Truncated)?;
            check_solicitation(packet, ENCAP_LEN, head[6])?;
            (head[0] << 4 | head[1] >> 4, head[6])
        } else {
            let head: [u8; IPV4_LEN] = packet.load(ENCAP_LEN).ok_or(Reason::Truncated)?;
            (head[1], head[9])
        };
        Ok(Self { eth, is_ipv6, tos, protocol })
    }
}

/// Reads the Ethernet header at `offset`.
#[inline(always)]
pub(crate) fn ethernet(packet: Packet, offset: usize) -> Option<EthWords> {
    Some(EthWords { first: packet.load(offset)?, last: packet.load(offset + ETH_LEN - 8)? })
}

/// The source addresses in a frame.
pub(crate) struct FrameSource {
    /// Source MAC.
    pub(crate) mac: [u8; 6],
    pub(crate) l3: L3,
}

/// The source in an Ethernet frame's payload.
pub(crate) enum L3 {
    /// Source address.
    Ipv4([u8; 4]),
    /// Sender MAC and address.
    Arp([u8; 6], [u8; 4]),
    /// A VLAN tag; the payload after it is not read.
    Tagged,
    /// A protocol whose source is not read.
    Other,
    /// The frame ends before its source address.
    Truncated,
}

impl FrameSource {
    /// Reads the frame at `offset`; `None` if it ends in the Ethernet header.
    #[inline(always)]
    pub(crate) fn read(bytes: &impl Load, offset: usize) -> Option<Self> {
        let mac = bytes.load(offset + 6)?;
        let l3 = match u16::from_be_bytes(bytes.load(offset + 12)?) {
            ETH_P_IPV4 => bytes.load(offset + ETH_LEN + 12).map_or(L3::Truncated, L3::Ipv4),
            ETH_P_ARP => arp_sender(bytes, offset).map_or(L3::Truncated, |(mac, ip)| L3::Arp(mac, ip)),
            ETH_P_8021Q | ETH_P_8021AD => L3::Tagged,
            _ => L3::Other,
        };
        Some(Self { mac, l3 })
    }
}

/// Reads MAC and address of the sender from the ARP frame at `offset`.
#[inline(always)]
pub(crate) fn arp_sender(bytes: &impl Load, offset: usize) -> Option<([u8; 6], [u8; 4])> {
    let [a, b, c, d, e, f, w, x, y, z] = bytes.load(offset + ETH_LEN + ARP_SENDER)?;
    Some(([a, b, c, d, e, f], [w, x, y, z]))
}
