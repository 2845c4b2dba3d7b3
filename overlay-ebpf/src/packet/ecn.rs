//! Copies the underlay's congestion mark to the inner header (RFC 6040).

use network_types::ip::Ipv4Hdr;
use overlay_common::ecn::{MASK, update_checksum};

use super::{Load, Packet};

/// Sets the codepoint of the IPv4 header at `offset`; `None` when the packet ends before it.
#[inline(always)]
pub(crate) fn mark_ipv4(packet: Packet, offset: usize, codepoint: u8) -> Option<()> {
    let header: *mut Ipv4Hdr = packet.at(offset)?;
    // SAFETY: bounds were checked by `at`. The header's own sum stays what it was, so a checksum over the whole packet
    // (CHECKSUM_COMPLETE) does too.
    unsafe {
        let old = (*header).tos;
        let new = old & !MASK | codepoint;
        let checksum = u16::from_be_bytes((*header).check);
        let first = |tos: u8| u16::from_be_bytes([(*header).vihl, tos]);
        let checksum = update_checksum(checksum, first(old), first(new));
        (*header).tos = new;
        (*header).check = checksum.to_be_bytes();
    }
    Some(())
}

/// The first two bytes of the IPv6 header at `offset` with the codepoint set; `None` when the packet ends before them.
#[inline(always)]
pub(crate) fn marked_ipv6(packet: Packet, offset: usize, codepoint: u8) -> Option<[u8; 2]> {
    let [first, second]: [u8; 2] = packet.load(offset)?;
    Some([first, second & !(MASK << 4) | codepoint << 4])
}
