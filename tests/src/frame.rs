//! Packets for tests: the headers are built with `etherparse`, independently of the code under test.

use etherparse::{
    EtherType, Ethernet2Header, IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpDscp, IpEcn,
    IpFragOffset, IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader,
};
use overlay_common::MacAddr;

/// Length of the outer headers in front of an inner frame, in bytes.
pub const OUTER_LEN: usize = 50;

/// Addresses of a container or another station.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// MAC address.
    pub mac: MacAddr,
    /// IPv4 address.
    pub ipv4: [u8; 4],
    /// IPv6 address.
    pub ipv6: [u8; 16],
}

impl Station {
    /// A container with the MAC address that Docker assigns.
    #[must_use]
    pub const fn container(ipv4: [u8; 4]) -> Self {
        let [a, b, c, d] = ipv4;
        let ipv6 = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d];
        Self { mac: MacAddr::from_ipv4(ipv4), ipv4, ipv6 }
    }
}

/// IP version of an inner frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Layer-4 header of an inner IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// TCP with source and destination port.
    Tcp(u16, u16),
    /// UDP with source and destination port.
    Udp(u16, u16),
    /// An echo request of ICMP or ICMPv6.
    Icmp,
    /// No header; the payload with this protocol number.
    Raw(u8),
}

/// An inner Ethernet frame with an IP packet.
#[derive(Clone, Debug)]
pub struct Inner {
    /// Source.
    pub from: Station,
    /// Destination.
    pub to: Station,
    /// IPv4 or IPv6.
    pub version: Version,
    /// Type of service or traffic class: DSCP and ECN.
    pub tos: u8,
    /// Layer-4 header.
    pub l4: L4,
    /// Bytes after the layer-4 header.
    pub payload: Vec<u8>,
    /// IPv4: offset in units of eight bytes, and whether more fragments follow.
    pub fragment: (u16, bool),
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
}

impl Inner {
    /// A frame with 32 bytes of payload.
    #[must_use]
    pub fn new(from: Station, to: Station, version: Version, l4: L4) -> Self {
        let payload = (0..32).map(|i| 0x40 + i).collect();
        Self { from, to, version, tos: 0, l4, payload, fragment: (0, false), options: Vec::new() }
    }

    /// Sets the type of service or traffic class.
    #[must_use]
    pub const fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// Sets the payload length so that the layer-3 packet has `len` bytes.
    #[must_use]
    pub fn l3_len(mut self, len: usize) -> Self {
        self.payload.clear();
        let headers = self.bytes().len() - 14;
        assert!(len >= headers, "{len} bytes are too short for {headers} bytes of headers");
        self.payload = (0..len - headers).map(|i| i as u8).collect();
        self
    }

