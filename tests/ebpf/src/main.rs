//! Programs of the benchmark: a path without encapsulation, a tunnel as in Cilium, counters and live frames. Tests
//! attach some of them as programs of another tool. [`observe`] has the programs of the suite `differential`.
#![no_std]
#![no_main]
#![allow(clippy::needless_pass_by_value, reason = "the signature of a program")]

#[path = "../../../overlay-ebpf/src/object.rs"]
mod object;
mod observe;
mod record;

use aya_ebpf::{
    bindings::{BPF_F_ZERO_CSUM_TX, TC_ACT_OK, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_tunnel_key, xdp_action},
    btf_maps::PerCpuArray,
    helpers::{
        bpf_skb_set_tunnel_key, bpf_skb_vlan_push,
        generated::{bpf_ktime_get_ns, bpf_redirect, bpf_redirect_peer},
    },
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// Target interface index of the redirecting programs.
#[unsafe(no_mangle)]
static BENCH_TARGET: u32 = 0;

/// VNI of `bench_tunnel`.
#[unsafe(no_mangle)]
static BENCH_VNI: u32 = 0;

/// Remote VTEP of `bench_tunnel`: an IPv4 address, host order.
#[unsafe(no_mangle)]
static BENCH_REMOTE: u32 = 0;

/// `bench_live` writes a number at this offset of the frame, into the last bytes of the destination MAC; 0: frames are
/// unmodified.
#[unsafe(no_mangle)]
static BENCH_SPREAD_AT: u32 = 0;

/// Number of different values that `bench_live` writes; a power of two.
#[unsafe(no_mangle)]
static BENCH_SPREAD: u32 = 1;

/// Counters of the programs, per CPU.
#[btf_map]
static BENCH_COUNTS: PerCpuArray<u64, 6> = PerCpuArray::new();

/// Packets that `bench_drop` has dropped.
const DROPPED: u32 = 0;
/// Time of the first drop, in ns.
const FIRST: u32 = 1;
/// Time of the last clock reading of `bench_drop`, in ns, and number of drops before that packet.
const LAST: u32 = 2;
const UNTIL_LAST: u32 = 3;
/// Frames that `bench_live` has numbered.
const NUMBERED: u32 = 4;

/// Packets that `bench_pass` has passed.
const PASSED: u32 = 5;

/// Packets between two clock readings, each of which costs as much as a small program; a power of two.
const CLOCK_EVERY: u64 = 256;

/// TC ingress: redirects to the egress of another interface.
#[classifier]
fn bench_redirect(_ctx: TcContext) -> i32 {
    // SAFETY: the helper only records the target.
    unsafe { bpf_redirect(global(&raw const BENCH_TARGET), 0) as i32 }
}

/// TC ingress: redirects to the ingress of the peer of a veth.
#[classifier]
fn bench_peer(_ctx: TcContext) -> i32 {
    // SAFETY: the helper only records the target.
    unsafe { bpf_redirect_peer(global(&raw const BENCH_TARGET), 0) as i32 }
}

/// TC ingress: redirects to a VXLAN device in collect-metadata mode, which encapsulates the packet.
#[classifier]
fn bench_tunnel(ctx: TcContext) -> i32 {
    // SAFETY: all-zero is a value of this plain C structure.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = global(&raw const BENCH_VNI);
    key.__bindgen_anon_1.remote_ipv4 = global(&raw const BENCH_REMOTE);
    key.tunnel_ttl = 64;
    let size = size_of::<bpf_tunnel_key>() as u32;
    // SAFETY: the context pointer is valid, and the key is of the size given.
    unsafe {
        if bpf_skb_set_tunnel_key(ctx.skb.skb, &raw mut key, size, BPF_F_ZERO_CSUM_TX as u64) != 0 {
            return TC_ACT_SHOT;
        }
        bpf_redirect(global(&raw const BENCH_TARGET), 0) as i32
    }
}

/// TC ingress: drops and counts packets at the end of the measured path.
#[classifier]
fn bench_drop(_ctx: TcContext) -> i32 {
    let before = count(DROPPED);
    if before & (CLOCK_EVERY - 1) == 0 {
        // SAFETY: the helper only reads the clock.
        let now = unsafe { bpf_ktime_get_ns() };
        if before == 0 {
            set(FIRST, now);
        }
        set(LAST, now);
        set(UNTIL_LAST, before);
    }
    TC_ACT_SHOT
}

/// TC ingress: counts packets and passes them to the next program and the stack, like a monitoring tool.
#[classifier]
fn bench_pass(_ctx: TcContext) -> i32 {
    count(PASSED);
    TC_ACT_UNSPEC
}

/// TC egress: pushes the tag of VLAN 5 whose protocol is the packet's mark; without a mark none.
#[classifier]
fn bench_tag(ctx: TcContext) -> i32 {
    // SAFETY: the context pointer is valid for the whole program.
    let mark = unsafe { (*ctx.skb.skb).mark };
    // SAFETY: as above; no packet pointer is used.
    if mark != 0 && unsafe { bpf_skb_vlan_push(ctx.skb.skb, (mark as u16).to_be(), 5) } != 0 {
        return TC_ACT_SHOT;
    }
    TC_ACT_UNSPEC
}

/// TC ingress: counts packets and ends the chain: the programs after it do not see them, the stack does.
#[classifier]
fn bench_ok(_ctx: TcContext) -> i32 {
    count(PASSED);
    TC_ACT_OK
}

/// TC ingress: an empty program, for the overhead of a run.
#[classifier]
fn bench_nothing(_ctx: TcContext) -> i32 {
    TC_ACT_SHOT
}

/// XDP: an empty program.
#[xdp]
fn bench_xdp_nothing(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// XDP, run over live frames: passes the frames to the stack as if the interface had received them.
#[xdp]
fn bench_live(ctx: XdpContext) -> u32 {
    let at = global(&raw const BENCH_SPREAD_AT) as usize;
    if at != 0 {
        let number = count(NUMBERED) as u32 & (global(&raw const BENCH_SPREAD) - 1);
        let start = ctx.data() + at;
        if start + 4 > ctx.data_end() {
            return xdp_action::XDP_DROP;
        }
        // SAFETY: bounds were checked.
        unsafe { *(start as *mut [u8; 4]) = number.to_be_bytes() };
    }
    xdp_action::XDP_PASS
}

/// Increments a counter and returns its previous value.
#[inline(always)]
fn count(index: u32) -> u64 {
    match BENCH_COUNTS.get_ptr_mut(index) {
        // SAFETY: this CPU's slot.
        Some(slot) => unsafe {
            *slot += 1;
            *slot - 1
        },
        None => 0,
    }
}

#[inline(always)]
fn set(index: u32, value: u64) {
    if let Some(slot) = BENCH_COUNTS.get_ptr_mut(index) {
        // SAFETY: this CPU's slot.
        unsafe { *slot = value };
    }
}

#[inline(always)]
fn global(variable: *const u32) -> u32 {
    // SAFETY: a static of this object; volatile because the loader, not this code, sets it.
    unsafe { core::ptr::read_volatile(variable) }
}
