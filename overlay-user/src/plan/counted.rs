//! Counter indices of networks and VTEPs, also after they have left the tables.

use std::collections::BTreeMap;

use overlay_common::{
    VtepAddr,
    maps::{self, Map},
};

/// An object with a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    /// A network, by VNI: its slot in `OVL_VNI_STATS`.
    Network(u32),
    /// A VTEP, by address and UDP port: its index in `OVL_VTEP_STATS`.
    Vtep(VtepAddr, u16),
}

impl Counted {
    /// The map of the counter.
    #[must_use]
    pub const fn map(self) -> Map {
        match self {
            Self::Network(_) => maps::VNI_STATS,
            Self::Vtep(..) => maps::VTEP_STATS,
        }
    }
}

/// Objects that have left the tables, with their last indices. An object that returns continues its counter.
///
/// An index has at most one retired object, and none while it is in use.
#[derive(Clone, Debug, Default)]
pub struct RetiredIndices {
    indices: BTreeMap<Counted, u32>,
    /// By map and index, with the time of retirement.
    by_index: BTreeMap<(&'static str, u32), (Counted, u64)>,
    /// Number of retirements.
    clock: u64,
}

/// Retired indices do not count when tables are compared.
impl PartialEq for RetiredIndices {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl RetiredIndices {
    /// The last index of a retired object.
    #[must_use]
    pub fn index(&self, counted: Counted) -> Option<u32> {
        self.indices.get(&counted).copied()
    }

    /// Whether an index of a map belonged to a retired object.
    pub(super) fn has(&self, map: Map, index: u32) -> bool {
        self.by_index.contains_key(&(map.name, index))
    }

    /// The retired indices of a map, oldest first.
    pub(super) fn oldest(&self, map: Map) -> Vec<u32> {
        let of_map = self.by_index.range((map.name, 0)..=(map.name, u32::MAX));
        let mut indices: Vec<_> = of_map.map(|((_, index), (_, left))| (*left, *index)).collect();
        indices.sort_unstable();
        indices.into_iter().map(|(_, index)| index).collect()
    }

    /// Records the index of an object that leaves the tables.
    pub(super) fn retire(&mut self, counted: Counted, index: u32) {
        self.forget(counted.map(), index);
        if let Some(other) = self.indices.insert(counted, index) {
            self.by_index.remove(&(counted.map().name, other));
        }
        self.by_index.insert((counted.map().name, index), (counted, self.clock));
        self.clock += 1;
    }

    /// Forgets the retired object of an index that is in use again, or whose counter is reset.
    pub(super) fn forget(&mut self, map: Map, index: u32) {
        if let Some((counted, _)) = self.by_index.remove(&(map.name, index)) {
            self.indices.remove(&counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_has_at_most_one_retired_object() {
        let (one, two) = (Counted::Network(1), Counted::Network(2));
        let vtep = Counted::Vtep(VtepAddr::from([192, 168, 1, 10]), 4789);
        let (networks, vteps) = (one.map(), vtep.map());
        let mut retired = RetiredIndices::default();
        retired.retire(one, 7);
        retired.retire(vtep, 7);
        assert_eq!((retired.index(one), retired.index(vtep)), (Some(7), Some(7)));
        assert!(retired.has(networks, 7) && retired.has(vteps, 7) && !retired.has(networks, 6));
        // Another network had the index afterwards.
        retired.retire(two, 7);
        assert_eq!((retired.index(one), retired.index(two), retired.index(vtep)), (None, Some(7), Some(7)));
        retired.retire(one, 3);
        assert_eq!(retired.oldest(networks), [7, 3]);
        // It had another index the last time.
        retired.retire(two, 9);
        assert!(!retired.has(networks, 7));
        assert_eq!((retired.oldest(networks), retired.oldest(vteps)), (vec![3, 9], vec![7]));
        // The index is in use.
        retired.forget(networks, 9);
        assert_eq!((retired.index(two), retired.index(one), retired.index(vtep)), (None, Some(3), Some(7)));
        assert_eq!((retired.oldest(networks), retired.oldest(vteps)), (vec![3], vec![7]));
    }
}
