//! Grace periods: waits until no program reads entries that were removed from a map.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use super::{
    map::Element,
    syscall::{Command, bpf, bpf_fd},
};

/// `enum bpf_map_type`.
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// The first members of `union bpf_attr` for `BPF_MAP_CREATE`.
#[repr(C)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

/// A map of maps. The system call that updates one of its entries returns after a grace period, when every program that
/// was running at the call has ended (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c).
/// `membarrier(MEMBARRIER_CMD_GLOBAL)` waits as long, but not on machines with `nohz_full` CPUs
/// (kernel/sched/membarrier.c).
pub(crate) struct Grace {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Grace {
    /// Creates the maps.
    pub(crate) fn new() -> io::Result<Self> {
        let number = size_of::<u32>() as u32;
        let attr = |map_type, inner_map_fd| Create {
            map_type,
            key_size: number,
            value_size: number,
            max_entries: 1,
            map_flags: 0,
            inner_map_fd,
        };
        let create = |mut attr: Create| {
            // SAFETY: the attributes have the kernel's layout and no pointers.
            let fd = unsafe { bpf_fd(Command::MapCreate, &mut attr)? };
            // SAFETY: the kernel has just returned the descriptor to this process.
            io::Result::Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        };
        let inner = create(attr(BPF_MAP_TYPE_ARRAY, 0))?;
        let outer = create(attr(BPF_MAP_TYPE_ARRAY_OF_MAPS, inner.as_raw_fd().cast_unsigned()))?;
        Ok(Self { outer, inner })
    }

    /// Returns when every program that was running at the call has ended.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let (key, value) = (0_u32, self.inner.as_raw_fd());
        let mut attr = Element {
            map_fd: self.outer.as_raw_fd().cast_unsigned(),
            padding: 0,
            key: &raw const key as u64,
            value: &raw const value as u64,
            flags: 0,
        };
        // SAFETY: key and value have four bytes each, the sizes of the map, and outlive the call.
        unsafe { bpf(Command::MapUpdateElem, &mut attr) }
    }
}
