//! The kernel's ticks (jiffies), and the clock that has their resolution.

use std::time::Duration;

use nix::time::{ClockId, clock_getres, clock_gettime};

/// So many of the kernel's ticks, rounded up.
#[must_use]
pub fn ticks(length: Duration) -> u64 {
    // The coarse clock's resolution is a tick (`posix_get_coarse_res` in `kernel/time/posix-timers.c`).
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from);
    nanoseconds(length).div_ceil(nanoseconds(tick).max(1))
}

/// `CLOCK_MONOTONIC_COARSE`.
pub(crate) fn now_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from))
}

pub(crate) fn nanoseconds(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_as_many_ticks_as_kernels_are_built_with() {
        assert!((100..=1000).contains(&ticks(Duration::from_secs(1))));
        assert_ne!(now_ns(), 0);
    }
}
