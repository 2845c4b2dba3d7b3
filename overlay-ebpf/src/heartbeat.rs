//! The daemon's heartbeat: the deadline until which the programs trust the maps, and the epoch.

use aya_ebpf::{
    helpers::{bpf_skb_store_bytes, generated::bpf_jiffies64},
    programs::TcContext,
};
use overlay_common::{Reason, maps::Heartbeat};

use crate::maps::OVL_HEARTBEAT;

/// The heartbeat, unless its deadline is over. Called for packets that would be forwarded, before they are changed.
///
/// Ticks and not a clock: the verifier replaces `bpf_jiffies64` by a load, while a clock's call costs as much as a look-up.
#[inline(always)]
pub(crate) fn current() -> Result<&'static Heartbeat, Reason> {
    let heartbeat = OVL_HEARTBEAT.get(0).ok_or(Reason::Stale)?;
    // SAFETY: the helper has no arguments.
    if heartbeat.is_expired(unsafe { bpf_jiffies64() }) { Err(Reason::Stale) } else { Ok(heartbeat) }
}

/// `ovl_clock`: the time of [`current`], into the first eight bytes of the packet; 0 when that succeeds.
#[inline(always)]
pub(crate) fn clock(ctx: &TcContext) -> i32 {
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_jiffies64() }.to_ne_bytes();
    // SAFETY: the context pointer is valid; the source is as long as said.
    unsafe { bpf_skb_store_bytes(ctx.skb.skb, 0, now.as_ptr().cast(), now.len() as u32, 0) as i32 }
}
