//! The heartbeat deadline: after it, the programs do not use the tables.

use std::time::Duration;

use aya::programs::{ProgramError, TestRun as _, TestRunOptions};
use overlay_common::{maps, names, wire::ETH_LEN};

use super::{Datapath, Maps, TableIoError, program::tc_program};
use crate::{
    apply::ledger::Ledger,
    sys::{
        bpf::map::RawMap,
        fault::{self, Point},
        ticks::{nanoseconds, now_ns, ticks},
    },
};

/// The heartbeat deadline of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// No deadline, even without a daemon.
    Unlimited,
    /// The time left.
    Left(Duration),
    /// The deadline has passed: all packets take the kernel path.
    Expired,
}

impl Deadline {
    fn read(heartbeat: maps::Heartbeat, now_ns: u64) -> Self {
        match heartbeat.deadline_ns {
            0 => Self::Unlimited,
            deadline if now_ns > deadline => Self::Expired,
            deadline => Self::Left(Duration::from_nanos(deadline - now_ns)),
        }
    }
}

/// The deadline cannot be extended.
#[derive(Debug, thiserror::Error)]
pub enum DeadlineError {
    /// The program that reads the clock.
    #[error("cannot run the program ovl_clock: {0}")]
    Clock(#[from] ProgramError),
    /// The map.
    #[error(transparent)]
    Table(#[from] TableIoError),
}

impl Datapath {
    /// Sets the deadline to `length` from now; `None`: no deadline. The epoch is unchanged.
    ///
    /// # Errors
    /// [`DeadlineError`].
    pub fn extend_deadline(&mut self, _: &Ledger, length: Option<Duration>) -> Result<(), DeadlineError> {
        let epoch = self.maps.heartbeat()?.epoch.max(maps::Heartbeat::FIRST_EPOCH);
        let heartbeat = match length {
            Some(length) => maps::Heartbeat {
                epoch,
                deadline_jiffies: self.jiffies()?.saturating_add(ticks(length)),
                deadline_ns: now_ns().saturating_add(nanoseconds(length)),
            },
            None => maps::Heartbeat { epoch, ..maps::Heartbeat::default() },
        };
        let written = fault::at(Point::Map(maps::HEARTBEAT.name))
            .and_then(|()| self.maps.raw(maps::HEARTBEAT)?.set(&0_u32.to_ne_bytes(), bytemuck::bytes_of(&heartbeat)));
        let entry = format!("{length:?}");
        Ok(written.map_err(|source| TableIoError::Write { map: maps::HEARTBEAT.name, entry, source })?)
    }

    /// The kernel's jiffies, which the programs compare with the deadline.
    fn jiffies(&mut self) -> Result<u64, ProgramError> {
        // The minimum packet length of a test run.
        let (packet, mut out) = ([0; ETH_LEN], [0; ETH_LEN]);
        let program = tc_program(&mut self.bpf, names::CLOCK)?;
        program.test_run(TestRunOptions {
            data_in: Some(&packet),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        })?;
        let [a, b, c, d, e, f, g, h, ..] = out;
        Ok(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl Maps {
    /// Reads the heartbeat deadline.
    ///
    /// # Errors
    /// [`TableIoError::Read`].
    pub fn deadline(&self) -> Result<Deadline, TableIoError> {
        Ok(Deadline::read(self.heartbeat()?, now_ns()))
    }

    fn heartbeat(&self) -> Result<maps::Heartbeat, TableIoError> {
        let rows = self.raw(maps::HEARTBEAT).and_then(RawMap::rows::<u32, maps::Heartbeat>);
        let rows = rows.map_err(|source| TableIoError::Read { map: maps::HEARTBEAT.name, source })?;
        Ok(rows.first().map_or_else(maps::Heartbeat::default, |(_, heartbeat)| *heartbeat))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_is_read_as_time_left() {
        let read = |deadline_ns| Deadline::read(maps::Heartbeat { epoch: 1, deadline_jiffies: 1, deadline_ns }, 1_000);
        assert_eq!(read(0), Deadline::Unlimited);
        assert_eq!(read(999), Deadline::Expired);
        assert_eq!(read(1_000), Deadline::Left(Duration::ZERO));
        assert_eq!(read(4_000), Deadline::Left(Duration::from_nanos(3_000)));
    }
}
