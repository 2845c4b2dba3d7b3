//! The store as a source: follows it, and yields what this node has to know.

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

/// Between attempts to reach a database that is away.
const RETRY: Duration = Duration::from_millis(300);
/// What is followed; claims of addresses are not.
const PREFIX: &str = "/overlay/";
/// A node's sign of life.
const ALIVE: &str = "/overlay/alive/";

/// Follows a store. It is read in the background; [`Source::next`] yields each state that concerns this node.
#[derive(Debug)]
pub struct StoreSource {
    shared: Arc<Shared>,
    health: watch::Receiver<Health>,
    task: JoinHandle<()>,
}

/// What a [`StoreSource`] knows, for answers that do not ask the database. Clones share it.
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
    /// `None`: it was never read.
    state: Option<StoreState>,
    /// The networks that this node takes part in.
    mine: BTreeSet<String>,
    /// Changes that the daemon has not received yet.
    pending: PendingUpdate,
    /// An error that was not reported yet.
    error: Option<StoreError>,
}

/// Changes that are not sent to the daemon yet.
#[derive(Debug, Default)]
enum PendingUpdate {
    #[default]
    Nothing,
    /// Changes of endpoints on other nodes that concern no others: network, node, name.
    Remote(BTreeSet<[String; 3]>),
    /// Anything.
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
    /// Follows the store on behalf of the node of this name. Must be called in a Tokio runtime.
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "for tests"))]
    #[must_use]
    pub fn new(store: Store, node: impl Into<String>) -> Self {
        Self::with_hold(store, node, NodeRequest::TTL)
    }

    /// As [`Self::new`]. After the database was away, nodes whose lease ran out meanwhile are kept for `hold`: they may
    /// have been cut off from it just as this one was, and come back.
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
            met: false,
            started: 0,
            forgotten: false,
            until: None,
            missing: BTreeSet::new(),
            gone: BTreeSet::new(),
        };
        Self { shared, health, task: tokio::spawn(following.run()) }
    }

    /// What it knows.
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
                // Asked again, it tells everything.
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
                self.mine = state.networks_of(node);
                let cluster = state.cluster(node).map_err(StoreError::from);
                Some(cluster.map(Update::Cluster).map_err(Into::into))
            }
        }
    }
}

impl Follower {
    fn ask<T: Default>(&self, question: impl FnOnce(&mut StoreState) -> T) -> T {
        self.shared.known().state.as_mut().map(question).unwrap_or_default()
    }

    /// All that is known: the last state, however old.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.ask(StoreState::snapshot)
    }

    /// Keys that are ignored.
    #[must_use]
    pub fn problems(&self) -> Vec<Finding> {
        self.ask(StoreState::problems)
    }

    /// The endpoints of one network, or of all, by network and name.
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "for tests"))]
    #[must_use]
    pub fn endpoints(&self, network: Option<&str>) -> Vec<StoredEndpoint> {
        self.ask(|state| state.endpoints(network))
    }

    /// Whether the store is reached, and how old what is known is.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// Waits until at least this revision is known, however it comes to be: by a watch, or by a new listing after the
    /// database was away or has forgotten its history.
    ///
    /// # Errors
    /// [`Behind`] when it is not known after `patience`, or the store is not followed any more.
    pub async fn caught_up(&self, revision: i64, patience: Duration) -> Result<(), Behind> {
        let mut health = self.health.clone();
        let waited = timeout(patience, health.wait_for(|health| health.revision >= revision)).await;
        let reason = match waited {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) => Some("it is not followed any more".to_owned()),
            Err(_) => self.health().error.map(|error| error.to_string()),
        };
        let reason = reason.unwrap_or_else(|| format!("no newer revision arrived within {patience:?}"));
        Err(Behind { revision, known: self.health().revision, reason })
    }
}

/// The store is not followed as far as it has to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("revision {revision} of the store is not known here, only revision {known} ({reason})")]
pub struct Behind {
    /// The revision that was waited for.
    pub revision: i64,
    /// The revision that is known.
    pub known: i64,
    /// Why.
    pub reason: String,
}

/// Where a test has the connection to the store break.
fn connection_fault() -> Result<(), StoreError> {
    fault::at(Point::Watch)
        .map_err(|error| StoreError::Unreachable { store: "watch".into(), reason: error.to_string() })
}

/// What becomes of a node's registration.
#[derive(Clone, Copy, Debug)]
enum Liveness {
    Alive,
    Gone,
}

/// The task in the background.
struct FollowTask {
    store: Store,
    shared: Arc<Shared>,
    health: watch::Sender<Health>,
    hold: Duration,
    /// The database was reached before.
    met: bool,
    /// How many watches began.
    started: u64,
    /// The history that a watch would begin with is compacted.
    forgotten: bool,
    /// Nodes that seem to have gone are kept until then.
    until: Option<Instant>,
    /// They.
    missing: BTreeSet<String>,
    /// The log says that these are gone.
    gone: BTreeSet<String>,
}

