//! Typed tables over the pinned BPF maps.

use std::{collections::BTreeMap, io, path::Path};

use aya::maps::MapError;
use bytemuck::Pod;
use overlay_common::{
    Reason,
    maps::{self, Class, Count, Map, Traffic},
};

use crate::{
    apply::ledger::Ledger,
    plan::{
        change::ChangeOf,
        names::Names,
        order::{self, Outcome, Writer},
        tables::{Changes, MapKind, Planned, Tables, Visitor},
    },
    sys::{
        bpf::{grace::Grace, map::RawMap},
        fault::{self, Point},
        netns::Netns,
    },
};

/// A map cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableIoError {
    /// The map is missing or has another type.
    #[error("cannot open the map {map}: {source}{}", hint(source))]
    Open {
        /// The map.
        map: &'static str,
        /// The error.
        source: MapError,
    },
    /// Reading failed.
    #[error("cannot read the map {map}: {source}")]
    Read {
        /// The map.
        map: &'static str,
        /// The error.
        source: io::Error,
    },
    /// The map cannot be pinned.
    #[error("cannot pin the map {map}: {reason}")]
    Pin {
        /// The map.
        map: &'static str,
        /// The error.
        reason: String,
    },
    /// Writing failed; a full map returns E2BIG.
    #[error("cannot write {entry} into the map {map}: {source}{}", write_remedy(map, source))]
    Write {
        /// The map.
        map: &'static str,
        /// The entry.
        entry: String,
        /// The error.
        source: io::Error,
    },
    /// Waiting for running programs failed.
    #[error("cannot wait for a grace period: {0}; packets take the kernel path until a retry succeeds")]
    Grace(io::Error),
}

/// The remedy for a missing permission.
fn hint(error: &MapError) -> &'static str {
    let errno = match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        MapError::IoError(error) => error.raw_os_error(),
        _ => None,
    };
    match errno {
        Some(libc::EPERM | libc::EACCES) => "; run this as root, or as the daemon's user with CAP_BPF",
        _ => "",
    }
}

/// The consequence and the remedy of a failed write.
fn write_remedy(map: &str, error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::E2BIG) if map == maps::FDB.name => {
            "; the map is full, and its packets take the kernel path; raise fdb_size"
        }
        Some(libc::E2BIG) => {
            "; the map is full, and its packets take the kernel path; spread the endpoints over more hosts"
        }
        _ => "; its packets take the kernel path until a retry succeeds",
    }
}

/// The maps of one data path.
pub struct Maps {
    maps: BTreeMap<&'static str, RawMap>,
    grace: Option<Grace>,
    /// An entry was removed since the last grace period, or may have been before the maps were opened.
    freed: bool,
}

/// Counters of the programs, summed over the CPUs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// In the order of [`Reason::ALL`].
    pub reasons: Vec<(Reason, Count)>,
    /// By network slot; only the requested slots.
    pub networks: BTreeMap<u32, Traffic>,
    /// By VTEP index; only the requested indices.
    pub vteps: BTreeMap<u32, Traffic>,
}

impl Maps {
    /// Opens the maps pinned below `root`.
    ///
    /// # Errors
    /// [`TableIoError::Open`].
    pub fn open(root: &Path) -> Result<Self, TableIoError> {
        // The kernel checks only the file permissions of the pin, which the daemon's group may have.
        let may = |capability| caps::has_cap(None, caps::CapSet::Effective, capability).unwrap_or(true);
        if !may(caps::Capability::CAP_BPF) && !may(caps::Capability::CAP_SYS_ADMIN) {
            let source = MapError::IoError(io::Error::from_raw_os_error(libc::EPERM));
            return Err(TableIoError::Open { map: maps::PORTS.name, source });
        }
        let planned_or_counted = maps::MAPS.into_iter().filter(|map| map.class != Class::Learned);
        let open = |Map { name: map, .. }| match RawMap::open(&root.join(map)) {
            Ok(opened) => Ok((map, opened)),
            Err(source) => Err(TableIoError::Open { map, source }),
        };
        Ok(Self { maps: planned_or_counted.map(open).collect::<Result<_, _>>()?, grace: None, freed: true })
    }

