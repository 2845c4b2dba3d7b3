//! Managed networks and endpoints in a database: an embedded one for one machine, etcd for a cluster.
//!
//! [`Store`] implements the rules for both; [`kv`] is the interface of a database. `docs/store.md` describes the schema
//! of keys and values. [`crate::sources::store`] follows the store.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
};

use tokio::sync::{Mutex, MutexGuard};

mod attempt;
mod embedded;
mod endpoints;
mod error;
#[cfg(feature = "etcd")]
mod etcd;
pub(crate) mod kv;
mod networks;
mod nodes;
mod schema;
pub(crate) mod state;
mod types;

#[cfg(test)]
mod tests;

/// A build without etcd's client.
#[cfg(not(feature = "etcd"))]
mod etcd {
    use super::{EtcdOptions, SharedKv, StoreError};

    pub(super) async fn connect(options: &EtcdOptions) -> Result<SharedKv, StoreError> {
        Err(StoreError::Options {
            store: options.endpoints.join(","),
            reason: "this build of overlay has no etcd client".into(),
            remedy: "use a build with the Cargo feature `etcd`, or --store embedded",
        })
    }
}

pub use error::StoreError;
use kv::{Compare, Entry, Op, Outcome, SharedKv, Txn};
pub use nodes::Registration;
use state::StoreState;
pub use types::{EndpointRequest, EtcdOptions, NetworkRequest, NodeRequest, Removal};
pub(crate) use types::{Health, Snapshot, StoredEndpoint, StoredNode};

use crate::model::{Findings, Located, rule::PartRef};

/// Number of locks that serialize the allocations of one process by object, to avoid conflicting transactions.
const TURNS: usize = 16;

/// Networks, endpoints and nodes. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Store {
    kv: SharedKv,
    turns: Arc<[Mutex<()>; TURNS]>,
    written: Arc<AtomicI64>,
}

impl Store {
    /// Opens the embedded database, and creates it if it is missing.
    ///
    /// # Errors
    /// When another process has it open, the file is damaged, or its schema is newer.
    pub async fn embedded(path: &Path) -> Result<Self, StoreError> {
        Self::open(Arc::new(embedded::Embedded::open(path).await?)).await
    }

    /// Connects to etcd.
    ///
    /// # Errors
    /// When it cannot be reached within 4 s, refuses the user, or has a newer schema, and in a build without the
    /// feature `etcd`.
    pub async fn etcd(options: &EtcdOptions) -> Result<Self, StoreError> {
        Self::open(etcd::connect(options).await?).await
    }

    async fn open(kv: SharedKv) -> Result<Self, StoreError> {
        let store = Self { kv, turns: Arc::default(), written: Arc::default() };
        store.check_version().await?;
        Ok(store)
    }

    /// Rejects a newer schema.
    async fn check_version(&self) -> Result<(), StoreError> {
        match self.read([schema::VERSION.into()]).await? {
            [Some(entry)] => schema::record::<schema::VersionRecord>(&entry)?.check(),
            [None] => Ok(()),
        }
    }

    /// Reads the complete store. [`crate::sources::store::Follower::snapshot`] returns the last followed state instead.
    ///
    /// # Errors
    /// When the database cannot be reached, or its schema is newer.
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "for tests"))]
    pub async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let mut state = StoreState::new(self.kv.list(schema::ROOT).await?);
        state.version()?;
        Ok(state.snapshot())
    }

    /// The database itself.
    #[must_use]
    pub fn kv(&self) -> &SharedKv {
        &self.kv
    }

    /// The last revision of the followed keys ([`crate::sources::store`]) that this store, or a clone of it, has
    /// committed; 0: none. A follower at this revision has all completed changes.
    #[must_use]
    pub fn written(&self) -> i64 {
        self.written.load(SeqCst)
    }

    fn record_written(&self, revision: i64) {
        self.written.fetch_max(revision, SeqCst);
    }

    /// Commits a transaction that changes followed keys.
    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        let outcome = self.kv.commit(txn).await?;
        if let Outcome::Committed(revision) = outcome {
            self.record_written(revision);
        }
        Ok(outcome)
    }

    /// Reads these keys at one revision, in their order.
    async fn read<const N: usize>(&self, keys: [String; N]) -> Result<[Option<Entry>; N], StoreError> {
        let found = self.kv.read(keys.to_vec()).await?;
        Ok(pick(found, &keys))
    }

    /// Serializes changes of `object` in this process.
    async fn lock_turn(&self, object: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        object.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or(0);
        self.turns[index].lock().await
    }
}

/// The entries of these keys, in their order.
fn pick<const N: usize>(found: Vec<Entry>, keys: &[String; N]) -> [Option<Entry>; N] {
    let mut found = found;
    keys.each_ref().map(|key| {
        let index = found.iter().position(|entry| entry.key == *key)?;
        Some(found.swap_remove(index))
    })
}

/// The condition that a key is unchanged since it was read.
fn unchanged(key: String, entry: Option<&Entry>) -> Compare {
    match entry {
        Some(entry) => Compare::Unchanged(key, entry.mod_revision),
        None => Compare::Absent(key),
    }
}

/// Checks the schema's version; the operation that writes it if it is missing.
fn version_op(version: Option<&Entry>) -> Result<Option<Op>, StoreError> {
    match version {
        Some(entry) => schema::record::<schema::VersionRecord>(entry)?.check().map(|()| None),
        None => Ok(Some(Op::put(schema::VERSION, schema::encode(&schema::KNOWN)))),
    }
}

/// The broken rules of one object; those of other objects already exist in the store.
fn broken(checked: Result<(), Findings<Located>>, concerns: impl Fn(PartRef) -> bool) -> Result<(), StoreError> {
    let all = checked.err().into_iter().flatten();
    Ok(all.filter(|located| concerns(located.part)).collect::<Findings<_>>().none()?)
}
