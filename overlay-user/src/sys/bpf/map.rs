//! Maps as bytes: `bpf(2)` on the elements of any map, of any layout version.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

use aya::maps::{MapData, MapError, MapType};
use bytemuck::Pod;

use super::syscall::{Command, bpf};

/// The part of `union bpf_attr` for one element.
#[repr(C)]
pub(crate) struct Element {
    pub(crate) map_fd: u32,
    pub(crate) padding: u32,
    pub(crate) key: u64,
    /// Pointer to the value, or to the next key.
    pub(crate) value: u64,
    pub(crate) flags: u64,
}

/// Member `batch` of `union bpf_attr`.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    /// Number of entries; the kernel returns the number of processed entries.
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Maximum attempts to list the keys of a map that changes concurrently.
const ATTEMPTS: u32 = 8;

/// A pinned map.
pub(crate) struct RawMap {
    path: PathBuf,
    data: MapData,
    key: usize,
    /// Bytes of one value, of one CPU.
    value: usize,
    /// Number of values per entry: CPUs, or 1 for maps that are not per CPU.
    cpus: usize,
    is_array: bool,
    entries: u32,
}

impl RawMap {
    /// Opens a pinned map.
    pub(crate) fn open(path: &Path) -> Result<Self, MapError> {
        let data = MapData::from_pin(path)?;
        let info = data.info()?;
        let kind = info.map_type()?;
        let (mut value, mut cpus) = (info.value_size() as usize, 1);
        if matches!(kind, MapType::PerCpuArray | MapType::PerCpuHash | MapType::LruPerCpuHash) {
            cpus = aya::util::nr_cpus().map_err(|(_, source)| MapError::IoError(source))?;
            value = value.next_multiple_of(8);
        }
        let is_array = matches!(kind, MapType::Array | MapType::PerCpuArray);
        let (key, entries) = (info.key_size() as usize, info.max_entries());
        Ok(Self { path: path.into(), data, key, value, cpus, is_array, entries })
    }

    /// Path of the pin.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Maximum number of entries.
    pub(crate) const fn entries(&self) -> u32 {
        self.entries
    }

    /// Whether keys are the indices below [`Self::entries`], each with a value.
    pub(crate) const fn is_array(&self) -> bool {
        self.is_array
    }

    /// Bytes of one CPU's value.
    pub(crate) const fn cpu_value_size(&self) -> usize {
        self.value
    }

    /// Bytes of all CPUs' values.
    pub(crate) const fn value_size(&self) -> usize {
        self.value * self.cpus
    }

    /// All keys, concatenated. Those of an array are all indices.
    pub(crate) fn keys(&self) -> io::Result<Vec<u8>> {
        for _ in 0..ATTEMPTS {
            let (mut keys, mut next) = (Vec::new(), vec![0; self.key]);
            // The kernel starts over if the last key has been removed, so there may be more keys than entries.
            for _ in 0..=self.entries {
                let last = keys.len().checked_sub(self.key).map_or(0, |last| keys[last..].as_ptr() as u64);
                match self.call(Command::MapGetNextKey, last, next.as_mut_ptr() as u64) {
                    Ok(()) => keys.extend_from_slice(&next),
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
                    Err(error) => return Err(error),
                }
            }
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    /// All keys.
    pub(crate) fn each_key(&self) -> io::Result<Vec<Vec<u8>>> {
        Ok(self.keys()?.chunks(self.key.max(1)).map(<[u8]>::to_vec).collect())
    }

    /// All entries, as plain data.
    pub(crate) fn rows<K: Pod, V: Pod>(&self) -> io::Result<Vec<(K, V)>> {
        self.check::<K, V>()?;
        let keys = self.keys()?;
        let mut rows = Vec::new();
        for key in keys.chunks_exact(size_of::<K>()) {
            let mut value = V::zeroed();
            if self.get_into(key, bytemuck::bytes_of_mut(&mut value))? {
                rows.push((bytemuck::pod_read_unaligned(key), value));
            }
        }
        Ok(rows)
    }

    /// The values at an index, one for each CPU.
    pub(crate) fn per_cpu<V: Pod>(&self, index: u32) -> io::Result<Vec<V>> {
        let value = self.get(&index.to_ne_bytes())?.ok_or(io::ErrorKind::NotFound)?;
        let cpus = value.chunks_exact(self.value).filter_map(|value| value.get(..size_of::<V>()));
        Ok(cpus.map(bytemuck::pod_read_unaligned).collect())
    }

    /// The value at a key, concatenated of all CPUs; `None`: missing.
    pub(crate) fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value_size()];
        Ok(self.get_into(key, &mut value)?.then_some(value))
    }

