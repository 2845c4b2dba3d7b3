//! `bpf(2)`, for the commands that aya has no method for.

use std::{io, os::fd::RawFd};

/// `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(crate) enum Command {
    MapCreate = 0,
    MapLookupElem = 1,
    MapUpdateElem = 2,
    MapDeleteElem = 3,
    MapGetNextKey = 4,
    ProgQuery = 16,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
}

/// Calls the kernel with the part of `union bpf_attr` that the command takes.
///
/// # Safety
/// `Attr` is laid out as the kernel has it, and what its pointers lead to is as large as the kernel takes it for.
pub(crate) unsafe fn bpf<Attr>(command: Command, attr: &mut Attr) -> io::Result<()> {
    // SAFETY: the caller's promise.
    unsafe { bpf_fd(command, attr) }.map(|_| ())
}

/// The same, for a command that answers with a file descriptor.
///
/// # Safety
/// As for [`bpf`].
pub(crate) unsafe fn bpf_fd<Attr>(command: Command, attr: &mut Attr) -> io::Result<RawFd> {
    // SAFETY: the attributes outlive the call, their size is given; the rest is the caller's promise.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attr, size_of::<Attr>()) };
    // Descriptors are of this size.
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as RawFd) }
}