    pub(crate) fn raw(&self, map: Map) -> io::Result<&RawMap> {
        self.maps.get(map.name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Reads all tables.
    ///
    /// # Errors
    /// [`TableIoError::Read`].
    pub fn read(&self) -> Result<Tables, TableIoError> {
        struct Read<'a>(&'a Maps, Tables, Result<(), TableIoError>);
        impl Visitor for Read<'_> {
            fn table<T: Planned>(&mut self, _: &[ChangeOf<T>]) {
                match self.0.raw(T::MAP).and_then(RawMap::rows::<T::Key, T::Value>) {
                    Ok(rows) => {
                        let is_used = |value: &T::Value| T::KIND != MapKind::Array || !is_zero(value);
                        let used = rows.into_iter().filter(|(_, value)| is_used(value));
                        T::rows_mut(&mut self.1).extend(used.map(|(key, value)| (key, T::loaded(value))));
                    }
                    Err(source) => self.2 = Err(TableIoError::Read { map: T::MAP.name, source }),
                }
            }
        }
        let mut read = Read(self, Tables::default(), Ok(()));
        Changes::default().visit(&mut read);
        let Read(_, mut tables, result) = read;
        tables.set_txport_netns();
        result.map(|()| tables)
    }

    /// Applies changes; `tables` is updated with those that succeed. `netns` opens a network namespace by its netns id.
    pub fn apply(
        &mut self,
        _: &Ledger,
        changes: &Changes,
        tables: &mut Tables,
        netns: &dyn Fn(u32) -> Option<Netns>,
    ) -> Outcome<TableIoError> {
        let mut freed = self.freed;
        let outcome = order::apply(changes, tables, &mut freed, &mut Session { maps: self, netns });
        self.freed = freed;
        outcome
    }

    /// Applies changes without comparison to the maps, for devices in the calling thread's network namespace.
    ///
    /// # Errors
    /// The first failure; the other changes are applied.
    #[cfg(any(test, feature = "testing"))]
    pub fn write(&mut self, ledger: &Ledger, changes: &Changes) -> Result<(), TableIoError> {
        match self.apply(ledger, changes, &mut Tables::default(), &|_| None).failed.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Reads the counters of all reasons and of the given network slots and VTEP indices.
    ///
    /// # Errors
    /// [`TableIoError::Read`].
    pub fn counters(
        &self,
        slots: impl IntoIterator<Item = u32>,
        vteps: impl IntoIterator<Item = u32>,
    ) -> Result<Counters, TableIoError> {
        let reasons = Reason::ALL.into_iter().map(|reason| {
            let per_cpu = self.counter::<Count>(maps::REASONS, reason as u32)?;
            Ok((reason, sum(per_cpu.into_iter())))
        });
        Ok(Counters {
            reasons: reasons.collect::<Result<_, TableIoError>>()?,
            networks: self.traffic(maps::VNI_STATS, slots)?,
            vteps: self.traffic(maps::VTEP_STATS, vteps)?,
        })
    }

    fn traffic(
        &self,
        map: Map,
        indices: impl IntoIterator<Item = u32>,
    ) -> Result<BTreeMap<u32, Traffic>, TableIoError> {
        let counted = indices.into_iter().map(|index| {
            let per_cpu = self.counter::<Traffic>(map, index)?;
            let (tx, rx) = (per_cpu.iter().map(|traffic| traffic.tx), per_cpu.iter().map(|traffic| traffic.rx));
            Ok((index, Traffic::new(sum(tx), sum(rx))))
        });
        counted.collect()
    }

    /// The values of a counter for all CPUs.
    fn counter<V: Pod>(&self, map: Map, index: u32) -> Result<Vec<V>, TableIoError> {
        let read = self.raw(map).and_then(|raw| raw.per_cpu(index));
        read.map_err(|source| TableIoError::Read { map: map.name, source })
    }
}

fn is_zero(value: &impl Pod) -> bool {
    bytemuck::bytes_of(value).iter().all(|byte| *byte == 0)
}

fn sum(counts: impl Iterator<Item = Count>) -> Count {
    counts.fold(Count::default(), |mut total, Count { packets, bytes }| {
        total.add(packets, bytes);
        total
    })
}

/// Writer of one set of changes.
struct Session<'a> {
    maps: &'a mut Maps,
    netns: &'a dyn Fn(u32) -> Option<Netns>,
}

