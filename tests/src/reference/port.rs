//! `ovl_port_in`: packets from containers.

use super::{
    Constants, Packet, Redirect, Sent, Tables, TrafficCount, delivery,
    read::{
        C_TAG, ETHERNET, Ethernet, ICMP, ICMPV6, IPV4, IPV6, Inner, Ipv4, S_TAG, TCP, UDP, bytes, check_solicitation,
        ethernet, half, inner, ipv4, ones_complement_sum,
    },
};
use overlay_common::{
    Reason,
    maps::{FdbEntry, FdbKey, Port, PortKey, Traffic, Vtep, flags},
};

/// Outer Ethernet, IPv4, UDP and VXLAN headers, in bytes (RFC 7348 §5).
const OVERHEAD: usize = 14 + 20 + 8 + 8;
const IPV6_LEN: usize = 40;

pub(super) fn forward(constants: &Constants, tables: &Tables, packet: &Packet<'_>) -> Result<Sent, Reason> {
    let key = PortKey { netns_id: constants.netns_id, ifindex: packet.ifindex };
    let port = tables.ports.get(&key).ok_or(Reason::NotAPort)?;
    let strict = port.flags & flags::STRICT != 0;
    let eth = ethernet(packet.head()).ok_or(Reason::Truncated)?;
    if eth.src.0 != port.mac {
        return Err(if strict { Reason::StrictMac } else { Reason::SourceMac });
    }
    let ip = ip_header(&eth, packet.head())?;
    let source = bytes(packet.head(), ETHERNET + 12);
    if strict && !ip.is_ipv6 && source != Some(port.ip) {
        return Err(Reason::StrictIp);
    }
    if eth.dst.is_group() {
        return Err(Reason::GroupAddress);
    }
    check_solicitation(&ip, packet.head().get(ETHERNET..).unwrap_or_default())?;
    let l3_len = l3_len(&ip, packet)?;
    if l3_len > port.mtu.into() {
        return Err(Reason::Oversize);
    }
    let to = tables.fdb.get(&FdbKey::new(port.vni, eth.dst)).ok_or(Reason::UnknownMac)?;
    if tables.expired {
        return Err(Reason::Stale);
    }
    if to.kind == FdbEntry::REMOTE {
        return encapsulated(constants, tables, packet, RemoteFrame { port, ip: &ip, l3_len, index: to.target });
    }
    if u32::from(to.netns_id) != constants.netns_id {
        return Err(Reason::UnknownMac);
    }
    if to.target == packet.ifindex {
        return Err(Reason::Hairpin);
    }
    Ok(Sent { reason: Some(Reason::Local), redirect: delivery(to), frame: packet.bytes.to_vec(), traffic: None })
}

/// The complete IP header.
fn ip_header(eth: &Ethernet, frame: &[u8]) -> Result<Inner, Reason> {
    let header = match eth.ether_type {
        IPV4 => Ipv4::LEN,
        IPV6 => IPV6_LEN,
        C_TAG | S_TAG => return Err(Reason::Vlan),
        _ => return Err(Reason::NotIp),
    };
    let packet = frame.get(ETHERNET..).filter(|packet| packet.len() >= header).ok_or(Reason::Truncated)?;
    inner(eth.ether_type, packet).ok_or(Reason::Truncated)
}

/// Offset of the layer-4 header in the layer-3 packet, if it follows immediately.
fn l4_at(ip: &Inner, l3: &[u8]) -> Option<usize> {
    if ip.is_ipv6 {
        return Some(IPV6_LEN);
    }
    let header = ipv4(l3)?;
    ((header.version, header.ihl, header.is_fragment()) == (4, 5, false)).then_some(Ipv4::LEN)
}

/// Layer-3 length of the packet, or of the segments of a super-packet.
fn l3_len(ip: &Inner, packet: &Packet<'_>) -> Result<usize, Reason> {
    let l3 = packet.head().get(ETHERNET..).unwrap_or_default();
    if packet.gso_size == 0 {
        return Ok(packet.bytes.len() - ETHERNET);
    }
    let l4 = l4_at(ip, l3).ok_or(Reason::Gso)?;
    let l4_len = match ip.protocol {
        // The data offset is in 32-bit words (RFC 9293 §3.1).
        TCP => usize::from(l3.get(l4 + 12).ok_or(Reason::Truncated)? >> 4) * 4,
        UDP => 8,
        _ => return Err(Reason::Gso),
    };
    Ok(l4 + l4_len + packet.gso_size as usize)
}

/// A frame for a remote VTEP.
#[derive(Clone, Copy)]
struct RemoteFrame<'a> {
    port: &'a Port,
    ip: &'a Inner,
    l3_len: usize,
    /// Index of the VTEP.
    index: u32,
}

