//! The L2 switch on receive: looks up whether a packet is for this host, whether its source is an allowed peer, and the
//! destination port of its inner frame.

use overlay_common::{
    MacAddr, Reason, ecn,
    maps::{FdbEntry, FdbKey, Peer, PeerKey, Underlay, flags},
    wire::{ENCAP_LEN, ETH_LEN, IPV6_LEN, OVERHEAD},
};

use super::{Packet, Size, antispoof, flows, inner::Inner, outer::Outer};
use crate::{
    heartbeat,
    maps::{OVL_FDB, OVL_NETWORKS, OVL_PEERS, OVL_UNDERLAY},
};

/// Maximum number of bytes read from a packet: outer headers, inner Ethernet and inner IPv6, type and code of ICMPv6.
pub(crate) const HEADERS: u32 = (ENCAP_LEN + IPV6_LEN + 2) as u32;

/// A packet for a port of this host, with the data for its delivery.
pub(crate) struct Received {
    pub(crate) peer: Peer,
    pub(crate) to: FdbEntry,
    pub(crate) inner: Inner,
    /// The inner codepoint to set, if the underlay marked the packet.
    pub(crate) mark: Option<u8>,
}

/// How a hook checks that a packet is addressed to this host at layer 2.
pub(crate) enum L2 {
    /// By `pkt_type`.
    Stack { to_host: bool },
    /// By comparing the destination MAC with the NIC's.
    Compare,
}

/// Reads a packet on the NIC and selects the port of its inner frame. Does not modify the packet. `is_super`: it is a GSO
/// super-packet.
#[inline(always)]
pub(crate) fn receive(packet: Packet, size: Size, l2: L2, is_super: bool) -> Result<Received, Reason> {
    let outer = Outer::read(packet)?;
    let underlay = check_address(&outer, &l2)?;
    if matches!(l2, L2::Stack { .. }) {
        flows::check_segments(packet, size, underlay)?;
    }
    let vni = outer.vni(size)?;
    let peer = peer(&outer, vni)?;
    if !peer.is_plain(outer.port) {
        if peer.port != outer.port {
            return Err(Reason::WrongPort);
        }
        if u32::from(peer.flags) & flags::STRICT != 0 {
            antispoof::check_inner(packet, vni, peer)?;
        }
    }
    let inner = Inner::read(packet, size)?;
    // The kernel drops larger frames at the port, or fragments them. It segments super-packets for the port.
    if !is_super && size.bytes > u32::from(peer.mtu) + (OVERHEAD + ETH_LEN) as u32 {
        return Err(Reason::Oversize);
    }
    check_source(vni, &inner, peer)?;
    let to = local_port(vni, &inner)?;
    let codepoint = ecn::decapsulate(outer.ip().tos, inner.tos).ok_or(Reason::Ecn)?;
    heartbeat::current()?;
    let mark = if codepoint == inner.tos & ecn::MASK { None } else { Some(codepoint) };
    Ok(Received { peer: *peer, to, inner, mark })
}

/// Whether a datagram is for a VXLAN port and an address of this host.
#[inline(always)]
fn check_address(outer: &Outer, l2: &L2) -> Result<&'static Underlay, Reason> {
    let underlay = OVL_UNDERLAY.get(0).ok_or(Reason::NotVxlan)?;
    if !underlay.has_port(outer.port) {
        return Err(Reason::NotVxlan);
    }
    let to_host = match l2 {
        L2::Stack { to_host } => *to_host,
        L2::Compare => outer.mac() == underlay.mac,
    };
    if !to_host || outer.ip().dst_addr != underlay.addr { Err(Reason::NotOurAddress) } else { Ok(underlay) }
}

/// The peer that a packet is from.
#[inline(always)]
fn peer(outer: &Outer, vni: u32) -> Result<&'static Peer, Reason> {
    // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
    unsafe { OVL_PEERS.get(PeerKey { vni, addr: outer.ip().src_addr }) }.ok_or_else(|| refuse_peer(vni))
}

/// The reason why an outer source address is not an allowed peer: the VNI is unknown, or the VTEP is.
#[inline(always)]
fn refuse_peer(vni: u32) -> Reason {
    // SAFETY: as for the peers.
    match unsafe { OVL_NETWORKS.get(vni) } {
        None => Reason::UnknownVni,
        Some(network) if network.flags & flags::STRICT != 0 => Reason::StrictPeer,
        Some(_) => Reason::UnknownPeer,
    }
}

/// Checks that the kernel would accept an inner frame from this peer, and learn nothing new.
///
/// The VXLAN device drops frames with its own source MAC (`vxlan_set_mac` in drivers/net/vxlan/vxlan_core.c). If it
/// learns, it also drops or moves a MAC that is behind another VTEP (`vxlan_snoop`).
#[inline(always)]
fn check_source(vni: u32, inner: &Inner, peer: &Peer) -> Result<(), Reason> {
    if inner.eth.source_is(MacAddr(peer.device_mac)) {
        return Err(Reason::Learning);
    }
    if u32::from(peer.flags) & flags::LEARNING == 0 {
        return Ok(());
    }
    // SAFETY: as for the peers.
    match unsafe { OVL_FDB.get(FdbKey::from_word(vni, inner.eth.source())) } {
        Some(entry) if entry.kind == FdbEntry::REMOTE && entry.target == peer.vtep => Ok(()),
        _ => Err(Reason::Learning),
    }
}

/// The port of this host that an inner frame is for.
#[inline(always)]
fn local_port(vni: u32, inner: &Inner) -> Result<FdbEntry, Reason> {
    // SAFETY: as for the peers.
    let to = *unsafe { OVL_FDB.get(FdbKey::from_word(vni, inner.eth.first)) }.ok_or(Reason::UnknownMac)?;
    if to.is_local() { Ok(to) } else { Err(Reason::NotLocal) }
}
