//! Constants that the loader sets before the programs are verified. The verifier knows their values and removes the
//! branches that they make dead.

/// 1 where the kernel can decapsulate IPv6 with `bpf_skb_adjust_room` (`BPF_F_ADJ_ROOM_DECAP_L3_IPV6`, Linux 6.3).
#[unsafe(no_mangle)]
static OVL_DECAP_IPV6: u32 = 1;

/// Makes the step after which a packet can no longer go to the kernel fail, for tests: 0 is off.
#[unsafe(no_mangle)]
static OVL_FAULT: u32 = 0;

/// Whether inner IPv6 can be decapsulated by TC.
#[inline(always)]
pub(crate) fn decap_ipv6() -> bool {
    // SAFETY: a static of this object; volatile because the loader, not this code, sets it.
    unsafe { core::ptr::read_volatile(&raw const OVL_DECAP_IPV6) != 0 }
}

/// Whether a changed packet shall fail to be finished.
#[inline(always)]
pub(crate) fn fault() -> bool {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const OVL_FAULT) != 0 }
}
