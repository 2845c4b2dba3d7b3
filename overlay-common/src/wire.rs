//! Protocol constants, and the types of VNIs, MAC addresses and VTEP addresses.

use core::{
    fmt,
    net::{AddrParseError, Ipv4Addr},
    str::FromStr,
};

use bytemuck::{Pod, Zeroable};

/// Length of an Ethernet header without tags, in bytes.
pub const ETH_LEN: usize = 14;
/// Length of an IPv4 header without options, in bytes.
pub const IPV4_LEN: usize = 20;
/// Length of an IPv6 header without extension headers, in bytes.
pub const IPV6_LEN: usize = 40;
/// Length of a UDP header, in bytes.
pub const UDP_LEN: usize = 8;
/// Length of a VXLAN header, in bytes (RFC 7348 §5).
pub const VXLAN_LEN: usize = 8;
/// Bytes that VXLAN over IPv4 adds in front of an inner frame: outer Ethernet, IPv4, UDP and VXLAN headers. Also the
/// difference between the MTUs of underlay and network: the inner Ethernet header and the three headers above Ethernet.
pub const OVERHEAD: usize = ETH_LEN + IPV4_LEN + UDP_LEN + VXLAN_LEN;
/// Length of all headers up to and including the inner Ethernet header, in bytes.
pub const ENCAP_LEN: usize = OVERHEAD + ETH_LEN;

/// The largest inner layer-3 packet, in bytes, for an underlay MTU (layer 3, in bytes). An MTU above 65535 counts as
/// 65535: the outer IPv4 total length has 16 bits (RFC 791).
#[must_use]
pub const fn inner_mtu(underlay: u32) -> u16 {
    let outer = if underlay < u16::MAX as u32 { underlay as u16 } else { u16::MAX };
    outer.saturating_sub(OVERHEAD as u16)
}

/// The UDP port of VXLAN, assigned by IANA (RFC 7348 §8).
pub const VXLAN_PORT: u16 = 4789;
/// EtherType of IPv4.
pub const ETH_P_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETH_P_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETH_P_IPV6: u16 = 0x86dd;
/// EtherType of an 802.1Q tag.
pub const ETH_P_8021Q: u16 = 0x8100;
/// EtherType of an 802.1ad service tag.
pub const ETH_P_8021AD: u16 = 0x88a8;
/// IP protocol number of ICMP.
pub const IPPROTO_ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const IPPROTO_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const IPPROTO_UDP: u8 = 17;
/// IP protocol number of ICMPv6.
pub const IPPROTO_ICMPV6: u8 = 58;
/// ICMPv6 type of a neighbour solicitation (RFC 4861 §4.3).
pub const ND_NEIGHBOUR_SOLICIT: u8 = 135;

/// A VXLAN network identifier: 24 bits, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

/// A number that is not a VNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VniError(pub u64);

impl fmt::Display for VniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not a VNI: a VNI has 24 bits and is not 0, so use 1 to {}", self.0, Vni::MAX.get())
    }
}

impl core::error::Error for VniError {}

impl Vni {
    /// The largest VNI, 2²⁴ − 1.
    pub const MAX: Self = Self(0x00ff_ffff);

    /// Checks the range 1 to 2²⁴ − 1.
    ///
    /// # Errors
    /// [`VniError`] with the number.
    pub const fn new(number: u32) -> Result<Self, VniError> {
        if number == 0 || number > Self::MAX.0 { Err(VniError(number as u64)) } else { Ok(Self(number)) }
    }

    /// The number, in host byte order.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A 48-bit MAC address, in network order.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Whether the group bit is set: broadcast or multicast (IEEE 802).
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The MAC address that Docker assigns to a container: `02:42` and the four bytes of its IPv4 address.
    #[must_use]
    pub const fn from_ipv4(ip: [u8; 4]) -> Self {
        Self([0x02, 0x42, ip[0], ip[1], ip[2], ip[3]])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddrError;

impl fmt::Display for MacAddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a MAC address: write six pairs of hexadecimal digits, like 02:42:0a:00:01:02")
    }
}

impl core::error::Error for MacAddrError {}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(MacAddrError)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(MacAddrError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacAddrError)?;
        }
        if parts.next().is_some() {
            return Err(MacAddrError);
        }
        Ok(Self(bytes))
    }
}

/// The underlay address of a VTEP: source or destination of outer packets. The underlay is IPv4.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct VtepAddr(Ipv4Addr);

impl VtepAddr {
    /// 0.0.0.0; no VTEP has it.
    pub const UNSPECIFIED: Self = Self(Ipv4Addr::UNSPECIFIED);

    /// A VTEP at this address. The caller checks that it is unicast.
    #[must_use]
    pub const fn new(address: Ipv4Addr) -> Self {
        Self(address)
    }

    /// The address.
    #[must_use]
    pub const fn ipv4(self) -> Ipv4Addr {
        self.0
    }

    /// The address in network byte order, as in map keys and values.
    #[must_use]
    pub const fn octets(self) -> [u8; 4] {
        self.0.octets()
    }
}

impl From<Ipv4Addr> for VtepAddr {
    fn from(address: Ipv4Addr) -> Self {
        Self(address)
    }
}

impl From<[u8; 4]> for VtepAddr {
    fn from(octets: [u8; 4]) -> Self {
        Self(octets.into())
    }
}

impl fmt::Display for VtepAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for VtepAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VtepAddr {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn vni_has_24_bits_and_is_not_zero() {
        assert_eq!(Vni::new(0), Err(VniError(0)));
        assert_eq!(Vni::new(1).map(Vni::get), Ok(1));
        assert_eq!(Vni::new(0x00ff_ffff), Ok(Vni::MAX));
        assert_eq!(Vni::new(0x0100_0000), Err(VniError(0x0100_0000)));
    }

    #[test]
    fn docker_mac_is_derived_from_ipv4_address() {
        assert_eq!(MacAddr::from_ipv4([10, 0, 1, 2]).to_string(), "02:42:0a:00:01:02");
    }

    #[test]
    fn malformed_macs_are_refused() {
        for text in
            ["", "02:42:0a:00:01", "02:42:0a:00:01:02:03", "2:42:a:0:1:2", "02:42:0a:00:01:0g", "+2:42:0a:00:01:02"]
        {
            assert_eq!(text.parse::<MacAddr>(), Err(MacAddrError), "{text}");
        }
    }

    proptest! {
        #![proptest_config(crate::seed::property())]

        #[test]
        fn printed_mac_parses_to_itself(bytes: [u8; 6]) {
            prop_assert_eq!(MacAddr(bytes).to_string().parse(), Ok(MacAddr(bytes)));
        }
    }
}
