//! The store as a source: follows it and yields the updates that concern this node.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{info, warn};

use super::{Source, SourceError, SourceResult, Update};
use crate::{
    model::{Cluster, Finding},
    store::{
        Health, NodeRequest, Snapshot, Store, StoreError, StoredEndpoint,
        kv::{Batch, Event, Watch, WatchError},
        state::{Affected, StoreState},
    },
    sys::fault::{self, Point},
};

/// Interval between attempts to reach an unreachable database.
const RETRY: Duration = Duration::from_millis(300);
/// Prefix of the followed keys; address claims are outside it.
const PREFIX: &str = "/overlay/";
/// Prefix of the nodes' liveness keys.
const ALIVE: &str = "/overlay/alive/";

/// Follows a store in a background task; [`Source::next`] yields each update that concerns this node.
#[derive(Debug)]
pub struct StoreSource {
    shared: Arc<Shared>,
    health: watch::Receiver<Health>,
    task: JoinHandle<()>,
}

/// The last state of a [`StoreSource`], read without a request to the database. Clones share it.
#[derive(Clone, Debug)]
pub struct Follower {
    shared: Arc<Shared>,
    health: watch::Receiver<Health>,
}

#[derive(Debug)]
struct Shared {
    /// This node's name.
    node: String,
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Known {
    /// `None`: not read yet.
    state: Option<StoreState>,
    /// The networks with endpoints on this node.
    joined: BTreeSet<String>,
    /// Changes not yet sent to the daemon.
    pending: PendingUpdate,
    /// An error not yet reported.
    error: Option<StoreError>,
}

/// Changes not yet sent to the daemon.
#[derive(Debug, Default)]
enum PendingUpdate {
    #[default]
    Nothing,
    /// Changed endpoints of other nodes that affect no other endpoint: network, node, name.
    Remote(BTreeSet<[String; 3]>),
    Everything,
}

impl PendingUpdate {
    const fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    fn add(&mut self, endpoint: [&str; 3]) {
        if self.is_nothing() {
            *self = Self::Remote(BTreeSet::new());
        }
        if let Self::Remote(endpoints) = self {
            endpoints.insert(endpoint.map(ToOwned::to_owned));
        }
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreSource {
    /// Follows the store for the node of this name. Must be called in a Tokio runtime.
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "for tests"))]
    #[must_use]
    pub fn new(store: Store, node: impl Into<String>) -> Self {
        Self::with_hold(store, node, NodeRequest::TTL)
    }

    /// As [`Self::new`]. After the database becomes reachable again, nodes whose lease has expired are kept for `hold`:
    /// the same outage may have cut them off, and they may re-register.
    #[must_use]
    pub fn with_hold(store: Store, node: impl Into<String>, hold: Duration) -> Self {
        let health = Health { connected: false, since: std::time::Instant::now(), revision: 0, error: None };
        let (sender, health) = watch::channel(health);
        let shared = Arc::new(Shared { node: node.into(), known: Mutex::default(), changed: Notify::new() });
        let following = FollowTask {
            store,
            shared: shared.clone(),
            health: sender,
            hold,
            was_connected: false,
            watches: 0,
            is_compacted: false,
            hold_until: None,
            held: BTreeSet::new(),
            logged_gone: BTreeSet::new(),
        };
        Self { shared, health, task: tokio::spawn(following.run()) }
    }

    /// A handle that reads the last state.
    #[must_use]
    pub fn follower(&self) -> Follower {
        Follower { shared: self.shared.clone(), health: self.health.clone() }
    }
}

impl Drop for StoreSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Source for StoreSource {
    async fn next(&mut self) -> SourceResult {
        loop {
            if let Some(update) = self.shared.known().next_update(&self.shared.node) {
                return update;
            }
            self.shared.changed.notified().await;
        }
    }

    async fn next_cluster(&mut self) -> Result<Cluster, SourceError> {
        loop {
            match self.next().await? {
                Update::Cluster(cluster) => return Ok(cluster),
                // The complete state replaces a partial update.
                _ => self.shared.known().pending = PendingUpdate::Everything,
            }
        }
    }
}

impl Known {
    /// The next update for the node `node`.
    fn next_update(&mut self, node: &str) -> Option<SourceResult> {
        if let Some(error) = self.error.take() {
            return Some(Err(error.into()));
        }
        let pending = std::mem::take(&mut self.pending);
        let state = self.state.as_mut()?;
        match pending {
            PendingUpdate::Nothing => None,
            PendingUpdate::Remote(endpoints) => {
                let changes =
                    endpoints.iter().filter_map(|[network, node, name]| state.remote_change(network, node, name));
                Some(Ok(Update::Remote(changes.collect())))
            }
            PendingUpdate::Everything => {
                self.joined = state.networks_of(node);
                let cluster = state.cluster(node).map_err(StoreError::from);
                Some(cluster.map(Update::Cluster).map_err(Into::into))
            }
        }
    }
}