    fn get_into(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        match self.element(Command::MapLookupElem, key, value.as_mut_ptr() as u64, value.len()) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes a value: `prefix`, truncated or padded with zeros to the size of the value.
    pub(crate) fn set(&self, key: &[u8], prefix: &[u8]) -> io::Result<()> {
        let mut value = prefix.to_vec();
        value.resize(self.value_size(), 0);
        self.element(Command::MapUpdateElem, key, value.as_ptr() as u64, value.len())
    }

    /// Removes an entry, which may be missing. Sets an entry of an array to zero.
    pub(crate) fn remove(&self, key: &[u8]) -> io::Result<()> {
        if self.is_array {
            return self.set(key, &[]);
        }
        match self.element(Command::MapDeleteElem, key, 0, self.value_size()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// Removes all entries of a hash.
    pub(crate) fn clear(&self) -> io::Result<()> {
        self.each_key()?.iter().try_for_each(|key| self.remove(key))
    }

    /// Writes `values` at `keys`, or removes `keys` if there are no values, with one system call
    /// (`BPF_MAP_UPDATE_BATCH`, `BPF_MAP_DELETE_BATCH`, Linux 5.6). Returns the number of entries before the first
    /// failure.
    pub(crate) fn batch<K: Pod, V: Pod>(&self, keys: &[K], values: &[V]) -> usize {
        if self.check::<K, V>().is_err() || keys.is_empty() || ![0, keys.len()].contains(&values.len()) {
            return 0;
        }
        let command = if values.is_empty() { Command::MapDeleteBatch } else { Command::MapUpdateBatch };
        let mut attr = Batch {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr() as u64,
            values: if values.is_empty() { 0 } else { values.as_ptr() as u64 },
            count: keys.len() as u32,
            map_fd: self.data.fd().as_fd().as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads `count` keys and as many values of the map's sizes, which `check` has compared with
        // those of the types, and writes only `count`; everything outlives the call.
        let result = unsafe { bpf(command, &mut attr) };
        match attr.count as usize {
            _ if result.is_ok() => keys.len(),
            count if count < keys.len() => count,
            // The kernel failed before it wrote the count.
            _ => 0,
        }
    }

    /// Checks that keys and values have these sizes, with one value per key.
    fn check<K, V>(&self) -> io::Result<()> {
        match (size_of::<K>(), size_of::<V>()) == (self.key, self.value_size()) {
            true => Ok(()),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Runs a command on one element. `value` points to `length` bytes, or is 0 if the command has no value.
    fn element(&self, command: Command, key: &[u8], value: u64, length: usize) -> io::Result<()> {
        if key.len() != self.key || length != self.value_size() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.call(command, key.as_ptr() as u64, value)
    }

    /// Runs a command. `key` and `value` point to buffers of the map's key and value sizes, or are 0 if unused.
    fn call(&self, command: Command, key: u64, value: u64) -> io::Result<()> {
        let map_fd = self.data.fd().as_fd().as_raw_fd().cast_unsigned();
        let mut attr = Element { map_fd, padding: 0, key, value, flags: 0 };
        // SAFETY: the callers' buffers have the key and value sizes that the kernel reported, and outlive the call.
        unsafe { bpf(command, &mut attr) }
    }
}
