//! [`Kv`] over redb: one file, one process. Revisions are implemented here.

use std::{
    collections::VecDeque,
    fmt,
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use redb::{Database, ReadableDatabase as _, ReadableTable, Table, TableDefinition};
use tokio::sync::watch;

use super::{
    StoreError,
    kv::{Batch, Compare, Entry, Event, Kv, Listing, Op, Outcome, Txn, Watch, WatchError},
};

/// Key → create revision, mod revision, value.
const KEYS: TableDefinition<&str, (i64, i64, &[u8])> = TableDefinition::new("keys");
/// `revision` → the last revision.
const META: TableDefinition<&str, i64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
/// Number of revisions kept for watches; an older watch has to list again.
const HISTORY: usize = 1024;

type Keys<'txn> = Table<'txn, &'static str, (i64, i64, &'static [u8])>;

/// The embedded database.
#[derive(Clone)]
pub(super) struct Embedded(Arc<Shared>);

struct Shared {
    path: PathBuf,
    database: Database,
    history: Mutex<VecDeque<Batch>>,
    revision: watch::Sender<i64>,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Embedded").field(&self.0.path).finish()
    }
}

impl Embedded {
    pub(super) async fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        blocking(&path.clone(), move || {
            // Mode 0600: names and addresses are confidential.
            let file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            let database = Database::builder().create_file(file).map_err(redb::Error::from)?;
            let txn = database.begin_write()?;
            txn.open_table(KEYS)?;
            let revision = txn.open_table(META)?.get(REVISION)?.map_or(0, |value| value.value());
            txn.commit()?;
            let (revision, _) = watch::channel(revision);
            Ok(Self(Arc::new(Shared { path, database, history: Mutex::default(), revision })))
        })
        .await
    }

    /// Runs `work` on a thread for blocking operations.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.0.clone();
        blocking(&self.0.path, move || work(&shared)).await
    }
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, redb::Error> + Send + 'static,
) -> Result<T, StoreError> {
    let failed = |reason: String| StoreError::File { path: path.to_owned(), reason };
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

impl Shared {
    fn history(&self) -> MutexGuard<'_, VecDeque<Batch>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, keys: &[String]) -> Result<Vec<Entry>, redb::Error> {
        let table = self.database.begin_read()?.open_table(KEYS)?;
        let mut found = Vec::new();
        for key in keys {
            found.extend(get(&table, key)?);
        }
        Ok(found)
    }

    fn list(&self, prefix: &str) -> Result<Listing, redb::Error> {
        let txn = self.database.begin_read()?;
        let revision = txn.open_table(META)?.get(REVISION)?.map_or(0, |value| value.value());
        Ok(Listing { revision, entries: below(&txn.open_table(KEYS)?, prefix)? })
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, redb::Error> {
        let write = self.database.begin_write()?;
        let mut meta = write.open_table(META)?;
        let mut keys = write.open_table(KEYS)?;
        for compare in &txn.when {
            if !holds(&keys, compare)? {
                let mut found = Vec::new();
                for key in &txn.otherwise {
                    found.extend(get(&keys, key)?);
                }
                drop((keys, meta));
                write.abort()?;
                return Ok(Outcome::Refused(found));
            }
        }
        let revision = meta.get(REVISION)?.map_or(0, |value| value.value()) + 1;
        meta.insert(REVISION, revision)?;
        let mut events = Vec::new();
        for op in &txn.then {
            apply(&mut keys, op, revision, &mut events)?;
        }
        drop((keys, meta));
        // Locked during the commit: batches enter the history in the order of their revisions.
        let mut history = self.history();
        write.commit()?;
        history.push_back(Batch { revision, events });
        if history.len() > HISTORY {
            history.pop_front();
        }
        drop(history);
        self.revision.send_modify(|last| *last = revision.max(*last));
        Ok(Outcome::Committed(revision))
    }
}

fn get(
    table: &impl ReadableTable<&'static str, (i64, i64, &'static [u8])>,
    key: &str,
) -> Result<Option<Entry>, redb::Error> {
    Ok(table.get(key)?.map(|found| entry(key, found.value())))
}

