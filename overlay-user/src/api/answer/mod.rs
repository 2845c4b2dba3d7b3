//! Answers to requests, from the store, its follower and the daemon's state.

mod endpoints;
mod networks;
mod status;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use overlay_common::VtepAddr;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Mutex, watch};

use super::{
    Handler,
    types::{Failure, NodeList, NodeReport, Removed, Request, StoreReport},
};
use crate::{
    daemon::{AuditMode, Auditor, DaemonState},
    model::{Finding, Findings},
    observe::EventLog,
    sources::store::Follower,
    store::{Removal, Snapshot, Store, StoreError},
};

/// Timeout for a change to arrive at the follower: longer than the detection of a failed etcd member and the retry with
/// another.
const FOLLOWED: Duration = Duration::from_secs(10);

/// This host in answers.
#[derive(Clone, Debug)]
pub(crate) struct About {
    /// Its name in the cluster.
    pub node: String,
    /// Address of its underlay device; `None`: that of the external networks.
    pub address: Option<VtepAddr>,
}

/// Source of the daemon's desired state.
#[derive(Clone, Debug)]
pub(crate) enum Control {
    /// A configuration file, read-only.
    File(PathBuf),
    /// Discovery alone, read-only.
    Discovery,
    /// A store and its follower.
    Store {
        /// `embedded` or `etcd`.
        kind: &'static str,
        /// Used for writing.
        store: Store,
        /// Used for reading.
        follower: Follower,
    },
}

/// The answers of one daemon.
pub(crate) struct Answers {
    about: About,
    control: Control,
    state: watch::Receiver<DaemonState>,
    auditor: Auditor,
    events: Arc<EventLog>,
    /// Serialises the creation of endpoints: a refused one must not make another's update fail.
    endpoint_lock: Mutex<()>,
}

impl Answers {
    /// The answers of the daemon on the host `about`, with its desired state from `control`, its actual state, and its
    /// sampled events.
    #[must_use]
    pub(crate) fn new(
        about: About,
        control: Control,
        (state, auditor): (watch::Receiver<DaemonState>, Auditor),
        events: Arc<EventLog>,
    ) -> Self {
        Self { about, control, state, auditor, events, endpoint_lock: Mutex::new(()) }
    }

    /// The store and its follower.
    fn store(&self) -> Result<(&Store, &Follower), Failure> {
        match &self.control {
            Control::Store { store, follower, .. } => Ok((store, follower)),
            Control::File(path) => {
                let problem = format!("uses the configuration file {} and has no store", path.display());
                Err(Failure::refused(Finding::new(
                    "daemon",
                    problem,
                    "edit the file, or start the daemon with --store",
                )))
            }
            Control::Discovery => {
                let problem = "serves external networks only and has no store";
                Err(Failure::refused(Finding::new("daemon", problem, "start the daemon with --store as well")))
            }
        }
    }

    fn snapshot(&self) -> Result<Snapshot, Failure> {
        Ok(self.store()?.1.snapshot())
    }

    fn store_report(&self) -> Option<StoreReport> {
        let Control::Store { kind, follower, .. } = &self.control else { return None };
        let health = follower.health();
        let age = if health.connected { Duration::ZERO } else { Instant::now().duration_since(health.since) };
        Some(StoreReport {
            kind: (*kind).to_owned(),
            reachable: health.connected,
            age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            revision: health.revision,
            error: health.error.map(|error| error.to_string()),
        })
    }

    fn nodes(&self) -> Result<NodeList, Failure> {
        let nodes = self.snapshot()?.nodes.into_iter().map(|node| NodeReport {
            local: node.host.name == self.about.node,
            name: node.host.name,
            address: node.host.address,
            alive: node.live,
            endpoints: node.endpoints,
        });
        Ok(NodeList { nodes: nodes.collect(), store: self.store_report().unwrap_or_default() })
    }

    /// Unregisters a node permanently, and waits until the follower has the change.
    async fn remove_node(&self, name: &str, removal: Removal) -> Result<Removed, Failure> {
        let (store, _) = self.store()?;
        if name == self.about.node {
            let problem = "is the node of this daemon, which would register it again";
            let remedy = "run the command on another node";
            return Err(Failure::refused(Finding::new(format!("node {name:?}"), problem, remedy)));
        }
        let endpoints = store.remove_node(name, removal).await?;
        self.wait_until_followed(&format!("node {name:?}"), "is removed", "node ls").await?;
        Ok(Removed { removed: name.to_owned(), endpoints: endpoints.len() })
    }

    /// Waits until the follower has the last written change, so that the next request sees it. `done`: the change of
    /// `object`, for the error; `command`: lists the objects.
    async fn wait_until_followed(&self, object: &str, done: &str, command: &str) -> Result<(), Failure> {
        let (store, follower) = self.store()?;
        let caught_up = follower.wait_for_revision(store.written(), FOLLOWED).await;
        caught_up.map_err(|behind| {
            let remedy = format!("check with `overlay {command}`");
            Failure::failed(Finding::new(object, format!("{done}, but {behind}"), remedy))
        })
    }
}

impl Handler for Answers {
    async fn handle(&self, request: Request) -> Result<Value, Failure> {
        match request {
            Request::Status => document(&self.status()),
            Request::Audit { repair } => {
                let report = self.auditor.audit(if repair { AuditMode::Repair } else { AuditMode::Report }).await;
                document(&report.map_err(|error| Failure::failed(Findings::from_error(&error)))?)
            }
            Request::Events { after } => document(&self.events.report(after)),
            Request::NetworkCreate(request) => document(&self.create_network(request).await?),
            Request::NetworkList => document(&self.networks()?),
            Request::NetworkInspect { name } => document(&self.network(&name)?),
            Request::NetworkRemove { name, force } => document(&self.remove_network(&name, force.into()).await?),
            Request::EndpointAdd(request) => document(&self.add_endpoint(request).await?),
            Request::EndpointList { network } => document(&self.endpoints(network.as_deref())?),
            Request::EndpointInspect { network, name } => document(&self.endpoint(&network, &name).await?),
            Request::EndpointRemove { network, name } => document(&self.remove_endpoint(&network, &name).await?),
            Request::NodeList => document(&self.nodes()?),
            Request::NodeRemove { name, force } => document(&self.remove_node(&name, force.into()).await?),
        }
    }
}

fn document(report: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(report).map_err(|error| Failure::failed(Findings::from_error(&error)))
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        use StoreError as E;
        match error {
            E::Unreachable { .. }
            | E::Denied { .. }
            | E::Options { .. }
            | E::Contended { .. }
            | E::Version { .. }
            | E::Invalid { .. }
            | E::File { .. } => Self::failed(error.findings()),
            _ => Self::refused(error.findings()),
        }
    }
}
