//! The programs of overlay: entry points and the verdict policy.
//!
//! Each hook forwards a packet or returns the reason for not doing so. `overlay_common::Reason::verdict` maps reasons
//! to verdicts: forward, pass to the kernel unmodified, or drop. Every packet is counted.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![allow(clippy::needless_pass_by_value, reason = "everything is inlined; a reference would add an indirection")]

mod atomic;
mod config;
mod counters;
mod events;
mod heartbeat;
mod hooks;
mod maps;
mod object;
mod packet;
#[cfg(feature = "proof")]
mod proof;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action, xdp_md},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use overlay_common::{Hook, Reason, Verdict, wire::OVERHEAD};

use crate::{
    events::Context,
    hooks::{nic_tc, nic_xdp, port, shim},
    packet::{Size, antispoof, redirect::Sent},
};

/// TC ingress on the host side of a container's veth: encapsulates, or delivers to another container of this host.
#[classifier]
fn ovl_port_in(ctx: TcContext) -> i32 {
    let size = packet::tc_size(&ctx);
    let outcome = port::forward(&ctx, size);
    finish_tc(&ctx, Hook::Port, size, outcome)
}

/// TC ingress on the NIC, after GRO: decapsulates.
#[classifier]
fn ovl_nic_in(ctx: TcContext) -> i32 {
    let size = packet::tc_size(&ctx);
    let outcome = nic_tc::forward(&ctx, size);
    finish_tc(&ctx, Hook::Nic, size, outcome)
}

/// TC ingress on the host side of a container's veth, ahead of the programs of other owners, whose verdict could end the
/// chain before `ovl_port_in`: drops what a strict network refuses.
#[classifier]
fn ovl_port_check(ctx: TcContext) -> i32 {
    finish_check(ctx.skb.skb, Hook::Port, antispoof::check_port(ctx.skb.skb))
}

/// TC ingress on a device that receives VXLAN, ahead of the programs of other owners: drops what a strict network
/// refuses.
#[classifier]
fn ovl_nic_check(ctx: TcContext) -> i32 {
    finish_check(ctx.skb.skb, Hook::Nic, antispoof::check_nic(ctx.skb.skb))
}

/// TC ingress on the end of a cross-netns veth (shim) in the NIC's namespace: sends frames that `ovl_port_in` has
/// encapsulated in another namespace.
#[classifier]
fn ovl_shim_out(ctx: TcContext) -> i32 {
    let size = packet::tc_size(&ctx);
    match shim::out(&ctx, size) {
        Ok(action) => action,
        Err(reason) => refuse_tc(ctx.skb.skb, Hook::ShimOut, reason),
    }
}

/// TC ingress on a shim's end in the ports' namespace: delivers frames that `ovl_nic_in` has decapsulated.
#[classifier]
fn ovl_shim_in(ctx: TcContext) -> i32 {
    match shim::inward(&ctx) {
        Ok(action) => action,
        Err(reason) => refuse_tc(ctx.skb.skb, Hook::ShimIn, reason),
    }
}

/// XDP on the NIC: decapsulates all but TCP before an skb exists.
#[xdp(frags)]
fn ovl_nic_xdp(ctx: XdpContext) -> u32 {
    let size = packet::xdp_size(&ctx);
    let (reason, action) = match nic_xdp::forward(&ctx, size) {
        Ok(Sent { reason, action }) => (reason, action.cast_unsigned()),
        Err(reason) => match reason.verdict() {
            Verdict::Fast | Verdict::Kernel => (reason, xdp_action::XDP_PASS),
            Verdict::Drop => return drop_xdp(ctx.ctx, reason, size.bytes),
        },
    };
    counters::xdp_reason(reason, size);
    log!(&ctx, "nic_xdp: {} {}", reason.name(), size.bytes);
    action
}

/// TC egress on a VXLAN device: the first half of a question's way.
#[cfg(feature = "proof")]
#[classifier]
fn ovl_vxlan_out(ctx: TcContext) -> i32 {
    proof::at_vxlan(ctx.skb.skb);
    TC_ACT_UNSPEC
}

