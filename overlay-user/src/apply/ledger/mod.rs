//! The ledger: the ownership record, and the right to change owned objects.
//!
//! Every command can read a [`PinRoot`]. The [`Ledger`] of a pin root exists once, in the process that holds its lock:
//! the daemon or `overlay down`. Creating objects, attaching programs and writing maps require a reference to it.
//! `record` precedes the creation of an object, and `forget` follows its removal: a process killed in between leaves a
//! record without an object, and never an object without a record.

pub(crate) mod hook;
mod owned;
mod pin_root;

use std::{fmt::Display, fs, io, os::unix::fs::MetadataExt as _, path::Path};

pub(crate) use hook::AttachPoint;
pub(crate) use owned::Fact;
pub(crate) use owned::{Owned, RecordedNetns};
pub(crate) use pin_root::PinError;
pub use pin_root::PinRoot;
pub(crate) use pin_root::{io_error, remove};

/// The ownership record of a pin root, and the right to change its objects.
#[derive(Debug)]
pub struct Ledger {
    root: PinRoot,
    #[expect(dead_code, reason = "the lock is held while the file is open")]
    lock: Option<fs::File>,
}

/// Proof that an object is recorded and may be created.
#[must_use = "an object that is not created must be forgotten"]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recorded {
    is_new: bool,
}

impl Recorded {
    /// Whether it was not recorded before: an existing object is then not owned.
    pub(crate) const fn is_new(self) -> bool {
        self.is_new
    }
}

impl Ledger {
    /// Creates the pin root if it is missing, and locks it for the calling process, the daemon.
    ///
    /// # Errors
    /// [`PinError::Busy`] when another process holds the lock; [`PinError`] when no BPF filesystem can be mounted.
    pub fn create(path: &Path) -> Result<Self, PinError> {
        let ledger = PinRoot::create(path)?.lock()?;
        // Another process may have changed it before the lock was taken.
        ledger.root.check()?;
        ledger.forget_daemon()?;
        ledger.set(Fact::NETNS, pin_root::current_netns(path)?)?;
        ledger.set(Fact::RECORD, pin_root::RECORD)?;
        ledger.set(Fact::PID, std::process::id())?;
        Ok(ledger)
    }

    /// Removes the state and process id of an earlier daemon: readers would attribute them to this process, and the id
    /// may belong to another process.
    pub(crate) fn forget_daemon(&self) -> Result<(), PinError> {
        self.clear(Fact::STATE)?;
        self.clear(Fact::PID)
    }

    /// A ledger without the lock, for tests and benchmarks that change a running daemon's maps.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn without_lock(path: &Path) -> Self {
        Self { root: PinRoot::unchecked(path), lock: None }
    }

    /// The pin root.
    #[must_use]
    pub const fn root(&self) -> &PinRoot {
        &self.root
    }

    /// Records an object before its creation.
    pub(crate) fn record(&self, owned: &Owned) -> Result<Recorded, PinError> {
        Ok(Recorded { is_new: self.write(&owned.file_name())? })
    }

    /// Removes the record of an object that is gone or was not created.
    pub(crate) fn forget(&self, owned: &Owned) -> Result<(), PinError> {
        remove(&self.root.record().join(owned.file_name()))
    }

    /// [`Self::forget`] after a failed creation, unless the object was recorded before.
    pub(crate) fn roll_back(&self, owned: &Owned, recorded: Recorded) -> Result<(), PinError> {
        if recorded.is_new { self.forget(owned) } else { Ok(()) }
    }

    /// Sets a fact, replacing its value.
    pub(crate) fn set(&self, fact: Fact, value: impl Display) -> Result<(), PinError> {
        let name = fact.file_name(value);
        self.write(&name)?;
        self.clear_all_but(fact, &name)
    }

    /// Removes a fact.
    pub(crate) fn clear(&self, fact: Fact) -> Result<(), PinError> {
        self.clear_all_but(fact, "")
    }

    fn clear_all_but(&self, fact: Fact, stays: &str) -> Result<(), PinError> {
        let names = self.root.names()?;
        let mut others = names.iter().filter(|name| fact.value(name).is_some() && *name != stays);
        others.try_for_each(|name| remove(&self.root.record().join(name)))
    }

    /// Writes an entry; returns whether it is new.
    fn write(&self, name: &str) -> Result<bool, PinError> {
        let path = self.root.record().join(name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            result => result.map(|()| true).map_err(io_error("cannot create", &path)),
        }
    }

    /// Removes all pins, the record and the directory. The directory stays, empty, if its parent has another owner.
    ///
    /// # Errors
    /// The first failure; everything else is removed.
    #[cfg(any(test, feature = "testing"))]
    pub fn remove(self) -> Result<(), PinError> {
        self.remove_pins().into_iter().chain(self.remove_record()).next().map_or(Ok(()), Err)
    }

    /// Removes all pins. Returns the failures.
    pub(crate) fn remove_pins(&self) -> Vec<PinError> {
        let directories = self.root.directories();
        let [links, next, _] = &directories;
        let pins = [links, next].into_iter().flat_map(|directory| clear(directory, |_| false));
        pins.chain(clear(self.root.path(), |name| directories.contains(&self.root.path().join(name)))).collect()
    }

    /// Removes the record and the directory, whose pins are already removed. A directory created for its user by the
    /// parent's owner, as by `tmpfiles.d`, stays empty: its user could not recreate it. Returns the failures.
    pub(crate) fn remove_record(&self) -> Vec<PinError> {
        let failed = clear(&self.root.record(), |_| false);
        if !failed.is_empty() {
            return failed;
        }
        let path = self.root.path();
        let owner = |path: &Path| fs::metadata(path).map(|meta| meta.uid()).ok();
        let is_own = owner(path) == owner(path.parent().unwrap_or(Path::new("/")));
        let directories = self.root.directories();
        let directories = directories.iter().map(Path::new).filter(|path| path.is_dir()).chain(is_own.then_some(path));
        directories.filter_map(|path| fs::remove_dir(path).map_err(io_error("cannot remove", path)).err()).collect()
    }

    /// Reduces the record to the owned objects and the facts required to read them. Returns the failures.
    pub(crate) fn reduce_record(&self) -> Vec<PinError> {
        let is_needed = |name: &str| [Fact::NETNS, Fact::RECORD].iter().any(|fact| fact.value(name).is_some());
        clear(&self.root.record(), |name| Owned::parse(name).is_some() || is_needed(name))
    }
}