impl Follower {
    fn read<T: Default>(&self, query: impl FnOnce(&mut StoreState) -> T) -> T {
        self.shared.known().state.as_mut().map(query).unwrap_or_default()
    }

    /// The last state, of any age.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.read(StoreState::snapshot)
    }

    /// One finding for each ignored key.
    #[must_use]
    pub fn problems(&self) -> Vec<Finding> {
        self.read(StoreState::problems)
    }

    /// The endpoints of one network, or of all, by network and name.
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "for tests"))]
    #[must_use]
    pub fn endpoints(&self, network: Option<&str>) -> Vec<StoredEndpoint> {
        self.read(|state| state.endpoints(network))
    }

    /// Whether the store is reachable, since when, and the last revision.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// Waits until the state has at least this revision, from a watch or from a new listing (after an outage or a
    /// compaction).
    ///
    /// # Errors
    /// [`RevisionTimeout`] when it has not arrived after `limit`, or the store is no longer followed.
    pub async fn wait_for_revision(&self, revision: i64, limit: Duration) -> Result<(), RevisionTimeout> {
        let mut health = self.health.clone();
        let waited = timeout(limit, health.wait_for(|health| health.revision >= revision)).await;
        let reason = match waited {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) => Some("the store is no longer followed".to_owned()),
            Err(_) => self.health().error.map(|error| error.to_string()),
        };
        let reason = reason.unwrap_or_else(|| format!("no newer revision arrived within {limit:?}"));
        Err(RevisionTimeout { revision, known: self.health().revision, reason })
    }
}

/// A revision of the store has not arrived.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("store revision {revision} has not arrived, the last one is {known} ({reason})")]
pub struct RevisionTimeout {
    /// The awaited revision.
    pub revision: i64,
    /// The last revision that arrived.
    pub known: i64,
    /// The reason.
    pub reason: String,
}

/// Fault injection: the connection to the store breaks.
fn connection_fault() -> Result<(), StoreError> {
    fault::at(Point::Watch)
        .map_err(|error| StoreError::Unreachable { store: "watch".into(), reason: error.to_string() })
}

/// State of a node's registration.
#[derive(Clone, Copy, Debug)]
enum Liveness {
    Alive,
    Gone,
}

/// The background task.
struct FollowTask {
    store: Store,
    shared: Arc<Shared>,
    health: watch::Sender<Health>,
    hold: Duration,
    /// The database was reached before.
    was_connected: bool,
    /// Number of watches started.
    watches: u64,
    /// The next revision is compacted: a watch cannot continue from it.
    is_compacted: bool,
    /// End of the hold time of `held`.
    hold_until: Option<Instant>,
    /// Nodes without a liveness key whose endpoints are kept for now.
    held: BTreeSet<String>,
    /// Nodes logged as gone.
    logged_gone: BTreeSet<String>,
}

