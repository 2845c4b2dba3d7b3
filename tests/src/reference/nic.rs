//! `ovl_nic_in` and `ovl_nic_xdp`: packets from the underlay.

use super::{
    Constants, Packet, Redirect, Sent, Tables, TrafficCount, delivery,
    read::{
        C_TAG, ETHERNET, ICMPV6, IPV4, IPV6, Inner, Ipv4, S_TAG, TCP, UDP, check_solicitation, ethernet, half, inner,
        ipv4, ones_complement_sum, word,
    },
    strict,
};
use overlay_common::{
    MacAddr, Reason,
    maps::{Count, FdbEntry, FdbKey, Peer, PeerKey, Traffic, flags},
};

/// Offsets in a VXLAN packet (RFC 7348 §5): IPv4 without options, UDP, VXLAN, and the inner frame.
const IP: usize = ETHERNET;
const UDP_AT: usize = IP + Ipv4::LEN;
const VXLAN: usize = UDP_AT + 8;
const FRAME: usize = VXLAN + 8;

/// RFC 6040, figure 4, by [inner][outer] codepoint: Not-ECT, ECT(1), ECT(0), CE. `None`: drop.
const ECN: [[Option<u8>; 4]; 4] = [
    [Some(0), Some(0), Some(0), None],
    [Some(1), Some(1), Some(1), Some(3)],
    [Some(2), Some(1), Some(2), Some(3)],
    [Some(3), Some(3), Some(3), Some(3)],
];

/// A frame for a port of this host.
struct Delivery<'a> {
    to: &'a FdbEntry,
    peer: &'a Peer,
    ip: Inner,
    /// The frame for the port.
    frame: Vec<u8>,
}

impl Delivery<'_> {
    fn sent(self, reason: Reason, redirect: Redirect, packet: &Packet<'_>) -> Sent {
        let Count { packets, bytes } = packet.count();
        let traffic = Traffic { rx: Count { packets, bytes: bytes - FRAME as u64 }, ..Traffic::default() };
        let traffic = Some(TrafficCount { slot: self.peer.slot, vtep: self.peer.vtep, traffic });
        Sent { reason: Some(reason), redirect, frame: self.frame, traffic }
    }
}

pub(super) fn by_tc(constants: &Constants, tables: &Tables, packet: &Packet<'_>) -> Result<Sent, Reason> {
    let received = decapsulated(tables, packet, packet.to_host)?;
    if received.ip.is_ipv6 && !constants.decap_ipv6 {
        return Err(Reason::InnerIpv6);
    }
    if packet.gso_size != 0 && received.ip.protocol != TCP {
        return Err(Reason::Gso);
    }
    if !packet.resizable {
        return Err(Reason::AdjustRoom);
    }
    let to = received.to;
    let redirect = if to.shim_or_ip == 0 { delivery(to) } else { Redirect::Peer(to.shim_or_ip) };
    Ok(received.sent(Reason::Decap, redirect, packet))
}

pub(super) fn by_xdp(tables: &Tables, packet: &Packet<'_>) -> Result<Sent, Reason> {
    let to_host = packet.head().starts_with(&tables.underlay.mac);
    let delivery = decapsulated(tables, packet, to_host)?;
    let is_tcp = match delivery.ip {
        // TCP may follow after extension headers.
        Inner { is_ipv6: true, protocol, .. } => protocol != UDP && protocol != ICMPV6,
        Inner { protocol, .. } => protocol == TCP,
    };
    if is_tcp {
        return Err(Reason::XdpTcp);
    }
    let key = delivery.to.tx;
    if !tables.txports.contains(&key) {
        return Err(Reason::XdpPort);
    }
    Ok(delivery.sent(Reason::DecapXdp, Redirect::TxPort(key), packet))
}

fn decapsulated<'t>(tables: &'t Tables, packet: &Packet<'_>, to_host: bool) -> Result<Delivery<'t>, Reason> {
    let head = packet.head();
    let outer = outer(tables, packet, to_host)?;
    let vxlan = (word(head, VXLAN), word(head, VXLAN + 4));
    let (Some(first), Some(second)) = vxlan else { return Err(Reason::Truncated) };
    // The first word has only the I flag, the second the VNI in its upper 24 bits.
    match (first, second & 0xff) {
        (0x0800_0000, 0) => {}
        (first, _) if first & 0x0800_0000 == 0 => return Err(Reason::VxlanNoVni),
        _ => return Err(Reason::VxlanReserved),
    }
    let vni = second >> 8;
    let peer = peer(tables, vni, outer.src)?;
    if peer.port != outer.port {
        return Err(Reason::WrongPort);
    }
    if u32::from(peer.flags) & flags::STRICT != 0 {
        strict::check_source(tables, vni, peer, head.get(FRAME..).unwrap_or_default())?;
    }
    let (to, ip) = destination(tables, vni, peer, packet)?;
    let ecn = ECN[usize::from(ip.tos & 3)][usize::from(outer.tos & 3)].ok_or(Reason::Ecn)?;
    if tables.expired {
        return Err(Reason::Stale);
    }
    let mut frame = packet.bytes[FRAME..].to_vec();
    if ecn != ip.tos & 3 {
        mark(&mut frame[ETHERNET..], &ip, ecn);
    }
    Ok(Delivery { to, peer, ip, frame })
}

