//! `ovl_nic_xdp`: from the underlay into a container, before an skb exists.

use aya_ebpf::{
    bindings::xdp_action::{XDP_PASS, XDP_REDIRECT},
    helpers::bpf_xdp_adjust_head,
    programs::XdpContext,
};
use overlay_common::{
    Reason,
    wire::{ETH_LEN, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, OVERHEAD},
};

use crate::{
    config, counters,
    maps::OVL_TXPORTS,
    packet::{
        self, Size, ecn,
        redirect::Sent,
        switch::{self, L2, Received},
    },
};

#[inline(always)]
pub(crate) fn forward(ctx: &XdpContext, size: Size) -> Result<Sent, Reason> {
    let received = switch::receive(packet::xdp(ctx), size, L2::Compare, false)?;
    // Selected by protocol, so that all packets of a flow take one path, in order. IPv6 extension headers may hide TCP.
    let is_tcp = if received.inner.is_ipv6 {
        !matches!(received.inner.protocol, IPPROTO_UDP | IPPROTO_ICMPV6)
    } else {
        received.inner.protocol == IPPROTO_TCP
    };
    if is_tcp {
        return Err(Reason::XdpTcp);
    }
    // The helper only records the target; a packet without one is passed to TC unmodified.
    let Ok(XDP_REDIRECT) = OVL_TXPORTS.redirect(received.to.tx, XDP_PASS.into()) else {
        return Err(Reason::XdpPort);
    };
    // SAFETY: the context pointer is valid; every packet pointer is derived again below. A failure changes nothing.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, OVERHEAD as i32) } != 0 {
        return Err(Reason::XdpPort);
    }
    mark(ctx, &received).ok_or(Reason::Unfinished)?;
    counters::received(received.peer.slot, received.peer.vtep, size.packets, size.bytes - OVERHEAD as u32);
    Ok(Sent { reason: Reason::DecapXdp, action: XDP_REDIRECT as i32 })
}

#[inline(always)]
fn mark(ctx: &XdpContext, received: &Received) -> Option<()> {
    if config::fault() {
        return None;
    }
    let codepoint = match received.mark {
        None => return Some(()),
        Some(codepoint) => codepoint,
    };
    let packet = packet::xdp(ctx);
    if received.inner.is_ipv6 {
        let head = ecn::marked_ipv6(packet, ETH_LEN, codepoint)?;
        let place: *mut [u8; 2] = packet.at(ETH_LEN)?;
        // SAFETY: bounds were checked by `at`.
        unsafe { *place = head };
        Some(())
    } else {
        ecn::mark_ipv4(packet, ETH_LEN, codepoint)
    }
}
