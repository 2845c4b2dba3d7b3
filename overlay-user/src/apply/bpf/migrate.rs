//! Migration from the maps of another version or configuration to maps of this version's layout.
//!
//! The new maps are created in the directory `next` of the pin root and filled from the daemon's state; only the new
//! programs use them. Then the programs are replaced hook by hook; an old program runs with the old maps and their
//! deadline until its replacement. After the last replacement, the new maps are renamed over the old ones.
//!
//! Any version can continue after a crash: before the record has `switch`, the maps in the root are the complete old
//! ones, and the next daemon replaces all programs; with `switch`, all programs are replaced, and only renames are left
//! ([`finish`]).

use std::{collections::BTreeMap, fs, io, path::Path};

use aya::maps::MapData;
use overlay_common::maps::{self, Class, LAYOUT};

use super::{
    LoadError,
    layout::{self, Shape},
};
use crate::{
    apply::ledger::{AttachPoint, Fact, Ledger, PinError, PinRoot, io_error},
    plan::{
        change::ChangeOf,
        tables::{Changes, MapKind, Planned, Visitor},
    },
    sys::{bpf::map::RawMap, fault},
};

/// New maps that replace old ones.
pub(crate) struct Migration {
    counters: Vec<Counters>,
}

impl Migration {
    /// Creates the directory of the new maps. Counters with an unchanged shape are shared by both, and so are learned
    /// maps if the layout is unchanged.
    pub(crate) fn begin(ledger: &Ledger, needed: &BTreeMap<&'static str, Shape>) -> Result<Self, LoadError> {
        discard(ledger)?;
        let root = ledger.root();
        let next = root.next();
        fs::create_dir(&next).map_err(io_error("cannot create", &next))?;
        let same_layout = layout::recorded(root)? == LAYOUT;
        for map in maps::MAPS {
            let path = root.map(map.name);
            let is_shared = map.class == Class::Counter || map.class == Class::Learned && same_layout;
            if is_shared && layout::found(&path)?.is_some_and(|found| needed.get(map.name) == Some(&found)) {
                let data = MapData::from_pin(&path).map_err(|source| LoadError::Map { path: path.clone(), source })?;
                let pin = next.join(map.name);
                data.pin(&pin)
                    .map_err(|error| LoadError::Copy { path: pin.clone(), source: io::Error::other(error) })?;
            }
        }
        Ok(Self { counters: Vec::new() })
    }

    /// Copies the state that cannot be derived: counters, and the indices of counters.
    pub(crate) fn take_over(
        &mut self,
        root: &PinRoot,
        needed: &BTreeMap<&'static str, Shape>,
    ) -> Result<(), LoadError> {
        for map in maps::MAPS {
            let path = root.map(map.name);
            let is_counter = map.class == Class::Counter && layout::found(&path)?.as_ref() != needed.get(map.name);
            if !is_counter && map.prefix_len == 0 {
                continue;
            }
            let Some((old, new)) = find(&path)?.zip(find(&root.next().join(map.name))?) else {
                continue;
            };
            if is_counter {
                self.counters.push(Counters::copy(old, new)?);
            } else {
                copy_prefixes(&old, &new, map.prefix_len).map_err(|error| copy_error(&new, error))?;
            }
        }
        Ok(())
    }

    /// Renames the new maps over the old ones. Called when no program uses the old maps. Can be repeated after an
    /// error.
    pub(crate) fn commit(&mut self, ledger: &Ledger) -> Result<(), LoadError> {
        for counters in self.counters.drain(..) {
            counters.add_remaining().map_err(|error| copy_error(&counters.new, error))?;
        }
        fault::kill_at("replaced");
        ledger.set(Fact::SWITCH, LAYOUT)?;
        finish(ledger)
    }
}

/// Finishes the migration of a daemon of any version that recorded [`Fact::SWITCH`].
pub(crate) fn finish(ledger: &Ledger) -> Result<(), LoadError> {
    let root = ledger.root();
    let Some(version) = root.fact::<u32>(Fact::SWITCH)? else { return Ok(()) };
    fault::kill_at("decided");
    let next = root.next();
    for name in PinRoot::map_names(&next)? {
        let (from, to) = (next.join(&name), root.map(&name));
        fs::rename(&from, &to).map_err(io_error("cannot rename", &from))?;
        fault::kill_at("renamed");
    }
    ledger.set(Fact::LAYOUT, version)?;
    remove_directory(&next)?;
    if version == LAYOUT {
        remove_unknown(ledger)?;
    }
    Ok(ledger.clear(Fact::SWITCH)?)
}

/// Removes new maps of an unfinished migration.
pub(crate) fn discard(ledger: &Ledger) -> Result<(), LoadError> {
    let next = ledger.root().next();
    remove_maps(&next, |_| true)?;
    Ok(remove_directory(&next)?)
}

/// Removes pins of maps and links unknown to this version. Called when no hook has a program of another version.
pub(crate) fn remove_unknown(ledger: &Ledger) -> Result<(), LoadError> {
    let root = ledger.root();
    for name in root.link_names()?.iter().filter(|name| AttachPoint::parse(name).is_none()) {
        let path = root.links().join(name);
        fs::remove_file(&path).map_err(io_error("cannot remove", &path))?;
    }
    Ok(remove_maps(root.path(), |name| maps::MAPS.iter().all(|map| map.name != name))?)
}

