//! Header parsers. A function that returns an `Option` returns `None` if the slice is too short.

use overlay_common::{MacAddr, Reason};

/// Length of an Ethernet header (IEEE 802.3), in bytes.
pub(super) const ETHERNET: usize = 14;
/// EtherTypes (IEEE 802 numbers).
pub(super) const IPV4: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
pub(super) const IPV6: u16 = 0x86dd;
pub(super) const C_TAG: u16 = 0x8100;
pub(super) const S_TAG: u16 = 0x88a8;
/// Protocol numbers (IANA).
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

pub(super) fn bytes<const N: usize>(packet: &[u8], at: usize) -> Option<[u8; N]> {
    packet.get(at..at + N)?.try_into().ok()
}

pub(super) fn half(packet: &[u8], at: usize) -> Option<u16> {
    bytes(packet, at).map(u16::from_be_bytes)
}

pub(super) fn word(packet: &[u8], at: usize) -> Option<u32> {
    bytes(packet, at).map(u32::from_be_bytes)
}

/// An Ethernet header.
pub(super) struct Ethernet {
    pub(super) dst: MacAddr,
    pub(super) src: MacAddr,
    pub(super) ether_type: u16,
}

pub(super) fn ethernet(frame: &[u8]) -> Option<Ethernet> {
    Some(Ethernet { dst: MacAddr(bytes(frame, 0)?), src: MacAddr(bytes(frame, 6)?), ether_type: half(frame, 12)? })
}

/// An IPv4 header (RFC 791 §3.1) without its options.
pub(super) struct Ipv4 {
    pub(super) version: u8,
    /// In 32-bit words.
    pub(super) ihl: u8,
    pub(super) tos: u8,
    pub(super) total_len: u16,
    pub(super) more_fragments: bool,
    /// In units of eight bytes.
    pub(super) fragment_offset: u16,
    pub(super) protocol: u8,
    pub(super) src: [u8; 4],
    pub(super) dst: [u8; 4],
}

impl Ipv4 {
    pub(super) const LEN: usize = 20;

    pub(super) const fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }
}

pub(super) fn ipv4(packet: &[u8]) -> Option<Ipv4> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    Some(Ipv4 {
        version: packet.first()? >> 4,
        ihl: packet.first()? & 0xf,
        tos: *packet.get(1)?,
        total_len: half(packet, 2)?,
        more_fragments: half(packet, 6)? & MORE_FRAGMENTS != 0,
        fragment_offset: half(packet, 6)? & OFFSET,
        protocol: *packet.get(9)?,
        src: bytes(packet, 12)?,
        dst: bytes(packet, 16)?,
    })
}

/// Fields that IPv4 and IPv6 headers have in common, as far as a tunnel needs them.
pub(super) struct Inner {
    pub(super) is_ipv6: bool,
    /// Type of service, or traffic class.
    pub(super) tos: u8,
    /// Protocol, or next header.
    pub(super) protocol: u8,
}

pub(super) fn inner(ether_type: u16, packet: &[u8]) -> Option<Inner> {
    if ether_type == IPV4 {
        let ip = ipv4(packet)?;
        return Some(Inner { is_ipv6: false, tos: ip.tos, protocol: ip.protocol });
    }
    // RFC 8200 §3: version, traffic class and flow label share the first word.
    let tos = (half(packet, 0)? >> 4) as u8;
    Some(Inner { is_ipv6: true, tos, protocol: *packet.get(6)? })
}

/// RFC 4861 §4.3: a neighbour solicitation, which bridges and VXLAN devices may answer. As they do, it ignores those
/// behind extension headers.
pub(super) fn check_solicitation(ip: &Inner, l3: &[u8]) -> Result<(), Reason> {
    if !ip.is_ipv6 || ip.protocol != ICMPV6 {
        return Ok(());
    }
    match l3.get(40..42) {
        None => Err(Reason::Truncated),
        Some([135, 0]) => Err(Reason::Solicitation),
        Some(_) => Ok(()),
    }
}

/// Ones' complement sum of 16-bit words (RFC 1071); an odd last byte is the upper half of a word.
pub(super) fn ones_complement_sum(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0u16, |sum, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}
