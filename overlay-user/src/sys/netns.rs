//! Work in another network namespace.
//!
//! A thread is in a namespace, not a process: so the work is done by a thread of its own, and sockets that it opens
//! stay in that namespace whoever uses them later.

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
    sched::{CloneFlags, setns},
};

nix::ioctl_none! {
    /// `NS_GET_NSTYPE` of `include/uapi/linux/nsfs.h`.
    ns_get_nstype, 0xb7, 3
}

/// Where `ip netns` keeps network namespaces (iproute2, `include/namespace.h`).
const NAMED: &str = "/run/netns";

/// What [`parse`] accepts, for messages.
pub(crate) const SPELLING: &str = "a name as `ip netns` has it like \"gindemo1\", or an absolute path";

/// The path of a network namespace from its spelling on the command line and in files: a name below [`NAMED`] or an
/// absolute path.
pub(crate) fn parse(text: &str) -> Option<PathBuf> {
    if text.starts_with('/') {
        return Some(text.into());
    }
    let is_name = !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '\0']);
    is_name.then(|| Path::new(NAMED).join(text))
}

/// Why a network namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path cannot be opened.
    #[error("network namespace {}: {source}; is the container running?", path.display())]
    Open {
        /// The namespace's path.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The path may not be opened.
    #[error(
        "network namespace {}: permission denied; give the daemon CAP_SYS_PTRACE for paths below /proc/PID that are \
         another user's, CAP_DAC_READ_SEARCH for directories that are not open to it, or run it as root", path.display()
    )]
    Closed {
        /// The namespace's path.
        path: PathBuf,
    },
    /// The namespace may not be entered.
    #[error("network namespace {}: entering it needs CAP_SYS_ADMIN; give the daemon that, or run it as root", path.display())]
    Denied {
        /// The namespace's path.
        path: PathBuf,
    },
    /// The path is something else.
    #[error("{} is not a network namespace ({source}); give a path like /run/netns/NAME or /proc/PID/ns/net", path.display())]
    NotANetns {
        /// The path.
        path: PathBuf,
        /// What `setns` says.
        source: io::Error,
    },
    /// A recorded namespace is no longer at its path.
    #[error("network namespace {} is gone: the path is missing or leads elsewhere", path.display())]
    Gone {
        /// The path.
        path: PathBuf,
    },
    /// No thread could be started, or it died.
    #[error("cannot work in network namespace {}: {reason}", path.display())]
    Thread {
        /// The namespace's path.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
}

/// A network namespace, held by a file descriptor: it stays the same when the path comes to mean another.
#[derive(Clone, Debug)]
pub struct Netns {
    path: PathBuf,
    file: Arc<File>,
}

impl Netns {
    /// Opens any path that leads to a namespace: `/run/netns/NAME`, `/proc/PID/ns/net`, `/proc/PID/fd/N`.
    ///
    /// # Errors
    /// [`NetnsError::Open`] and [`NetnsError::Closed`]. That the path is something else is found out when it is used.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        match File::open(path) {
            Ok(file) => Ok(Self { path: path.to_owned(), file: Arc::new(file) }),
            Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                Err(NetnsError::Closed { path: path.to_owned() })
            }
            Err(source) => Err(NetnsError::Open { path: path.to_owned(), source }),
        }
    }

    /// Opens a recorded namespace: the one with this inode number, at `path`.
    ///
    /// # Errors
    /// [`NetnsError::Gone`] when there is nothing at the path or something else, another namespace for instance. Other
    /// errors do not say whether it is there.
    pub(crate) fn open_same(path: &Path, inode: u64) -> Result<Self, NetnsError> {
        match Self::open(path) {
            Ok(netns) if netns.inode() == Some(inode) => Ok(netns),
            Err(NetnsError::Open { source, .. })
                // ESRCH: below `/proc/PID` of a process that has ended.
                if !matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ESRCH)) =>
            {
                Err(NetnsError::Open { path: path.to_owned(), source })
            }
            Ok(_) | Err(NetnsError::Open { .. }) => Err(NetnsError::Gone { path: path.to_owned() }),
            Err(error) => Err(error),
        }
    }

    /// The inode number, the one in `net:[…]`; `None` for what is no network namespace.
    #[must_use]
    pub fn inode(&self) -> Option<u64> {
        if self.kind() == Ok(libc::CLONE_NEWNET) { self.file.metadata().ok().map(|meta| meta.ino()) } else { None }
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The kind of namespace, a `CLONE_NEW*`.
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

    /// Runs `work` on a new thread inside the namespace, and waits for it. To use a socket of that namespace with tokio, enter the
    /// runtime's handle inside `work`.
    ///
    /// # Errors
    /// [`NetnsError`] when the namespace cannot be entered, or `work` panics.
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
                    Errno::EPERM => NetnsError::Denied { path: self.path.clone() },
                    _ => NetnsError::NotANetns { path: self.path.clone(), source: errno.into() },
                })
        })
    }
}

/// Whether the network namespace at `path` is the calling thread's. Enters nothing, so it needs no privileges.
///
/// # Errors
/// [`NetnsError`] when there is nothing at the path, or something else.
pub(crate) fn is_current(path: &Path) -> Result<bool, NetnsError> {
    let netns = Netns::open(path)?;
    let errno = match netns.kind() {
        Ok(libc::CLONE_NEWNET) => return Ok(netns.is_current()),
        Ok(_) => Errno::EINVAL,
        Err(errno) => errno,
    };
    Err(NetnsError::NotANetns { path: path.to_owned(), source: errno.into() })
}
