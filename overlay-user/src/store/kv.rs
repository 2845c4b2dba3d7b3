//! What the store needs of a database: ordered keys, revisions, transactions, a watch, leases.
//!
//! The words and their meaning are etcd's v3 API. A revision counts committed transactions; `create_revision` and
//! `mod_revision` of a key say which one made it, and which one changed it last.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::StoreError;

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// UTF-8; keys of other programs that are not are shown with replacement characters.
    pub key: String,
    /// JSON, where it is ours.
    pub value: Vec<u8>,
    /// The revision that made the key.
    pub create_revision: i64,
    /// The revision that changed the key last.
    pub mod_revision: i64,
    /// The lease that the key hangs on; 0: none.
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
    /// The key exists and was last changed by this revision.
    Unchanged(String, i64),
    /// No key begins with this.
    Empty(String),
}

/// A change that a transaction makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes a key or replaces its value. The lease is 0 for a key that stays.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The lease that the key goes with; 0: none.
        lease: i64,
    },
    /// Removes a key, if it is there.
    Delete(String),
    /// Removes all keys that begin with this.
    DeletePrefix(String),
}

impl Op {
    /// A [`Op::Put`] without a lease.
    pub fn put(key: impl Into<String>, value: Vec<u8>) -> Self {
        Self::Put { key: key.into(), value, lease: 0 }
    }
}

/// Conditions and what is done when all of them hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub when: Vec<Compare>,
    /// Done at one revision. No key twice.
    pub then: Vec<Op>,
    /// Keys to read, at the same revision, when a condition does not hold.
    pub otherwise: Vec<String>,
}

/// What became of a transaction.
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
    /// The key has this value now.
    Put(Entry),
    /// The key has gone.
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

/// Changes that belong together: whole revisions, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The last revision of the batch.
    pub revision: i64,
    /// In the order in which they were made.
    pub events: Vec<Event>,
}

/// Why a watch ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WatchError {
    /// The database has forgotten the revisions from which the watch should go on: list again.
    #[error("the history before revision {0} is compacted")]
    Compacted(i64),
    /// The database cannot be reached; watch again from the last revision.
    #[error(transparent)]
    Lost(#[from] StoreError),
}

/// A watch on the keys below a prefix.
pub trait Watch: Send {
    /// The next changes. Cancel-safe.
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, WatchError>>;
}

/// A database with revisions. Every method may be called from any task; none retries by itself.
pub trait Kv: Send + Sync + fmt::Debug {
    /// Those of the keys that exist, at one revision.
    fn read(&self, keys: Vec<String>) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>>;

    /// All keys below a prefix, at one revision.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>>;

    /// Compares, and changes at once or not at all.
    ///
    /// [`StoreError::Unreachable`] leaves open whether it was committed.
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StoreError>>;

    /// The changes below a prefix, beginning with this revision.
    fn watch<'a>(&'a self, prefix: &'a str, revision: i64) -> BoxFuture<'a, Result<Box<dyn Watch>, WatchError>>;

    /// A new lease; `None`: keys of this database live as long as its only user, and need none.
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<Option<i64>, StoreError>>;

    /// Renews a lease. False: it has run out.
    fn renew(&self, lease: i64) -> BoxFuture<'_, Result<bool, StoreError>>;
}

/// A shared [`Kv`].
pub(crate) type SharedKv = Arc<dyn Kv>;
