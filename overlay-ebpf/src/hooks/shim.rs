//! Cross-netns veths (shims): between the NIC's network namespace and another one that holds a network's ports.
//!
//! `ovl_shim_out` is attached at the NIC's side, `ovl_shim_in` at the ports' side. The program before them on the
//! packet's path has counted the packet, so they count only packets that they refuse.

use aya_ebpf::{helpers::generated::bpf_redirect, programs::TcContext};
use network_types::{ip::Ipv4Hdr, udp::UdpHdr};
use overlay_common::{
    Reason,
    maps::FdbKey,
    wire::{ETH_LEN, ETH_P_IPV4, IPPROTO_UDP, IPV4_LEN, UDP_LEN},
};

use crate::{
    config,
    maps::{OVL_FDB, OVL_UNDERLAY},
    packet::{self, Load, Size, redirect},
};

/// Bytes read from an encapsulated frame.
const HEADERS: u32 = (ETH_LEN + IPV4_LEN + UDP_LEN) as u32;

/// `ovl_shim_out`: sends frames that `ovl_port_in` has encapsulated, and refuses frames that processes of the namespace
/// send through the shim.
#[inline(always)]
pub(crate) fn out(ctx: &TcContext, size: Size) -> Result<i32, Reason> {
    let packet = packet::tc_linear(ctx, size, HEADERS);
    let underlay = OVL_UNDERLAY.get(0).ok_or(Reason::ShimOut)?;
    let mac: *const [u8; 6] = packet.at(6).ok_or(Reason::ShimOut)?;
    let ethertype: *const u16 = packet.at(ETH_LEN - 2).ok_or(Reason::ShimOut)?;
    let ip: *const Ipv4Hdr = packet.at(ETH_LEN).ok_or(Reason::ShimOut)?;
    let udp: *const UdpHdr = packet.at(ETH_LEN + IPV4_LEN).ok_or(Reason::ShimOut)?;
    // SAFETY: bounds were checked by `at`; BPF loads need no alignment.
    let (mac, ethertype, ip, port) =
        unsafe { (*mac, u16::from_be(*ethertype), &*ip, u16::from_be((&raw const (*udp).dst).cast::<u16>().read())) };
    let is_encapsulated = mac == underlay.mac
        && ethertype == ETH_P_IPV4
        && ip.vihl == 0x45
        && ip.proto == IPPROTO_UDP
        && ip.src_addr == underlay.addr
        && underlay.has_port(port);
    if !is_encapsulated {
        return Err(Reason::ShimOut);
    }
    // SAFETY: the helper only records the target.
    Ok(unsafe { bpf_redirect(underlay.ifindex, 0) as i32 })
}

/// `ovl_shim_in`: delivers frames that `ovl_nic_in` has decapsulated. It looks up the FDB again, because the entry may
/// have changed.
#[inline(always)]
pub(crate) fn inward(ctx: &TcContext) -> Result<i32, Reason> {
    let packet = packet::tc(ctx);
    let key = FdbKey::from_word(config::vni(), packet.load(0).ok_or(Reason::ShimIn)?);
    // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
    let to = *unsafe { OVL_FDB.get(key) }.ok_or(Reason::ShimIn)?;
    if to.is_local() && u32::from(to.netns_id) == config::netns_id() {
        Ok(redirect::to_port(ctx, to))
    } else {
        Err(Reason::ShimIn)
    }
}
