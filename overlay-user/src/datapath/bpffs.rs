//! The pin root: a directory of the BPF filesystem that holds all that outlives the daemon.

use std::{
    ffi::CString,
    fs::{self, DirBuilder},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{
            ffi::OsStrExt as _,
            fs::{DirBuilderExt as _, MetadataExt as _},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::geteuid;

/// `BPF_FS_MAGIC` of `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// How this version keeps `links/`, `made/` and `next/`. A version that keeps them so that this one would misread them has a
/// higher number, and records it.
const RECORD: u32 = 1;

/// Times that the lock is tried.
const LOCK_ATTEMPTS: u32 = 10;

/// Why the pin root cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// A system call failed.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The directory is on another file system, and it is not at the usual place where one can be mounted.
    #[error(
        "{0} is not on a BPF filesystem; mount one there (`mount -t bpf bpf {0}`) or choose a --pin-root below /sys/fs/bpf"
    )]
    NotBpf(PathBuf),
    /// A name that the BPF filesystem refuses.
    #[error("--pin-root {0}: the BPF filesystem reserves names with dots; choose a name without")]
    Dots(PathBuf),
    /// Another daemon has the pin root.
    #[error("{0} is in use by another overlay daemon{1}; stop that one or give this one its own --pin-root")]
    Busy(PathBuf, String),
    /// The pin root was made in another network namespace.
    #[error("{0} belongs to another network namespace; run this command there (`nsenter --net=…`)")]
    OtherNetns(PathBuf),
    /// This user may not make it, or not look into it.
    #[error(
        "{0}: permission denied; run this as root or as the daemon's user, or let root make it for that user \
         (`chmod o+x /sys/fs/bpf; install -d -m 0750 -o USER {0}`)"
    )]
    Denied(PathBuf),
    /// It is another user's. What this user pins there, that one could not replace.
    #[error(
        "{path} belongs to user {owner}, and this daemon runs as user {user}; run it as that user, or give it its own --pin-root"
    )]
    Owner {
        /// The pin root.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who wants it.
        user: u32,
    },
    /// There is no BPF filesystem.
    #[error("cannot mount the BPF filesystem at {path}: {source}; mount it as root (`mount -t bpf bpf {path}`)")]
    Mount {
        /// Where it was tried.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It was there, and is not any more.
    #[error(
        "{0} is gone: somebody has unmounted the BPF filesystem or removed the pins. The daemon ends, and the kernel carries all \
         packets; start it again"
    )]
    Lost(PathBuf),
    /// A later version made it, and keeps its record in another way.
    #[error(
        "{path} was made by a newer version of overlay: its record has version {found} and this one reads {RECORD}; use that \
         version, or end its data path with its `overlay down` and start this one then"
    )]
    Newer {
        /// The pin root.
        path: PathBuf,
        /// Its record's version.
        found: u32,
    },
    /// Nothing is there.
    #[error("nothing is loaded at {0}; start the daemon with `overlay run`, or name its --pin-root")]
    Absent(PathBuf),
}

pub(super) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinError {
    let path = path.to_path_buf();
    move |source| PinError::Io { what, path, source }
}

/// [`io_error`] for what the calling user may not be allowed.
fn access_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinError {
    let path = path.to_path_buf();
    move |source| if is_denied(&source) { PinError::Denied(path) } else { PinError::Io { what, path, source } }
}

/// Not EPERM, which the BPF filesystem answers to names that it reserves.
fn is_denied(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EACCES)
}

/// A directory of the BPF filesystem that belongs to one daemon.
#[derive(Clone, Debug)]
pub struct PinRoot {
    path: PathBuf,
}

/// Held while a daemon runs.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock lasts as long as the file is open")] fs::File);

