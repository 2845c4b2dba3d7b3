//! Links of programs.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use super::syscall::{Command, bpf, bpf_fd};

/// Anonymous struct of `BPF_OBJ_GET` in `union bpf_attr`.
#[repr(C)]
struct Get {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Member `link_detach` of `union bpf_attr`.
#[repr(C)]
struct Detach {
    link_fd: u32,
}

/// Detaches the program of a pinned link. It does not run after this call; without it, the kernel detaches the program
/// some time after the pin and all file descriptors are gone (`bpf_link_put` in kernel/bpf/syscall.c).
///
/// # Errors
/// The kernel's.
pub(crate) fn detach(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut get = Get { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the structure has the kernel's layout, and the path is terminated and outlives the call.
    let fd = unsafe { bpf_fd(Command::ObjGet, &mut get) }?;
    // SAFETY: the kernel has just opened this file descriptor for the caller.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut detach = Detach { link_fd: link.as_raw_fd().cast_unsigned() };
    // SAFETY: the structure has the kernel's layout and no pointers.
    unsafe { bpf(Command::LinkDetach, &mut detach) }
}
