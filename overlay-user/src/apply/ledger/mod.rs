//! The ledger: what overlay owns, and the right to change it.
//!
//! A [`PinRoot`] can be read by every command. The [`Ledger`] of a pin root exists once, for the process that holds its lock:
//! the daemon, or `overlay down`. Objects are made, programs attached and maps written only with a reference to it.
//! `record` comes before the object is made, and `forget` after it is gone: a process that is
//! killed in between leaves a record without an object, and no object without a record.

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

/// The right to change what belongs to a pin root, and the record of it.
#[derive(Debug)]
pub struct Ledger {
    root: PinRoot,
    #[expect(dead_code, reason = "the lock lasts as long as the file is open")]
    lock: Option<fs::File>,
}

/// An object is recorded, and may be made now.
#[must_use = "an object that is not made has to be forgotten"]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recorded {
    is_new: bool,
}

impl Recorded {
    /// Whether it was not recorded before: an object that is there already is not ours.
    pub(crate) const fn is_new(self) -> bool {
        self.is_new
    }
}

impl Ledger {
    /// Makes the pin root where there is none, and takes it for the calling process, the daemon.
    ///
    /// # Errors
    /// [`PinError::Busy`] when another process has it; [`PinError`] when there is no BPF filesystem and none can be mounted.
    pub fn create(path: &Path) -> Result<Self, PinError> {
        let ledger = PinRoot::create(path)?.lock()?;
        // Another process may have had it until now.
        ledger.root.check()?;
        ledger.forget_daemon()?;
        ledger.set(Fact::NETNS, pin_root::current_netns(path)?)?;
        ledger.set(Fact::RECORD, pin_root::RECORD)?;
        ledger.set(Fact::PID, std::process::id())?;
        Ok(ledger)
    }

    /// Forgets what an earlier daemon says of itself: who sees the lock would take it for this process's word, and the
    /// number may be that of another process by now.
    pub(crate) fn forget_daemon(&self) -> Result<(), PinError> {
        self.clear(Fact::STATE)?;
        self.clear(Fact::PID)
    }

    /// Without the lock, beside the daemon that has it: for tests and benchmarks that change its maps on purpose.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn beside_the_daemon(path: &Path) -> Self {
        Self { root: PinRoot::unchecked(path), lock: None }
    }

    /// The pin root.
    #[must_use]
    pub const fn root(&self) -> &PinRoot {
        &self.root
    }

    /// Records an object that is about to be made.
    pub(crate) fn record(&self, owned: &Owned) -> Result<Recorded, PinError> {
        Ok(Recorded { is_new: self.write(&owned.file_name())? })
    }

    /// Forgets an object that is gone, or was not made.
    pub(crate) fn forget(&self, owned: &Owned) -> Result<(), PinError> {
        remove(&self.root.record().join(owned.file_name()))
    }

    /// [`Self::forget`] for an object that could not be made: one that was recorded before stays so.
    pub(crate) fn take_back(&self, owned: &Owned, recorded: Recorded) -> Result<(), PinError> {
        if recorded.is_new { self.forget(owned) } else { Ok(()) }
    }

    /// Says a fact, in the place of what was said before.
    pub(crate) fn set(&self, fact: Fact, value: impl Display) -> Result<(), PinError> {
        let name = fact.file_name(value);
        self.write(&name)?;
        self.clear_except(fact, &name)
    }

    /// Says nothing of a fact any more.
    pub(crate) fn clear(&self, fact: Fact) -> Result<(), PinError> {
        self.clear_except(fact, "")
    }

    fn clear_except(&self, fact: Fact, stays: &str) -> Result<(), PinError> {
        let names = self.root.names()?;
        let mut others = names.iter().filter(|name| fact.value(name).is_some() && *name != stays);
        others.try_for_each(|name| remove(&self.root.record().join(name)))
    }

    /// Says whether it was not there.
    fn write(&self, name: &str) -> Result<bool, PinError> {
        let path = self.root.record().join(name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            result => result.map(|()| true).map_err(io_error("cannot make", &path)),
        }
    }

    /// Removes the directory and all that is pinned and recorded in it. A directory of another owner's parent stays, empty.
    ///
    /// # Errors
    /// The first failure; all else is removed.
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

    /// Removes the record and the directory, whose pins are removed. A directory that was made for its user by its parent's
    /// owner, as `tmpfiles.d` does, stays and is empty: that user could not make it again. Returns the failures.
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

    /// Removes all of the record but what is owned, and how to read that. Returns the failures.
    pub(crate) fn reduce_record(&self) -> Vec<PinError> {
        let is_needed = |name: &str| [Fact::NETNS, Fact::RECORD].iter().any(|fact| fact.value(name).is_some());
        clear(&self.root.record(), |name| Owned::parse(name).is_some() || is_needed(name))
    }
}

/// Removes what is in a directory, where there is one, except the names that stay. Returns the failures.
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

    /// A ledger in a directory of its own, which is on no BPF filesystem: the record works everywhere.
    pub(crate) fn ledger(directory: &tempfile::TempDir) -> Ledger {
        fs::create_dir_all(directory.path().join("record")).unwrap();
        Ledger::beside_the_daemon(directory.path())
    }

    fn names(ledger: &Ledger) -> Vec<String> {
        ledger.root().names().unwrap()
    }

    #[test]
    fn an_object_that_was_recorded_before_stays_recorded_when_it_cannot_be_made() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = ledger(&directory);
        let link = Owned::Link("ovlbr4097".to_owned());
        let first = ledger.record(&link).unwrap();
        assert!(first.is_new());
        let second = ledger.record(&link).unwrap();
        assert!(!second.is_new());
        ledger.take_back(&link, second).unwrap();
        assert_eq!(names(&ledger), ["link:ovlbr4097"]);
        ledger.take_back(&link, first).unwrap();
        assert_eq!(names(&ledger), [""; 0]);
    }

    #[test]
    fn a_fact_has_one_value() {
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
    fn record_of_an_earlier_build_is_read_and_moved() {
        let directory = tempfile::tempdir().unwrap();
        let [earlier, record] = ["made", "record"].map(|name| directory.path().join(name));
        // The second daemon begins where the first was killed.
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
