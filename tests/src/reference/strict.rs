//! Anti-spoofing in strict networks: drops inner frames with a spoofed source, and packets that the kernel would send
//! or receive for such a network without checking the source.

use super::{
    Constants, Packet, Tables,
    read::{ARP, C_TAG, ETHERNET, IPV4, S_TAG, UDP, bytes, ethernet, half, ipv4, word},
};
use overlay_common::{
    Reason, Verdict,
    maps::{FdbEntry, FdbKey, Peer, PeerKey, PortKey, flags},
};

/// Sender addresses of an ARP packet for Ethernet and IPv4 (RFC 826).
fn arp_sender(packet: &[u8]) -> Option<([u8; 6], [u8; 4])> {
    Some((bytes(packet, 8)?, bytes(packet, 14)?))
}

/// Whether the owner of `own` may send ARP with sender address `ip`. An ARP probe (RFC 5227) has 0.0.0.0. `own` is all
/// zeros if it is unknown.
fn is_allowed_sender(ip: [u8; 4], own: [u8; 4]) -> bool {
    [own, [0; 4]].contains(&ip) || own == [0; 4]
}

/// Checks the source of an inner frame from a VTEP: the MAC address must belong to the VTEP, the IP address to the MAC.
pub(super) fn check_source(tables: &Tables, vni: u32, peer: &Peer, frame: &[u8]) -> Result<(), Reason> {
    let Some(eth) = ethernet(frame) else { return Ok(()) };
    let is_of_peer = |entry: &&FdbEntry| entry.kind == FdbEntry::REMOTE && entry.target == peer.vtep;
    let entry = tables.fdb.get(&FdbKey::new(vni, eth.src)).filter(is_of_peer).ok_or(Reason::StrictVtep)?;
    let (own, l3) = (entry.remote_ip(), &frame[ETHERNET..]);
    match eth.ether_type {
        C_TAG | S_TAG => Err(Reason::StrictVlan),
        ARP if arp_sender(l3).is_some_and(|(mac, ip)| mac != eth.src.0 || !is_allowed_sender(ip, own)) => {
            Err(Reason::StrictArp)
        }
        IPV4 if own != [0; 4] && bytes(l3, 12).is_some_and(|source| source != own) => Err(Reason::StrictInnerIp),
        _ => Ok(()),
    }
}

/// A UDP datagram over IPv4, or its first fragment, up to the length that the kernel uses.
struct Datagram<'a> {
    src: [u8; 4],
    dst: [u8; 4],
    port: u16,
    more_fragments: bool,
    payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Parses an Ethernet frame.
    fn read(frame: &'a [u8]) -> Option<Self> {
        let l3 = frame.get(ETHERNET..)?;
        let ip = ipv4(l3)?;
        if (ip.version, ip.protocol, ip.fragment_offset) != (4, UDP, 0) {
            return None;
        }
        let header = usize::from(ip.ihl) * 4;
        // Bytes after the total length are padding (RFC 894). A fragment that is not the last has a multiple of eight
        // bytes (RFC 791 §3.2); Linux trims the rest (`ip_frag_queue`).
        let len = usize::from(ip.total_len).checked_sub(header)?;
        let len = if ip.more_fragments { len / 8 * 8 } else { len };
        let udp = l3.get(header..)?;
        let udp = &udp[..len.min(udp.len())];
        Some(Self {
            src: ip.src,
            dst: ip.dst,
            port: half(udp, 2)?,
            more_fragments: ip.more_fragments,
            payload: udp.get(8..).unwrap_or_default(),
        })
    }

    fn vni(&self) -> Option<u32> {
        word(self.payload, 4).map(|word| word >> 8)
    }

    /// The inner frame; incomplete in a fragment.
    fn frame(&self) -> &'a [u8] {
        self.payload.get(8..).unwrap_or_default()
    }
}