    /// Sets the payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Sets the fragment offset (units of eight bytes) and the "more fragments" flag of IPv4.
    #[must_use]
    pub const fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = (offset, more);
        self
    }

    /// A unicast neighbour solicitation for the destination's address (RFC 4861 §4.3), without a checksum.
    #[must_use]
    pub fn solicitation(from: Station, to: Station) -> Self {
        let target = to.ipv6;
        Self::new(from, to, Version::V6, L4::Raw(58)).payload(&[&[135, 0, 0, 0, 0, 0, 0, 0][..], &target].concat())
    }

    /// The frame with its Ethernet header.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match self.version {
            Version::V4 => self.ipv4(),
            Version::V6 => self.ipv6(),
        }
    }

    fn ipv4(&self) -> Vec<u8> {
        let (source, destination) = (self.from.ipv4, self.to.ipv4);
        let (protocol, l4) = match self.l4 {
            L4::Tcp(src, dst) => {
                let mut header = tcp(src, dst);
                header.checksum = header.calc_checksum_ipv4_raw(source, destination, &self.payload).expect("fits");
                (IpNumber::TCP, header.to_bytes().to_vec())
            }
            L4::Udp(src, dst) => {
                let mut header = udp(src, dst, self.payload.len());
                header.checksum = header.calc_checksum_ipv4_raw(source, destination, &self.payload).expect("fits");
                (IpNumber::UDP, header.to_bytes().to_vec())
            }
            L4::Icmp => {
                let echo = Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 7, seq: 1 });
                (IpNumber::ICMP, Icmpv4Header::with_checksum(echo, &self.payload).to_bytes().to_vec())
            }
            L4::Raw(protocol) => (IpNumber(protocol), Vec::new()),
        };
        let l4 = if self.fragment.0 == 0 { l4 } else { Vec::new() };
        let (offset, more_fragments) = self.fragment;
        let mut header = Ipv4Header {
            dscp: IpDscp::try_new(self.tos >> 2).expect("six bits"),
            ecn: IpEcn::try_new(self.tos & 3).expect("two bits"),
            identification: 0x1234,
            dont_fragment: !more_fragments && offset == 0,
            more_fragments,
            fragment_offset: IpFragOffset::try_new(offset).expect("13 bits"),
            time_to_live: 63,
            protocol,
            source,
            destination,
            options: self.options.as_slice().try_into().expect("at most 40 bytes of options"),
            ..Ipv4Header::default()
        };
        header.set_payload_len(l4.len() + self.payload.len()).expect("a payload of at most 64 KB");
        header.header_checksum = header.calc_header_checksum();
        [&self.ethernet(EtherType::IPV4), header.to_bytes().as_slice(), &l4, &self.payload].concat()
    }

    fn ipv6(&self) -> Vec<u8> {
        let (source, destination) = (self.from.ipv6, self.to.ipv6);
        let (next_header, l4) = match self.l4 {
            L4::Tcp(src, dst) => {
                let mut header = tcp(src, dst);
                header.checksum = header.calc_checksum_ipv6_raw(source, destination, &self.payload).expect("fits");
                (IpNumber::TCP, header.to_bytes().to_vec())
            }
            L4::Udp(src, dst) => {
                let mut header = udp(src, dst, self.payload.len());
                header.checksum = header.calc_checksum_ipv6_raw(source, destination, &self.payload).expect("fits");
                (IpNumber::UDP, header.to_bytes().to_vec())
            }
            L4::Icmp => {
                let echo = Icmpv6Type::EchoRequest(IcmpEchoHeader { id: 7, seq: 1 });
                let header = Icmpv6Header::with_checksum(echo, source, destination, &self.payload).expect("fits");
                (IpNumber::IPV6_ICMP, header.to_bytes().to_vec())
            }
            L4::Raw(protocol) => (IpNumber(protocol), Vec::new()),
        };
        let header = Ipv6Header {
            traffic_class: self.tos,
            flow_label: 0x0a_bcde_u32.try_into().expect("20 bits"),
            payload_length: (l4.len() + self.payload.len()).try_into().expect("a payload of at most 64 KB"),
            next_header,
            hop_limit: 63,
            source,
            destination,
        };
        [&self.ethernet(EtherType::IPV6), header.to_bytes().as_slice(), &l4, &self.payload].concat()
    }

    fn ethernet(&self, ether_type: EtherType) -> Vec<u8> {
        ethernet(self.to.mac, self.from.mac, ether_type.0)
    }
}

fn tcp(src: u16, dst: u16) -> TcpHeader {
    let mut header = TcpHeader::new(src, dst, 0x0102_0304, 64_240);
    header.ack = true;
    header.psh = true;
    header
}

fn udp(source_port: u16, destination_port: u16, payload: usize) -> UdpHeader {
    let length = (payload + 8).try_into().expect("a payload of at most 64 KB");
    UdpHeader { source_port, destination_port, length, checksum: 0 }
}

/// An Ethernet header.
#[must_use]
pub fn ethernet(dst: MacAddr, src: MacAddr, ether_type: u16) -> Vec<u8> {
    let header = Ethernet2Header { destination: dst.0, source: src.0, ether_type: EtherType(ether_type) };
    header.to_bytes().to_vec()
}

/// An ARP request from `from` for the MAC address of `to`.
#[must_use]
pub fn arp_request(from: Station, to: Station) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4, 0, 1];
    [&ethernet(to.mac, from.mac, 0x0806), &fixed[..], &from.mac.0, &from.ipv4, &[0; 6], &to.ipv4].concat()
}

/// `frame` with an 802.1Q tag (or another, by `ether_type`) for VLAN 5.
#[must_use]
pub fn tagged(frame: &[u8], ether_type: u16) -> Vec<u8> {
    [&frame[..12], &ether_type.to_be_bytes(), &[0, 5], &frame[12..]].concat()
}