impl PinRoot {
    /// Creates the directory, and mounts the BPF filesystem if `/sys/fs/bpf` has none.
    ///
    /// # Errors
    /// [`PinError`] when there is no BPF filesystem and none can be mounted.
    pub fn create(path: &Path) -> Result<Self, PinError> {
        let usual = Path::new("/sys/fs/bpf");
        if path.starts_with(usual) && !is_bpf(usual)? {
            mount_bpf(usual)?;
        }
        // Before anything is made. Every relative path begins where this process is.
        let there = path.ancestors().find(|part| part.exists()).unwrap_or(Path::new("."));
        if !is_bpf(there)? {
            return Err(PinError::NotBpf(path.into()));
        }
        if path.strip_prefix(there).is_ok_and(|new| new.as_os_str().as_bytes().contains(&b'.')) {
            return Err(PinError::Dots(path.into()));
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(access_error("cannot make", path))?;
        }
        // Whoever can open it could hold its lock.
        match DirBuilder::new().mode(0o750).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(access_error("cannot make", path)(error));
            }
            _ => {}
        }
        let (owner, user) =
            (fs::metadata(path).map_err(access_error("cannot look at", path))?.uid(), geteuid().as_raw());
        if owner != user {
            return Err(PinError::Owner { path: path.into(), owner, user });
        }
        let root = Self { path: path.into() };
        root.check_record()?;
        for part in ["links", "made"] {
            let part = root.path.join(part);
            fs::create_dir_all(&part).map_err(io_error("cannot make", &part))?;
        }
        root.check_netns(true)?;
        root.mark("record", &RECORD.to_string())?;
        Ok(root)
    }

    /// Opens what a daemon has made.
    ///
    /// # Errors
    /// [`PinError::Absent`] when nothing is there, [`PinError::OtherNetns`] from another network namespace.
    pub fn open(path: &Path) -> Result<Self, PinError> {
        match fs::metadata(path.join("made")) {
            Ok(made) if made.is_dir() => {}
            Err(error) if is_denied(&error) => return Err(PinError::Denied(path.into())),
            _ => return Err(PinError::Absent(path.into())),
        }
        let root = Self { path: path.into() };
        root.check_record()?;
        root.check_netns(false)?;
        Ok(root)
    }

    /// Whether this version can read what is noted here.
    fn check_record(&self) -> Result<(), PinError> {
        if !self.path.join("made").is_dir() {
            return Ok(());
        }
        let found = self.marks("record")?.iter().filter_map(|version| version.parse().ok()).max().unwrap_or(RECORD);
        if found > RECORD { Err(PinError::Newer { path: self.path.clone(), found }) } else { Ok(()) }
    }

    fn check_netns(&self, claim: bool) -> Result<(), PinError> {
        let own = fs::metadata("/proc/thread-self/ns/net").map_err(io_error("cannot read", &self.path))?.ino();
        match self.marks("netns")?.first() {
            Some(inode) if *inode != own.to_string() => Err(PinError::OtherNetns(self.path.clone())),
            Some(_) => Ok(()),
            None if claim => self.mark("netns", &own.to_string()),
            None => Ok(()),
        }
    }

    /// That the directory is still there.
    ///
    /// # Errors
    /// [`PinError::Lost`].
    pub fn check_present(&self) -> Result<(), PinError> {
        if self.path.join("made").is_dir() { Ok(()) } else { Err(PinError::Lost(self.path.clone())) }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a map is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory of the pinned links.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.path.join("links")
    }

    /// The directory of the maps that are to take the place of those in the root, while there are such.
    #[must_use]
    pub(super) fn next(&self) -> PathBuf {
        self.path.join("next")
    }

    /// Names of the maps pinned in the root, or in [`Self::next`], whoever made them.
    pub(super) fn map_names(directory: &Path) -> Result<Vec<String>, PinError> {
        if !directory.is_dir() {
            return Ok(Vec::new());
        }
        Ok(list(directory)?.into_iter().filter(|name| name.starts_with("OVL_")).collect())
    }

    /// Takes the pin root for one daemon, for as long as the lock lives.
    ///
    /// # Errors
    /// [`PinError::Busy`] when another daemon has it.
    pub fn lock(&self) -> Result<Lock, PinError> {
        let file = fs::File::open(&self.path).map_err(io_error("cannot open", &self.path))?;
        // Whoever asks for the daemon holds the lock for a moment too.
        let taken = (0..LOCK_ATTEMPTS).any(|attempt| {
            if attempt > 0 {
                std::thread::sleep(Duration::from_millis(10));
            }
            // SAFETY: a valid file descriptor and plain numbers.
            unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
        });
        if !taken {
            let pid = self.daemon_pid().map_or_else(String::new, |pid| format!(" (pid {pid})"));
            return Err(PinError::Busy(self.path.clone(), pid));
        }
        Ok(Lock(file))
    }

    /// Records the daemon that holds the lock.
    ///
    /// # Errors
    /// [`PinError::Io`].
    pub fn set_daemon(&self, pid: u32) -> Result<(), PinError> {
        for old in self.marks("pid")? {
            self.unmark("pid", &old)?;
        }
        self.mark("pid", &pid.to_string())
    }

    /// The daemon that holds the lock, if one does.
    #[must_use]
    pub fn daemon_pid(&self) -> Option<i32> {
        let file = fs::File::open(&self.path).ok()?;
        // SAFETY: a valid file descriptor and plain numbers. A shared lock that is granted is released with the file.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) } == 0 {
            return None;
        }
        // Of a root of another user anything may be written there; other numbers mean many processes.
        self.marks("pid").ok()?.first()?.parse().ok().filter(|pid| *pid > 1)
    }

    /// Notes that something outside was made, or is in some state: `kind` and `name`.
    ///
    /// # Errors
    /// [`PinError::Io`].
    pub fn mark(&self, kind: &str, name: &str) -> Result<(), PinError> {
        let path = self.mark_path(kind, name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io_error("cannot make", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Takes a note back.
    ///
    /// # Errors
    /// [`PinError::Io`].
    pub fn unmark(&self, kind: &str, name: &str) -> Result<(), PinError> {
        remove(&self.mark_path(kind, name))
    }

    /// The names noted under `kind`.
    ///
    /// # Errors
    /// [`PinError::Io`].
    pub fn marks(&self, kind: &str) -> Result<Vec<String>, PinError> {
        let prefix = format!("{kind}:");
        let names = list(&self.path.join("made"))?;
        Ok(names.iter().filter_map(|name| name.strip_prefix(&prefix)).map(decoded).collect())
    }

    fn mark_path(&self, kind: &str, name: &str) -> PathBuf {
        self.path.join("made").join(format!("{kind}:{}", encoded(name)))
    }

    /// Names of the pinned links.
    ///
    /// # Errors
    /// [`PinError::Io`].
    pub fn link_names(&self) -> Result<Vec<String>, PinError> {
        list(&self.links())
    }

    /// Removes the directory and all that is pinned and noted in it. A directory of another owner's parent stays, empty.
    ///
    /// # Errors
    /// The first failure; all else is removed.
    pub fn remove(self) -> Result<(), PinError> {
        self.remove_pins().into_iter().chain(self.remove_record(&[])).next().map_or(Ok(()), Err)
    }

    /// Removes all pins. Returns the failures.
    pub(crate) fn remove_pins(&self) -> Vec<PinError> {
        let parts = self.parts();
        let pins = parts[..2].iter().flat_map(|part| clear(part, |_| false));
        pins.chain(clear(&self.path, |name| parts.contains(&self.path.join(name)))).collect()
    }

    /// Removes what is noted, except under the kinds `stays`, and without such the directory too, whose pins are removed. One
    /// that was made for its user by its parent's owner, as `tmpfiles.d` does, stays and is empty: that user could not
    /// make it again. Returns the failures.
    pub(crate) fn remove_record(&self, stays: &[&str]) -> Vec<PinError> {
        let parts = self.parts();
        let failed = clear(&parts[2], |name| stays.iter().any(|kind| name.split(':').next() == Some(kind)));
        if !stays.is_empty() || !failed.is_empty() {
            return failed;
        }
        let owner = |path: &Path| fs::metadata(path).map(|meta| meta.uid()).ok();
        let is_own = owner(&self.path) == owner(self.path.parent().unwrap_or(Path::new("/")));
        let directories = parts.iter().filter(|part| part.is_dir()).chain(is_own.then_some(&self.path));
        directories.filter_map(|path| fs::remove_dir(path).map_err(io_error("cannot remove", path)).err()).collect()
    }

    /// The directories in the root; the record is the last.
    fn parts(&self) -> [PathBuf; 3] {
        [self.links(), self.next(), self.path.join("made")]
    }
}

/// Removes what is in a directory, where there is one, except the names that stay. Returns the failures.
fn clear(directory: &Path, stays: impl Fn(&str) -> bool) -> Vec<PinError> {
    if !directory.is_dir() {
        return Vec::new();
    }
    let names = match list(directory) {
        Ok(names) => names,
        Err(error) => return vec![error],
    };
    let paths = names.into_iter().filter(|name| !stays(name)).map(|name| directory.join(name));
    paths.filter_map(|path| remove(&path).err()).collect()
}

/// Removes a pin, a note, or an empty directory, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), PinError> {
    let removed = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("cannot remove", path)(error)),
        _ => Ok(()),
    }
}

