//! The pin root: a directory of the BPF filesystem with all state that outlives the daemon.

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

/// Version of the format of `links/`, `record/` and `next/`. An incompatible format has a higher, recorded version.
/// Version 2 has the checks of strict networks (`portcheck`, `niccheck`): an older daemon would leave them attached.
pub(crate) const RECORD: u32 = 2;

/// Directory of the record in builds with [`overlay_common::maps::LAYOUT`] 1 and 2.
const OLD_RECORD: &str = "made";

/// Number of attempts to take the lock.
const LOCK_ATTEMPTS: u32 = 10;

/// The pin root cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// A system call failed.
    #[error("{what} {path}: {source}")]
    Io {
        /// The action, as in "cannot read".
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The directory is on another file system, and not below `/sys/fs/bpf`, where overlay mounts one.
    #[error(
        "{0} is not on a BPF filesystem; mount one there (`mount -t bpf bpf {0}`), \
        or choose a --pin-root below /sys/fs/bpf"
    )]
    NotBpf(PathBuf),
    /// A name that the BPF filesystem rejects.
    #[error("--pin-root {0}: the BPF filesystem reserves names with dots; choose a name without dots")]
    ReservedName(PathBuf),
    /// Another daemon holds the lock of the pin root.
    #[error("{0} is in use by another overlay daemon{1}; stop that daemon, or choose another --pin-root")]
    Busy(PathBuf, String),
    /// The pin root belongs to another network namespace.
    #[error("{0} belongs to another network namespace; run this command there (`nsenter --net=…`)")]
    OtherNetns(PathBuf),
    /// The user lacks the permission to create or read it.
    #[error(
        "{0}: permission denied; run this as root or as the daemon's user, or create it as root for that user \
         (`chmod o+x /sys/fs/bpf; install -d -m 0750 -o USER {0}`)"
    )]
    Denied(PathBuf),
    /// It belongs to another user, who could not replace this user's pins.
    #[error(
        "{path} belongs to user {owner}, and this daemon runs as user {user}; run it as user {owner}, \
        or choose another --pin-root"
    )]
    Owner {
        /// The pin root.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user of this process.
        user: u32,
    },
    /// There is no BPF filesystem.
    #[error("cannot mount the BPF filesystem at {path}: {source}; mount it as root (`mount -t bpf bpf {path}`)")]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It has disappeared.
    #[error(
        "{0} is gone: the BPF filesystem was unmounted, or the pins were removed; restart the daemon, \
        packets take the kernel path until then"
    )]
    Lost(PathBuf),
    /// A newer version created it, with another format of the record.
    #[error(
        "{path} was created by a newer version of overlay: its record has version {found} and this version reads \
        {RECORD}; use that version, or remove its data path with its `overlay down` first"
    )]
    Newer {
        /// The pin root.
        path: PathBuf,
        /// Its record's version.
        found: u32,
    },
    /// It does not exist.
    #[error("nothing is loaded at {0}; start the daemon with `overlay run`, or set its --pin-root")]
    Absent(PathBuf),
}

/// An error of a system call on a path of the pin root.
pub(crate) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinError {
    let path = path.to_path_buf();
    move |source| PinError::Io { what, path, source }
}

/// [`io_error`], with [`PinError::Denied`] for a missing permission.
fn access_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinError {
    let path = path.to_path_buf();
    move |source| if is_denied(&source) { PinError::Denied(path) } else { PinError::Io { what, path, source } }
}

/// Excludes EPERM, which the BPF filesystem returns for reserved names.
fn is_denied(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EACCES)
}

