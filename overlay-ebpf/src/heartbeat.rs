//! The daemon's heartbeat: after its deadline the programs do not trust the maps.

use aya_ebpf::{
    helpers::{bpf_skb_store_bytes, generated::bpf_jiffies64},
    programs::TcContext,
};
use overlay_common::{Reason, maps::Heartbeat};

use crate::maps::OVL_HEARTBEAT;

/// The heartbeat, unless its deadline has passed. Called for packets to be forwarded, before they are modified.
///
/// The deadline is in ticks: the verifier replaces `bpf_jiffies64` by a load; a clock helper costs as much as a map
/// lookup.
#[inline(always)]
pub(crate) fn current() -> Result<&'static Heartbeat, Reason> {
    let heartbeat = OVL_HEARTBEAT.get(0).ok_or(Reason::Stale)?;
    // SAFETY: the helper has no arguments.
    if heartbeat.is_expired(unsafe { bpf_jiffies64() }) { Err(Reason::Stale) } else { Ok(heartbeat) }
}

/// `ovl_clock`: stores the ticks that [`current`] reads in the first eight bytes of the packet; returns 0 on success.
#[inline(always)]
pub(crate) fn clock(ctx: &TcContext) -> i32 {
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_jiffies64() }.to_ne_bytes();
    // SAFETY: the context pointer is valid; the length is that of the source.
    unsafe { bpf_skb_store_bytes(ctx.skb.skb, 0, now.as_ptr().cast(), now.len() as u32, 0) as i32 }
}
