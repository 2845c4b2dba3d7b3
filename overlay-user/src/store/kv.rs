//! Interface of a database: ordered keys, revisions, transactions, watches, leases.
//!
//! Terms and semantics are those of etcd's v3 API. A revision counts committed transactions; `create_revision` and
//! `mod_revision` of a key are the revisions of its creation and of its last change.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::StoreError;

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// UTF-8; invalid keys of other programs are shown with replacement characters.
    pub key: String,
    /// JSON in overlay's keys.
    pub value: Vec<u8>,
    /// The revision that created the key.
    pub create_revision: i64,
    /// The revision that changed the key last.
    pub mod_revision: i64,
    /// The key's lease; 0: none.
    pub lease: i64,
}

/// All keys below a prefix at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The database's revision when it was read.
    pub revision: i64,
    /// In the order of the keys.
    pub entries: Vec<Entry>,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key exists, and this revision changed it last.
    Unchanged(String, i64),
    /// No key has this prefix.
    Empty(String),
}

/// An operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Creates a key or replaces its value.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The key's lease; 0: none.
        lease: i64,
    },
    /// Removes a key if it exists.
    Delete(String),
    /// Removes all keys with this prefix.
    DeletePrefix(String),
}

impl Op {
    /// A [`Op::Put`] without a lease.
    pub fn put(key: impl Into<String>, value: Vec<u8>) -> Self {
        Self::Put { key: key.into(), value, lease: 0 }
    }
}

/// Conditions, and operations that are applied if all conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub when: Vec<Compare>,
    /// Applied at one revision. Each key at most once.
    pub then: Vec<Op>,
    /// Keys to read at the same revision if a condition does not hold.
    pub otherwise: Vec<String>,
}

/// The outcome of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was committed at this revision.
    Committed(i64),
    /// A condition did not hold; the keys of [`Txn::otherwise`] that exist.
    Refused(Vec<Entry>),
}

/// A change that a watch reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key has this value.
    Put(Entry),
    /// The key was removed.
    Delete {
        /// The key.
        key: String,
        /// The revision that removed it.
        revision: i64,
    },
}

impl Event {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }
}

/// The changes of complete revisions, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The last revision of the batch.
    pub revision: i64,
    /// In the order of the changes.
    pub events: Vec<Event>,
}

/// The end of a watch.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WatchError {
    /// The next revision of the watch is compacted: list again.
    #[error("the history before revision {0} is compacted")]
    Compacted(i64),
    /// The database cannot be reached; watch again from the last revision.
    #[error(transparent)]
    Lost(#[from] StoreError),
}

/// A watch on the keys below a prefix.
pub trait Watch: Send {
    /// Waits for the next changes. Cancel-safe.
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, WatchError>>;
}

/// A database with revisions. Every method may be called from any task.
pub trait Kv: Send + Sync + fmt::Debug {
    /// Reads those of the keys that exist, at one revision.
    fn read(&self, keys: Vec<String>) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>>;

    /// Reads all keys below a prefix, at one revision.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>>;

    /// Commits a transaction atomically. Never retried.
    ///
    /// After [`StoreError::Unreachable`] it is unknown whether the transaction was committed.
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StoreError>>;

    /// Watches the keys below a prefix, beginning with this revision.
    fn watch<'a>(&'a self, prefix: &'a str, revision: i64) -> BoxFuture<'a, Result<Box<dyn Watch>, WatchError>>;

    /// Creates a lease; `None`: the database has a single user and no leases.
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<Option<i64>, StoreError>>;

    /// Renews a lease. `false`: it has expired.
    fn renew(&self, lease: i64) -> BoxFuture<'_, Result<bool, StoreError>>;
}

/// A shared [`Kv`].
pub(crate) type SharedKv = Arc<dyn Kv>;
