//! The daemon's socket: where it is, and its file with its permissions, in the place of a dead daemon's.

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

/// The directory of all daemons' sockets on a machine, mode 0750.
pub const DIRECTORY: &str = "/run/overlay";

/// The pin root whose daemon has the plain name.
const DEFAULT_PIN_ROOT: &str = "/sys/fs/bpf/overlay";

/// Connections that wait to be taken.
const BACKLOG: i32 = 128;

/// The socket of the daemon with this pin root: `/run/overlay/overlay.sock` for the default one. Of any other the last
/// component of its path and 32 bits of FNV-1a of all of it, as `/run/overlay/node01-1b2c3d4e.sock`: several daemons
/// share the directory, and a socket's path has at most 107 bytes (`UNIX_PATH_MAX`).
#[must_use]
pub(crate) fn socket_path(pin_root: &Path) -> PathBuf {
    let directory = Path::new(DIRECTORY);
    let full = std::path::absolute(pin_root).unwrap_or_else(|_| pin_root.to_owned());
    // `components` drops what means nothing: a slash at the end, a slash twice.
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

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// A system call failed.
    #[error("socket {path}: cannot {what} ({source}); mend that, or give another path with --socket")]
    Io {
        /// The socket, or what belongs to it.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Somebody answers there.
    #[error("socket {0}: another daemon listens there; stop that one, or give this one another path with --socket")]
    Busy(PathBuf),
    /// Something else has the name.
    #[error("socket {0}: there is a file that is no socket; remove it, or give another path with --socket")]
    NotASocket(PathBuf),
    /// The group does not exist.
    #[error("--socket-group {0}: there is no such group; create it (groupadd), or name an existing one")]
    NoGroup(String),
}

/// A socket that has its name and permissions, but does not listen yet: who connects is refused, as by a dead daemon.
/// Its file, and the one that locks it, are removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    file: SocketFile,
}

/// The socket's name, for as long as it is this process's.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    _lock: File,
}

impl Listener {
    /// Makes the socket with mode 0660 and the group's. One that a dead daemon left is replaced.
    ///
    /// The directory [`DIRECTORY`] is made when it is missing, mode 0750 and the group's; any other has to be there.
    ///
    /// # Errors
    /// [`ListenError`]; nothing was changed then but that directory.
    pub(crate) fn bind(path: &Path, group: Option<&str>) -> Result<Self, ListenError> {
        let failed = |what| move |source| ListenError::Io { path: path.to_owned(), what, source };
        let group = group.map(find_group).transpose()?;
        if path.parent() == Some(Path::new(DIRECTORY)) {
            make_directory(group).map_err(failed("make its directory"))?;
        }
        let lock = lock(path)?;
        free(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed("be made"))?;
        SockAddr::unix(path).and_then(|address| socket.bind(&address)).map_err(failed("be bound"))?;
        let file = SocketFile { path: path.to_owned(), _lock: lock };
        // Nobody can connect before `listen`, so nobody connects by wider permissions.
        fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(failed("get its mode"))?;
        if group.is_some() {
            chown(path, None, group).map_err(failed("be given to the group"))?;
        }
        Ok(Self { socket, file })
    }

    /// Lets clients connect.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub(crate) fn listen(self) -> io::Result<(UnixListener, SocketFile)> {
        self.socket.listen(BACKLOG)?;
        self.socket.set_nonblocking(true)?;
        let listener = UnixListener::from_std(net::UnixListener::from(OwnedFd::from(self.socket)))?;
        Ok((listener, self.file))
    }

    /// Where it is.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.file.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Before the lock goes: nobody else can have put a socket there.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(lock_path(&self.path));
    }
}

/// Removes what a dead daemon left of its socket. Where one lives, or somebody has put something else there, nothing is
/// done.
///
/// # Errors
/// [`ListenError::Io`].
pub(crate) fn remove_dead(path: &Path) -> Result<(), ListenError> {
    if !path.exists() && !lock_path(path).exists() {
        return Ok(());
    }
    match lock(path).and_then(|lock| free(path).map(|()| lock)) {
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
    // Another user's daemon may have made it; a service manager makes it for the daemon's user.
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

/// Takes the path for this process: of two daemons that find the same dead socket one replaces it.
///
/// Whoever has the lock may remove its file. So one that was taken holds only while it is still the file of that name.
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
            .map_err(failed("open the file that locks it"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ListenError::Busy(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed("lock it")(error)),
        }
        let own = file.metadata().map_err(failed("look at the file that locks it"))?;
        match fs::metadata(&name) {
            Ok(named) if (named.dev(), named.ino()) == (own.dev(), own.ino()) => return Ok(file),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("look at the file that locks it")(error));
            }
            // Removed meanwhile: the next file of this name is the one to lock.
            _ => {}
        }
    }
}

/// Removes a socket that nobody listens to.
fn free(path: &Path) -> Result<(), ListenError> {
    let failed = |what| move |source| ListenError::Io { path: path.to_owned(), what, source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("be looked at")(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    // Not blocking: a living daemon's queue may be full.
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    match connect() {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("be replaced"))
        }
        // It has a listener, or nobody can tell.
        _ => Err(ListenError::Busy(path.to_owned())),
    }
}