/// Removes the contents of a directory, if it exists, except the names that `stays` selects. Returns the failures.
fn clear(directory: &Path, stays: impl Fn(&str) -> bool) -> Vec<PinError> {
    if !directory.is_dir() {
        return Vec::new();
    }
    let names = match pin_root::list(directory) {
        Ok(names) => names,
        Err(error) => return vec![error],
    };
    let paths = names.into_iter().filter(|name| !stays(name)).map(|name| directory.join(name));
    paths.filter_map(|path| remove(&path).err()).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A ledger in a directory outside the BPF filesystem, which the record does not need.
    pub(crate) fn ledger(directory: &tempfile::TempDir) -> Ledger {
        fs::create_dir_all(directory.path().join("record")).unwrap();
        Ledger::without_lock(directory.path())
    }

    fn names(ledger: &Ledger) -> Vec<String> {
        ledger.root().names().unwrap()
    }

    #[test]
    fn earlier_record_survives_failed_creation() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = ledger(&directory);
        let link = Owned::Link("ovlbr4097".to_owned());
        let first = ledger.record(&link).unwrap();
        assert!(first.is_new());
        let second = ledger.record(&link).unwrap();
        assert!(!second.is_new());
        ledger.roll_back(&link, second).unwrap();
        assert_eq!(names(&ledger), ["link:ovlbr4097"]);
        ledger.roll_back(&link, first).unwrap();
        assert_eq!(names(&ledger), [""; 0]);
    }

    #[test]
    fn fact_has_one_value() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = ledger(&directory);
        ledger.set(Fact::LAYOUT, 1).unwrap();
        ledger.set(Fact::PID, 7).unwrap();
        ledger.set(Fact::LAYOUT, 2).unwrap();
        assert_eq!(names(&ledger), ["layout:2", "pid:7"]);
        ledger.clear(Fact::LAYOUT).unwrap();
        assert_eq!(ledger.root().fact::<u32>(Fact::LAYOUT).unwrap(), None);
        assert_eq!(ledger.root().fact(Fact::PID).unwrap(), Some(7));
    }

    #[test]
    fn record_of_an_earlier_build_is_migrated() {
        let directory = tempfile::tempdir().unwrap();
        let [earlier, record] = ["made", "record"].map(|name| directory.path().join(name));
        // The second daemon continues after the first was killed.
        for (number, left) in [(1, None), (2, Some("netns_id:2:1:%2fa"))] {
            let site = format!("site:{number}:1:%2fa");
            for name in ["layout:2", "link:ovlbr4097", &site] {
                fs::create_dir_all(earlier.join(name)).unwrap();
            }
            left.into_iter().for_each(|name| fs::create_dir_all(record.join(name)).unwrap());
            assert!(PinRoot::unchecked(directory.path()).record().is_dir());
            let ledger = PinRoot::unchecked(directory.path()).lock().unwrap();
            assert!(!earlier.exists());
            let netns = RecordedNetns { inode: 1, path: "/a".into() };
            assert!(ledger.root().owns(&Owned::Netns(number, netns)));
            assert!(ledger.root().owns(&Owned::Link("ovlbr4097".to_owned())));
            assert_eq!(ledger.root().fact(Fact::LAYOUT).unwrap(), Some(2));
            assert!(!names(&ledger).iter().any(|name| name.starts_with("site")));
        }
    }

    #[test]
    fn record_is_read_without_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = ledger(&directory);
        let record = ["layout:1", "link:ovlbr4097", "netns:1", "pid:3459", "record:1", "shim:9", "state:ready", "x:y"];
        record.iter().for_each(|name| fs::create_dir(directory.path().join("record").join(name)).unwrap());
        let owned = ledger.root().owned().unwrap();
        let expected = [Owned::Link("ovlbr4097".to_owned()), Owned::Shim(overlay_common::Vni::new(9).unwrap())];
        assert_eq!(owned.into_iter().collect::<Vec<_>>(), expected);
        assert!(ledger.root().is_ready().unwrap());
        assert!(matches!(PinRoot::open(directory.path()), Err(PinError::OtherNetns(_))));
        assert!(ledger.reduce_record().is_empty());
        assert_eq!(names(&ledger), ["link:ovlbr4097", "netns:1", "record:1", "shim:9"]);
        assert!(ledger.remove_record().is_empty());
        assert!(!directory.path().exists());
    }
}
