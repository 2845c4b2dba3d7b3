//! Named objects of a lab on the machine, recorded in a file so that a later run removes them after a crash.

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

/// Directory of the network namespace names of `ip netns`.
pub const NETNS_DIR: &str = "/run/netns";

/// Namespace names below `/run/netns` and directories. Dropping the session removes them.
///
/// A locked file in `/run` has the pid of the owner and lists the objects *before* they are created. If the owner is
/// killed, the lock is released and the list stays: the next session of the same name removes the listed objects.
/// Objects with the same name that are not on the list are not removed.
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

/// A namespace name. The inode distinguishes the namespace from a later one with the same name.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Named {
    name: String,
    inode: u64,
}

impl Session {
    /// Takes the lock `/run/NAME.lock` and removes the objects of a killed owner.
    ///
    /// # Errors
    /// When another process holds the lock, or without permission.
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
        session.write_list()?;
        Ok(session)
    }

    /// Checks that these namespace names are unused.
    ///
    /// # Errors
    /// For the first name that is in use.
    pub fn ensure_free(&self, names: impl IntoIterator<Item = String>) -> Result<()> {
        for name in names {
            let path = Path::new(NETNS_DIR).join(&name);
            ensure!(
                path.symlink_metadata().is_err(),
                "network namespace {name} already exists and was not created by this program; \
                 remove it with `ip netns delete {name}`, or run this on another machine"
            );
        }
        Ok(())
    }

    /// Creates a namespace with a name below `/run/netns`, like `ip netns add`.
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
            Err(error) => return Err(error).with_context(|| format!("cannot create {NETNS_DIR}")),
        }
        self.list.namespaces.push(Named { name: name.to_owned(), inode: netns::inode(namespace)? });
        self.write_list()?;
        share_netns_dir().with_context(|| format!("cannot mount {NETNS_DIR}"))?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        let source = PathBuf::from(format!("/proc/self/fd/{}", namespace.as_raw_fd()));
        sys::mount(&source, path, "", libc::MS_BIND)
            .with_context(|| format!("cannot mount the namespace at {}", path.display()))
    }

    /// Creates a directory, also on a BPF filesystem. The session removes it with its contents.
    ///
    /// # Errors
    /// When the directory exists or cannot be created.
    pub fn directory(&mut self, path: &Path) -> Result<()> {
        ensure!(
            path.symlink_metadata().is_err(),
            "{} already exists and was not created by this program; remove it if it is not needed",
            path.display()
        );
        self.list.directories.push(path.to_owned());
        self.write_list()?;
        DirBuilder::new().mode(0o700).create(path).with_context(|| format!("cannot create {}", path.display()))
    }

    /// Writes the list in one write: after a crash, the file has the old or the new list. Lists only grow.
    fn write_list(&self) -> Result<()> {
        let text = serde_json::to_vec(&self.list)?;
        self.file
            .write_all_at(&text, 0)
            .and_then(|()| self.file.set_len(text.len() as u64))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// Makes [`NETNS_DIR`] a mount point with shared propagation, like `ip netns add`. Otherwise the next `ip netns add`
/// mounts the directory over its existing namespaces, and these cannot be removed.
fn share_netns_dir() -> io::Result<()> {
    let (nothing, directory) = (Path::new(""), Path::new(NETNS_DIR));
    let share = || sys::mount(nothing, directory, "none", libc::MS_SHARED | libc::MS_REC);
    match share() {
        // The directory is no mount point.
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
    /// Removes all objects, continuing after errors.
    fn remove(&self) -> Vec<Result<()>> {
        let namespaces = self.namespaces.iter().map(Named::remove);
        let directories = self.directories.iter().map(|path| {
            ignore_not_found(fs::remove_dir_all(path)).with_context(|| format!("cannot remove {}", path.display()))
        });
        let results = namespaces.chain(directories).collect();
        // A directory that is not empty is in use by others.
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
        // A crash between the creation of the file and the mount.
        let is_placeholder = found.is_file() && found.len() == 0 && found.dev() == fs::metadata(NETNS_DIR)?.dev();
        if is_namespace {
            sys::unmount(&path).with_context(|| format!("cannot unmount {}", path.display()))?;
        }
        if is_namespace || is_placeholder {
            ignore_not_found(fs::remove_file(&path)).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }
}

/// Opens and locks a file that its previous owner may remove at the same time.
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
                bail!("{name} is already running as process {other}; stop it first");
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

fn ignore_not_found(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Prints errors of the cleanup. A closed standard error must not stop it.
fn report(results: impl IntoIterator<Item = Result<()>>) {
    for error in results.into_iter().filter_map(Result::err) {
        let _ = writeln!(io::stderr(), "cleanup: {error:#}");
    }
}
