//! The files that stand for network namespaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use crate::{
    host::{
        HostError,
        netns::{Netns, NetnsError},
    },
    model::mirror::Site,
};

/// How long a file may take to become a namespace.
const PATIENCE: Duration = Duration::from_secs(3);

/// Opens a site's namespace; refuses another one that has taken its path.
pub(super) fn open(site: &Site, underlay: &Netns) -> Result<Netns, HostError> {
    match site {
        Site::Host => Ok(underlay.clone()),
        Site::Netns { path, inode } => {
            let netns = Netns::open(path)?;
            if netns.inode() == Some(*inode) {
                Ok(netns)
            } else {
                let source = std::io::Error::from_raw_os_error(libc::ESTALE);
                Err(NetnsError::Open { path: path.clone(), source }.into())
            }
        }
    }
}

/// The namespaces that files of a directory stand for, the first file of each; and whether there are new files that
/// stand for none yet.
pub(super) fn namespaces(directory: &Path) -> (BTreeSet<Site>, bool) {
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
            pending |= age.is_none_or(|age| age < PATIENCE);
        }
    }
    (found.into_iter().map(|(inode, path)| Site::Netns { path, inode }).collect(), pending)
}

/// Number of the filesystem that namespaces are in.
fn nsfs() -> Option<u64> {
    static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
    *DEVICE.get_or_init(|| fs::metadata("/proc/self/ns/net").ok().map(|meta| meta.dev()))
}
