//! The system call `bpf(2)`.

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
    ProgLoad = 5,
    ObjGet = 7,
    ProgTestRun = 10,
    ObjGetInfoByFd = 15,
    ProgQuery = 16,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
    LinkDetach = 34,
}

/// Calls the kernel with the part of `union bpf_attr` that the command uses.
///
/// # Safety
/// `Attr` has the kernel's layout, and its pointers lead to buffers of the sizes that the kernel assumes.
pub(crate) unsafe fn bpf<Attr>(command: Command, attr: &mut Attr) -> io::Result<()> {
    // SAFETY: guaranteed by the caller.
    unsafe { bpf_fd(command, attr) }.map(|_| ())
}

/// As [`bpf`], for a command that returns a file descriptor.
///
/// # Safety
/// As for [`bpf`].
pub(crate) unsafe fn bpf_fd<Attr>(command: Command, attr: &mut Attr) -> io::Result<RawFd> {
    // SAFETY: the attributes outlive the call and their size is passed; the caller guarantees the rest.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attr, size_of::<Attr>()) };
    // A file descriptor fits.
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as RawFd) }
}
