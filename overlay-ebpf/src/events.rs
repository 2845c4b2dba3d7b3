//! Sampled events: at most one per reason, CPU and interval.

use core::{ffi::c_void, hint::black_box, mem::MaybeUninit};

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::{
        bpf_skb_load_bytes,
        generated::{bpf_jiffies64, bpf_ktime_get_ns, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    },
};
use overlay_common::{Event, Hook, Reason, event::SAMPLE_LEN, maps::PortKey};

use crate::{
    config,
    maps::{OVL_EVENTS, OVL_PORTS, OVL_SAMPLED},
};

/// The context of a TC or XDP program.
#[derive(Clone, Copy)]
pub(crate) enum Context {
    Tc(*mut __sk_buff),
    Xdp(*mut xdp_md),
}

impl Context {
    /// Interface index, and the packet's length in bytes.
    #[inline(always)]
    fn read(self) -> (u32, u32) {
        // SAFETY: the context pointer is valid for the whole program.
        unsafe {
            match self {
                Self::Tc(skb) => ((*skb).ifindex, (*skb).len),
                Self::Xdp(xdp) => ((*xdp).ingress_ifindex, bpf_xdp_get_buff_len(xdp) as u32),
            }
        }
    }

    /// Copies the first `len` bytes; false if the packet is shorter.
    #[inline(always)]
    unsafe fn load(self, to: *mut c_void, len: u32) -> bool {
        // SAFETY: the context pointer is valid, and the caller guarantees `len` bytes at `to`.
        unsafe {
            match self {
                Self::Tc(skb) => bpf_skb_load_bytes(skb.cast(), 0, to, len) == 0,
                Self::Xdp(xdp) => bpf_xdp_load_bytes(xdp, 0, to, len) == 0,
            }
        }
    }
}

/// Samples a packet if its reason is sampled and the interval has passed.
#[inline(always)]
pub(crate) fn sample(context: Context, hook: Hook, reason: Reason) {
    if !reason.is_sampled() {
        return;
    }
    let Some(sampled) = OVL_SAMPLED.get_ptr_mut(reason as u32) else { return };
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_jiffies64() };
    // SAFETY: this CPU's slot; programs of one CPU do not preempt each other.
    let sampled = unsafe { &mut *sampled };
    if now < sampled.next_jiffies {
        sampled.skipped += 1;
        return;
    }
    sampled.next_jiffies = now + config::sample_interval();
    let Some(mut entry) = OVL_EVENTS.reserve(0) else {
        sampled.lost += 1;
        return;
    };
    // SAFETY: the entry has room for an event.
    unsafe { write(&mut entry, context, hook, reason, sampled.skipped) };
    sampled.skipped = 0;
    entry.submit(0);
}

/// Writes the fields one by one; the bytes of the sample after `sample_len` are not written.
#[inline(always)]
unsafe fn write(entry: &mut MaybeUninit<Event>, context: Context, hook: Hook, reason: Reason, skipped: u64) {
    let (ifindex, len) = context.read();
    let netns_id = config::netns_id();
    // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
    let vni = match (hook, unsafe { OVL_PORTS.get(PortKey { netns_id, ifindex }) }) {
        (Hook::Port, Some(port)) => port.vni,
        (Hook::ShimIn, _) => config::vni(),
        _ => 0,
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the fields are inside the entry.
    unsafe {
        (*event).time_ns = bpf_ktime_get_ns();
        (*event).skipped = skipped;
        (*event).reason = reason as u32;
        (*event).hook = hook as u16;
        (*event).netns_id = netns_id as u16;
        (*event).ifindex = ifindex;
        (*event).vni = vni;
        (*event).len = len;
        // 1 to SAMPLE_LEN, in a form that the verifier of Linux 6.1 can bound; black_box prevents an optimisation.
        let most = SAMPLE_LEN as u32;
        let want = black_box(if len < most { len } else { most });
        let want = (want.wrapping_sub(1) & (most - 1)) + 1;
        (*event).sample_len = if context.load((&raw mut (*event).sample).cast(), want) { want } else { 0 };
    }
}
