//! The answers: from the store, from what is known of it, and from the daemon's state.

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

/// How long a change may take from the store to what is known of it: longer than finding out that a member of etcd is dead,
/// and asking another.
const KNOWN: Duration = Duration::from_secs(10);

/// This host, as answers name it.
#[derive(Clone, Debug)]
pub(crate) struct About {
    /// Its name in the cluster.
    pub node: String,
    /// Address of its underlay device; `None`: the one that external networks have.
    pub address: Option<VtepAddr>,
}

/// Where the daemon's desired state comes from.
#[derive(Clone, Debug)]
pub(crate) enum Control {
    /// A configuration file: nothing can be written.
    File(PathBuf),
    /// The kernel's own tables: nothing can be written.
    Discovery,
    /// A store, and what is known of it.
    Store {
        /// `embedded` or `etcd`.
        kind: &'static str,
        /// For writing.
        store: Store,
        /// For reading.
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
    /// Endpoints are made one after the other: one that this host refuses must not take another's update with it.
    making: Mutex<()>,
}

impl Answers {
    /// The answers of the daemon that runs on the host `about`, gets what it shall do from `control`, tells what it has
    /// done in `state`, and knows of refused packets what is in `events`.
    #[must_use]
    pub(crate) fn new(
        about: About,
        control: Control,
        (state, auditor): (watch::Receiver<DaemonState>, Auditor),
        events: Arc<EventLog>,
    ) -> Self {
        Self { about, control, state, auditor, events, making: Mutex::new(()) }
    }

    /// The store and what is known of it.
    fn store(&self) -> Result<(&Store, &Follower), Failure> {
        match &self.control {
            Control::Store { store, follower, .. } => Ok((store, follower)),
            Control::File(path) => {
                let problem = format!("it follows the file {} and has no store", path.display());
                Err(Failure::refused(Finding::new("daemon", problem, "change the file, or start it with --store")))
            }
            Control::Discovery => {
                let problem = "it serves the networks that others made, and has no store";
                Err(Failure::refused(Finding::new("daemon", problem, "start it with --store too")))
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

    /// Unregisters a node for good, and waits until that is known here.
    async fn remove_node(&self, name: &str, removal: Removal) -> Result<Removed, Failure> {
        let (store, _) = self.store()?;
        if name == self.about.node {
            let problem = "it is the one of this daemon, which would register again";
            return Err(Failure::refused(Finding::new(format!("node {name:?}"), problem, "use another node's daemon")));
        }
        let endpoints = store.remove_node(name, removal).await?;
        self.known(&format!("node {name:?}"), "it is removed", "node ls").await?;
        Ok(Removed { removed: name.to_owned(), endpoints: endpoints.len() })
    }

    /// Waits until what was just written can be read here, so that the next question finds it. `done`: what that was, of
    /// `object`; `command`: shows when it has come.
    async fn known(&self, object: &str, done: &str, command: &str) -> Result<(), Failure> {
        let (store, follower) = self.store()?;
        let caught_up = follower.wait_for_revision(store.written(), KNOWN).await;
        caught_up.map_err(|behind| {
            let remedy = format!("look with `overlay {command}` whether it has come");
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
