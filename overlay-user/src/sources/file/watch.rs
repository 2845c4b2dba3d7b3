//! Watching a configuration file.

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

/// Debounce time: an editor's write causes several events.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Maximum delay of a change in a directory with continuous events.
const MAX_DELAY: Duration = Duration::from_secs(1);
/// Poll interval of the file, for network file systems, which have no events, and for replaced directories.
const POLL: Duration = Duration::from_secs(2);

/// The configuration file as a source.
///
/// The first update is the file's content. Another follows when the content changes and when the file becomes
/// unreadable or readable again. The watch is on the *directory*, so it reports a file renamed over the old one and a
/// swapped symbolic link (Kubernetes updates a mounted `ConfigMap` this way).
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    /// `None`: no inotify instance; the file is polled.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    events: Arc<Notify>,
    poll: Instant,
    change: Option<PendingChange>,
    stamp: Option<Stamp>,
    seen: Seen,
}

/// A pending change of the file.
#[derive(Clone, Copy, Debug)]
struct PendingChange {
    quiet: Instant,
    latest: Instant,
}

/// Identifies a version of the file: device, inode, size, and change time in s and ns.
type Stamp = (u64, u64, u64, i64, i64);

/// The last reported state of the file.
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
        // The daemon's own reads cause access events.
        let is_reading = |kind: AccessKind| kind != AccessKind::Close(AccessMode::Write);
        let watcher = watcher(&path, Arc::clone(&events), is_reading);
        let now = Instant::now();
        Self {
            path,
            watcher,
            watched: BTreeSet::new(),
            events,
            poll: now + POLL,
            change: Some(PendingChange { quiet: now, latest: now }),
            stamp: None,
            seen: Seen::Nothing,
        }
    }

    /// Watches the directories of the path and of its symbolic link target. Repeated before every read: a directory
    /// that is deleted and recreated has a new inode.
    fn watch(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let target = self.path.canonicalize().ok();
        let wanted: BTreeSet<_> =
            [Some(self.path.as_path()), target.as_deref()].into_iter().flatten().filter_map(directory).collect();
        for old in self.watched.difference(&wanted) {
            // The kernel removes the watch of a deleted directory.
            let _ = watcher.unwatch(old);
        }
        // A directory that cannot be watched, for example a missing one, is polled.
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
                self.change = Some(PendingChange { quiet: now + DEBOUNCE, latest: now + MAX_DELAY });
            }
        }
        while let Some(PendingChange { quiet, latest }) = self.change {
            if timeout_at(quiet.min(latest), self.events.notified()).await.is_err() {
                return;
            }
            if Instant::now() >= latest {
                // Events may arrive faster than the timer fires.
                return;
            }
            self.change = Some(PendingChange { quiet: Instant::now() + DEBOUNCE, latest });
        }
    }

    /// Reads the file; `None` when it is unchanged.
    async fn read(&mut self) -> Option<Result<Cluster, SourceError>> {
        self.watch();
        let stamp = stamp(&self.path);
        let content = tokio::fs::read(&self.path).await;
        // No await follows: a future dropped earlier keeps the change for the next call.
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

/// The parent directory of a file.
fn directory(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    Some(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.into() })
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()))
}