impl FollowTask {
    async fn run(mut self) {
        loop {
            let watched = self.watches;
            match self.follow().await {
                WatchError::Compacted(_) => self.is_compacted = true,
                // The watched member is gone: the next one continues.
                WatchError::Lost(error) if error.is_unreachable() && self.watches != watched => {}
                WatchError::Lost(error) => {
                    self.mark_disconnected(error);
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Reads and follows until an error.
    async fn follow(&mut self) -> WatchError {
        let watch = match self.start_watch().await {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        self.watches += 1;
        self.apply_events(watch).await
    }

    /// Starts a watch after the last revision, or after a new listing.
    async fn start_watch(&mut self) -> Result<Box<dyn Watch>, WatchError> {
        connection_fault()?;
        let known = self.shared.known().state.as_ref().map(StoreState::revision);
        if let Some(revision) = known
            && !self.is_compacted
        {
            return self.store.kv().watch(PREFIX, revision + 1).await;
        }
        let listing = self.store.kv().list(PREFIX).await?;
        let revision = listing.revision;
        self.apply_listing(StoreState::new(listing))?;
        self.is_compacted = false;
        self.store.kv().watch(PREFIX, revision + 1).await
    }

    async fn apply_events(&mut self, mut watch: Box<dyn Watch>) -> WatchError {
        self.mark_connected();
        loop {
            let hold_until = self.hold_until;
            let batch = tokio::select! {
                batch = watch.next() => batch,
                () = sleep_until(hold_until.unwrap_or_else(Instant::now)), if hold_until.is_some() => {
                    self.end_hold();
                    continue;
                }
            };
            match batch {
                Ok(batch) => {
                    if let Err(error) = connection_fault().and_then(|()| self.apply(&batch)) {
                        return error.into();
                    }
                }
                Err(error) => return error,
            }
        }
    }

    fn mark_connected(&mut self) {
        let reconnected = self.health.send_if_modified(|health| {
            let reconnected = !health.connected;
            if reconnected {
                *health = Health {
                    connected: true,
                    since: std::time::Instant::now(),
                    revision: health.revision,
                    error: None,
                };
            }
            reconnected
        });
        if reconnected && std::mem::replace(&mut self.was_connected, true) {
            info!("the store is reachable again");
            self.hold_until = Some(Instant::now() + self.hold);
            // An update clears the reported error even if the state is the same.
            self.shared.known().pending = PendingUpdate::Everything;
            self.shared.changed.notify_one();
        }
    }

    fn mark_disconnected(&self, error: StoreError) {
        let is_new = self.health.send_if_modified(|health| {
            let first = health.connected || health.error.is_none();
            if health.connected {
                health.since = std::time::Instant::now();
            }
            health.connected = false;
            health.error = Some(error.clone());
            first
        });
        if is_new {
            self.shared.known().error = Some(error);
            self.shared.changed.notify_one();
        }
    }

    /// Applies a new listing; nodes that were alive before are held for `hold`.
    fn apply_listing(&mut self, mut state: StoreState) -> Result<(), StoreError> {
        state.version()?;
        self.held.retain(|node| !state.alive().contains(node));
        let mut known = self.shared.known();
        if let Some(old) = &known.state {
            // All leases may have expired in the same outage as this node's.
            self.hold_until = Some(Instant::now() + self.hold);
            let gone: Vec<_> = old.alive().difference(state.alive()).cloned().collect();
            for node in gone {
                state.alive_mut().insert(node.clone());
                self.held.insert(node);
            }
        }
        let revision = state.revision();
        let before = known.state.as_ref().map(|old| old.alive().clone());
        let now = state.alive().clone();
        known.state = Some(state);
        known.pending = PendingUpdate::Everything;
        drop(known);
        self.shared.changed.notify_one();
        self.health.send_modify(|health| health.revision = revision);
        // Nodes of the first listing are not logged.
        if let Some(before) = before {
            now.difference(&before).for_each(|node| self.log_liveness(node, Liveness::Alive));
        }
        Ok(())
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut guard = self.shared.known();
        let Known { state: Some(state), joined, pending, .. } = &mut *guard else { return Ok(()) };
        let was_empty = pending.is_nothing();
        let mut transitions = Vec::new();
        for event in &batch.events {
            if let Some(node) = event.key().strip_prefix(ALIVE) {
                match event {
                    // The registration expired during an outage; the node may re-register.
                    Event::Delete { .. } if self.hold_until.is_some() => {
                        self.held.insert(node.into());
                        continue;
                    }
                    Event::Delete { .. } => transitions.push((node.to_owned(), Liveness::Gone)),
                    Event::Put(_) if !state.alive().contains(node) => {
                        transitions.push((node.to_owned(), Liveness::Alive));
                    }
                    Event::Put(_) => {}
                }
                self.held.remove(node);
            }
            match state.apply(event) {
                Affected::Nothing => {}
                Affected::Endpoint { network, node, name } if node != self.shared.node => {
                    if !joined.contains(network) {
                        continue;
                    }
                    if state.is_independent(network) {
                        pending.add([network, node, name]);
                    } else {
                        *pending = PendingUpdate::Everything;
                    }
                }
                Affected::Everything | Affected::Endpoint { .. } => *pending = PendingUpdate::Everything,
            }
        }
        state.advance(batch.revision);
        let (version, revision, has_updates) = (state.version(), state.revision(), was_empty && !pending.is_nothing());
        drop(guard);
        for (node, liveness) in transitions {
            self.log_liveness(&node, liveness);
        }
        if has_updates {
            self.shared.changed.notify_one();
        }
        self.health.send_if_modified(|health| std::mem::replace(&mut health.revision, revision) != revision);
        version
    }

    /// Removes the nodes that have not re-registered.
    fn end_hold(&mut self) {
        self.hold_until = None;
        let mut known = self.shared.known();
        let Known { state: Some(state), pending, .. } = &mut *known else { return };
        let held = std::mem::take(&mut self.held);
        for node in &held {
            state.alive_mut().remove(node);
            *pending = PendingUpdate::Everything;
        }
        drop(known);
        held.iter().for_each(|node| self.log_liveness(node, Liveness::Gone));
        self.shared.changed.notify_one();
    }

    /// Logs that another node left, joined or rejoined.
    fn log_liveness(&mut self, node: &str, liveness: Liveness) {
        if node == self.shared.node {
            return;
        }
        match liveness {
            Liveness::Gone => {
                warn!("node {node} is gone: its registration ended, its endpoints are withdrawn");
                self.logged_gone.insert(node.to_owned());
            }
            Liveness::Alive if self.logged_gone.remove(node) => info!("node {node} has rejoined"),
            Liveness::Alive => info!("node {node} has joined"),
        }
    }
}
