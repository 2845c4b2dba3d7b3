//! Applies changes of the planned maps in an order in which the maps are consistent at every step.
//!
//! A value that a program may be reading is never overwritten. Removed entries of a hash, and disabled entries of an
//! array, are written again only after a grace period, when every program that could have found them has ended:
//!
//! 1. Entries that are removed or get another value are withdrawn: packets fall back to the kernel path.
//! 2. One grace period.
//! 3. New values are written, referenced entries before the entries that refer to them.
//! 4. Unused entries of arrays are set to zero.
//!
//! An entry that must not be missing ([`Planned::must_stay`]) is replaced instead: the kernel links the new element
//! before it unlinks the old one, and reuses the element that the previous replacement has freed
//! (`htab_map_update_elem` in kernel/bpf/hashtab.c). So each replacement waits for a grace period of its own.

use std::collections::BTreeMap;

use overlay_common::maps::Map;
use tracing::debug;

use super::{
    change::Change,
    tables::{Changes, MapKind, Planned, Tables, Visitor},
};

/// Write access to the maps.
pub(crate) trait Writer {
    /// A failed write or removal.
    type Error;

    /// Removes entries, which may be missing. Entries of an array are set to zero. Returns failures by position.
    fn remove<T: Planned>(&mut self, keys: &[T::Key]) -> Vec<(usize, Self::Error)>;

    /// Writes entries, new or existing. Returns failures by position.
    fn write<T: Planned>(&mut self, rows: &[(T::Key, T::Value)]) -> Vec<(usize, Self::Error)>;

    /// Sets a counter to zero.
    ///
    /// # Errors
    /// The kernel's error.
    fn reset(&mut self, map: Map, index: u32) -> Result<(), Self::Error>;

    /// Waits until every program that was running at the call has ended.
    ///
    /// # Errors
    /// The kernel's error.
    fn grace(&mut self) -> Result<(), Self::Error>;
}

/// The result of applying changes.
#[derive(Debug)]
pub struct Outcome<E> {
    /// All failures. The other changes are applied.
    pub failed: Vec<E>,
    /// An entry that should be removed or have another value is unchanged.
    pub is_stale: bool,
}

/// Applies all changes that can be applied: a full table does not keep a stale entry in another. `tables` is updated
/// with the contents of the maps; `freed`: an entry was withdrawn since the last grace period.
pub(crate) fn apply<W: Writer>(
    changes: &Changes,
    tables: &mut Tables,
    freed: &mut bool,
    writer: &mut W,
) -> Outcome<W::Error> {
    let outcome = Outcome { failed: Vec::new(), is_stale: false };
    let before = strict_tables(changes, tables);
    let mut order = Order { tables, freed, writer, before, outcome };
    changes.visit_reversed(&mut Withdraw(&mut order));
    changes.visit(&mut ResetCounters(&mut order));
    changes.visit(&mut Write(&mut order));
    changes.visit_reversed(&mut Clear(&mut order));
    order.outcome
}

/// The tables that determine which entries must not be missing.
fn strict_tables(changes: &Changes, tables: &Tables) -> Tables {
    // Networks are looked up only on hosts with a strict network.
    let networks = if tables.is_strict() { tables.networks.clone() } else { BTreeMap::new() };
    let mut before = Tables { networks, underlay: tables.underlay.clone(), ..Tables::default() };
    // A new strict flag counts from the first step on.
    if let Some(underlay) = changes.underlay.iter().find_map(|change| change.new) {
        before.underlay.entry(0).or_default().flags |= underlay.flags;
    }
    before
}

struct Order<'a, W: Writer> {
    before: Tables,
    tables: &'a mut Tables,
    freed: &'a mut bool,
    writer: &'a mut W,
    outcome: Outcome<W::Error>,
}

/// Withdraws entries that are removed or get another value.
struct Withdraw<'a, 'b, W: Writer>(&'a mut Order<'b, W>);

impl<W: Writer> Visitor for Withdraw<'_, '_, W> {
    fn table<T: Planned>(&mut self, changes: &[Change<T::Key, T::Value>]) {
        match T::KIND {
            MapKind::Hash | MapKind::Devices => {
                let before = &self.0.before;
                let gone = changes.iter().filter(|Change { key, old, new }| match (old, new) {
                    (_, None) => true,
                    (Some(old), Some(new)) => T::KIND == MapKind::Hash && !T::must_stay(key, old, new, before),
                    (None, Some(_)) => false,
                });
                let gone: Vec<_> = gone.map(|change| change.key).collect();
                self.0.remove::<T>(&gone);
            }
            MapKind::Array => {
                let disabled = changes.iter().filter_map(|Change { key, old, new }| {
                    let old = old.filter(|old| new.is_none_or(|new| !T::is_safe_mix(old, &new)))?;
                    Some((*key, T::disabled(old).filter(|disabled| *disabled != old)?))
                });
                let disabled: Vec<_> = disabled.collect();
                *self.0.freed |= !disabled.is_empty();
                self.0.write::<T>(&disabled);
            }
        }
    }
}

/// Resets the counters of new objects. An object that returns to its last index continues its counter.
struct ResetCounters<'a, 'b, W: Writer>(&'a mut Order<'b, W>);