/// Outer headers of a VXLAN packet, with all fields that tests set to invalid values.
#[derive(Clone, Debug)]
pub struct Outer {
    /// MAC of the receiving NIC.
    pub eth_dst: MacAddr,
    /// MAC of the sending NIC.
    pub eth_src: MacAddr,
    /// The sending VTEP.
    pub src: [u8; 4],
    /// The receiving VTEP.
    pub dst: [u8; 4],
    /// DSCP and ECN.
    pub tos: u8,
    /// IPv4 identification.
    pub id: u16,
    /// DF.
    pub dont_fragment: bool,
    /// Offset in units of eight bytes, and whether more fragments follow.
    pub fragment: (u16, bool),
    /// Time to live.
    pub ttl: u8,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// UDP source port.
    pub udp_src: u16,
    /// UDP destination port.
    pub udp_dst: u16,
    /// UDP checksum.
    pub udp_checksum: UdpChecksum,
    /// VXLAN flags byte.
    pub vxlan_flags: u8,
    /// VXLAN: 24 reserved bits.
    pub vxlan_reserved1: [u8; 3],
    /// VXLAN network identifier.
    pub vni: u32,
    /// VXLAN: the last byte, reserved.
    pub vxlan_reserved2: u8,
}

/// The outer UDP checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpChecksum {
    /// 0: none.
    Absent,
    /// The valid checksum (RFC 768).
    Right,
    /// This value.
    Value(u16),
}

impl Outer {
    /// The complete packet with `inner` as payload, with valid lengths and checksums.
    #[must_use]
    pub fn encapsulate(&self, inner: &[u8]) -> Vec<u8> {
        let vni = self.vni.to_be_bytes();
        let vxlan_flags = [self.vxlan_flags];
        let vxlan = [&vxlan_flags[..], &self.vxlan_reserved1, &vni[1..], &[self.vxlan_reserved2]].concat();
        let payload = [&vxlan, inner].concat();
        let mut udp = udp(self.udp_src, self.udp_dst, payload.len());
        udp.checksum = match self.udp_checksum {
            UdpChecksum::Absent => 0,
            UdpChecksum::Right => udp.calc_checksum_ipv4_raw(self.src, self.dst, &payload).expect("fits"),
            UdpChecksum::Value(value) => value,
        };
        let mut ip = Ipv4Header {
            dscp: IpDscp::try_new(self.tos >> 2).expect("six bits"),
            ecn: IpEcn::try_new(self.tos & 3).expect("two bits"),
            identification: self.id,
            dont_fragment: self.dont_fragment,
            more_fragments: self.fragment.1,
            fragment_offset: IpFragOffset::try_new(self.fragment.0).expect("13 bits"),
            time_to_live: self.ttl,
            protocol: IpNumber::UDP,
            source: self.src,
            destination: self.dst,
            options: self.options.as_slice().try_into().expect("at most 40 bytes of options"),
            ..Ipv4Header::default()
        };
        ip.set_payload_len(8 + payload.len()).expect("a payload of at most 64 KB");
        ip.header_checksum = ip.calc_header_checksum();
        let ethernet = ethernet(self.eth_dst, self.eth_src, EtherType::IPV4.0);
        [&ethernet, ip.to_bytes().as_slice(), &udp.to_bytes(), &payload].concat()
    }
}

/// Sets the checksum of an IPv4 header without options at offset `at` of a packet.
///
/// # Panics
/// When the packet ends before the end of the header.
pub fn fix_ipv4_checksum(packet: &mut [u8], at: usize) {
    packet[at + 10..at + 12].fill(0);
    let checksum = internet_checksum(&packet[at..at + 20]);
    packet[at + 10..at + 12].copy_from_slice(&checksum.to_be_bytes());
}

/// The Internet checksum (RFC 1071): 0 over a header with a valid checksum.
#[must_use]
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum = bytes.chunks(2).fold(0u32, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]))
    });
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Whether the checksums of a frame without options or fragments are valid: IPv4 header, and TCP, UDP or ICMP.
///
/// # Panics
/// When the frame ends before the end of its layer-3 header.
#[must_use]
pub fn has_valid_checksums(frame: &[u8]) -> bool {
    let is_v4 = frame[12..14] == [8, 0];
    let (l3, pseudo, protocol) = if is_v4 { (34, 26..34, frame[23]) } else { (54, 22..54, frame[20]) };
    let length = u32::try_from(frame.len() - l3).expect("a short frame").to_be_bytes();
    let mut covered = frame[l3..].to_vec();
    if covered.len() % 2 == 1 {
        covered.push(0);
    }
    if !(is_v4 && protocol == 1) {
        covered.extend_from_slice(&frame[pseudo]);
        covered.extend_from_slice(&length);
        covered.extend_from_slice(&[0, 0, 0, protocol]);
    }
    let is_header_valid = !is_v4 || internet_checksum(&frame[14..34]) == 0;
    is_header_valid && internet_checksum(&covered) == 0
}