impl FollowTask {
    async fn run(mut self) {
        loop {
            let watched = self.started;
            match self.follow().await {
                WatchError::Compacted(_) => self.forgotten = true,
                // The member that was watched has gone: another one goes on.
                WatchError::Lost(error) if error.is_unreachable() && self.started != watched => {}
                WatchError::Lost(error) => {
                    self.lost(error);
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Reads and follows until that is not possible any more.
    async fn follow(&mut self) -> WatchError {
        let watch = match self.start().await {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        self.started += 1;
        self.events(watch).await
    }

    /// A watch from the last known revision, or from a new listing.
    async fn start(&mut self) -> Result<Box<dyn Watch>, WatchError> {
        connection_fault()?;
        let known = self.shared.known().state.as_ref().map(StoreState::revision);
        if let Some(revision) = known
            && !self.forgotten
        {
            return self.store.kv().watch(PREFIX, revision + 1).await;
        }
        let listing = self.store.kv().list(PREFIX).await?;
        let revision = listing.revision;
        self.relisted(StoreState::new(listing))?;
        self.forgotten = false;
        self.store.kv().watch(PREFIX, revision + 1).await
    }

    async fn events(&mut self, mut watch: Box<dyn Watch>) -> WatchError {
        self.found();
        loop {
            let until = self.until;
            let batch = tokio::select! {
                batch = watch.next() => batch,
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    self.release();
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

    /// The database answers.
    fn found(&mut self) {
        let back = self.health.send_if_modified(|health| {
            let back = !health.connected;
            if back {
                *health = Health {
                    connected: true,
                    since: std::time::Instant::now(),
                    revision: health.revision,
                    error: None,
                };
            }
            back
        });
        if back && std::mem::replace(&mut self.met, true) {
            info!("the store is reached again");
            self.until = Some(Instant::now() + self.hold);
            // The state may be the same, but the reported error is over.
            self.shared.known().pending = PendingUpdate::Everything;
            self.shared.changed.notify_one();
        }
    }

    fn lost(&self, error: StoreError) {
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

    /// Takes over a new listing; nodes that were alive before are kept for a while.
    fn relisted(&mut self, mut state: StoreState) -> Result<(), StoreError> {
        state.version()?;
        self.missing.retain(|node| !state.alive().contains(node));
        let mut known = self.shared.known();
        if let Some(old) = &known.state {
            // The leases of all may have run out at the same time as this node's.
            self.until = Some(Instant::now() + self.hold);
            let gone: Vec<_> = old.alive().difference(state.alive()).cloned().collect();
            for node in gone {
                state.alive_mut().insert(node.clone());
                self.missing.insert(node);
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
        // Nodes that are alive at the start are not logged.
        if let Some(before) = before {
            now.difference(&before).for_each(|node| self.log_liveness(node, Liveness::Alive));
        }
        Ok(())
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut guard = self.shared.known();
        let Known { state: Some(state), mine, pending, .. } = &mut *guard else { return Ok(()) };
        let was_empty = pending.is_nothing();
        let mut lives = Vec::new();
        for event in &batch.events {
            if let Some(node) = event.key().strip_prefix(ALIVE) {
                match event {
                    // After the database was away: leases that ran out meanwhile, and whose nodes may come back.
                    Event::Delete { .. } if self.until.is_some() => {
                        self.missing.insert(node.into());
                        continue;
                    }
                    Event::Delete { .. } => lives.push((node.to_owned(), Liveness::Gone)),
                    Event::Put(_) if !state.alive().contains(node) => lives.push((node.to_owned(), Liveness::Alive)),
                    Event::Put(_) => {}
                }
                self.missing.remove(node);
            }
            match state.apply(event) {
                Affected::Nothing => {}
                Affected::Endpoint { network, node, name } if node != self.shared.node => {
                    if !mine.contains(network) {
                        continue;
                    }
                    if state.is_alone(network) {
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
        for (node, liveness) in lives {
            self.log_liveness(&node, liveness);
        }
        if has_updates {
            self.shared.changed.notify_one();
        }
        self.health.send_if_modified(|health| std::mem::replace(&mut health.revision, revision) != revision);
        version
    }

    /// The time is over in which nodes that seem to have gone are kept.
    fn release(&mut self) {
        self.until = None;
        let mut known = self.shared.known();
        let Known { state: Some(state), pending, .. } = &mut *known else { return };
        let missing = std::mem::take(&mut self.missing);
        for node in &missing {
            state.alive_mut().remove(node);
            *pending = PendingUpdate::Everything;
        }
        drop(known);
        missing.iter().for_each(|node| self.log_liveness(node, Liveness::Gone));
        self.shared.changed.notify_one();
    }

    /// Says that another node has gone, has come, or is back.
    fn log_liveness(&mut self, node: &str, liveness: Liveness) {
        if node == self.shared.node {
            return;
        }
        match liveness {
            Liveness::Gone => {
                warn!("node {node} is gone: its registration has ended, and its endpoints are withdrawn");
                self.gone.insert(node.to_owned());
            }
            Liveness::Alive if self.gone.remove(node) => info!("node {node} is back"),
            Liveness::Alive => info!("node {node} has joined"),
        }
    }
}
