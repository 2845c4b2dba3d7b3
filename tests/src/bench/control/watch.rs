//! Time from the commit of a change until the map has it.

use std::{
    path::Path,
    sync::mpsc::{Receiver, TryRecvError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData, MapError};
use overlay_common::maps::{self, FdbEntry, FdbKey};

use crate::lab::traffic::Latency;

/// Time between two reads of the map.
const PERIOD: Duration = Duration::from_micros(500);
/// A change that takes longer counts as missing.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A committed change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Committed {
    pub(super) key: FdbKey,
    /// Whether the change adds the key.
    pub(super) present: bool,
    pub(super) at: Instant,
}

/// Reads the map until the channel is closed and all received changes are in the map or timed out. Returns the times,
/// and the number of changes that timed out.
pub(super) fn watch(pin_root: &Path, changes: &Receiver<Committed>) -> Result<(Latency, usize)> {
    let pin = MapData::from_pin(pin_root.join(maps::FDB.name)).context("cannot open the pinned FDB map")?;
    let fdb: HashMap<_, FdbKey, FdbEntry> = Map::from_map_data(pin)?.try_into()?;
    let (mut pending, mut times, mut open) = (Vec::<Committed>::new(), Vec::new(), true);
    let mut missing = 0;
    while open || !pending.is_empty() {
        loop {
            match changes.try_recv() {
                Ok(change) => pending.push(change),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    open = false;
                    break;
                }
            }
        }
        let mut failed = None;
        pending.retain(|change| match fdb.get(&change.key, 0) {
            Ok(_) | Err(MapError::KeyNotFound) if change.at.elapsed() > TIMEOUT => {
                missing += 1;
                false
            }
            Ok(_) if change.present => {
                times.push(change.at.elapsed());
                false
            }
            Err(MapError::KeyNotFound) if !change.present => {
                times.push(change.at.elapsed());
                false
            }
            Ok(_) | Err(MapError::KeyNotFound) => true,
            Err(error) => {
                failed = Some(error);
                true
            }
        });
        if let Some(error) = failed {
            return Err(error).context("cannot read the FDB map");
        }
        std::thread::sleep(PERIOD);
    }
    Ok((Latency::new(times), missing))
}
