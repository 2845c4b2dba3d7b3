//! Netns files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use crate::{
    model::discovery::NetnsRef,
    sys::netns::{Netns, NetnsError},
};

/// Time after which a file is not expected to become a namespace.
const PENDING_LIMIT: Duration = Duration::from_secs(3);

/// Opens a network namespace.
pub(super) fn open(netns_ref: &NetnsRef, underlay: &Netns) -> Result<Netns, NetnsError> {
    match netns_ref {
        NetnsRef::Own => Ok(underlay.clone()),
        NetnsRef::Other { path, inode } => Netns::open_same(path, *inode),
    }
}

/// The namespaces of the netns files in a directory, with the first file of each; and whether a new file is not a
/// namespace yet.
pub(super) fn namespaces(directory: &Path) -> (BTreeSet<NetnsRef>, bool) {
    let mut found = BTreeMap::<u64, PathBuf>::new();
    let mut pending = false;
    let mut paths: Vec<_> = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(meta) = fs::metadata(&path) else { continue };
        if Some(meta.dev()) == nsfs() {
            found.entry(meta.ino()).or_insert(path);
        } else {
            let age = meta.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
            pending |= age.is_none_or(|age| age < PENDING_LIMIT);
        }
    }
    (found.into_iter().map(|(inode, path)| NetnsRef::Other { path, inode }).collect(), pending)
}

/// Device number of nsfs.
fn nsfs() -> Option<u64> {
    static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
    *DEVICE.get_or_init(|| fs::metadata("/proc/self/ns/net").ok().map(|meta| meta.dev()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::{apply::ledger::RecordedNetns, apply::net::tests::Container};

    /// The results of both functions that open a recorded namespace.
    fn opened(path: &Path, inode: u64) -> [Result<PathBuf, String>; 2] {
        let own = Netns::open(Path::new("/proc/thread-self/ns/net")).unwrap();
        let path_of = |netns: Netns| netns.path().to_owned();
        [
            RecordedNetns { path: path.into(), inode }.open().map(path_of).map_err(|error| error.to_string()),
            open(&NetnsRef::Other { path: path.into(), inode }, &own).map(path_of).map_err(|error| error.to_string()),
        ]
    }

    #[test]
    fn recorded_netns_with_changed_path_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("1-abc");
        let [first, second] = [Container::new(), Container::new()];
        let inode = Netns::open(&first.path()).unwrap().inode().unwrap();
        let gone = |what: &str| {
            let message =
                format!("network namespace {} is gone: the path is missing or no longer refers to it", path.display());
            assert_eq!(opened(&path, inode), [Err(message.clone()), Err(message)], "{what}");
        };
        gone("a missing path");
        symlink(first.path(), &path).unwrap();
        assert_eq!(opened(&path, inode), [Ok(path.clone()), Ok(path.clone())]);
        fs::remove_file(&path).unwrap();
        symlink(second.path(), &path).unwrap();
        gone("another namespace");
        fs::remove_file(&path).unwrap();
        symlink("/proc/self/ns/uts", &path).unwrap();
        gone("a namespace of another kind");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        let file = fs::metadata(&path).unwrap().ino();
        let number_of_a_file = opened(&path, file);
        assert!(number_of_a_file.iter().all(Result::is_err), "{number_of_a_file:?}");
        gone("a file");
        let below = path.join("net");
        assert!(opened(&below, inode).iter().all(|opened| opened.as_ref().unwrap_err().contains("is gone")));
    }
}
