//! Maps of which only the shape is known: keys and values are bytes. For maps that another version has made.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

use aya::maps::{MapData, MapType};

use super::{
    LoadError,
    syscall::{Command, bpf},
};

/// The part of `union bpf_attr` for one element.
#[repr(C)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}

/// A pinned map.
pub(super) struct RawMap {
    path: PathBuf,
    data: MapData,
    key: usize,
    /// Bytes of one value, of one CPU.
    value: usize,
    /// CPUs that have a value each; 1 for maps that are not per CPU.
    cpus: usize,
    is_array: bool,
    entries: u32,
}

impl RawMap {
    /// Opens a pinned map; `None`: it is not there.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, LoadError> {
        if !path.exists() {
            return Ok(None);
        }
        let failed = |source| LoadError::Map { path: path.into(), source };
        let data = MapData::from_pin(path).map_err(failed)?;
        let info = data.info().map_err(failed)?;
        let kind = info.map_type().map_err(failed)?;
        let (mut value, mut cpus) = (info.value_size() as usize, 1);
        if matches!(kind, MapType::PerCpuArray | MapType::PerCpuHash | MapType::LruPerCpuHash) {
            cpus = aya::util::nr_cpus().map_err(|(_, source)| copy_error(path, source))?;
            value = value.next_multiple_of(8);
        }
        let is_array = matches!(kind, MapType::Array | MapType::PerCpuArray);
        let (key, entries) = (info.key_size() as usize, info.max_entries());
        Ok(Some(Self { path: path.into(), data, key, value, cpus, is_array, entries }))
    }

    /// Entries that there can be.
    pub(super) const fn entries(&self) -> u32 {
        self.entries
    }

    /// Whether keys are indices below [`Self::entries`], each of which has a value.
    pub(super) const fn is_array(&self) -> bool {
        self.is_array
    }

    /// Bytes of one CPU's value.
    pub(super) const fn cpu_value_size(&self) -> usize {
        self.value
    }

    /// Bytes of all CPUs' values.
    pub(super) const fn value_size(&self) -> usize {
        self.value * self.cpus
    }

    /// All keys. Of an array these are all indices.
    pub(super) fn keys(&self) -> Result<Vec<Vec<u8>>, LoadError> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0; self.key];
            let last = keys.last().map_or(0, |key| key.as_ptr() as u64);
            match self.call(Command::MapGetNextKey, last, next.as_mut_ptr() as u64) {
                // The kernel begins anew when somebody removes the last key meanwhile.
                Ok(()) if keys.len() < self.entries as usize => keys.push(next),
                Ok(()) => return Ok(keys),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
                Err(error) => return Err(copy_error(&self.path, error)),
            }
        }
    }

    /// The value at a key, of all CPUs one after the other; `None`: there is none.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LoadError> {
        let mut value = vec![0; self.value_size()];
        match self.element(Command::MapLookupElem, key, value.as_mut_ptr() as u64) {
            Ok(()) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(copy_error(&self.path, error)),
        }
    }

    /// Writes a value: its beginning is `beginning`, as far as there is room for it, and the rest is 0.
    pub(super) fn set(&self, key: &[u8], beginning: &[u8]) -> Result<(), LoadError> {
        let mut value = beginning.to_vec();
        value.resize(self.value_size(), 0);
        self.element(Command::MapUpdateElem, key, value.as_ptr() as u64).map_err(|error| copy_error(&self.path, error))
    }

    /// Removes all entries of a hash.
    pub(super) fn clear(&self) -> Result<(), LoadError> {
        for key in self.keys()? {
            match self.element(Command::MapDeleteElem, &key, 0) {
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(copy_error(&self.path, error)),
                _ => {}
            }
        }
        Ok(())
    }

    fn element(&self, command: Command, key: &[u8], value: u64) -> io::Result<()> {
        if key.len() != self.key {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.call(command, key.as_ptr() as u64, value)
    }

    /// `key` and `value` point to as many bytes as the map's keys and values have, or are 0 where the command has none.
    fn call(&self, command: Command, key: u64, value: u64) -> io::Result<()> {
        let map_fd = self.data.fd().as_fd().as_raw_fd().cast_unsigned();
        let mut attr = Element { map_fd, padding: 0, key, value, flags: 0 };
        // SAFETY: the callers' buffers are as long as the kernel says that keys and values are, and outlive the call.
        unsafe { bpf(command, &mut attr) }
    }
}

pub(super) fn copy_error(path: &Path, source: io::Error) -> LoadError {
    LoadError::Copy { path: path.into(), source }
}