/// Read access to the pin root of one daemon. Changes require the [`crate::apply::ledger::Ledger`].
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
        // Checked before anything is created. A relative path starts in the working directory.
        let there = path.ancestors().find(|part| part.exists()).unwrap_or(Path::new("."));
        if !is_bpf(there)? {
            return Err(PinError::NotBpf(path.into()));
        }
        if path.strip_prefix(there).is_ok_and(|new| new.as_os_str().as_bytes().contains(&b'.')) {
            return Err(PinError::ReservedName(path.into()));
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(access_error("cannot create", path))?;
        }
        // Every process that can open the directory can take its lock.
        match DirBuilder::new().mode(0o750).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(access_error("cannot create", path)(error));
            }
            _ => {}
        }
        let (owner, user) = (fs::metadata(path).map_err(access_error("cannot read", path))?.uid(), geteuid().as_raw());
        if owner != user {
            return Err(PinError::Owner { path: path.into(), owner, user });
        }
        let root = Self { path: path.into() };
        root.check()?;
        for part in [root.links(), root.record()] {
            fs::create_dir_all(&part).map_err(io_error("cannot create", &part))?;
        }
        Ok(root)
    }

    /// Opens the pin root of a daemon.
    ///
    /// # Errors
    /// [`PinError::Absent`] when it does not exist, [`PinError::OtherNetns`] from another network namespace.
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

    /// Without checks.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn unchecked(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// Checks that this version can read the record, if there is one, and that it belongs to this network namespace.
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

    /// Checks that the pin root still exists.
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

    /// The path of a pinned map.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory of the pinned links.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.path.join("links")
    }

    /// The directory of new maps during a migration.
    #[must_use]
    pub(crate) fn next(&self) -> PathBuf {
        self.path.join("next")
    }

    /// The directory of the record.
    pub(crate) fn record(&self) -> PathBuf {
        let (record, earlier) = (self.path.join("record"), self.path.join(OLD_RECORD));
        if !record.is_dir() && earlier.is_dir() { earlier } else { record }
    }

    /// Migrates the record of an earlier build: in [`OLD_RECORD`], with `site:` for `netns_id:`.
    fn migrate_record(&self) -> Result<(), PinError> {
        let (record, earlier) = (self.path.join("record"), self.path.join(OLD_RECORD));
        if !earlier.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(&record).map_err(io_error("cannot create", &record))?;
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

    /// Names of the maps of any version pinned in a directory: the root or [`Self::next`].
    pub(crate) fn map_names(directory: &Path) -> Result<Vec<String>, PinError> {
        if !directory.is_dir() {
            return Ok(Vec::new());
        }
        Ok(list(directory)?.into_iter().filter(|name| name.starts_with("OVL_")).collect())
    }

    /// Locks the pin root for the calling process until the ledger is dropped.
    pub(crate) fn lock(self) -> Result<Ledger, PinError> {
        let file = fs::File::open(&self.path).map_err(io_error("cannot open", &self.path))?;
        // `daemon_pid` holds a shared lock briefly.
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
        self.migrate_record()?;
        Ok(Ledger { root: self, lock: Some(file) })
    }

    /// Process id of the daemon that holds the lock.
    #[must_use]
    pub fn daemon_pid(&self) -> Option<i32> {
        let file = fs::File::open(&self.path).ok()?;
        // A shared lock that is granted is released with the file.
        if file.try_lock_shared().is_ok() {
            return None;
        }
        // Another user may have written the record; kill(2) treats other numbers as groups of processes.
        self.fact(Fact::PID).ok()?.filter(|pid| *pid > 1)
    }

    /// Whether the last daemon has finished its start.
    pub(crate) fn is_ready(&self) -> Result<bool, PinError> {
        Ok(self.fact::<String>(Fact::STATE)?.is_some())
    }

    /// The recorded value of a fact.
    pub(crate) fn fact<T: FromStr + Ord>(&self, fact: Fact) -> Result<Option<T>, PinError> {
        // A daemon killed while it replaced a value leaves both.
        Ok(self.names()?.iter().filter_map(|name| fact.value(name)?.parse().ok()).max())
    }

    /// Whether an object is recorded as owned.
    pub(crate) fn owns(&self, owned: &Owned) -> bool {
        self.record().join(owned.file_name()).is_dir()
    }

    /// All objects recorded as owned.
    pub(crate) fn owned(&self) -> Result<BTreeSet<Owned>, PinError> {
        Ok(self.names()?.iter().filter_map(|name| Owned::parse(name)).collect())
    }

    /// The other network namespaces by netns id.
    pub(crate) fn netns_by_number(&self) -> Result<BTreeMap<u16, RecordedNetns>, PinError> {
        let numbered = |owned| if let Owned::Netns(number, netns) = owned { Some((number, netns)) } else { None };
        Ok(self.owned()?.into_iter().filter_map(numbered).collect())
    }

    /// The hooks with attached programs: pinned links and recorded filters.
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

/// Removes a pin, a record, or an empty directory, if it exists.
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
    let stat = statfs(path).map_err(|errno| io_error("cannot read", path)(errno.into()))?;
    Ok(stat.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_bpf(path: &Path) -> Result<(), PinError> {
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), None::<&Path>)
        .map_err(|errno| PinError::Mount { path: path.into(), source: errno.into() })
}
