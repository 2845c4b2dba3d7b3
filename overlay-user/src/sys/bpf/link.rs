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

/// Members `info` and the target of `struct bpf_link_info`, which has the interface index first for TCX and XDP.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    padding: u32,
    ifindex: u32,
    attach_type: u32,
}

/// Member `info` of `union bpf_attr`.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut get = Get { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the structure has the kernel's layout, and the path is terminated and outlives the call.
    let fd = unsafe { bpf_fd(Command::ObjGet, &mut get) }?;
    // SAFETY: the kernel has just opened this file descriptor for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the pinned TCX or XDP link exists and is attached to a device. The kernel reports no detachment: neither
/// `tcx_link_release` in kernel/bpf/tcx.c nor `bpf_xdp_link_release` in net/core/dev.c sends an event.
///
/// # Errors
/// The kernel's.
pub(crate) fn is_attached(pin: &Path) -> io::Result<bool> {
    let link = match open(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        link => link?,
    };
    let mut info = LinkInfo::default();
    let mut get = GetInfo {
        bpf_fd: link.as_raw_fd().cast_unsigned(),
        info_len: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the kernel writes at most `info_len` bytes to `info`; both structures have its layout and outlive the call.
    unsafe { bpf(Command::ObjGetInfoByFd, &mut get) }?;
    Ok(info.ifindex != 0)
}

/// Detaches the program of a pinned link. It does not run after this call; without it, the kernel detaches the program
/// some time after the pin and all file descriptors are gone (`bpf_link_put` in kernel/bpf/syscall.c).
///
/// # Errors
/// The kernel's.
pub(crate) fn detach(pin: &Path) -> io::Result<()> {
    let link = open(pin)?;
    let mut detach = Detach { link_fd: link.as_raw_fd().cast_unsigned() };
    // SAFETY: the structure has the kernel's layout and no pointers.
    unsafe { bpf(Command::LinkDetach, &mut detach) }
}
