//! Completes a VTEP's outer header for one packet.
//!
//! The header is built as eight 64-bit words, so that the program needs one store per word. No helper is called, so the
//! code is tested on the host.

use crate::{
    maps::Vtep,
    outer::fold_checksum,
    wire::{ENCAP_LEN, ETH_LEN, IPPROTO_UDP, IPV4_LEN, MacAddr, OVERHEAD},
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
    /// Ones' complement sum of the inner layer-3 packet, in memory order; `None`: no UDP checksum.
    pub inner_sum: Option<u64>,
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

    /// Whether the source MAC can be that of a station: not a group address, and not zero.
    #[inline(always)]
    #[must_use]
    pub const fn source_is_unicast(self) -> bool {
        self.last & byte(1, 0) == 0 && self.source() != 0
    }

    /// Whether the source MAC is `mac`.
    #[inline(always)]
    #[must_use]
    pub const fn source_is(self, mac: MacAddr) -> bool {
        let [a, b, c, d, e, f] = mac.0;
        self.source() == u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
    }

    /// The source MAC and two bytes of zeros, in memory order.
    #[inline(always)]
    #[must_use]
    pub const fn source(self) -> u64 {
        self.last & !pair(u16::MAX, 6)
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
    let mut words = [
        t[0],
        t[1] | byte(packet.ecn, 7),
        t[2] | pair(total_len, 0) | pair(packet.id, 2),
        t[3] | pair(fold_checksum(sum), 0),
        t[4] | pair(packet.udp_src, 2) | pair(udp_len, 6),
        t[5] | pair((packet.vni >> 8) as u16, 6),
        byte(packet.vni as u8, 0) | move_back_two(eth.first),
        eth.last,
    ];
    if let Some(inner) = packet.inner_sum {
        // The pseudo-header (RFC 768): addresses, protocol, and UDP length. Bytes 32 and 33 are the last of it.
        let addresses = words[3] & !pair(u16::MAX, 0);
        let rest = word_sum(pair(IPPROTO_UDP.into(), 0)) + word_sum(pair(udp_len, 0));
        let headers = word_sum(words[4]) + word_sum(words[5]) + word_sum(words[6]) + word_sum(words[7]);
        let checksum = !fold(word_sum(addresses) + rest + headers + inner);
        // 0 means that there is no checksum.
        words[5] |= memory_pair(if checksum == 0 { u16::MAX } else { checksum }, 0);
    }
    words
}

/// Sum of the two halves of a word. The ones' complement sum does not depend on byte order (RFC 1071 §2).
#[inline(always)]
const fn word_sum(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

/// Folds a sum of less than 2⁴⁸ to 16 bits.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Places two bytes that are in memory order so that they become bytes `index` and `index + 1` of a word.
#[inline(always)]
const fn memory_pair(value: u16, index: u32) -> u64 {
    let at = if cfg!(target_endian = "little") { index } else { 6 - index };
    (value as u64) << (8 * at)
}

/// Sum of an inner IPv4 packet with a valid header checksum, without reading its payload: such a header has the sum 0,
/// and a valid checksum makes the sum of `l4_len` bytes of TCP or UDP the complement of their pseudo-header's. A checksum
/// that a device computes later is valid too. `addresses` has both addresses in memory order.
#[inline(always)]
#[must_use]
pub const fn ipv4_sum(addresses: u64, protocol: u8, l4_len: u16) -> u64 {
    let pseudo = word_sum(addresses) + word_sum(pair(protocol as u16, 0)) + word_sum(pair(l4_len, 0));
    !fold(pseudo) as u64
}

/// Sum of an inner IPv6 packet with a valid TCP, UDP or ICMPv6 checksum: addresses and length are in the header and in
/// the pseudo-header. `first` has the first eight bytes of the header in memory order.
#[inline(always)]
#[must_use]
pub const fn ipv6_sum(first: u64, next_header: u8) -> u64 {
    let without_length = first & !pair(u16::MAX, 4);
    word_sum(without_length) + (u16::MAX - fold(word_sum(pair(next_header as u16, 0)))) as u64
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
            payload_sum in proptest::option::of(0u16..),
        ) {
            let mut outer = OuterHeader::template(src, dst, udp_port);
            outer.eth_dst = macs[0];
            outer.eth_src = macs[1];
            let vtep = Vtep { outer, mtu: 1450, ifindex: 7, ip_sum: outer.ip_sum(), resolved: 1 };
            let inner_sum = payload_sum.map(|sum| u64::from(sum.to_be()));
            let packet = PerPacket { inner_len, ecn, id, udp_src, inner_sum, vni };
            let word = |at: usize| u64::from_ne_bytes(inner[at..at + 8].try_into().unwrap());
            let words = encapsulate(&vtep, EthWords { first: word(0), last: word(6) }, packet);
            let bytes = words.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<_>>();
            let mut expected = expected(&vtep, inner, packet);
            if let Some(sum) = payload_sum {
                prop_assert_ne!(&bytes[40..42], &[0, 0]);
                // The checksum over pseudo-header, UDP, headers and payload is valid.
                let udp_len = &bytes[38..40];
                let covered = [&bytes[26..], &[0, 17], udp_len, &sum.to_be_bytes()].concat();
                prop_assert_eq!(checksum(&covered), 0);
                expected[40..42].copy_from_slice(&bytes[40..42]);
            }
            prop_assert_eq!(&bytes, &expected);
            // The sum over a header with a valid checksum is zero.
            prop_assert_eq!(checksum(&bytes[14..34]), 0);
        }

        #[test]
        fn sum_of_inner_packet_follows_from_its_headers(
            addresses: [[u8; 16]; 2], tos: u8, hops: u8, protocol: bool, payload in proptest::collection::vec(0u8.., 8..200),
        ) {
            let protocol = if protocol { 6 } else { 17 };
            let sum = |bytes: &[u8]| u64::from(!checksum(bytes));
            let l4_len = u16::try_from(payload.len()).unwrap();
            let word = |bytes: &[u8]| u64::from_ne_bytes(bytes[..8].try_into().unwrap());
            // A segment with a valid checksum in its last two bytes.
            let segment = |pseudo: &[u8]| {
                let mut segment = payload.clone();
                let at = segment.len() / 2 * 2 - 2;
                segment[at..at + 2].fill(0);
                let odd = [segment.as_slice(), &[0][..segment.len() % 2]].concat();
                let valid = checksum(&[pseudo, &odd].concat()).to_be_bytes();
                segment[at..at + 2].copy_from_slice(&valid);
                if segment.len() % 2 == 1 { segment.push(0); }
                segment
            };
            let v4 = [&addresses[0][..4], &addresses[1][..4]].concat();
            let mut header = vec![0x45, tos, 0, 0, 7, 7, 0, 0, hops, protocol, 0, 0];
            header[2..4].copy_from_slice(&(l4_len + 20).to_be_bytes());
            header.extend(&v4);
            let valid = checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&valid);
            let pseudo = [v4.as_slice(), &[0, protocol], &l4_len.to_be_bytes()].concat();
            let packet = [header.as_slice(), &segment(&pseudo)].concat();
            let same = |sum: u64, bytes: &[u8]| checksum(&[bytes, &(!fold(sum)).to_ne_bytes()].concat()) == 0;
            prop_assert!(same(ipv4_sum(word(&v4), protocol, l4_len), &packet), "{}", sum(&packet));

            let mut header = vec![0x60 | tos >> 4, tos << 4, 1, 2, 0, 0, protocol, hops];
            header[4..6].copy_from_slice(&l4_len.to_be_bytes());
            let first = word(&header);
            header.extend(addresses.concat());
            let pseudo = [addresses.concat().as_slice(), &[0, protocol], &l4_len.to_be_bytes()].concat();
            let packet = [header.as_slice(), &segment(&pseudo)].concat();
            prop_assert!(same(ipv6_sum(first, protocol), &packet));
        }
    }
}
