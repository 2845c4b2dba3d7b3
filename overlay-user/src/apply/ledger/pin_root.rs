//! The pin root: a directory of the BPF filesystem that holds all that outlives the daemon.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::geteuid,
};

use super::{AttachPoint, Fact, Ledger, Owned, RecordedNetns};

/// How this version keeps `links/`, `record/` and `next/`. A version that keeps them so that this one would misread them has a
/// higher number, and records it.
pub(crate) const RECORD: u32 = 1;

/// Directory of the record in builds with [`overlay_common::maps::LAYOUT`] 1 and 2.
const EARLIER_RECORD: &str = "made";

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

/// An error of a system call on a path of the pin root.
pub(crate) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinError {
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

/// A directory of the BPF filesystem that belongs to one daemon, to be read. What it holds is changed with the
/// [`crate::apply::ledger::Ledger`] alone.
#[derive(Clone, Debug)]
pub struct PinRoot {
    path: PathBuf,
}

impl PinRoot {
    /// Creates the directory, and mounts the BPF filesystem if `/sys/fs/bpf` has none.
    pub(crate) fn create(path: &Path) -> Result<Self, PinError> {
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
        root.check()?;
        for part in [root.links(), root.record()] {
            fs::create_dir_all(&part).map_err(io_error("cannot make", &part))?;
        }
        Ok(root)
    }

    /// Opens what a daemon has made.
    ///
    /// # Errors
    /// [`PinError::Absent`] when nothing is there, [`PinError::OtherNetns`] from another network namespace.
    pub fn open(path: &Path) -> Result<Self, PinError> {
        let root = Self { path: path.into() };
        match fs::metadata(root.record()) {
            Ok(record) if record.is_dir() => {}
            Err(error) if is_denied(&error) => return Err(PinError::Denied(path.into())),
            _ => return Err(PinError::Absent(path.into())),
        }
        root.check()?;
        Ok(root)
    }

    /// Whatever is there.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn unchecked(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// That this version can read the record, where there is one, and that it is of this network namespace.
    pub(crate) fn check(&self) -> Result<(), PinError> {
        if !self.record().is_dir() {
            return Ok(());
        }
        if let Some(found) = self.fact(Fact::RECORD)?.filter(|found| *found > RECORD) {
            return Err(PinError::Newer { path: self.path.clone(), found });
        }
        match self.fact::<u64>(Fact::NETNS)? {
            Some(inode) if inode != current_netns(&self.path)? => Err(PinError::OtherNetns(self.path.clone())),
            _ => Ok(()),
        }
    }

    /// That the directory is still there.
    ///
    /// # Errors
    /// [`PinError::Lost`].
    pub fn check_present(&self) -> Result<(), PinError> {
        if self.record().is_dir() { Ok(()) } else { Err(PinError::Lost(self.path.clone())) }
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
    pub(crate) fn next(&self) -> PathBuf {
        self.path.join("next")
    }

    /// The directory of the record.
    pub(crate) fn record(&self) -> PathBuf {
        let (record, earlier) = (self.path.join("record"), self.path.join(EARLIER_RECORD));
        if !record.is_dir() && earlier.is_dir() { earlier } else { record }
    }

    /// Moves the record of an earlier build, which kept it in [`EARLIER_RECORD`] and called a netns id a site.
    fn move_earlier_record(&self) -> Result<(), PinError> {
        let (record, earlier) = (self.path.join("record"), self.path.join(EARLIER_RECORD));
        if !earlier.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(&record).map_err(io_error("cannot make", &record))?;
        for name in list(&earlier)? {
            let new = name.strip_prefix("site:").map_or_else(|| name.clone(), |netns| format!("netns_id:{netns}"));
            let from = earlier.join(&name);
            fs::rename(&from, record.join(new)).map_err(io_error("cannot rename", &from))?;
        }
        fs::remove_dir(&earlier).map_err(io_error("cannot remove", &earlier))
    }

    /// The directories in the root; the record is the last.
    pub(crate) fn directories(&self) -> [PathBuf; 3] {
        [self.links(), self.next(), self.record()]
    }

    /// Names of the maps pinned in the root, or in [`Self::next`], whoever made them.
    pub(crate) fn map_names(directory: &Path) -> Result<Vec<String>, PinError> {
        if !directory.is_dir() {
            return Ok(Vec::new());
        }
        Ok(list(directory)?.into_iter().filter(|name| name.starts_with("OVL_")).collect())
    }

    /// Takes the pin root for the calling process, for as long as the ledger lives.
    pub(crate) fn lock(self) -> Result<Ledger, PinError> {
        let file = fs::File::open(&self.path).map_err(io_error("cannot open", &self.path))?;
        // Whoever asks for the daemon holds the lock for a moment too.
        let taken = (0..LOCK_ATTEMPTS).any(|attempt| {
            if attempt > 0 {
                std::thread::sleep(Duration::from_millis(10));
            }
            file.try_lock().is_ok()
        });
        if !taken {
            let pid = self.daemon_pid().map_or_else(String::new, |pid| format!(" (pid {pid})"));
            return Err(PinError::Busy(self.path, pid));
        }
        self.move_earlier_record()?;
        Ok(Ledger { root: self, lock: Some(file) })
    }

    /// The daemon that holds the lock, if one does.
    #[must_use]
    pub fn daemon_pid(&self) -> Option<i32> {
        let file = fs::File::open(&self.path).ok()?;
        // A shared lock that is granted is released with the file.
        if file.try_lock_shared().is_ok() {
            return None;
        }
        // Of a root of another user anything may be written there; other numbers mean many processes.
        self.fact(Fact::PID).ok()?.filter(|pid| *pid > 1)
    }

    /// Whether the daemon that was started last has come so far that it was ready.
    pub(crate) fn is_ready(&self) -> Result<bool, PinError> {
        Ok(self.fact::<String>(Fact::STATE)?.is_some())
    }

    /// What the record says of a fact.
    pub(crate) fn fact<T: FromStr + Ord>(&self, fact: Fact) -> Result<Option<T>, PinError> {
        // One that died while it replaced a value leaves both.
        Ok(self.names()?.iter().filter_map(|name| fact.value(name)?.parse().ok()).max())
    }

    /// Whether it is recorded as owned.
    pub(crate) fn owns(&self, owned: &Owned) -> bool {
        self.record().join(owned.file_name()).is_dir()
    }

    /// All that is recorded as owned.
    pub(crate) fn owned(&self) -> Result<BTreeSet<Owned>, PinError> {
        Ok(self.names()?.iter().filter_map(|name| Owned::parse(name)).collect())
    }

    /// The other network namespaces by their numbers.
    pub(crate) fn netns_by_number(&self) -> Result<BTreeMap<u16, RecordedNetns>, PinError> {
        let numbered = |owned| if let Owned::Netns(number, netns) = owned { Some((number, netns)) } else { None };
        Ok(self.owned()?.into_iter().filter_map(numbered).collect())
    }

    /// The hooks that programs are attached to: by pinned links and by filters.
    ///
    /// # Errors
    /// [`PinError::Io`].
    pub fn hooks(&self) -> Result<Vec<AttachPoint>, PinError> {
        let by_link = self.link_names()?.into_iter().filter_map(|name| AttachPoint::parse(&name));
        let by_filter = |owned| if let Owned::Filter(hook) = owned { Some(hook) } else { None };
        Ok(by_link.chain(self.owned()?.into_iter().filter_map(by_filter)).collect())
    }

    /// Names of the pinned links.
    pub(crate) fn link_names(&self) -> Result<Vec<String>, PinError> {
        list(&self.links())
    }

    /// All names in the record.
    pub(crate) fn names(&self) -> Result<Vec<String>, PinError> {
        list(&self.record())
    }
}

/// Removes a pin, a record, or an empty directory, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), PinError> {
    let removed = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("cannot remove", path)(error)),
        _ => Ok(()),
    }
}

/// Inode of the calling thread's network namespace, for the pin root at `path`.
pub(crate) fn current_netns(path: &Path) -> Result<u64, PinError> {
    let netns = fs::metadata("/proc/thread-self/ns/net").map_err(io_error("cannot read", path))?;
    Ok(netns.ino())
}

/// The names in a directory, sorted.
pub(crate) fn list(path: &Path) -> Result<Vec<String>, PinError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(io_error("cannot read", path))? {
        let entry = entry.map_err(io_error("cannot read", path))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn is_bpf(path: &Path) -> Result<bool, PinError> {
    let stat = statfs(path).map_err(|errno| io_error("cannot look at", path)(errno.into()))?;
    Ok(stat.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_bpf(path: &Path) -> Result<(), PinError> {
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), None::<&Path>)
        .map_err(|errno| PinError::Mount { path: path.into(), source: errno.into() })
}
