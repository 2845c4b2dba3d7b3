//! What strict networks do not let pass: an inner frame with a spoofed source, and what the kernel would
//! take or send for such a network without asking who sends.

use super::{
    Constants, Packet, Tables,
    read::{ARP, C_TAG, ETHERNET, IPV4, S_TAG, UDP, bytes, ethernet, half, ipv4, word},
};
use overlay_common::{
    Reason, Verdict,
    maps::{FdbEntry, FdbKey, Peer, PeerKey, PortKey, flags},
};

/// Who speaks in an ARP packet for Ethernet and IPv4 (RFC 826).
fn arp_sender(packet: &[u8]) -> Option<([u8; 6], [u8; 4])> {
    Some((bytes(packet, 8)?, bytes(packet, 14)?))
}

/// Who has `own` may ask in ARP before it has an address (RFC 5227). All zeros as `own`: not known.
fn may_name(named: [u8; 4], own: [u8; 4]) -> bool {
    [own, [0; 4]].contains(&named) || own == [0; 4]
}

/// An inner frame from a VTEP: its MAC is behind that one, and the address is the MAC's.
pub(super) fn judge(tables: &Tables, vni: u32, peer: &Peer, frame: &[u8]) -> Result<(), Reason> {
    let Some(eth) = ethernet(frame) else { return Ok(()) };
    let behind = |entry: &&FdbEntry| entry.kind == FdbEntry::REMOTE && entry.target == peer.vtep;
    let entry = tables.fdb.get(&FdbKey::new(vni, eth.src)).filter(behind).ok_or(Reason::StrictVtep)?;
    let (own, l3) = (entry.remote_ip(), &frame[ETHERNET..]);
    match eth.ether_type {
        C_TAG | S_TAG => Err(Reason::StrictVlan),
        ARP if arp_sender(l3).is_some_and(|(mac, ip)| mac != eth.src.0 || !may_name(ip, own)) => Err(Reason::StrictArp),
        IPV4 if own != [0; 4] && bytes(l3, 12).is_some_and(|source| source != own) => Err(Reason::StrictInnerIp),
        _ => Ok(()),
    }
}

/// A UDP datagram over IPv4, or the first fragment of one, as far as the kernel reads it.
struct Datagram<'a> {
    src: [u8; 4],
    dst: [u8; 4],
    port: u16,
    more_fragments: bool,
    payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Of an Ethernet frame.
    fn read(frame: &'a [u8]) -> Option<Self> {
        let l3 = frame.get(ETHERNET..)?;
        let ip = ipv4(l3)?;
        if (ip.version, ip.protocol, ip.fragment_offset) != (4, UDP, 0) {
            return None;
        }
        let header = usize::from(ip.ihl) * 4;
        // What comes behind is padding (RFC 894). A fragment that others follow has whole units of eight bytes (RFC 791
        // §3.2); what is more, Linux cuts off (`ip_frag_queue`).
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

    /// The inner frame, as far as it is here.
    fn frame(&self) -> &'a [u8] {
        self.payload.get(8..).unwrap_or_default()
    }
}

/// Why a frame of a container that would be left to the kernel is dropped.
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
            return (mac != port.mac || !may_name(ip, port.ip)).then_some(Reason::StrictArp);
        }
        IPV4 if is_strict || has_strict(tables) => {}
        _ => return None,
    }
    let datagram = Datagram::read(packet.bytes)?;
    let stays_inside = !eth.dst.is_group() && tables.fdb.contains_key(&FdbKey::new(port.vni, eth.dst));
    if !tables.underlay.ports.contains(&datagram.port) || stays_inside {
        return None;
    }
    let for_strict = match datagram.vni() {
        Some(vni) => is_strict_network(tables, vni),
        // The next fragment has it.
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

/// Why a packet of the NIC that would be left to the kernel is dropped: its VXLAN device would have it.
pub(super) fn at_nic(tables: &Tables, packet: &Packet<'_>, reason: Reason) -> Option<Reason> {
    // All others are none that the kernel takes for VXLAN, or were judged, or are of a network that is not strict.
    let by_side_way =
        matches!(reason, Reason::NotOurAddress | Reason::IpOptions | Reason::Fragment | Reason::Malformed);
    let for_another = !packet.to_host && ethernet(packet.bytes).is_some_and(|eth| !eth.dst.is_group());
    if !by_side_way || for_another || !has_strict(tables) {
        return None;
    }
    let datagram = Datagram::read(packet.bytes)?;
    if !tables.underlay.ports.contains(&datagram.port) || !is_kept(tables, datagram.src, datagram.dst) {
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
    if !shows_sender(frame) && hidden.is_some() {
        return hidden;
    }
    judge(tables, vni, peer, frame).err()
}

/// Whether all is there that [`judge`] reads.
fn shows_sender(frame: &[u8]) -> bool {
    let len = match ethernet(frame).map(|eth| eth.ether_type) {
        None => return false,
        Some(IPV4) => 16,
        Some(ARP) => 18,
        Some(_) => 0,
    };
    frame.len() >= ETHERNET + len
}

/// Whether the kernel keeps a packet instead of routing it on: it may be in any group, and takes a limited broadcast, as
/// that of a host without an address, from everywhere (`ip_route_input_slow` in `net/ipv4/route.c`).
fn is_kept(tables: &Tables, src: [u8; 4], dst: [u8; 4]) -> bool {
    let is_group = dst[0] & 0xf0 == 224;
    let is_broadcast = dst == [255; 4] || (src, dst) == ([0; 4], [0; 4]);
    is_group || is_broadcast || dst == tables.underlay.addr || tables.kept.contains(&dst)
}
