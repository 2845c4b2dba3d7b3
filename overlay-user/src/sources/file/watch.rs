//! Following a configuration file.

use std::{
    collections::BTreeSet,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::{
    model::Cluster,
    sources::{Source, SourceError, SourceResult, Update, watcher},
};

/// A change counts when the directory has been quiet for so long: an editor's write is several events.
const QUIET: Duration = Duration::from_millis(100);
/// A directory that is never quiet does not hold a change back for longer.
const LATEST: Duration = Duration::from_secs(1);
/// How often the file is looked at without an event: for network file systems, which have none, and for directories
/// that were themselves replaced.
const POLL: Duration = Duration::from_secs(2);

/// The configuration file as a source of truth.
///
/// The first update is the file's content. Another follows when the content changes, when the file becomes unreadable,
/// and when it is back. The *directory* is watched, so that a file that is renamed over the old one is seen, as is the
/// swap of a symbolic link (the way Kubernetes updates a mounted `ConfigMap`).
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    /// `None`: the kernel gave no inotify instance; polling alone.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    events: Arc<Notify>,
    poll: Instant,
    change: Option<Edit>,
    stamp: Option<Stamp>,
    seen: Seen,
}

/// A change that was noticed and not read yet.
#[derive(Clone, Copy, Debug)]
struct Edit {
    quiet: Instant,
    latest: Instant,
}

/// What differs when a file was written or replaced: device, inode, size, and change time in s and ns.
type Stamp = (u64, u64, u64, i64, i64);

/// What the last update was about.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    Content(Vec<u8>),
    Unreadable(io::ErrorKind),
}

impl FileSource {
    /// Follows the file at `path`, which need not exist yet. Without inotify the file is polled every 2 s.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let events = Arc::new(Notify::new());
        // Reading the file is an event too.
        let is_reading = |kind: AccessKind| kind != AccessKind::Close(AccessMode::Write);
        let watcher = watcher(&path, Arc::clone(&events), is_reading);
        let now = Instant::now();
        Self {
            path,
            watcher,
            watched: BTreeSet::new(),
            events,
            poll: now + POLL,
            change: Some(Edit { quiet: now, latest: now }),
            stamp: None,
            seen: Seen::Nothing,
        }
    }

    /// Watches the directories of the path and of the file that it leads to. Again before every read: a directory that
    /// was deleted and made again is another one to the kernel.
    fn watch(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let target = self.path.canonicalize().ok();
        let wanted: BTreeSet<_> =
            [Some(self.path.as_path()), target.as_deref()].into_iter().flatten().filter_map(directory).collect();
        for old in self.watched.difference(&wanted) {
            // The watch of a deleted directory is gone already.
            let _ = watcher.unwatch(old);
        }
        // What cannot be watched, for instance because it does not exist, is polled.
        self.watched =
            wanted.into_iter().filter(|path| watcher.watch(path, RecursiveMode::NonRecursive).is_ok()).collect();
    }

    /// Waits until something may have changed and the directory is quiet.
    async fn changed(&mut self) {
        while self.change.is_none() {
            let event = timeout_at(self.poll, self.events.notified()).await.is_ok();
            let now = Instant::now();
            if !event {
                self.poll = now + POLL;
            }
            if event || stamp(&self.path) != self.stamp {
                self.change = Some(Edit { quiet: now + QUIET, latest: now + LATEST });
            }
        }
        while let Some(Edit { quiet, latest }) = self.change {
            if timeout_at(quiet.min(latest), self.events.notified()).await.is_err() {
                return;
            }
            if Instant::now() >= latest {
                // Events may come faster than the timer gets its turn.
                return;
            }
            self.change = Some(Edit { quiet: Instant::now() + QUIET, latest });
        }
    }

    /// Reads the file; `None` when it is as it was.
    async fn read(&mut self) -> Option<Result<Cluster, SourceError>> {
        self.watch();
        let stamp = stamp(&self.path);
        let content = tokio::fs::read(&self.path).await;
        // Nothing waits from here on: a future that was dropped before left the change for the next call.
        self.change = None;
        self.stamp = stamp;
        let seen = match &content {
            Ok(bytes) => Seen::Content(bytes.clone()),
            Err(error) => Seen::Unreadable(error.kind()),
        };
        if seen == self.seen {
            return None;
        }
        let before = std::mem::replace(&mut self.seen, seen);
        let file = self.path.display().to_string();
        Some(match content {
            Ok(bytes) => crate::sources::file::parse_bytes(&bytes, &file).map_err(SourceError::from),
            Err(error) if before == Seen::Nothing => Err(crate::sources::file::unreadable(&file, &error).into()),
            Err(error) => Err(SourceError::Gone { file, reason: error.to_string() }),
        })
    }
}

impl Source for FileSource {
    async fn next(&mut self) -> SourceResult {
        loop {
            self.changed().await;
            if let Some(read) = self.read().await {
                return read.map(Update::Cluster);
            }
        }
    }
}

/// The directory that a file is in.
fn directory(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    Some(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.into() })
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()))
}
