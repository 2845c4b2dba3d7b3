//! Sampled events.

use std::{io, path::Path, time::Duration};

use aya::maps::{Map, MapData, MapError, RingBuf};
use overlay_common::{
    Event, Reason,
    event::INTERVAL_MS,
    maps::{self, Sampled},
};
use tokio::io::unix::AsyncFd;

use super::TableIoError;
use crate::sys::{bpf::map::RawMap, ticks::ticks};

/// The consumer of `OVL_EVENTS`. Each event is delivered to one consumer.
pub(crate) struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    /// Opens the ring buffer pinned below `root`, including its pending events.
    ///
    /// # Errors
    /// [`TableIoError::Open`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub(crate) fn open(root: &Path) -> Result<Self, TableIoError> {
        let failed = |source| TableIoError::Open { map: maps::EVENTS.name, source };
        let map = MapData::from_pin(root.join(maps::EVENTS.name)).and_then(Map::from_map_data).map_err(failed)?;
        let ring = RingBuf::try_from(map).map_err(failed)?;
        // SAFETY: the ring buffer owns its descriptor, and returns the same one for as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, tokio::io::Interest::READABLE) };
        Ok(Self { ring: ring.map_err(|error| failed(MapError::IoError(error.into())))? })
    }

    /// Waits for events and takes all that are pending.
    ///
    /// # Errors
    /// The descriptor's.
    pub(crate) async fn next(&mut self) -> io::Result<Vec<Event>> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            let ring = ready.get_inner_mut();
            let mut events = Vec::new();
            while let Some(item) = ring.next() {
                // A record of another length belongs to another version.
                events.extend(bytemuck::try_pod_read_unaligned::<Event>(&item).ok());
            }
            ready.clear_ready();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}

/// The sampling state of the programs.
pub(crate) struct Sampling(RawMap);

impl Sampling {
    /// Opens the map pinned below `root`.
    ///
    /// # Errors
    /// [`TableIoError::Open`].
    pub(crate) fn open(root: &Path) -> Result<Self, TableIoError> {
        let opened = RawMap::open(&root.join(maps::SAMPLED.name));
        opened.map(Self).map_err(|source| TableIoError::Open { map: maps::SAMPLED.name, source })
    }

    /// Number of events lost to a full ring buffer since the maps were created.
    ///
    /// # Errors
    /// [`TableIoError::Read`].
    pub(crate) fn lost(&self) -> Result<u64, TableIoError> {
        let mut lost = 0;
        for reason in Reason::ALL.into_iter().filter(|reason| reason.is_sampled()) {
            let per_cpu = self.0.per_cpu::<Sampled>(reason as u32);
            let per_cpu = per_cpu.map_err(|source| TableIoError::Read { map: maps::SAMPLED.name, source })?;
            lost += per_cpu.iter().map(|sampled| sampled.lost).sum::<u64>();
        }
        Ok(lost)
    }
}

/// Minimum interval between two samples of one reason on one CPU, in the kernel's ticks.
pub(crate) fn interval() -> u32 {
    u32::try_from(ticks(Duration::from_millis(INTERVAL_MS))).unwrap_or(u32::MAX)
}
