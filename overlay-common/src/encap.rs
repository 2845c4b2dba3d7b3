//! Completes a VTEP's outer header for one packet.
//!
//! The header is built as eight 64-bit words, so that the program needs one store per word. No helper is called, so the
//! code is tested on the host.

use crate::{
    maps::Vtep,
    outer::fold_checksum,
    wire::{ENCAP_LEN, ETH_LEN, IPV4_LEN, MacAddr, OVERHEAD},
};

/// Fields that differ between packets. All numbers are in host order.
#[derive(Clone, Copy, Debug)]
pub struct PerPacket {
    /// Length of the inner frame from its Ethernet header on, in bytes.
    pub inner_len: u32,
    /// Outer ECN field: [`crate::ecn::encapsulate`].
    pub ecn: u8,
    /// IPv4 identification.
    pub id: u16,
    /// UDP source port: [`crate::flow::source_port`].
    pub udp_src: u16,
    /// Network identifier.
    pub vni: u32,
}

/// The first 14 bytes of a frame, saved while headroom is added in front of them: bytes 0 to 7 and bytes 6 to 13, each
/// as one word in memory order.
#[derive(Clone, Copy, Debug)]
pub struct EthWords {
    /// Destination MAC and the first two bytes of the source MAC.
    pub first: u64,
    /// Source MAC and EtherType.
    pub last: u64,
}

impl EthWords {
    /// The destination MAC.
    #[inline(always)]
    #[must_use]
    pub const fn destination(self) -> MacAddr {
        let [a, b, c, d, e, f, ..] = self.first.to_ne_bytes();
        MacAddr([a, b, c, d, e, f])
    }

    /// Whether the source MAC is `mac`.
    #[inline(always)]
    #[must_use]
    pub const fn source_is(self, mac: MacAddr) -> bool {
        let [a, b, c, d, e, f] = mac.0;
        let mac = u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]);
        let ethertype = pair(u16::MAX, 6);
        self.last & !ethertype == mac
    }
}

/// Places `value` so that it becomes byte `index` of a word in memory order.
#[inline(always)]
const fn byte(value: u8, index: u32) -> u64 {
    let at = if cfg!(target_endian = "little") { index } else { 7 - index };
    (value as u64) << (8 * at)
}

/// Places `value` so that it becomes bytes `index` and `index + 1` of a word in memory order, big-endian.
#[inline(always)]
const fn pair(value: u16, index: u32) -> u64 {
    let at = if cfg!(target_endian = "little") { index } else { 6 - index };
    (value.to_be() as u64) << (8 * at)
}

/// Moves the first six bytes of a word to its last six, in memory order.
#[inline(always)]
const fn move_back_two(word: u64) -> u64 {
    if cfg!(target_endian = "little") { word << 16 } else { word >> 16 }
}

/// The 64 bytes in front of the inner layer-3 header: the outer headers and the inner Ethernet header, as words in
/// memory order.
///
/// `inner_len` must be at most 65535 − 36 bytes; the caller refuses larger frames.
#[inline(always)]
#[must_use]
pub fn encapsulate(vtep: &Vtep, eth: EthWords, packet: PerPacket) -> [u64; ENCAP_LEN / 8] {
    let t: &[u64; 8] = bytemuck::must_cast_ref(vtep);
    let total_len = (packet.inner_len as usize + OVERHEAD - ETH_LEN) as u16;
    let udp_len = total_len.wrapping_sub(IPV4_LEN as u16);
    let sum = vtep.ip_sum + packet.ecn as u32 + total_len as u32 + packet.id as u32;
    [
        t[0],
        t[1] | byte(packet.ecn, 7),
        t[2] | pair(total_len, 0) | pair(packet.id, 2),
        t[3] | pair(fold_checksum(sum), 0),
        t[4] | pair(packet.udp_src, 2) | pair(udp_len, 6),
        t[5] | pair((packet.vni >> 8) as u16, 6),
        byte(packet.vni as u8, 0) | move_back_two(eth.first),
        eth.last,
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::outer::OuterHeader;

    fn checksum(header: &[u8]) -> u16 {
        fold_checksum(header.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum())
    }

    /// The same header written field by field.
    fn expected(vtep: &Vtep, inner: [u8; 14], p: PerPacket) -> Vec<u8> {
        let total = u16::try_from(p.inner_len + 36).unwrap();
        let mut h = vtep.outer;
        h.tos = p.ecn;
        h.total_len = total.to_be_bytes();
        h.id = p.id.to_be_bytes();
        h.udp_src = p.udp_src.to_be_bytes();
        h.udp_len = (total - 20).to_be_bytes();
        h.vni.copy_from_slice(&p.vni.to_be_bytes()[1..]);
        h.checksum = checksum(&bytemuck::bytes_of(&h)[14..34]).to_be_bytes();
        [bytemuck::bytes_of(&h), &inner].concat()
    }

    #[test]
    fn source_mac_is_compared_in_all_six_bytes() {
        let frame = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x86, 0xdd];
        let word = |at: usize| u64::from_ne_bytes(frame[at..at + 8].try_into().unwrap());
        let eth = EthWords { first: word(0), last: word(6) };
        assert!(eth.source_is(MacAddr([7, 8, 9, 10, 11, 12])));
        for byte in 0..6 {
            let mut other = [7, 8, 9, 10, 11, 12];
            other[byte] ^= 1;
            assert!(!eth.source_is(MacAddr(other)));
        }
    }

    proptest! {
        #![proptest_config(crate::seed::property())]

        #[test]
        fn words_equal_header_written_field_by_field(
            src: [u8; 4], dst: [u8; 4], udp_port: u16, macs: [[u8; 6]; 2], inner: [u8; 14],
            inner_len in 14u32..65_500, ecn in 0u8..4, id: u16, udp_src: u16, vni in 1u32..0x0100_0000,
        ) {
            let mut outer = OuterHeader::template(src, dst, udp_port);
            outer.eth_dst = macs[0];
            outer.eth_src = macs[1];
            let vtep = Vtep { outer, mtu: 1450, ifindex: 7, ip_sum: outer.ip_sum(), resolved: 1 };
            let packet = PerPacket { inner_len, ecn, id, udp_src, vni };
            let word = |at: usize| u64::from_ne_bytes(inner[at..at + 8].try_into().unwrap());
            let words = encapsulate(&vtep, EthWords { first: word(0), last: word(6) }, packet);
            let bytes = words.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<_>>();
            prop_assert_eq!(&bytes, &expected(&vtep, inner, packet));
            // The sum over a header with a valid checksum is zero.
            prop_assert_eq!(checksum(&bytes[14..34]), 0);
        }
    }
}
