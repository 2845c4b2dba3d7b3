//! From the maps that another version, or another configuration, has left to maps of this one's layout.
//!
//! The new maps are made in the directory `next` of the pin root and filled from what the daemon knows; no program but the
//! new ones ever sees them. Then the programs are replaced hook by hook. Until its turn comes, each of the old ones goes
//! on with the old maps and their deadline. When the last is replaced, the new maps are renamed over the old ones.
//!
//! A daemon that dies on the way leaves what any version can go on from: before the record says `switch` the maps in the root are
//! the old ones, whole, and whoever comes next replaces all programs; from then on all programs are replaced, and what is
//! left are names ([`finish`]).

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
        tables::{Changes, Kind, Planned, Visitor},
    },
    sys::{bpf::map::RawMap, fault},
};

/// New maps that take the place of old ones.
pub(crate) struct Migration {
    counters: Vec<Counters>,
}

impl Migration {
    /// Makes the directory of the new maps. The counters whose shape stays are the same maps in both, and so is in the same
    /// layout what the programs have learned.
    pub(crate) fn begin(ledger: &Ledger, needed: &BTreeMap<&'static str, Shape>) -> Result<Self, LoadError> {
        discard(ledger)?;
        let root = ledger.root();
        let next = root.next();
        fs::create_dir(&next).map_err(io_error("cannot make", &next))?;
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

    /// Takes over from the old maps what is not to be known otherwise: what was counted, and the numbers by which it is.
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
                copy_beginnings(&old, &new, map.prefix_len).map_err(|error| copy_error(&new, error))?;
            }
        }
        Ok(())
    }

    /// Puts the new maps in the place of the old ones. To be called when no program uses the old ones any more. After an
    /// error it can be called again.
    pub(crate) fn commit(&mut self, ledger: &Ledger) -> Result<(), LoadError> {
        for counters in self.counters.drain(..) {
            counters.add_rest().map_err(|error| copy_error(&counters.new, error))?;
        }
        fault::point("replaced");
        ledger.set(Fact::SWITCH, LAYOUT)?;
        finish(ledger)
    }
}

/// Finishes what a daemon, of whatever version, has running with [`Fact::SWITCH`]. Nothing is to be done without it.
pub(crate) fn finish(ledger: &Ledger) -> Result<(), LoadError> {
    let root = ledger.root();
    let Some(version) = root.fact::<u32>(Fact::SWITCH)? else { return Ok(()) };
    fault::point("decided");
    let next = root.next();
    for name in PinRoot::map_names(&next)? {
        let (from, to) = (next.join(&name), root.map(&name));
        fs::rename(&from, &to).map_err(io_error("cannot rename", &from))?;
        fault::point("renamed");
    }
    ledger.set(Fact::LAYOUT, version)?;
    remove_directory(&next)?;
    if version == LAYOUT {
        remove_unknown(ledger)?;
    }
    Ok(ledger.clear(Fact::SWITCH)?)
}

/// Gives up new maps that did not take the place of the old ones.
pub(crate) fn discard(ledger: &Ledger) -> Result<(), LoadError> {
    let next = ledger.root().next();
    remove_maps(&next, |_| true)?;
    Ok(remove_directory(&next)?)
}

/// Removes the pins of maps and links that this version knows nothing of: those of another version, when no hook has a
/// program of it any more.
pub(crate) fn remove_unknown(ledger: &Ledger) -> Result<(), LoadError> {
    let root = ledger.root();
    for name in root.link_names()?.iter().filter(|name| AttachPoint::parse(name).is_none()) {
        let path = root.links().join(name);
        fs::remove_file(&path).map_err(io_error("cannot remove", &path))?;
    }
    Ok(remove_maps(root.path(), |name| maps::MAPS.iter().all(|map| map.name != name))?)
}

/// Empties the tables in the pin root, whatever their layout, so that every packet takes the kernel path.
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
            if T::KIND != Kind::Array && self.1.is_ok() {
                self.1 = self.clear(T::MAP.name);
            }
        }
    }
    for directory in [ledger.root().next(), ledger.root().path().to_owned()] {
        let mut empty = Empty(&directory, Ok(()));
        // In this order no packet meets a reference to an entry that is not there.
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
fn copy_beginnings(old: &RawMap, new: &RawMap, length: usize) -> io::Result<()> {
    for key in old.each_key()? {
        // Of an array that is smaller now the last ones are lost: their numbers are given anew.
        if old.is_array() && index(&key) >= new.entries() {
            break;
        }
        if let Some(value) = old.get(&key)?
            && let Some(beginning) = value.get(..length)
            && !(old.is_array() && beginning.iter().all(|byte| *byte == 0))
        {
            new.set(&key, beginning)?;
        }
    }
    Ok(())
}

fn index(key: &[u8]) -> u32 {
    key.try_into().map_or(u32::MAX, u32::from_ne_bytes)
}

/// Counters whose shape changes: what was counted so far is copied, and what the old programs counted after that is added
/// in the end. All fields of counters are `u64`, and layouts add them at the end alone.
struct Counters {
    old: RawMap,
    new: RawMap,
    /// By index: what was copied.
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
            new.set(&key, &added(&value, old.cpu_value_size(), &vec![0; new.value_size()], new.cpu_value_size()))?;
            copied.insert(key, value);
        }
        Ok(())
    }

    /// A packet that the new programs count between the reading and the writing of one counter is not counted.
    fn add_rest(&self) -> io::Result<()> {
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
                self.new.set(&key, &added(&value, self.old.cpu_value_size(), &sum, self.new.cpu_value_size()))?;
            }
        }
        Ok(())
    }
}

/// Adds `value`, which has `old_size` bytes for each CPU, to `sum`, which has `new_size`.
fn added(value: &[u8], old_size: usize, sum: &[u8], new_size: usize) -> Vec<u8> {
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

/// Opens a pinned map; `None`: it is not there.
fn find(path: &Path) -> Result<Option<RawMap>, LoadError> {
    if !path.exists() {
        return Ok(None);
    }
    RawMap::open(path).map(Some).map_err(|source| LoadError::Map { path: path.into(), source })
}

/// An error in taking over what a map holds.
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
    fn what_was_counted_is_added_for_every_cpu_to_wider_and_narrower_counters() {
        let two_cpus = bytes(&[1, 2, 30, 40]);
        assert_eq!(added(&two_cpus, 16, &bytes(&[100, 200, 5, 0, 0, 6]), 24), bytes(&[101, 202, 5, 30, 40, 6]));
        assert_eq!(added(&two_cpus, 16, &bytes(&[7, 0]), 8), bytes(&[8, 30]));
    }
}