fn encapsulated(
    constants: &Constants,
    tables: &Tables,
    packet: &Packet<'_>,
    remote: RemoteFrame<'_>,
) -> Result<Sent, Reason> {
    let RemoteFrame { port, ip, l3_len, index } = remote;
    let vtep = tables.vteps.used.get(&index).filter(|vtep| vtep.resolved != 0).ok_or(Reason::NextHop)?;
    if packet.mark != 0 {
        return Err(Reason::Mark);
    }
    if constants.shim != 0 && tables.underlay.ifindex != vtep.ifindex {
        return Err(Reason::OtherDevice);
    }
    let outer_len = packet.bytes.len() + OVERHEAD - ETHERNET;
    if l3_len > usize::from(vtep.mtu) && vtep.mtu < port.mtu || outer_len > usize::from(u16::MAX) {
        return Err(Reason::Oversize);
    }
    if !tables.vni_stats.has(port.slot) || !tables.vtep_stats.has(index) {
        return Err(Reason::NextHop);
    }
    let id = tables.ip_ids.get(&index).copied().unwrap_or_default() as u16;
    let mut frame = outer_header(vtep, ip, packet, id, port);
    let checksum = udp_checksum(port, packet, &frame, ip)?;
    frame[ETHERNET + 26..ETHERNET + 28].copy_from_slice(&checksum);
    if !packet.resizable {
        return Err(Reason::AdjustRoom);
    }
    frame.extend(packet.bytes);
    let redirect = if constants.shim == 0 { Redirect::Egress(vtep.ifindex) } else { Redirect::Peer(constants.shim) };
    let traffic = Traffic { tx: packet.count(), ..Traffic::default() };
    let traffic = Some(TrafficCount { slot: port.slot, vtep: index, traffic });
    Ok(Sent { reason: Some(Reason::Encap), redirect, frame, traffic })
}

/// RFC 7348 §5, over IPv4.
fn outer_header(vtep: &Vtep, ip: &Inner, packet: &Packet<'_>, id: u16, port: &Port) -> Vec<u8> {
    let outer = &vtep.outer;
    let udp_len = packet.bytes.len() as u16 + 8 + 8;
    // RFC 6040 §4.1, but CE becomes ECT(0), as in Linux: only the underlay sets CE in the outer header.
    let ecn = [0, 1, 2, 2][usize::from(ip.tos & 3)];
    let mut header = Vec::with_capacity(OVERHEAD + packet.bytes.len());
    header.extend(outer.eth_dst);
    header.extend(outer.eth_src);
    header.extend(IPV4.to_be_bytes());
    header.extend([0x45, ecn]);
    header.extend((udp_len + 20).to_be_bytes());
    header.extend(id.to_be_bytes());
    // No flags, no offset; TTL, UDP, and a checksum of 0 until it is computed.
    header.extend([0, 0, 64, UDP, 0, 0]);
    header.extend(outer.src);
    header.extend(outer.dst);
    let checksum = !ones_complement_sum(&header[ETHERNET..]);
    header[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum.to_be_bytes());
    header.extend(source_port(port, packet.flow_hash).to_be_bytes());
    header.extend(outer.udp_dst);
    header.extend(udp_len.to_be_bytes());
    header.extend([0, 0]);
    // The I flag; the VNI in the upper three bytes of the second word.
    header.extend([8, 0, 0, 0]);
    header.extend((port.vni << 8).to_be_bytes());
    header
}

/// The port that the kernel chooses (`udp_flow_src_port`).
fn source_port(port: &Port, flow_hash: u32) -> u16 {
    let mixed = flow_hash ^ flow_hash << 16;
    let at = u64::from(mixed) * u64::from(port.udp_src_span) / (1 << 32);
    (u64::from(port.udp_src_first) + at) as u16
}

/// The outer UDP checksum (RFC 768) if the inner packet's checksums are valid; 0 for super-packets.
fn udp_checksum(port: &Port, packet: &Packet<'_>, header: &[u8], ip: &Inner) -> Result<[u8; 2], Reason> {
    if port.flags & flags::UDP_CHECKSUM == 0 || packet.gso_size != 0 {
        return Ok([0, 0]);
    }
    let l3 = packet.head().get(ETHERNET..).unwrap_or_default();
    let l3_len = packet.bytes.len() - ETHERNET;
    let header_len = if ip.is_ipv6 { IPV6_LEN } else { Ipv4::LEN };
    let total_len =
        if ip.is_ipv6 { half(l3, 4).map(|len| usize::from(len) + IPV6_LEN) } else { half(l3, 2).map(usize::from) };
    let is_plain = l4_at(ip, l3).is_some();
    let known = if ip.is_ipv6 { [TCP, UDP, ICMPV6] } else { [TCP, UDP, ICMP] }.contains(&ip.protocol);
    if !is_plain {
        return Err(Reason::UdpChecksum);
    }
    if ip.protocol == UDP && half(l3, header_len + 6).ok_or(Reason::Truncated)? == 0 {
        return Err(Reason::UdpChecksum);
    }
    if !known || total_len != Some(l3_len) {
        return Err(Reason::UdpChecksum);
    }
    // The sum of a layer-4 packet with a valid checksum is the complement of its pseudo-header's. A valid IPv4 header
    // has the sum 0.
    let l4_len = (l3_len - header_len) as u16;
    let addresses = if ip.is_ipv6 { &l3[8..40] } else { &l3[12..20] };
    let pseudo = [addresses, &[0, ip.protocol], &l4_len.to_be_bytes()].concat();
    let l4 = if ip.protocol == ICMP { 0 } else { !ones_complement_sum(&pseudo) };
    let l3_header = if ip.is_ipv6 { &l3[..40] } else { &[] };
    let udp_len = (packet.bytes.len() + 16) as u16;
    let covered = [
        &header[26..34],
        &[0, UDP],
        &udp_len.to_be_bytes(),
        &header[34..],
        &packet.bytes[..ETHERNET],
        l3_header,
        &l4.to_be_bytes(),
    ];
    let checksum = !ones_complement_sum(&covered.concat());
    Ok(if checksum == 0 { [0xff, 0xff] } else { checksum.to_be_bytes() })
}
