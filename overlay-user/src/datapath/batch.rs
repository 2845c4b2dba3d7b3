//! Many entries of a map with one system call (`BPF_MAP_UPDATE_BATCH`, `BPF_MAP_DELETE_BATCH`, Linux 5.6).

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::maps::{IterableMap as _, MapData};
use overlay_common::{
    maps::{FdbEntry, FdbKey},
    names,
};

use super::{
    syscall::{Command, bpf},
    tables::Maps,
};
use crate::{
    fault::{self, Place},
    plan::tables::TableChange,
};

/// Member `batch` of `union bpf_attr`.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    /// Entries to work on; the kernel leaves the number of entries worked on.
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Cuts changes into runs that [`Maps::apply_run`] can make with one system call, and single ones.
pub fn runs(changes: &[TableChange]) -> impl Iterator<Item = &[TableChange]> {
    use TableChange::{Fdb, RemoveFdb};
    // The FDB is the one table that is large.
    changes.chunk_by(|one, other| matches!((one, other), (Fdb(..), Fdb(..)) | (RemoveFdb(_), RemoveFdb(_))))
}

impl Maps {
    /// Makes the first changes of a run of [`runs`], as many as the kernel makes at once, and returns how many that were.
    ///
    /// The rest, if any, is for [`Maps::apply`], which says what is wrong with it.
    pub fn apply_run(&mut self, run: &[TableChange]) -> usize {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for change in run {
            match change {
                TableChange::Fdb(key, entry) => {
                    keys.push(*key);
                    values.push(*entry);
                }
                TableChange::RemoveFdb(key) => keys.push(*key),
                _ => return 0,
            }
        }
        // What is refused here is asked for again one by one, and refused with a reason.
        if fault::at(Place::Map(names::FDB)).is_err() {
            return 0;
        }
        call(self.fdb.map(), &keys, &values)
    }
}

/// Writes `values` at `keys`, or removes `keys` where there are no values. Returns how many entries were done before the
/// first that could not be.
fn call(map: &MapData, keys: &[FdbKey], values: &[FdbEntry]) -> usize {
    let command = if values.is_empty() { Command::MapDeleteBatch } else { Command::MapUpdateBatch };
    let mut attr = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: if values.is_empty() { 0 } else { values.as_ptr() as u64 },
        count: keys.len() as u32,
        map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads `count` keys and as many values of the map's sizes, which are the types' own, and writes
    // nothing but `count`; everything outlives the call.
    let result = unsafe { bpf(command, &mut attr) };
    match attr.count as usize {
        _ if result.is_ok() => keys.len(),
        count if count < keys.len() => count,
        // Refused before the count was written.
        _ => 0,
    }
}
