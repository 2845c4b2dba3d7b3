//! The deadline that a living daemon extends. Past it nobody knows whether the tables are still true.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use overlay_common::Reason;

use crate::maps::OVL_LEASE;

/// To be asked when a packet would be forwarded, and before it is changed.
///
/// The coarse clock is read without the hardware's: it is as late as a tick, 10 ms at most.
#[inline(always)]
pub(crate) fn check() -> Result<(), Reason> {
    let lease = *OVL_LEASE.get(0).ok_or(Reason::Stale)?;
    // Not for the look of it: where there is no deadline, the clock need not be read.
    if lease.deadline_ns == 0 {
        return Ok(());
    }
    // SAFETY: the helper has no arguments.
    if lease.has_expired(unsafe { bpf_ktime_get_coarse_ns() }) { Err(Reason::Stale) } else { Ok(()) }
}
