//! Which network or VTEP the programs count at which index, also after it has left the tables.

use std::collections::BTreeMap;

use overlay_common::VtepAddr;
use overlay_common::maps::{self, Map};

/// What the programs count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    /// A network, by VNI: its slot in `OVL_VNI_STATS`.
    Network(u32),
    /// A VTEP, by address and UDP port: its index in `OVL_VTEP_STATS`.
    Vtep(VtepAddr, u16),
}

impl Counted {
    /// The map of its counter.
    #[must_use]
    pub const fn map(self) -> Map {
        match self {
            Self::Network(_) => maps::VNI_STATS,
            Self::Vtep(..) => maps::VTEP_STATS,
        }
    }
}

/// Those that have left the tables, with the indices that they had: what comes back counts on.
///
/// An index has at most one of them, and none while it is in use.
#[derive(Clone, Debug, Default)]
pub struct RetiredIndices {
    indices: BTreeMap<Counted, u32>,
    /// By map and index, with the time of leaving.
    by_index: BTreeMap<(&'static str, u32), (Counted, u64)>,
    /// Counts departures.
    clock: u64,
}

/// Not a part of what the tables say.
impl PartialEq for RetiredIndices {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl RetiredIndices {
    /// The index that something had when it left.
    #[must_use]
    pub fn index(&self, counted: Counted) -> Option<u32> {
        self.indices.get(&counted).copied()
    }

    /// Whether an index of a map belonged to something that has left.
    pub(super) fn has(&self, map: Map, index: u32) -> bool {
        self.by_index.contains_key(&(map.name, index))
    }

    /// The indices of a map, the one that was left longest ago first.
    pub(super) fn oldest(&self, map: Map) -> Vec<u32> {
        let of_map = self.by_index.range((map.name, 0)..=(map.name, u32::MAX));
        let mut indices: Vec<_> = of_map.map(|((_, index), (_, left))| (*left, *index)).collect();
        indices.sort_unstable();
        indices.into_iter().map(|(_, index)| index).collect()
    }

    /// Something has left the tables.
    pub(super) fn leave(&mut self, counted: Counted, index: u32) {
        self.take(counted.map(), index);
        if let Some(other) = self.indices.insert(counted, index) {
            self.by_index.remove(&(counted.map().name, other));
        }
        self.by_index.insert((counted.map().name, index), (counted, self.clock));
        self.clock += 1;
    }

    /// An index is in use, or its counter is zero: what had it has lost it.
    pub(super) fn take(&mut self, map: Map, index: u32) {
        if let Some((counted, _)) = self.by_index.remove(&(map.name, index)) {
            self.indices.remove(&counted);
        }
    }
}