impl<W: Writer> Visitor for ResetCounters<'_, '_, W> {
    fn table<T: Planned>(&mut self, changes: &[Change<T::Key, T::Value>]) {
        for Change { key, old, new } in changes {
            let (None, Some((counted, index))) = (old, new.as_ref().and_then(|value| T::counter(*key, value))) else {
                continue;
            };
            let retired = &mut self.0.tables.retired;
            if retired.index(counted) != Some(index) {
                retired.forget(counted.map(), index);
                self.0.outcome.failed.extend(self.0.writer.reset(counted.map(), index).err());
            }
        }
    }
}

/// Writes new values.
struct Write<'a, 'b, W: Writer>(&'a mut Order<'b, W>);

impl<W: Writer> Visitor for Write<'_, '_, W> {
    fn table<T: Planned>(&mut self, changes: &[Change<T::Key, T::Value>]) {
        for change in changes {
            debug!(map = T::MAP.name, ?change);
        }
        let table = T::rows(self.0.tables);
        let rows = changes.iter().filter_map(|change| Some((change.key, change.new?)));
        let rows: Vec<_> = rows.filter(|(key, value)| table.get(key) != Some(value)).collect();
        match T::KIND {
            MapKind::Devices => self.0.write::<T>(&rows),
            MapKind::Hash => {
                let (replaced, fresh): (Vec<_>, Vec<_>) =
                    rows.into_iter().partition(|(key, _)| T::rows(self.0.tables).contains_key(key));
                for row in replaced {
                    if !self.0.grace() {
                        break;
                    }
                    self.0.write::<T>(&[row]);
                    *self.0.freed = true;
                }
                if !fresh.is_empty() && self.0.grace() {
                    self.0.write::<T>(&fresh);
                }
            }
            MapKind::Array => {
                let table = T::rows(self.0.tables);
                let (mixed, switched): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(key, value)| {
                    T::disabled(*value).is_none() || table.get(key).is_some_and(|old| T::is_safe_mix(old, value))
                });
                // An entry that could not be disabled is not changed.
                let switched = switched.into_iter().filter(|(key, _)| table.get(key).is_none_or(is_disabled::<T>));
                let switched: Vec<_> = switched.collect();
                self.0.write::<T>(&mixed);
                *self.0.freed |= mixed.iter().any(|(_, value)| is_disabled::<T>(value));
                let disabled: Vec<_> =
                    switched.iter().filter_map(|(key, value)| Some((*key, T::disabled(*value)?))).collect();
                if !disabled.is_empty() && self.0.grace() {
                    self.0.write::<T>(&disabled);
                    // So that a CPU that reorders loads reads the other fields before it finds the entry enabled.
                    *self.0.freed = true;
                    if self.0.grace() {
                        self.0.write::<T>(&switched);
                    }
                }
            }
        }
    }
}

/// Sets unused entries of arrays to zero, and looks for stale entries.
struct Clear<'a, 'b, W: Writer>(&'a mut Order<'b, W>);

impl<W: Writer> Visitor for Clear<'_, '_, W> {
    fn table<T: Planned>(&mut self, changes: &[Change<T::Key, T::Value>]) {
        if T::KIND == MapKind::Array {
            let table = T::rows(self.0.tables);
            let gone = changes.iter().filter(|change| change.new.is_none()).map(|change| change.key);
            let is_unused = |value: &T::Value| T::disabled(*value).is_none_or(|disabled| disabled == *value);
            let gone: Vec<_> = gone.filter(|key| table.get(key).is_none_or(is_unused)).collect();
            if !gone.is_empty() && self.0.grace() {
                self.0.remove::<T>(&gone);
            }
        }
        let rows = T::rows(self.0.tables);
        let is_stale = |change: &Change<T::Key, T::Value>| {
            let differs = |found: &T::Value| Some(found) != change.new.as_ref() && !is_disabled::<T>(found);
            rows.get(&change.key).is_some_and(differs)
        };
        self.0.outcome.is_stale |= changes.iter().any(is_stale);
    }
}

/// Whether programs ignore the entry.
fn is_disabled<T: Planned>(value: &T::Value) -> bool {
    T::disabled(*value).as_ref() == Some(value)
}

impl<W: Writer> Order<'_, W> {
    fn remove<T: Planned>(&mut self, keys: &[T::Key]) {
        if keys.is_empty() {
            return;
        }
        *self.freed |= T::KIND == MapKind::Hash;
        let failed = self.writer.remove::<T>(keys);
        self.follow::<T>(keys.iter().map(|key| (*key, None)), failed);
    }

    fn write<T: Planned>(&mut self, rows: &[(T::Key, T::Value)]) {
        if rows.is_empty() {
            return;
        }
        let failed = self.writer.write::<T>(rows);
        self.follow::<T>(rows.iter().map(|(key, value)| (*key, Some(*value))), failed);
    }

    fn follow<T: Planned>(
        &mut self,
        rows: impl Iterator<Item = (T::Key, Option<T::Value>)>,
        failed: Vec<(usize, W::Error)>,
    ) {
        let mut failed = failed.into_iter().peekable();
        for (position, (key, value)) in rows.enumerate() {
            match failed.next_if(|(failed, _)| *failed == position) {
                Some((_, error)) => self.outcome.failed.push(error),
                None => self.tables.set::<T>(key, value),
            }
        }
    }

    /// Waits for a grace period if needed. False: withdrawn entries may still be read.
    fn grace(&mut self) -> bool {
        if *self.freed {
            match self.writer.grace() {
                Ok(()) => *self.freed = false,
                Err(error) => self.outcome.failed.push(error),
            }
        }
        !*self.freed
    }
}