/// Reason to drop a frame of a container that would otherwise be passed to the kernel.
pub(super) fn at_port(constants: &Constants, tables: &Tables, packet: &Packet<'_>, reason: Reason) -> Option<Reason> {
    if reason.verdict() == Verdict::Drop {
        return None;
    }
    let port = tables.ports.get(&PortKey { netns_id: constants.netns_id, ifindex: packet.ifindex })?;
    let is_strict = port.flags & flags::STRICT != 0;
    let eth = ethernet(packet.bytes)?;
    match eth.ether_type {
        C_TAG | S_TAG if is_strict => return Some(Reason::StrictVlan),
        ARP if is_strict => {
            let (mac, ip) = arp_sender(&packet.bytes[ETHERNET..])?;
            return (mac != port.mac || !is_allowed_sender(ip, port.ip)).then_some(Reason::StrictArp);
        }
        IPV4 if is_strict || has_strict(tables) => {}
        _ => return None,
    }
    let datagram = Datagram::read(packet.bytes)?;
    let is_overlay_internal = !eth.dst.is_group() && tables.fdb.contains_key(&FdbKey::new(port.vni, eth.dst));
    if !tables.underlay.ports.contains(&datagram.port) || is_overlay_internal {
        return None;
    }
    let for_strict = match datagram.vni() {
        Some(vni) => is_strict_network(tables, vni),
        // The VNI is in the next fragment.
        None => datagram.more_fragments,
    };
    (is_strict || for_strict).then_some(Reason::StrictVxlan)
}

fn has_strict(tables: &Tables) -> bool {
    u32::from(tables.underlay.flags) & flags::STRICT != 0
}

fn is_strict_network(tables: &Tables, vni: u32) -> bool {
    tables.networks.get(&vni).is_some_and(|network| network.flags & flags::STRICT != 0)
}

/// Reason to drop a packet from the NIC that would otherwise be passed to the kernel and received by its VXLAN device.
pub(super) fn at_nic(tables: &Tables, packet: &Packet<'_>, reason: Reason) -> Option<Reason> {
    // With any other reason, the kernel does not receive the packet as VXLAN, its source has been checked, or its
    // network is not strict.
    let is_unchecked =
        matches!(reason, Reason::NotOurAddress | Reason::IpOptions | Reason::Fragment | Reason::Malformed);
    let is_for_other_host = !packet.to_host && ethernet(packet.bytes).is_some_and(|eth| !eth.dst.is_group());
    if !is_unchecked || is_for_other_host || !has_strict(tables) {
        return None;
    }
    let datagram = Datagram::read(packet.bytes)?;
    if !tables.underlay.ports.contains(&datagram.port) || !is_local(tables, datagram.src, datagram.dst) {
        return None;
    }
    let hidden = datagram.more_fragments.then_some(Reason::StrictFragment);
    let Some(vni) = datagram.vni() else { return hidden };
    if !is_strict_network(tables, vni) {
        return None;
    }
    let Some(peer) = tables.peers.get(&PeerKey { vni, addr: datagram.src }) else {
        return Some(Reason::StrictPeer);
    };
    let frame = datagram.frame();
    if !has_source_fields(frame) && hidden.is_some() {
        return hidden;
    }
    check_source(tables, vni, peer, frame).err()
}

/// Whether the frame has all fields that [`check_source`] reads.
fn has_source_fields(frame: &[u8]) -> bool {
    let len = match ethernet(frame).map(|eth| eth.ether_type) {
        None => return false,
        Some(IPV4) => 16,
        Some(ARP) => 18,
        Some(_) => 0,
    };
    frame.len() >= ETHERNET + len
}

/// Whether the kernel receives a packet for this address instead of forwarding it: the host may be a member of any
/// group, and receives limited broadcasts from every source (`ip_route_input_slow` in `net/ipv4/route.c`).
fn is_local(tables: &Tables, src: [u8; 4], dst: [u8; 4]) -> bool {
    let is_group = dst[0] & 0xf0 == 224;
    let is_broadcast = dst == [255; 4] || (src, dst) == ([0; 4], [0; 4]);
    is_group || is_broadcast || dst == tables.underlay.addr || tables.local_addresses.contains(&dst)
}
