//! Ticks of the kernel (jiffies), and the clock with their resolution.

use std::time::Duration;

use nix::time::{ClockId, clock_getres, clock_gettime};

/// The duration in ticks, rounded up.
#[must_use]
pub fn ticks(duration: Duration) -> u64 {
    // The coarse clock's resolution is a tick (`posix_get_coarse_res` in `kernel/time/posix-timers.c`).
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from);
    nanoseconds(duration).div_ceil(nanoseconds(tick).max(1))
}

/// `CLOCK_MONOTONIC_COARSE`, in ns.
pub(crate) fn now_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from))
}

pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_has_100_to_1000_ticks() {
        assert!((100..=1000).contains(&ticks(Duration::from_secs(1))));
        assert_ne!(now_ns(), 0);
    }
}