/// TC egress on the NIC: the second half.
#[cfg(feature = "proof")]
#[classifier]
fn ovl_nic_out(ctx: TcContext) -> i32 {
    proof::at_nic(ctx.skb.skb);
    TC_ACT_UNSPEC
}

/// Never attached: the daemon runs it to read the ticks of the heartbeat deadline.
#[classifier]
fn ovl_clock(ctx: TcContext) -> i32 {
    heartbeat::clock(&ctx)
}

#[inline(always)]
fn finish_tc(ctx: &TcContext, hook: Hook, size: Size, outcome: Result<Sent, Reason>) -> i32 {
    let (reason, action) = match outcome {
        Ok(Sent { reason, action }) => (reason, action),
        // TC_ACT_UNSPEC: the next program of this hook runs, then the kernel.
        Err(reason) if matches!(hook, Hook::Nic) && !antispoof::concerns_nic(reason) => (reason, TC_ACT_UNSPEC),
        Err(reason) => return refuse_tc(ctx.skb.skb, hook, reason),
    };
    counters::reason(reason, size);
    log!(ctx, "tc: {} {}", reason.name(), size.bytes);
    action
}

/// Drops a packet for `refused`, or passes it to the next program unmodified. Only the packets that it drops are counted:
/// the next program counts the others.
#[inline(always)]
fn finish_check(skb: *mut __sk_buff, hook: Hook, refused: Option<Reason>) -> i32 {
    match refused {
        Some(reason) => count_tc(skb, hook, reason),
        None => TC_ACT_UNSPEC,
    }
}

/// Passes a packet to the kernel or drops it. Not inlined, so that the code for forwarded packets stays small.
#[inline(never)]
fn refuse_tc(skb: *mut __sk_buff, hook: Hook, reason: Reason) -> i32 {
    let reason = match hook {
        Hook::Port if !reason.is_drop() => {
            #[cfg(feature = "proof")]
            proof::clear_cookie(skb, reason);
            antispoof::at_port(skb, reason)
        }
        Hook::Nic if !reason.is_drop() => antispoof::at_nic(skb, reason),
        _ => reason,
    };
    count_tc(skb, hook, reason)
}

/// Counts and samples a packet that is not forwarded.
#[inline(always)]
fn count_tc(skb: *mut __sk_buff, hook: Hook, reason: Reason) -> i32 {
    let ctx = TcContext::new(skb);
    let size = refused_size(&ctx, hook, reason);
    counters::reason(reason, size);
    log!(&ctx, "tc: {} {}", reason.name(), size.bytes);
    events::sample(Context::Tc(skb), hook, reason);
    if reason.is_drop() { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

/// The size of a packet before the program modified it.
#[inline(always)]
fn refused_size(ctx: &TcContext, hook: Hook, reason: Reason) -> Size {
    let mut size = packet::tc_size(ctx);
    // The frame has grown or shrunk by the outer headers.
    if matches!(reason, Reason::Unfinished) {
        size.bytes =
            if matches!(hook, Hook::Port) { size.bytes - OVERHEAD as u32 } else { size.bytes + OVERHEAD as u32 };
    }
    size
}

/// Drops a packet in XDP.
#[inline(never)]
fn drop_xdp(xdp: *mut xdp_md, reason: Reason, bytes: u32) -> u32 {
    counters::reason(reason, Size { bytes, packets: 1 });
    log!(&XdpContext::new(xdp), "nic_xdp: {} {}", reason.name(), bytes);
    events::sample(Context::Xdp(xdp), Hook::Xdp, reason);
    xdp_action::XDP_DROP
}

/// Logs through aya-log in builds with the feature `log`; nothing otherwise.
macro_rules! log {
    ($ctx:expr, $($arg:tt)+) => {{
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!($ctx, $($arg)+);
        #[cfg(not(feature = "log"))]
        let _ = $ctx;
    }};
}
use log;