impl Session<'_> {
    /// Applies an operation to many entries at once as far as the kernel supports it, and to the rest one by one.
    /// Returns the failures.
    fn all<T: Planned>(
        &self,
        count: usize,
        batch: impl FnOnce(&RawMap) -> usize,
        one: impl Fn(&RawMap, usize) -> io::Result<()>,
        key: impl Fn(usize) -> T::Key,
    ) -> Vec<(usize, TableIoError)> {
        let point = Point::Map(T::MAP.name);
        let raw = self.maps.raw(T::MAP);
        // A failed batch is repeated one by one, which gives an error for each entry.
        let done = match &raw {
            Ok(raw) if T::KIND == MapKind::Hash && count > 1 && fault::at(point).is_ok() => batch(raw),
            _ => 0,
        };
        let failed = (done..count).filter_map(|index| {
            let result = match &raw {
                Ok(raw) => fault::at(point).and_then(|()| one(raw, index)),
                Err(error) => Err(error.kind().into()),
            };
            let source = result.err()?;
            let entry = T::object(key(index), &Names::default());
            Some((index, TableIoError::Write { map: T::MAP.name, entry, source }))
        });
        failed.collect()
    }
}

impl Writer for Session<'_> {
    type Error = TableIoError;

    fn remove<T: Planned>(&mut self, keys: &[T::Key]) -> Vec<(usize, TableIoError)> {
        self.all::<T>(
            keys.len(),
            |raw| raw.batch::<T::Key, T::Value>(keys, &[]),
            |raw, index| raw.remove(bytemuck::bytes_of(&keys[index])),
            |index| keys[index],
        )
    }

    fn write<T: Planned>(&mut self, rows: &[(T::Key, T::Value)]) -> Vec<(usize, TableIoError)> {
        let batch = |raw: &RawMap| {
            let (keys, values): (Vec<_>, Vec<_>) = rows.iter().map(|(key, value)| (*key, T::stored(*value))).unzip();
            raw.batch(&keys, &values)
        };
        let one = |raw: &RawMap, index: usize| {
            let (key, value) = rows[index];
            let stored = T::stored(value);
            let set = || raw.set(bytemuck::bytes_of(&key), bytemuck::bytes_of(&stored));
            match T::netns_id(&value) {
                0 => set(),
                // The kernel looks the device up in the caller's namespace. Without the entry, TC handles the packets.
                netns_id => {
                    (self.netns)(netns_id).map_or(Ok(()), |netns| netns.within(set).map_err(io::Error::other)?)
                }
            }
        };
        self.all::<T>(rows.len(), batch, one, |index| rows[index].0)
    }

    fn reset(&mut self, map: Map, index: u32) -> Result<(), TableIoError> {
        let key = index.to_ne_bytes();
        let reset = fault::at(Point::Map(map.name)).and_then(|()| self.maps.raw(map)?.remove(&key));
        reset.map_err(|source| TableIoError::Write { map: map.name, entry: format!("index {index}"), source })
    }

    fn grace(&mut self) -> Result<(), TableIoError> {
        let grace = match self.maps.grace.take() {
            Some(grace) => grace,
            None => Grace::new().map_err(TableIoError::Grace)?,
        };
        let waited = grace.wait().map_err(TableIoError::Grace);
        self.maps.grace = Some(grace);
        waited
    }
}
