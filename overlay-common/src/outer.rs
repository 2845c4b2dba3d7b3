//! The outer header: Ethernet, IPv4, UDP and VXLAN in front of an inner frame.
//!
//! [`OuterHeader`] is a VTEP's template; [`crate::encap`] completes it for one packet.

use bytemuck::{Pod, Zeroable};

use crate::wire::{ETH_P_IPV4, IPPROTO_UDP};

/// TTL of the outer header, and of the VXLAN devices of managed networks.
pub const TTL: u8 = 64;
/// The VXLAN flags byte with only the I flag set: "the VNI is valid" (RFC 7348 §5).
pub const VXLAN_FLAG_I: u8 = 0x08;

/// The 50 bytes in front of an inner Ethernet frame, in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct OuterHeader {
    /// Ethernet: MAC of the next hop.
    pub eth_dst: [u8; 6],
    /// Ethernet: MAC of the NIC.
    pub eth_src: [u8; 6],
    /// Ethernet: 0x0800.
    pub eth_type: [u8; 2],
    /// IPv4: version 4, five 32-bit words.
    pub version_ihl: u8,
    /// IPv4: DSCP 0 and, per packet, ECN.
    pub tos: u8,
    /// IPv4: total length, per packet.
    pub total_len: [u8; 2],
    /// IPv4: identification, per packet.
    pub id: [u8; 2],
    /// IPv4: flags and fragment offset; the kernel's VXLAN device leaves DF clear.
    pub fragment: [u8; 2],
    /// IPv4: time to live.
    pub ttl: u8,
    /// IPv4: 17, UDP.
    pub protocol: u8,
    /// IPv4: header checksum, per packet.
    pub checksum: [u8; 2],
    /// IPv4: this VTEP.
    pub src: [u8; 4],
    /// IPv4: the other VTEP.
    pub dst: [u8; 4],
    /// UDP: derived from the inner flow, per packet (RFC 7348 §5).
    pub udp_src: [u8; 2],
    /// UDP: the network's port.
    pub udp_dst: [u8; 2],
    /// UDP: length, per packet.
    pub udp_len: [u8; 2],
    /// UDP: 0, no checksum (RFC 7348 §5).
    pub udp_checksum: [u8; 2],
    /// VXLAN: [`VXLAN_FLAG_I`].
    pub vxlan_flags: u8,
    /// VXLAN: 0.
    pub vxlan_reserved1: [u8; 3],
    /// VXLAN: network identifier, per packet.
    pub vni: [u8; 3],
    /// VXLAN: 0.
    pub vxlan_reserved2: u8,
}

impl OuterHeader {
    /// The template between two VTEPs; the MACs are 0 until the next hop is known.
    #[must_use]
    pub fn template(src: [u8; 4], dst: [u8; 4], udp_port: u16) -> Self {
        Self {
            eth_type: ETH_P_IPV4.to_be_bytes(),
            version_ihl: 0x45,
            ttl: TTL,
            protocol: IPPROTO_UDP,
            src,
            dst,
            udp_dst: udp_port.to_be_bytes(),
            vxlan_flags: VXLAN_FLAG_I,
            ..Self::zeroed()
        }
    }

    /// Sum of the IPv4 header's constant 16-bit words, not folded and not complemented (RFC 1071).
    #[must_use]
    pub fn ip_sum(&self) -> u32 {
        let word = |pair: [u8; 2]| u32::from(u16::from_be_bytes(pair));
        word([self.version_ihl, 0])
            + word(self.fragment)
            + word([self.ttl, self.protocol])
            + word([self.src[0], self.src[1]])
            + word([self.src[2], self.src[3]])
            + word([self.dst[0], self.dst[1]])
            + word([self.dst[2], self.dst[3]])
    }
}

/// Folds a sum of 16-bit words to the Internet checksum (RFC 1071).
#[inline(always)]
#[must_use]
pub const fn fold_checksum(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}
