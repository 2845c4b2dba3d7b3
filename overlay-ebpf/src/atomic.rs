//! Atomic instructions. The methods of `core::sync::atomic` that change a value do not exist for this target.

/// Adds to a number that other CPUs change, and returns the value before.
///
/// # Safety
/// The pointer is valid and aligned, and all accesses to the number are atomic.
#[inline(always)]
pub(crate) unsafe fn fetch_add(number: *mut u64, add: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let before;
        // SAFETY: as for this function.
        unsafe {
            core::arch::asm!(
                "{value} = atomic_fetch_add((u64 *)({number} + 0), {value})",
                number = in(reg) number,
                value = inout(reg) add => before,
                options(nostack, preserves_flags),
            );
        }
        before
    }
    // The lints check the code for the host.
    #[cfg(not(target_arch = "bpf"))]
    {
        // SAFETY: as for this function.
        unsafe { core::sync::atomic::AtomicU64::from_ptr(number) }.fetch_add(add, core::sync::atomic::Ordering::Relaxed)
    }
}