/// Clears the tables in the pin root, of any layout, so that every packet takes the kernel path.
pub(crate) fn empty(ledger: &Ledger) -> Result<(), LoadError> {
    struct Empty<'a>(&'a Path, Result<(), LoadError>);
    impl Empty<'_> {
        fn clear(&self, map: &str) -> Result<(), LoadError> {
            match find(&self.0.join(map))? {
                Some(map) => map.clear().map_err(|error| copy_error(&map, error)),
                None => Ok(()),
            }
        }
    }
    impl Visitor for Empty<'_> {
        fn table<T: Planned>(&mut self, _: &[ChangeOf<T>]) {
            if T::KIND != MapKind::Array && self.1.is_ok() {
                self.1 = self.clear(T::MAP.name);
            }
        }
    }
    for directory in [ledger.root().next(), ledger.root().path().to_owned()] {
        let mut empty = Empty(&directory, Ok(()));
        // In this order no reference to a missing entry is visible.
        Changes::default().visit_reversed(&mut empty);
        empty.1?;
    }
    Ok(())
}

fn remove_maps(directory: &Path, which: impl Fn(&str) -> bool) -> Result<(), PinError> {
    for name in PinRoot::map_names(directory)?.iter().filter(|name| which(name)) {
        let path = directory.join(name);
        fs::remove_file(&path).map_err(io_error("cannot remove", &path))?;
    }
    Ok(())
}

fn remove_directory(path: &Path) -> Result<(), PinError> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("cannot remove", path)(error)),
        _ => Ok(()),
    }
}

/// Copies the first `length` bytes of every value.
fn copy_prefixes(old: &RawMap, new: &RawMap, length: usize) -> io::Result<()> {
    for key in old.each_key()? {
        // A smaller array loses the last entries: their indices are reassigned.
        if old.is_array() && index(&key) >= new.entries() {
            break;
        }
        if let Some(value) = old.get(&key)?
            && let Some(prefix) = value.get(..length)
            && !(old.is_array() && prefix.iter().all(|byte| *byte == 0))
        {
            new.set(&key, prefix)?;
        }
    }
    Ok(())
}

fn index(key: &[u8]) -> u32 {
    key.try_into().map_or(u32::MAX, u32::from_ne_bytes)
}

/// Counters whose shape changes: the values are copied at the start, and the old programs' later counts are added at
/// the end. All fields of counters are `u64`, and layouts only append fields.
struct Counters {
    old: RawMap,
    new: RawMap,
    /// The copied values by index.
    copied: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Counters {
    fn copy(old: RawMap, new: RawMap) -> Result<Self, LoadError> {
        let mut counters = Self { old, new, copied: BTreeMap::new() };
        counters.copy_all().map_err(|error| copy_error(&counters.new, error))?;
        Ok(counters)
    }

    fn copy_all(&mut self) -> io::Result<()> {
        let Self { old, new, copied } = self;
        for key in old.each_key()?.into_iter().filter(|key| index(key) < new.entries()) {
            let Some(value) = old.get(&key)?.filter(|value| value.iter().any(|byte| *byte != 0)) else { continue };
            new.set(
                &key,
                &sum_per_cpu(&value, old.cpu_value_size(), &vec![0; new.value_size()], new.cpu_value_size()),
            )?;
            copied.insert(key, value);
        }
        Ok(())
    }

    /// Adds the later counts. A packet counted by the new programs between the read and the write of a counter is lost.
    fn add_remaining(&self) -> io::Result<()> {
        for key in self.old.each_key()?.into_iter().filter(|key| index(key) < self.new.entries()) {
            let Some(mut value) = self.old.get(&key)? else { continue };
            if let Some(copied) = self.copied.get(&key) {
                value = words(&value)
                    .zip(words(copied))
                    .flat_map(|(now, then)| now.wrapping_sub(then).to_ne_bytes())
                    .collect();
            }
            if value.iter().any(|byte| *byte != 0)
                && let Some(sum) = self.new.get(&key)?
            {
                self.new.set(&key, &sum_per_cpu(&value, self.old.cpu_value_size(), &sum, self.new.cpu_value_size()))?;
            }
        }
        Ok(())
    }
}

/// Adds `value`, which has `old_size` bytes for each CPU, to `sum`, which has `new_size`.
fn sum_per_cpu(value: &[u8], old_size: usize, sum: &[u8], new_size: usize) -> Vec<u8> {
    let cpus = value.chunks(old_size).zip(sum.chunks(new_size));
    cpus.flat_map(|(value, sum)| {
        let value = words(value).chain(std::iter::repeat(0));
        words(sum).zip(value).flat_map(|(sum, value)| sum.wrapping_add(value).to_ne_bytes()).collect::<Vec<_>>()
    })
    .collect()
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word))
}

/// Opens a pinned map; `None`: it does not exist.
fn find(path: &Path) -> Result<Option<RawMap>, LoadError> {
    if !path.exists() {
        return Ok(None);
    }
    RawMap::open(path).map(Some).map_err(|source| LoadError::Map { path: path.into(), source })
}

/// An error of copying a map.
fn copy_error(map: &RawMap, source: io::Error) -> LoadError {
    LoadError::Copy { path: map.path().to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn counters_are_added_per_cpu_to_wider_and_narrower_values() {
        let two_cpus = bytes(&[1, 2, 30, 40]);
        assert_eq!(sum_per_cpu(&two_cpus, 16, &bytes(&[100, 200, 5, 0, 0, 6]), 24), bytes(&[101, 202, 5, 30, 40, 6]));
        assert_eq!(sum_per_cpu(&two_cpus, 16, &bytes(&[7, 0]), 8), bytes(&[8, 30]));
    }
}
