//! Network namespaces: open, enter, identify.
//!
//! A network namespace is an attribute of a thread, so work in another namespace runs on a new thread. Sockets that are
//! opened there stay in that namespace, also when other threads use them.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns, unshare},
};

nix::ioctl_none! {
    /// `NS_GET_NSTYPE` of `include/uapi/linux/nsfs.h`.
    ns_get_nstype, 0xb7, 3
}

/// Directory of the network namespaces of `ip netns` (iproute2, `include/namespace.h`).
const NAMED: &str = "/run/netns";

/// The input that [`parse`] accepts, for messages.
pub(crate) const SYNTAX: &str = "a name in `ip netns` like \"gindemo1\", or an absolute path";

/// The path of a network namespace from the command line or a file: a name below [`NAMED`] or an absolute path.
pub(crate) fn parse(text: &str) -> Option<PathBuf> {
    if text.starts_with('/') {
        return Some(text.into());
    }
    let is_name = !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '\0']);
    is_name.then(|| Path::new(NAMED).join(text))
}

/// An error of access to a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path cannot be opened.
    #[error("network namespace {}: {source}; is the container running?", path.display())]
    Open {
        /// The namespace's path.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// Permission to open the path is denied.
    #[error(
        "network namespace {}: permission denied; grant the daemon CAP_SYS_PTRACE for paths below /proc/PID of \
         another user, CAP_DAC_READ_SEARCH for directories without access, or run it as root", path.display()
    )]
    OpenDenied {
        /// The namespace's path.
        path: PathBuf,
    },
    /// Permission to enter the namespace is denied.
    #[error(
        "network namespace {}: entering it needs CAP_SYS_ADMIN; grant it to the daemon, or run the daemon as root",
        path.display()
    )]
    EnterDenied {
        /// The namespace's path.
        path: PathBuf,
    },
    /// The path is not a network namespace.
    #[error(
        "{} is not a network namespace ({source}); use a path like /run/netns/NAME or /proc/PID/ns/net",
        path.display()
    )]
    NotANetns {
        /// The path.
        path: PathBuf,
        /// The error of `setns`.
        source: io::Error,
    },
    /// A recorded namespace is no longer at its path.
    #[error("network namespace {} is gone: the path is missing or no longer refers to it", path.display())]
    Gone {
        /// The path.
        path: PathBuf,
    },
    /// The thread could not be started, or panicked.
    #[error("cannot run a thread in network namespace {}: {reason}", path.display())]
    Thread {
        /// The namespace's path.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
}

/// A network namespace, held by a file descriptor. It is unaffected if its path later refers to another namespace.
#[derive(Clone, Debug)]
pub struct Netns {
    path: PathBuf,
    file: Arc<File>,
}

impl Netns {
    /// Opens the path of a namespace: `/run/netns/NAME`, `/proc/PID/ns/net`, `/proc/PID/fd/N`.
    ///
    /// # Errors
    /// [`NetnsError::Open`] and [`NetnsError::OpenDenied`]. Whether the path is a network namespace is checked on use.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        match File::open(path) {
            Ok(file) => Ok(Self { path: path.to_owned(), file: Arc::new(file) }),
            Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                Err(NetnsError::OpenDenied { path: path.to_owned() })
            }
            Err(source) => Err(NetnsError::Open { path: path.to_owned(), source }),
        }
    }

    /// Opens a recorded namespace, with this inode number, at `path`.
    ///
    /// # Errors
    /// [`NetnsError::Gone`] if the path is missing or refers to another namespace or file. With other errors it is
    /// unknown whether the namespace exists.
    pub(crate) fn open_same(path: &Path, inode: u64) -> Result<Self, NetnsError> {
        match Self::open(path) {
            Ok(netns) if netns.inode() == Some(inode) => Ok(netns),
            Err(NetnsError::Open { source, .. })
                // ESRCH: a path below `/proc/PID` of a process that has ended.
                if !matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ESRCH)) =>
            {
                Err(NetnsError::Open { path: path.to_owned(), source })
            }
            Ok(_) | Err(NetnsError::Open { .. }) => Err(NetnsError::Gone { path: path.to_owned() }),
            Err(error) => Err(error),
        }
    }

    /// The inode number, as in `net:[…]`; `None` if it is not a network namespace.
    #[must_use]
    pub fn inode(&self) -> Option<u64> {
        if self.kind() == Ok(libc::CLONE_NEWNET) { self.file.metadata().ok().map(|meta| meta.ino()) } else { None }
    }

    /// The path that was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The type of namespace, a `CLONE_NEW*`.
    fn kind(&self) -> nix::Result<i32> {
        // SAFETY: this ioctl takes no argument.
        unsafe { ns_get_nstype(self.fd()) }
    }

    /// Whether the calling thread is in this namespace.
    pub(crate) fn is_current(&self) -> bool {
        let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        match (self.file.metadata(), std::fs::metadata("/proc/thread-self/ns/net")) {
            (Ok(this), Ok(current)) => identity(this) == identity(current),
            _ => false,
        }
    }

    /// Runs `work` on a new thread inside the namespace, and waits for it. To use a socket of that namespace with
    /// tokio, enter the runtime's handle inside `work`.
    ///
    /// # Errors
    /// [`NetnsError`] if the namespace cannot be entered, or `work` panics.
    pub fn within<T, F>(&self, work: F) -> Result<T, NetnsError>
    where
        F: FnOnce() -> T + Send,
        T: Send,
    {
        #[expect(clippy::disallowed_methods, reason = "the thread ends with the work")]
        let enter = || setns(&*self.file, CloneFlags::CLONE_NEWNET);
        let thread_error = |reason| NetnsError::Thread { path: self.path.clone(), reason };
        thread::scope(|scope| {
            thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, || enter().map(|()| work()))
                .map_err(|error| thread_error(error.to_string()))?
                .join()
                .map_err(|_| thread_error("the work panicked".into()))?
                .map_err(|errno| match errno {
                    Errno::EPERM => NetnsError::EnterDenied { path: self.path.clone() },
                    _ => NetnsError::NotANetns { path: self.path.clone(), source: errno.into() },
                })
        })
    }
}

/// Runs `work` in a new network namespace, on a thread that ends with it. The namespace ends with the last socket that
/// `work` has opened in it; it has no path, and no ID in other namespaces.
///
/// # Errors
/// The kernel's, for instance without CAP_SYS_ADMIN, or if `work` panics.
pub(crate) fn in_new<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    #[expect(clippy::disallowed_methods, reason = "the thread ends with the work")]
    let enter = || unshare(CloneFlags::CLONE_NEWNET);
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, || enter().map(|()| work()))?;
        Ok(thread.join().map_err(|_| io::Error::other("the work panicked"))??)
    })
}

/// Whether the network namespace at `path` is the calling thread's. Does not enter it, so no privileges are needed.
///
/// # Errors
/// [`NetnsError`] if the path is missing or not a network namespace.
pub(crate) fn is_current(path: &Path) -> Result<bool, NetnsError> {
    let netns = Netns::open(path)?;
    let errno = match netns.kind() {
        Ok(libc::CLONE_NEWNET) => return Ok(netns.is_current()),
        Ok(_) => Errno::EINVAL,
        Err(errno) => errno,
    };
    Err(NetnsError::NotANetns { path: path.to_owned(), source: errno.into() })
}
