//! The deadline until which the programs trust the tables.

use std::time::Duration;

use aya::maps::MapError;
use nix::time::{ClockId, clock_gettime};
use overlay_common::{maps, names};

use super::{Maps, TableIoError};

/// Until when the programs trust the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// For ever, whether a daemon runs or not.
    Unlimited,
    /// For so long from now.
    Left(Duration),
    /// No more: packets are left to the kernel.
    Expired,
}

impl Lease {
    fn read(lease: maps::Lease, now_ns: u64) -> Self {
        match lease.deadline_ns {
            0 => Self::Unlimited,
            _ if lease.has_expired(now_ns) => Self::Expired,
            deadline => Self::Left(Duration::from_nanos(deadline.saturating_sub(now_ns))),
        }
    }
}

impl Maps {
    /// Lets the programs trust the tables for `length` from now; `None`: for ever.
    ///
    /// # Errors
    /// [`TableIoError::Write`].
    pub fn extend_lease(&mut self, length: Option<Duration>) -> Result<(), TableIoError> {
        let write = |source| TableIoError::Write { map: names::LEASE, entry: format!("{length:?}"), source };
        let Some(map) = &mut self.lease else { return Err(write(MapError::KeyNotFound)) };
        let nanoseconds = |length: Duration| u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        let deadline_ns = length.map_or(0, |length| coarse_now_ns().saturating_add(nanoseconds(length)));
        map.set(0, maps::Lease { deadline_ns }, 0).map_err(write)
    }

    /// Until when the programs trust the tables.
    ///
    /// # Errors
    /// [`TableIoError::Read`].
    pub fn lease(&self) -> Result<Lease, TableIoError> {
        // Programs of a version without the map trust the tables for ever.
        let Some(map) = &self.lease else { return Ok(Lease::Unlimited) };
        let lease = map.get(&0, 0).map_err(|source| TableIoError::Read { map: names::LEASE, source })?;
        Ok(Lease::read(lease, coarse_now_ns()))
    }
}

/// The programs' clock, in ns: `bpf_ktime_get_coarse_ns` reads the same one.
#[must_use]
pub fn coarse_now_ns() -> u64 {
    // Every kernel has this clock (Linux 2.6.32).
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_read_as_what_is_left_of_it() {
        let read = |deadline_ns| Lease::read(maps::Lease { deadline_ns }, 1_000);
        assert_eq!(read(0), Lease::Unlimited);
        assert_eq!(read(999), Lease::Expired);
        assert_eq!(read(1_000), Lease::Left(Duration::ZERO));
        assert_eq!(read(4_000), Lease::Left(Duration::from_nanos(3_000)));
    }

    #[test]
    fn the_clock_runs() {
        assert_ne!(coarse_now_ns(), 0);
    }
}