/// A name that the BPF filesystem takes: it reserves dots, which interface names may have, and no file system takes the
/// slashes of a path.
fn encoded(name: &str) -> String {
    name.replace('%', "%25").replace('.', "%2e").replace('/', "%2f")
}

/// Reads [`encoded`].
fn decoded(name: &str) -> String {
    name.replace("%2f", "/").replace("%2e", ".").replace("%25", "%")
}

fn list(path: &Path) -> Result<Vec<String>, PinError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(io_error("cannot read", path))? {
        let entry = entry.map_err(io_error("cannot read", path))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn is_bpf(path: &Path) -> Result<bool, PinError> {
    let text = CString::new(path.as_os_str().as_bytes()).map_err(|_| PinError::NotBpf(path.into()))?;
    // SAFETY: all-zero bytes are a valid statfs.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a NUL-terminated path and a valid place for the answer.
    if unsafe { libc::statfs(text.as_ptr(), &raw mut stat) } != 0 {
        return Err(io_error("cannot look at", path)(io::Error::last_os_error()));
    }
    Ok(stat.f_type as u64 == BPF_FS_MAGIC)
}

fn mount_bpf(path: &Path) -> Result<(), PinError> {
    let target = CString::new(path.as_os_str().as_bytes()).map_err(|_| PinError::NotBpf(path.into()))?;
    // SAFETY: NUL-terminated strings; no data.
    let failed = unsafe { libc::mount(c"bpf".as_ptr(), target.as_ptr(), c"bpf".as_ptr(), 0, std::ptr::null()) != 0 };
    if failed { Err(PinError::Mount { path: path.into(), source: io::Error::last_os_error() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noted_name_is_read_back() {
        for name in ["eth0.100", "1:4026532180:/var/run/docker/netns/1-abc", "a%2eb", "%", ""] {
            assert_eq!(decoded(&encoded(name)), name);
            assert!(!encoded(name).contains(['.', '/']), "{name}");
        }
    }
}
