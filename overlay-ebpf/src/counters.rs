//! Per-CPU counters, incremented without atomics.

use overlay_common::{Reason, maps::Traffic};

use crate::{
    maps::{OVL_REASONS, OVL_VNI_STATS, OVL_VTEP_STATS},
    packet::Size,
};

/// Counts a packet of a TC hook under its reason.
#[inline(always)]
pub(crate) fn reason(reason: Reason, size: Size) {
    if let Some(count) = OVL_REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: this CPU's slot; TC programs do not preempt each other on one CPU.
        unsafe { (*count).add(size.packets, size.bytes.into()) };
    }
}

/// Counts a packet that the XDP hook does not drop, unless TC counts it under the same reason.
#[inline(always)]
pub(crate) fn xdp_reason(verdict: Reason, size: Size) {
    if matches!(verdict, Reason::DecapXdp | Reason::XdpTcp | Reason::XdpPort) {
        reason(verdict, size);
    }
}

/// This CPU's counters of a network.
#[inline(always)]
pub(crate) fn network(slot: u32) -> Option<*mut Traffic> {
    OVL_VNI_STATS.get_ptr_mut(slot)
}

/// This CPU's counters of a VTEP.
#[inline(always)]
pub(crate) fn vtep(index: u32) -> Option<*mut Traffic> {
    OVL_VTEP_STATS.get_ptr_mut(index)
}

/// Counts a decapsulated inner frame for its network and its peer.
#[inline(always)]
pub(crate) fn received(slot: u32, index: u32, packets: u64, inner_bytes: u32) {
    if let Some(traffic) = network(slot) {
        // SAFETY: this CPU's slot.
        unsafe { (*traffic).rx.add(packets, inner_bytes.into()) };
    }
    if let Some(traffic) = vtep(index) {
        // SAFETY: this CPU's slot.
        unsafe { (*traffic).rx.add(packets, inner_bytes.into()) };
    }
}

/// Counts an encapsulated inner frame.
#[inline(always)]
pub(crate) fn sent(traffic: *mut Traffic, size: Size) {
    // SAFETY: this CPU's slot, from `network` or `vtep`.
    unsafe { (*traffic).tx.add(size.packets, size.bytes.into()) };
}
