//! Carries out changes of the planned maps, so that packets find a right state at every step.
//!
//! A value that a program may be reading is never overwritten. Removed entries of a hash, and what is closed in an array,
//! are written again only after a grace period, when every program that could have found them has ended:
//!
//! 1. What is removed or gets another value is taken out: packets take the kernel path.
//! 2. One grace period.
//! 3. What is new is written: what packets are led to before what leads there.
//! 4. Unused entries of arrays are set to zero.
//!
//! An entry that must not be missing ([`Planned::is_held`]) is replaced instead: the kernel links the new element before it
//! unlinks the old one, and fills it into the element that the replacement before has freed (`htab_map_update_elem` in
//! kernel/bpf/hashtab.c). So each of these waits for a grace period of its own.

use std::collections::BTreeMap;

use overlay_common::maps::Map;
use tracing::debug;

use super::{
    change::Change,
    tables::{Changes, Kind, Planned, Tables, Visitor},
};

/// Writes into maps.
pub(crate) trait Writer {
    /// Why an entry could not be written or removed.
    type Error;

    /// Removes entries; absent ones too. Entries of an array are set to zero. Returns what failed, by place.
    fn remove<T: Planned>(&mut self, keys: &[T::Key]) -> Vec<(usize, Self::Error)>;

    /// Writes entries, new or not. Returns what failed, by place.
    fn write<T: Planned>(&mut self, rows: &[(T::Key, T::Value)]) -> Vec<(usize, Self::Error)>;

    /// Sets a counter to zero.
    ///
    /// # Errors
    /// What the kernel refuses.
    fn reset(&mut self, map: Map, index: u32) -> Result<(), Self::Error>;

    /// Waits until every program has ended that was running at the call.
    ///
    /// # Errors
    /// What the kernel refuses.
    fn grace(&mut self) -> Result<(), Self::Error>;
}

/// What became of changes.
#[derive(Debug)]
pub struct Outcome<E> {
    /// Every failure. All else was done.
    pub failed: Vec<E>,
    /// An entry that should be gone or have another value could not be changed.
    pub is_stale: bool,
}

/// Makes all changes that can be made: a full table does not keep a stale entry in another. `tables` follows what the maps
/// hold; `freed`: something was taken out since the last grace period.
pub(crate) fn carry_out<W: Writer>(
    changes: &Changes,
    tables: &mut Tables,
    freed: &mut bool,
    writer: &mut W,
) -> Outcome<W::Error> {
    let outcome = Outcome { failed: Vec::new(), is_stale: false };
    let before = strictness(changes, tables);
    let mut order = Order { tables, freed, writer, before, outcome };
    changes.visit_reversed(&mut Close(&mut order));
    changes.visit(&mut Reset(&mut order));
    changes.visit(&mut Open(&mut order));
    changes.visit_reversed(&mut Clear(&mut order));
    order.outcome
}

