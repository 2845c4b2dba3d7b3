//! `bpf(2)`, for the commands that aya has no method for.

use std::io;

/// `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(super) enum Command {
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
pub(super) unsafe fn bpf<Attr>(command: Command, attr: &mut Attr) -> io::Result<()> {
    // SAFETY: the attributes outlive the call, their size is given; the rest is the caller's promise.
    match unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attr, size_of::<Attr>()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
