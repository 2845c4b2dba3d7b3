//! Reads the outer headers of a packet on the NIC, for TC and XDP. Uses no maps; [`super::switch`] does.

use network_types::ip::Ipv4Hdr;
use overlay_common::{
    Reason,
    outer::{VXLAN_FLAG_I, fold_checksum},
    wire::{ETH_LEN, ETH_P_IPV4, IPPROTO_UDP, IPV4_LEN, UDP_LEN},
};

use super::{Load, Packet, Size};

const IP: usize = ETH_LEN;
const UDP: usize = IP + IPV4_LEN;
const VXLAN: usize = UDP + UDP_LEN;

/// The headers of a UDP datagram in an IPv4 packet without options.
pub(crate) struct Outer {
    packet: Packet,
    // Pointers: values would be spilled to the stack across map lookups, and references would be tested for null.
    mac: *const [u8; 6],
    ip: *const Ipv4Hdr,
    /// UDP destination port.
    pub(crate) port: u16,
    /// UDP length, in bytes.
    udp_len: u16,
}

impl Outer {
    /// Reads Ethernet, IPv4 and UDP.
    ///
    /// # Errors
    /// `NotVxlan` for all but UDP in IPv4, `IpOptions` and `Fragment`.
    #[inline(always)]
    pub(crate) fn read(packet: Packet) -> Result<Self, Reason> {
        let mac: *const [u8; 6] = packet.at(0).ok_or(Reason::NotVxlan)?;
        let ethertype = packet.load(ETH_LEN - 2).ok_or(Reason::NotVxlan)?;
        let ip: *const Ipv4Hdr = packet.at(IP).ok_or(Reason::NotVxlan)?;
        // SAFETY: bounds were checked by `at`.
        let header = unsafe { &*ip };
        if u16::from_be(ethertype) != ETH_P_IPV4 || header.proto != IPPROTO_UDP || header.vihl >> 4 != 4 {
            return Err(Reason::NotVxlan);
        }
        if header.vihl != 0x45 {
            return Err(Reason::IpOptions);
        }
        if header.frags[0] & 0x3f | header.frags[1] != 0 {
            return Err(Reason::Fragment);
        }
        let udp: *const [u16; 4] = packet.at(UDP).ok_or(Reason::NotVxlan)?;
        // SAFETY: as above.
        let (port, udp_len) = unsafe { (u16::from_be((*udp)[1]), u16::from_be((*udp)[2])) };
        Ok(Self { packet, mac, ip, port, udp_len })
    }

    /// Destination MAC.
    #[inline(always)]
    pub(crate) fn mac(&self) -> [u8; 6] {
        // SAFETY: bounds were checked by `read`, here and below.
        unsafe { *self.mac }
    }

    /// The IPv4 header.
    #[inline(always)]
    pub(crate) fn ip(&self) -> &Ipv4Hdr {
        // SAFETY: as above.
        unsafe { &*self.ip }
    }

    /// Checks the lengths and the IPv4 header checksum of a datagram for a VXLAN port, and reads the VNI.
    ///
    /// # Errors
    /// `Malformed`, `Truncated`, `VxlanReserved` and `VxlanNoVni`.
    #[inline(always)]
    pub(crate) fn vni(&self, size: Size) -> Result<u32, Reason> {
        self.check_lengths(size)?;
        let flag_word = u32::from_be(self.packet.load(VXLAN).ok_or(Reason::Truncated)?);
        let vni_word = u32::from_be(self.packet.load(VXLAN + 4).ok_or(Reason::Truncated)?);
        if flag_word != (VXLAN_FLAG_I as u32) << 24 || vni_word & 0xff != 0 {
            let has_vni = flag_word & (VXLAN_FLAG_I as u32) << 24 != 0;
            return Err(if has_vni { Reason::VxlanReserved } else { Reason::VxlanNoVni });
        }
        Ok(vni_word >> 8)
    }

    /// Checks that the frame, IPv4 and UDP lengths match exactly and that the IPv4 header checksum is right. The kernel
    /// trims or drops other packets.
    #[inline(always)]
    fn check_lengths(&self, size: Size) -> Result<(), Reason> {
        let total_len = u16::from_be(self.packet.load(IP + 2).ok_or(Reason::Truncated)?);
        if u32::from(total_len) + ETH_LEN as u32 != size.bytes
            || u32::from(self.udp_len) + IPV4_LEN as u32 != total_len.into()
        {
            return Err(Reason::Malformed);
        }
        // The checksum does not depend on byte order (RFC 1071 §2).
        let [a, b, c, d, e]: [u32; IPV4_LEN / 4] = self.packet.load(IP).ok_or(Reason::Truncated)?;
        let sum = u64::from(a) + u64::from(b) + u64::from(c) + u64::from(d) + u64::from(e);
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        if fold_checksum(sum as u32) != 0 { Err(Reason::Malformed) } else { Ok(()) }
    }
}
