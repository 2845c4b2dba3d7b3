//! What a lab puts on the machine where others can see it, written down so that it is removed in any case.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{NetNs, netns, sys};

/// Where `ip netns` keeps the names of network namespaces.
pub const NETNS_DIR: &str = "/run/netns";

/// Names of namespaces below `/run/netns` and whole directories, which exist as long as this value.
///
/// A locked file in `/run` says who uses them and lists them *before* they are made. When a process was killed and
/// could not clean up, the lock is gone and the list is not: the next one with the same name removes what the list
/// says. What has the same name but is not on the list belongs to somebody else, and is left alone.
#[derive(Debug)]
pub struct Session {
    path: PathBuf,
    file: File,
    list: List,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct List {
    pid: u32,
    namespaces: Vec<Named>,
    directories: Vec<PathBuf>,
    made_netns_dir: bool,
}

/// The number tells our namespace from one that somebody else gave the same name later.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Named {
    name: String,
    inode: u64,
}

impl Session {
    /// Takes the lock `/run/NAME.lock` and removes what a killed predecessor left.
    ///
    /// # Errors
    /// When another process has the lock, or without permission.
    pub fn open(name: &str) -> Result<Self> {
        Self::open_in(Path::new("/run"), name)
    }

    fn open_in(directory: &Path, name: &str) -> Result<Self> {
        let path = directory.join(format!("{name}.lock"));
        let mut file = lock(&path, name)?;
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(|| format!("cannot read {}", path.display()))?;
        if let Some(Ok(left)) = serde_json::Deserializer::from_str(&text).into_iter::<List>().next() {
            report(left.remove());
        }
        let list = List { pid: std::process::id(), ..List::default() };
        let session = Self { path, file, list };
        session.write_down()?;
        Ok(session)
    }

    /// Checks that nobody uses any of these names of namespaces.
    ///
    /// # Errors
    /// For the first that is in use.
    pub fn ensure_free(&self, names: impl IntoIterator<Item = String>) -> Result<()> {
        for name in names {
            let path = Path::new(NETNS_DIR).join(&name);
            ensure!(
                path.symlink_metadata().is_err(),
                "a network namespace {name} exists already and is not from here: nothing was changed; \
                 remove it with `ip netns delete {name}`, or run this on another machine"
            );
        }
        Ok(())
    }

    /// A new namespace with a name below `/run/netns`, as `ip netns add` makes it.
    ///
    /// # Errors
    /// When the name is in use, or without permission.
    pub fn create(&mut self, name: &str) -> Result<NetNs> {
        let path = Path::new(NETNS_DIR).join(name);
        NetNs::published(name, path.clone(), |namespace| self.publish(name, &path, namespace))
    }

    fn publish(&mut self, name: &str, path: &Path, namespace: &OwnedFd) -> Result<()> {
        self.ensure_free([name.to_owned()])?;
        match DirBuilder::new().mode(0o755).create(NETNS_DIR) {
            Ok(()) => self.list.made_netns_dir = true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot make {NETNS_DIR}")),
        }
        self.list.namespaces.push(Named { name: name.to_owned(), inode: netns::inode(namespace)? });
        self.write_down()?;
        share_netns_dir().with_context(|| format!("cannot mount {NETNS_DIR}"))?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        let source = PathBuf::from(format!("/proc/self/fd/{}", namespace.as_raw_fd()));
        sys::mount(&source, path, "", libc::MS_BIND)
            .with_context(|| format!("cannot give the name {} to a namespace", path.display()))
    }

    /// A new directory that is removed, with all that is in it, when the session ends. It may be on a BPF filesystem.
    ///
    /// # Errors
    /// When it exists, or cannot be made.
    pub fn directory(&mut self, path: &Path) -> Result<()> {
        ensure!(
            path.symlink_metadata().is_err(),
            "{} exists already and is not from here: nothing was changed; remove it if nobody needs it",
            path.display()
        );
        self.list.directories.push(path.to_owned());
        self.write_down()?;
        DirBuilder::new().mode(0o700).create(path).with_context(|| format!("cannot make {}", path.display()))
    }

    /// In one write, so that whoever reads it after a crash finds the old list or the new one. Lists only grow.
    fn write_down(&self) -> Result<()> {
        let text = serde_json::to_vec(&self.list)?;
        self.file
            .write_all_at(&text, 0)
            .and_then(|()| self.file.set_len(text.len() as u64))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// Makes the directory a mount point with shared propagation, as `ip netns add` does. Otherwise the next `ip netns add`
/// mounts the directory over the namespaces that have names in it, and these cannot be removed.
fn share_netns_dir() -> io::Result<()> {
    let (nothing, directory) = (Path::new(""), Path::new(NETNS_DIR));
    let share = || sys::mount(nothing, directory, "none", libc::MS_SHARED | libc::MS_REC);
    match share() {
        // It is no mount point.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            sys::mount(directory, directory, "none", libc::MS_BIND | libc::MS_REC)?;
            share()
        }
        result => result,
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        report(self.list.remove());
        report([fs::remove_file(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))]);
    }
}

impl List {
    /// Removes everything that can be removed.
    fn remove(&self) -> Vec<Result<()>> {
        let namespaces = self.namespaces.iter().map(Named::remove);
        let directories = self.directories.iter().map(|path| {
            gone_is_fine(fs::remove_dir_all(path)).with_context(|| format!("cannot remove {}", path.display()))
        });
        let results = namespaces.chain(directories).collect();
        // When it is not empty, others use it by now.
        if self.made_netns_dir && fs::read_dir(NETNS_DIR).is_ok_and(|mut entries| entries.next().is_none()) {
            let _ = sys::unmount(Path::new(NETNS_DIR));
            let _ = fs::remove_dir(NETNS_DIR);
        }
        results
    }
}

impl Named {
    fn remove(&self) -> Result<()> {
        let path = Path::new(NETNS_DIR).join(&self.name);
        let Ok(found) = path.metadata() else { return Ok(()) };
        let is_namespace = found.ino() == self.inode;
        // A crash between making the file and mounting on it.
        let is_placeholder = found.is_file() && found.len() == 0 && found.dev() == fs::metadata(NETNS_DIR)?.dev();
        if is_namespace {
            sys::unmount(&path).with_context(|| format!("cannot unmount {}", path.display()))?;
        }
        if is_namespace || is_placeholder {
            gone_is_fine(fs::remove_file(&path)).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }
}

/// Opens and locks a file that its last user may be about to remove.
fn lock(path: &Path, name: &str) -> Result<File> {
    loop {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("cannot open {}; run this as root", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                let other = serde_json::from_str::<List>(&text).map_or(0, |list| list.pid);
                bail!("{name} is running already, as process {other}: stop it first");
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        if path.metadata().is_ok_and(|found| file.metadata().is_ok_and(|ours| ours.ino() == found.ino())) {
            return Ok(file);
        }
    }
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Says what could not be removed. Nobody is left to return it to, and a closed standard error must not stop the rest.
fn report(results: impl IntoIterator<Item = Result<()>>) {
    for error in results.into_iter().filter_map(Result::err) {
        let _ = writeln!(io::stderr(), "while cleaning up: {error:#}");
    }
}