fn entry(key: &str, (create_revision, mod_revision, value): (i64, i64, &[u8])) -> Entry {
    Entry { key: key.into(), value: value.into(), create_revision, mod_revision, lease: 0 }
}

fn below(
    table: &impl ReadableTable<&'static str, (i64, i64, &'static [u8])>,
    prefix: &str,
) -> Result<Vec<Entry>, redb::Error> {
    let mut entries = Vec::new();
    for row in table.range(prefix..)? {
        let (key, value) = row?;
        if !key.value().starts_with(prefix) {
            break;
        }
        entries.push(entry(key.value(), value.value()));
    }
    Ok(entries)
}

fn holds(keys: &Keys<'_>, compare: &Compare) -> Result<bool, redb::Error> {
    Ok(match compare {
        Compare::Absent(key) => keys.get(key.as_str())?.is_none(),
        Compare::Unchanged(key, revision) => keys.get(key.as_str())?.is_some_and(|found| found.value().1 == *revision),
        Compare::Empty(prefix) => match keys.range(prefix.as_str()..)?.next() {
            Some(first) => !first?.0.value().starts_with(prefix),
            None => true,
        },
    })
}

fn apply(keys: &mut Keys<'_>, op: &Op, revision: i64, events: &mut Vec<Event>) -> Result<(), redb::Error> {
    match op {
        Op::Put { key, value, .. } => {
            let create = keys.get(key.as_str())?.map_or(revision, |found| found.value().0);
            let row = (create, revision, value.as_slice());
            keys.insert(key.as_str(), row)?;
            events.push(Event::Put(entry(key, row)));
        }
        Op::Delete(key) => {
            if keys.remove(key.as_str())?.is_some() {
                events.push(Event::Delete { key: key.clone(), revision });
            }
        }
        Op::DeletePrefix(prefix) => {
            for Entry { key, .. } in below(keys, prefix)? {
                keys.remove(key.as_str())?;
                events.push(Event::Delete { key, revision });
            }
        }
    }
    Ok(())
}

impl Kv for Embedded {
    fn read(&self, keys: Vec<String>) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        self.run(move |shared| shared.read(&keys)).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        let prefix = prefix.to_owned();
        self.run(move |shared| shared.list(&prefix)).boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        self.run(move |shared| shared.commit(&txn)).boxed()
    }

    fn watch<'a>(&'a self, prefix: &'a str, revision: i64) -> BoxFuture<'a, Result<Box<dyn Watch>, WatchError>> {
        let watch = EmbeddedWatch {
            shared: self.0.clone(),
            revisions: self.0.revision.subscribe(),
            prefix: prefix.into(),
            next: revision,
        };
        async move { Ok(Box::new(watch) as Box<dyn Watch>) }.boxed()
    }

    fn grant(&self, _: Duration) -> BoxFuture<'_, Result<Option<i64>, StoreError>> {
        async { Ok(None) }.boxed()
    }

    fn renew(&self, _: i64) -> BoxFuture<'_, Result<bool, StoreError>> {
        async { Ok(true) }.boxed()
    }
}

struct EmbeddedWatch {
    shared: Arc<Shared>,
    revisions: watch::Receiver<i64>,
    prefix: String,
    next: i64,
}

impl EmbeddedWatch {
    /// The changes since the last call.
    fn take_batch(&mut self) -> Result<Batch, WatchError> {
        let history = self.shared.history();
        let last = *self.revisions.borrow_and_update();
        let first = history.front().map_or(last + 1, |batch| batch.revision);
        if self.next < first.min(last + 1) {
            return Err(WatchError::Compacted(first));
        }
        let mut taken = Batch { revision: last, events: Vec::new() };
        for batch in history.iter().filter(|batch| batch.revision >= self.next) {
            taken.revision = taken.revision.max(batch.revision);
            taken.events.extend(batch.events.iter().filter(|event| event.key().starts_with(&self.prefix)).cloned());
        }
        self.next = taken.revision + 1;
        Ok(taken)
    }
}

impl Watch for EmbeddedWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, WatchError>> {
        async move {
            let next = self.next;
            if self.revisions.wait_for(|revision| *revision >= next).await.is_err() {
                return futures_util::future::pending().await;
            }
            self.take_batch()
        }
        .boxed()
    }
}
