//! The daemon's socket: its path, its permissions, and the replacement of a stale one.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io,
    os::fd::OwnedFd,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown},
        net,
    },
    path::{Path, PathBuf},
};

use nix::unistd::Group;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

/// The directory of all sockets of daemons, mode 0750.
pub const DIRECTORY: &str = "/run/overlay";

/// The pin root whose socket is `overlay.sock`.
const DEFAULT_PIN_ROOT: &str = "/sys/fs/bpf/overlay";

/// Backlog of connections.
const BACKLOG: i32 = 128;

/// The socket path of the daemon with this pin root: `/run/overlay/overlay.sock` for the default one. For any other,
/// the last component of the pin root's path and 32 bits of FNV-1a of the full path, as
/// `/run/overlay/node01-1b2c3d4e.sock`: several daemons share the directory, and a socket path has at most 107 bytes
/// (`UNIX_PATH_MAX`).
#[must_use]
pub(crate) fn socket_path(pin_root: &Path) -> PathBuf {
    let directory = Path::new(DIRECTORY);
    let full = std::path::absolute(pin_root).unwrap_or_else(|_| pin_root.to_owned());
    // `components` normalizes trailing and repeated slashes.
    let full: PathBuf = full.components().collect();
    if full == Path::new(DEFAULT_PIN_ROOT) {
        return directory.join("overlay.sock");
    }
    let hash = full
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let last = full.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let last: String = last.chars().filter(char::is_ascii_graphic).take(40).collect();
    directory.join(format!("{last}-{hash:08x}.sock"))
}

/// The socket cannot be created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// A system call failed.
    #[error("socket {path}: cannot {what} ({source}); fix the cause, or set another path with --socket")]
    Io {
        /// The socket or its lock file.
        path: PathBuf,
        /// The action, as in "cannot ...".
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another process listens on it.
    #[error("socket {0}: another daemon listens on it; stop that daemon, or set another path with --socket")]
    Busy(PathBuf),
    /// The path is another kind of file.
    #[error("socket {0}: the file is not a socket; remove it, or set another path with --socket")]
    NotASocket(PathBuf),
    /// The group does not exist.
    #[error("--socket-group {0}: the group does not exist; create it (groupadd), or set an existing one")]
    NoGroup(String),
}

/// A bound socket with its permissions that does not listen yet: connections are refused. Its file and lock file are
/// removed on drop.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    file: SocketFile,
}

/// The socket's file and its lock.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    _lock: File,
}

impl Listener {
    /// Creates the socket with mode 0660 and the group. A stale socket is replaced.
    ///
    /// The directory [`DIRECTORY`] is created if it is missing, with mode 0750 and the group; any other must exist.
    ///
    /// # Errors
    /// [`ListenError`]; no change but that directory remains.
    pub(crate) fn bind(path: &Path, group: Option<&str>) -> Result<Self, ListenError> {
        let failed = |what| move |source| ListenError::Io { path: path.to_owned(), what, source };
        let group = group.map(find_group).transpose()?;
        if path.parent() == Some(Path::new(DIRECTORY)) {
            make_directory(group).map_err(failed("create its directory"))?;
        }
        let lock = lock(path)?;
        remove_unused_socket(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed("create it"))?;
        SockAddr::unix(path).and_then(|address| socket.bind(&address)).map_err(failed("bind it"))?;
        let file = SocketFile { path: path.to_owned(), _lock: lock };
        // Before `listen`: no client connects with the default permissions.
        fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(failed("set its mode"))?;
        if group.is_some() {
            chown(path, None, group).map_err(failed("set its group"))?;
        }
        Ok(Self { socket, file })
    }

    /// Starts listening.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub(crate) fn listen(self) -> io::Result<(UnixListener, SocketFile)> {
        self.socket.listen(BACKLOG)?;
        self.socket.set_nonblocking(true)?;
        let listener = UnixListener::from_std(net::UnixListener::from(OwnedFd::from(self.socket)))?;
        Ok((listener, self.file))
    }

    /// The socket's path.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.file.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // The lock is still held: the file is this process's.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(lock_path(&self.path));
    }
}

/// Removes a stale socket and its lock file. A socket in use, or another kind of file, stays.
///
/// # Errors
/// [`ListenError::Io`].
pub(crate) fn remove_stale(path: &Path) -> Result<(), ListenError> {
    if !path.exists() && !lock_path(path).exists() {
        return Ok(());
    }
    match lock(path).and_then(|lock| remove_unused_socket(path).map(|()| lock)) {
        Ok(lock) => drop(SocketFile { path: path.to_owned(), _lock: lock }),
        Err(ListenError::Busy(_) | ListenError::NotASocket(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

fn find_group(name: &str) -> Result<u32, ListenError> {
    let by_number = || name.parse().ok();
    let by_name = || Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
    by_name().or_else(by_number).ok_or_else(|| ListenError::NoGroup(name.to_owned()))
}

fn make_directory(group: Option<u32>) -> io::Result<()> {
    match DirBuilder::new().mode(0o750).create(DIRECTORY) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // The directory may belong to another user's daemon; a service manager creates it for the daemon's user.
    let found = fs::metadata(DIRECTORY)?;
    if found.permissions().mode() & 0o7777 != 0o750 {
        fs::set_permissions(DIRECTORY, Permissions::from_mode(0o750))?;
    }
    match group {
        Some(group) if group != found.gid() => chown(DIRECTORY, None, Some(group)),
        _ => Ok(()),
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Locks the path for this process: of two daemons that find the same stale socket, one replaces it.
///
/// The holder of the lock may remove its file, so a lock is valid only while its file still has the name.
fn lock(path: &Path) -> Result<File, ListenError> {
    let name = lock_path(path);
    let failed = |what| {
        let path = name.clone();
        move |source| ListenError::Io { path, what, source }
    };
    loop {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&name)
            .map_err(failed("open its lock file"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ListenError::Busy(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed("lock it")(error)),
        }
        let own = file.metadata().map_err(failed("read its lock file"))?;
        match fs::metadata(&name) {
            Ok(named) if (named.dev(), named.ino()) == (own.dev(), own.ino()) => return Ok(file),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("read its lock file")(error));
            }
            // Removed in the meantime: retry with the new file.
            _ => {}
        }
    }
}

/// Removes a socket without a listener.
fn remove_unused_socket(path: &Path) -> Result<(), ListenError> {
    let failed = |what| move |source| ListenError::Io { path: path.to_owned(), what, source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read its metadata")(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    // Non-blocking: the backlog of a running daemon may be full.
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    match connect() {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("replace it"))
        }
        // It has a listener, or the result is unclear.
        _ => Err(ListenError::Busy(path.to_owned())),
    }
}