/// Fields of the outer headers.
struct Outer {
    src: [u8; 4],
    tos: u8,
    /// UDP destination port.
    port: u16,
}

/// Parses the outer headers of a UDP packet for this host and one of its ports, with valid lengths.
fn outer(tables: &Tables, packet: &Packet<'_>, to_host: bool) -> Result<Outer, Reason> {
    let head = packet.head();
    let eth = ethernet(head).ok_or(Reason::NotVxlan)?;
    let ip = head.get(IP..).and_then(ipv4).ok_or(Reason::NotVxlan)?;
    if (eth.ether_type, ip.version, ip.protocol) != (IPV4, 4, UDP) {
        return Err(Reason::NotVxlan);
    }
    if ip.ihl != 5 {
        return Err(Reason::IpOptions);
    }
    if ip.is_fragment() {
        return Err(Reason::Fragment);
    }
    let udp = head.get(UDP_AT..VXLAN).ok_or(Reason::NotVxlan)?;
    let (Some(port), Some(udp_len)) = (half(udp, 2), half(udp, 4)) else { return Err(Reason::NotVxlan) };
    if !tables.underlay.ports.contains(&port) {
        return Err(Reason::NotVxlan);
    }
    if !to_host || ip.dst != tables.underlay.addr {
        return Err(Reason::NotOurAddress);
    }
    let lengths = [usize::from(ip.total_len) + ETHERNET, usize::from(udp_len) + UDP_AT];
    // A header with a valid checksum sums to all ones.
    if lengths != [packet.bytes.len(); 2] || ones_complement_sum(&head[IP..UDP_AT]) != 0xffff {
        return Err(Reason::Malformed);
    }
    Ok(Outer { src: ip.src, tos: ip.tos, port })
}

fn peer(tables: &Tables, vni: u32, addr: [u8; 4]) -> Result<&Peer, Reason> {
    tables.peers.get(&PeerKey { vni, addr }).ok_or_else(|| match tables.networks.get(&vni) {
        None => Reason::UnknownVni,
        Some(network) if network.flags & flags::STRICT != 0 => Reason::StrictPeer,
        Some(_) => Reason::UnknownPeer,
    })
}

/// FDB entry of the destination, and the inner IP header.
fn destination<'t>(
    tables: &'t Tables,
    vni: u32,
    peer: &Peer,
    packet: &Packet<'_>,
) -> Result<(&'t FdbEntry, Inner), Reason> {
    let frame = packet.head().get(FRAME..).unwrap_or_default();
    let eth = ethernet(frame).ok_or(Reason::Truncated)?;
    let header = match eth.ether_type {
        IPV4 => 20,
        IPV6 => 40,
        C_TAG | S_TAG => return Err(Reason::Vlan),
        _ => return Err(Reason::NotIp),
    };
    if eth.dst.is_group() || eth.src.is_group() || eth.src == MacAddr::default() {
        return Err(Reason::GroupAddress);
    }
    // The packet must have the complete header; the accessible part, at least the fields that are read.
    if packet.bytes.len() < FRAME + ETHERNET + header {
        return Err(Reason::Truncated);
    }
    let ip = inner(eth.ether_type, &frame[ETHERNET..]).ok_or(Reason::Truncated)?;
    check_solicitation(&ip, &frame[ETHERNET..])?;
    let is_behind_peer = |entry: &FdbEntry| entry.kind == FdbEntry::REMOTE && entry.target == peer.vtep;
    let is_known = || tables.fdb.get(&FdbKey::new(vni, eth.src)).is_some_and(is_behind_peer);
    if packet.gso_size == 0 && packet.bytes.len() - FRAME - ETHERNET > usize::from(peer.mtu) {
        return Err(Reason::Oversize);
    }
    if eth.src == MacAddr(peer.device_mac) || u32::from(peer.flags) & flags::LEARNING != 0 && !is_known() {
        return Err(Reason::Learning);
    }
    let to = tables.fdb.get(&FdbKey::new(vni, eth.dst)).ok_or(Reason::UnknownMac)?;
    if to.is_local() { Ok((to, ip)) } else { Err(Reason::NotLocal) }
}

/// Sets the codepoint, and in IPv4 updates the header checksum (RFC 1624, equation 3): a valid checksum stays valid, an
/// invalid one invalid.
fn mark(l3: &mut [u8], ip: &Inner, ecn: u8) {
    let tos = ip.tos & !3 | ecn;
    if ip.is_ipv6 {
        l3[1] = l3[1] & 0x0f | tos << 4;
        return;
    }
    let complement = |at: usize| [!l3[at], !l3[at + 1]];
    let [old, checksum] = [complement(0), complement(10)];
    let terms = [checksum, old, [l3[0], tos]].concat();
    l3[10..12].copy_from_slice(&(!ones_complement_sum(&terms)).to_be_bytes());
    l3[1] = tos;
}
