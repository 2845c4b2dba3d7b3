//! `ovl_nic_in`: from the underlay into a container, after GRO.

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_RECOMPUTE_CSUM,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::{bpf_skb_adjust_room, bpf_skb_store_bytes},
    programs::TcContext,
};
use overlay_common::{
    Reason,
    wire::{ETH_LEN, ETH_P_IPV4, IPPROTO_TCP, OVERHEAD},
};

use crate::{
    config, counters,
    packet::{
        self, PACKET_HOST, Size, antispoof, ecn, flows,
        redirect::{self, Sent},
        switch::{self, L2, Received},
    },
};

/// FIXED_GSO keeps `gso_size`, which would otherwise grow by the length of the headers.
const DECAP: u64 = BPF_F_ADJ_ROOM_FIXED_GSO as u64;

#[inline(always)]
pub(crate) fn forward(ctx: &TcContext, size: Size) -> Result<Sent, Reason> {
    // SAFETY: the context pointer is valid for the whole program.
    let skb = unsafe { &*ctx.skb.skb };
    if skb.vlan_present != 0 {
        return Err(antispoof::unforwarded(ctx.skb.skb));
    }
    if skb.protocol as u16 != ETH_P_IPV4.to_be() {
        return Err(Reason::NotVxlan);
    }
    let packet = packet::tc_linear(ctx, size, switch::HEADERS);
    let received =
        switch::receive(packet, size, L2::Stack { to_host: skb.pkt_type == PACKET_HOST }, skb.gso_size != 0)?;
    if received.inner.is_ipv6 && !config::decap_ipv6() {
        return Err(Reason::InnerIpv6);
    }
    if received.inner.protocol != IPPROTO_TCP {
        flows::check_super_packet(packet, skb.gso_size != 0)?;
    }

    // The flag changes skb->protocol from IPv4 to IPv6.
    let flags = if received.inner.is_ipv6 { DECAP | BPF_F_ADJ_ROOM_DECAP_L3_IPV6 as u64 } else { DECAP };
    // SAFETY: the context pointer is valid; every packet pointer is derived again below. The helper fails before it
    // changes anything.
    if unsafe { bpf_skb_adjust_room(ctx.skb.skb, -(OVERHEAD as i32), BPF_ADJ_ROOM_MAC, flags) } != 0 {
        return Err(Reason::AdjustRoom);
    }
    finish(ctx, &received).ok_or(Reason::Unfinished)?;
    let Received { peer, to, .. } = received;
    counters::received(peer.slot, peer.vtep, size.packets, size.bytes - OVERHEAD as u32);
    Ok(Sent { reason: Reason::Decap, action: redirect::to_port_or_shim(ctx, to) })
}

/// Overwrites the remaining outer header with the inner Ethernet header, and sets the congestion mark.
#[inline(always)]
fn finish(ctx: &TcContext, received: &Received) -> Option<()> {
    let packet = packet::tc(ctx);
    let first: *mut u64 = packet.at(0)?;
    let last: *mut u64 = packet.at(ETH_LEN - 8)?;
    if config::fault() {
        return None;
    }
    // SAFETY: bounds were checked by `at`. The Ethernet header is not part of skb->csum at this hook.
    unsafe {
        *first = received.inner.eth.first;
        *last = received.inner.eth.last;
    }
    match received.mark {
        None => Some(()),
        Some(codepoint) if received.inner.is_ipv6 => {
            // IPv6 has no header checksum that compensates for the change, so skb->csum must follow it.
            let head = ecn::marked_ipv6(packet, ETH_LEN, codepoint)?;
            // SAFETY: the context pointer is valid, the source is two bytes of stack.
            let stored = unsafe {
                bpf_skb_store_bytes(
                    ctx.skb.skb,
                    ETH_LEN as u32,
                    head.as_ptr().cast(),
                    head.len() as u32,
                    BPF_F_RECOMPUTE_CSUM as u64,
                )
            };
            if stored == 0 { Some(()) } else { None }
        }
        Some(codepoint) => ecn::mark_ipv4(packet, ETH_LEN, codepoint),
    }
}