/// What of the tables says which entries must not be missing.
fn strictness(changes: &Changes, tables: &Tables) -> Tables {
    // Without a strict network none is asked for.
    let networks = if tables.is_strict() { tables.networks.clone() } else { BTreeMap::new() };
    let mut before = Tables { networks, underlay: tables.underlay.clone(), ..Tables::default() };
    // From the first step on.
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

/// Takes out what is removed or gets another value.
struct Close<'a, 'b, W: Writer>(&'a mut Order<'b, W>);

impl<W: Writer> Visitor for Close<'_, '_, W> {
    fn table<T: Planned>(&mut self, changes: &[Change<T::Key, T::Value>]) {
        match T::KIND {
            Kind::Hash | Kind::Devices => {
                let before = &self.0.before;
                let gone = changes.iter().filter(|Change { key, old, new }| match (old, new) {
                    (_, None) => true,
                    (Some(old), Some(new)) => T::KIND == Kind::Hash && !T::is_held(key, old, new, before),
                    (None, Some(_)) => false,
                });
                let gone: Vec<_> = gone.map(|change| change.key).collect();
                self.0.remove::<T>(&gone);
            }
            Kind::Array => {
                let open = changes.iter().filter_map(|Change { key, old, new }| {
                    let old = old.filter(|old| new.is_none_or(|new| !T::mixes(old, &new)))?;
                    Some((*key, T::closed(old).filter(|closed| *closed != old)?))
                });
                let closed: Vec<_> = open.collect();
                *self.0.freed |= !closed.is_empty();
                self.0.write::<T>(&closed);
            }
        }
    }
}

/// Sets the counters of what is new to zero. What comes back to the index that it had counts on.
struct Reset<'a, 'b, W: Writer>(&'a mut Order<'b, W>);

impl<W: Writer> Visitor for Reset<'_, '_, W> {
    fn table<T: Planned>(&mut self, changes: &[Change<T::Key, T::Value>]) {
        for Change { key, old, new } in changes {
            let (None, Some((counted, index))) = (old, new.as_ref().and_then(|value| T::counter(*key, value))) else {
                continue;
            };
            let retired = &mut self.0.tables.retired;
            if retired.index(counted) != Some(index) {
                retired.take(counted.map(), index);
                self.0.outcome.failed.extend(self.0.writer.reset(counted.map(), index).err());
            }
        }
    }
}

/// Writes what is new.
struct Open<'a, 'b, W: Writer>(&'a mut Order<'b, W>);

impl<W: Writer> Visitor for Open<'_, '_, W> {
    fn table<T: Planned>(&mut self, changes: &[Change<T::Key, T::Value>]) {
        for change in changes {
            debug!(map = T::MAP.name, ?change);
        }
        let table = T::rows(self.0.tables);
        let rows = changes.iter().filter_map(|change| Some((change.key, change.new?)));
        let rows: Vec<_> = rows.filter(|(key, value)| table.get(key) != Some(value)).collect();
        match T::KIND {
            Kind::Devices => self.0.write::<T>(&rows),
            Kind::Hash => {
                let (held, fresh): (Vec<_>, Vec<_>) =
                    rows.into_iter().partition(|(key, _)| T::rows(self.0.tables).contains_key(key));
                for row in held {
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
            Kind::Array => {
                let table = T::rows(self.0.tables);
                let (mixed, gated): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(key, value)| {
                    T::closed(*value).is_none() || table.get(key).is_some_and(|old| T::mixes(old, value))
                });
                // What could not be closed stays as it is.
                let gated = gated.into_iter().filter(|(key, _)| table.get(key).is_none_or(is_closed::<T>));
                let gated: Vec<_> = gated.collect();
                self.0.write::<T>(&mixed);
                *self.0.freed |= mixed.iter().any(|(_, value)| is_closed::<T>(value));
                let closed: Vec<_> = gated.iter().filter_map(|(key, value)| Some((*key, T::closed(*value)?))).collect();
                if !closed.is_empty() && self.0.grace() {
                    self.0.write::<T>(&closed);
                    // A CPU that reorders loads sees the other fields when it sees the entry open.
                    *self.0.freed = true;
                    if self.0.grace() {
                        self.0.write::<T>(&gated);
                    }
                }
            }
        }
    }
}

/// Sets unused entries of arrays to zero, and looks what was not done.
struct Clear<'a, 'b, W: Writer>(&'a mut Order<'b, W>);

impl<W: Writer> Visitor for Clear<'_, '_, W> {
    fn table<T: Planned>(&mut self, changes: &[Change<T::Key, T::Value>]) {
        if T::KIND == Kind::Array {
            let table = T::rows(self.0.tables);
            let gone = changes.iter().filter(|change| change.new.is_none()).map(|change| change.key);
            let needs_no_closing = |value: &T::Value| T::closed(*value).is_none_or(|closed| closed == *value);
            let gone: Vec<_> = gone.filter(|key| table.get(key).is_none_or(needs_no_closing)).collect();
            if !gone.is_empty() && self.0.grace() {
                self.0.remove::<T>(&gone);
            }
        }
        let rows = T::rows(self.0.tables);
        let is_stale = |change: &Change<T::Key, T::Value>| {
            let is_false = |found: &T::Value| Some(found) != change.new.as_ref() && !is_closed::<T>(found);
            rows.get(&change.key).is_some_and(is_false)
        };
        self.0.outcome.is_stale |= changes.iter().any(is_stale);
    }
}

/// Whether programs leave the entry alone.
fn is_closed<T: Planned>(value: &T::Value) -> bool {
    T::closed(*value).as_ref() == Some(value)
}

impl<W: Writer> Order<'_, W> {
    fn remove<T: Planned>(&mut self, keys: &[T::Key]) {
        if keys.is_empty() {
            return;
        }
        *self.freed |= T::KIND == Kind::Hash;
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
        for (place, (key, value)) in rows.enumerate() {
            match failed.next_if(|(failed, _)| *failed == place) {
                Some((_, error)) => self.outcome.failed.push(error),
                None => self.tables.set::<T>(key, value),
            }
        }
    }

    /// Whether nothing that was taken out is still read.
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
