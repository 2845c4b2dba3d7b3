//! The samples that the programs take of refused packets.

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

/// The reading end of `OVL_EVENTS`. One at a time: what one reads, another does not see.
pub(crate) struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    /// Opens the ring buffer that is pinned below `root`, with what is in it.
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
        // SAFETY: the ring buffer owns its descriptor, and answers with the same one for as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, tokio::io::Interest::READABLE) };
        Ok(Self { ring: ring.map_err(|error| failed(MapError::IoError(error.into())))? })
    }

    /// Waits for events, and takes all that are there.
    ///
    /// # Errors
    /// The descriptor's.
    pub(crate) async fn next(&mut self) -> io::Result<Vec<Event>> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            let ring = ready.get_inner_mut();
            let mut events = Vec::new();
            while let Some(item) = ring.next() {
                // A record of another length is another version's.
                events.extend(bytemuck::try_pod_read_unaligned::<Event>(&item).ok());
            }
            ready.clear_ready();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}

/// What the programs note of their sampling.
pub(crate) struct Sampling(RawMap);

impl Sampling {
    /// Opens the map that is pinned below `root`.
    ///
    /// # Errors
    /// [`TableIoError::Open`].
    pub(crate) fn open(root: &Path) -> Result<Self, TableIoError> {
        let opened = RawMap::open(&root.join(maps::SAMPLED.name));
        opened.map(Self).map_err(|source| TableIoError::Open { map: maps::SAMPLED.name, source })
    }

    /// Samples that there was no room for in the ring buffer, since the maps were made.
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

/// Between two samples of one reason on one CPU, in the kernel's ticks.
pub(crate) fn interval() -> u32 {
    u32::try_from(ticks(Duration::from_millis(INTERVAL_MS))).unwrap_or(u32::MAX)
}
