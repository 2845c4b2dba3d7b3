//! System calls that `std` does not have.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::Duration,
};

/// Turns the −1 of a system call into `errno`.
pub(crate) fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `unshare(2)` for the calling thread.
pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::unshare(flags) })
}

/// Moves the calling thread into a network namespace. Async-signal-safe.
pub(crate) fn enter_netns(namespace: BorrowedFd<'_>) -> io::Result<()> {
    enter(namespace, libc::CLONE_NEWNET)
}

/// `setns(2)` for a namespace of the `kind` given, for instance `CLONE_NEWNS`. Async-signal-safe.
pub(crate) fn enter(namespace: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for the duration of the borrow.
    check(unsafe { libc::setns(namespace.as_raw_fd(), kind) })
}

/// Sets SIGKILL as the parent-death signal: sent when the thread that spawned this process ends. Async-signal-safe; for
/// `pre_exec`.
///
/// `parent` is the spawning process: if it has already exited, the signal is never sent, and this is an error.
pub(crate) fn set_parent_death_signal(parent: u32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    // SAFETY: always succeeds.
    if unsafe { libc::getppid() }.cast_unsigned() == parent {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

/// The CPU affinity of the calling thread.
pub(crate) fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is writable and of the size given; 0 is the calling thread.
    check(unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) })?;
    let count = usize::try_from(libc::CPU_SETSIZE).map_err(io::Error::other)?;
    // SAFETY: CPU_ISSET checks its bounds.
    Ok((0..count).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect())
}

/// `mount(2)`; `source` and `kind` may be empty where the kernel ignores them.
pub(crate) fn mount(source: &Path, target: &Path, kind: &str, flags: libc::c_ulong) -> io::Result<()> {
    let (source, target, kind) = (c_path(source)?, c_path(target)?, CString::new(kind)?);
    // SAFETY: the strings end in NUL and outlive the call; no data is passed.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) })
}

/// `umount2(2)` with `MNT_DETACH`.
pub(crate) fn unmount(target: &Path) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: the string ends in NUL and outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) })
}

/// The kind of filesystem at `path`: the `f_type` of `statfs(2)`.
pub(crate) fn filesystem(path: &Path) -> io::Result<i64> {
    let path = c_path(path)?;
    // SAFETY: all-zero is a value of this plain C structure.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the string ends in NUL, and the structure is writable.
    check(unsafe { libc::statfs(path.as_ptr(), &raw mut found) })?;
    Ok(found.f_type)
}

/// Sends a signal to a process that this process started and has not waited for.
pub(crate) fn signal(process: &std::process::Child, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(process.id()).map_err(io::Error::other)?;
    // SAFETY: takes no pointers. The process was not waited for, so its number cannot have a new owner.
    check(unsafe { libc::kill(pid, signal) })
}

/// Pins the calling thread to one CPU.
pub(crate) fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    // SAFETY: all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: CPU_SET checks its bounds.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is initialised and of the size given; 0 is the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) })
}

/// Pins the calling thread to the CPU that it runs on.
pub(crate) fn pin_here() -> io::Result<()> {
    // SAFETY: takes no pointers.
    let cpu = unsafe { libc::sched_getcpu() };
    check(cpu)?;
    pin_to_cpu(usize::try_from(cpu).map_err(io::Error::other)?)
}

/// Waits until the descriptor is readable; `false` after the timeout.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let mut polled = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: one element, the timeout and no signal mask; all outlive the call.
    let ready = unsafe { libc::ppoll(&raw mut polled, 1, &raw const timeout, std::ptr::null()) };
    check(ready)?;
    Ok(ready > 0)
}

/// `epoll(7)` for input, level-triggered.
#[derive(Debug)]
pub(crate) struct Epoll {
    fd: OwnedFd,
    events: [libc::epoll_event; 64],
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        check(fd)?;
        // SAFETY: the descriptor is new and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, events: [libc::epoll_event { events: 0, u64: 0 }; 64] })
    }

    /// Adds a descriptor with a token for [`Self::wait`]. Closing the descriptor removes it.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: usize) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN.cast_unsigned(), u64: token as u64 };
        // SAFETY: both descriptors are open for the duration of the borrows, and the event outlives the call.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event) })
    }

    /// The tokens of readable descriptors; none after the timeout.
    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<impl ExactSizeIterator<Item = usize>> {
        let timeout = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
        let capacity = self.events.len() as libc::c_int;
        // SAFETY: the events are ours to be written, and `capacity` is their number.
        let count = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), capacity, timeout) };
        check(count)?;
        let ready = &self.events[..usize::try_from(count).map_err(io::Error::other)?];
        Ok(ready.iter().map(|event| event.u64 as usize))
    }
}

/// `setsockopt(2)` for options that are an int.
pub(crate) fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let (pointer, length) = (&raw const value, size_of_val(&value) as libc::socklen_t);
    // SAFETY: the value outlives the call, and `length` is its size.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, pointer.cast(), length) })
}

/// `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
pub(crate) const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
pub(crate) const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
pub(crate) const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;

/// Whether a BPF object with this id exists; `command` is one of the above.
pub(crate) fn bpf_object_exists(command: libc::c_long, id: u32) -> bool {
    // The id, then members that are 0 here.
    let attr = [id, 0, 0];
    // SAFETY: the kernel reads the attribute, which outlives the call, and no more than its size.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(&attr)) };
    let Ok(fd) = libc::c_int::try_from(fd) else { return false };
    if fd < 0 {
        return false;
    }
    // SAFETY: the descriptor is new and has no other owner.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    true
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
