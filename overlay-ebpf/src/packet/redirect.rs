//! Redirects a finished frame to the NIC, to a port, or through a cross-netns veth (shim) to either.
//!
//! Redirects stay in one network namespace, except `bpf_redirect_peer` through a veth pair, which runs the TC ingress
//! of the other end at once.

use aya_ebpf::{
    helpers::{
        bpf_skb_change_type,
        generated::{bpf_redirect, bpf_redirect_peer},
    },
    programs::TcContext,
};
use overlay_common::{Reason, maps::FdbEntry};

use crate::{config, maps::OVL_UNDERLAY, packet::PACKET_HOST};

/// A packet that a program forwards.
pub(crate) struct Sent {
    pub(crate) reason: Reason,
    /// The return code of the helper that redirects it.
    pub(crate) action: i32,
}

/// Whether [`to_device`] can reach the device `ifindex`: a shim leads to the NIC only. Called before the frame is
/// changed.
#[inline(always)]
pub(crate) fn check_device(ifindex: u32) -> Result<(), Reason> {
    if config::shim() == 0 {
        return Ok(());
    }
    match OVL_UNDERLAY.get(0) {
        Some(underlay) if underlay.ifindex == ifindex => Ok(()),
        _ => Err(Reason::OtherDevice),
    }
}

/// Sends an encapsulated frame to the device `ifindex`, or through the shim.
#[inline(always)]
pub(crate) fn to_device(ifindex: u32) -> i32 {
    let shim = config::shim();
    // SAFETY: the helpers only record the target.
    unsafe { if shim == 0 { bpf_redirect(ifindex, 0) as i32 } else { bpf_redirect_peer(shim, 0) as i32 } }
}

/// Delivers a decapsulated frame to a port, or through the shim to its namespace.
#[inline(always)]
pub(crate) fn to_port_or_shim(ctx: &TcContext, to: FdbEntry) -> i32 {
    if to.shim_or_ip == 0 {
        return to_port(ctx, to);
    }
    // SAFETY: the helper only records the target.
    unsafe { bpf_redirect_peer(to.shim_or_ip, 0) as i32 }
}

/// Delivers a frame to a port of this namespace: on ingress of the peer of a veth, otherwise on egress of the port.
#[inline(always)]
pub(crate) fn to_port(ctx: &TcContext, to: FdbEntry) -> i32 {
    if to.kind != FdbEntry::LOCAL_PEER {
        // SAFETY: the helper only records the target.
        return unsafe { bpf_redirect(to.target, 0) as i32 };
    }
    // A veth clears mark and priority of a packet that it passes to another namespace (`____dev_forward_skb` in
    // `include/linux/netdevice.h`); bpf_redirect_peer keeps them.
    // At a bridge port the packet type is "other host", and before Linux 6.15 bpf_redirect_peer keeps it.
    // SAFETY: the context pointer is valid; the helpers change no packet bytes.
    unsafe {
        (*ctx.skb.skb).mark = 0;
        (*ctx.skb.skb).priority = 0;
        if (*ctx.skb.skb).pkt_type != PACKET_HOST {
            bpf_skb_change_type(ctx.skb.skb, PACKET_HOST);
        }
        bpf_redirect_peer(to.target, 0) as i32
    }
}
