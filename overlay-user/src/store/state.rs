//! The state of the store, updated key by key.
//!
//! All keys are kept, valid or not. Of two conflicting keys the older one is valid. Keys that break a rule of the model
//! are ignored and named in [`StoreState::problems`].

use std::collections::{BTreeMap, BTreeSet, HashMap};

use overlay_common::maps::FDB;

use super::{
    Snapshot, StoreError, StoredNode, error,
    kv::{Entry, Event, Listing},
    schema::{self, ConfigRecord, EndpointRecord, Key, NetworkRecord, NodeRecord, VersionRecord},
    types::StoredEndpoint,
};
use crate::{
    model::RemoteChange,
    model::{
        Cluster, Finding, Findings, Host, Located, NetworkSpec, Parts, RemoteEndpoint, endpoint_label,
        rule::{Field, PartRef, already_used},
    },
};

#[cfg(any(test, feature = "testing"))]
pub(crate) mod fuzz;
mod members;
mod reject;

use members::{Members, NetworkStatus, Versioned};
use reject::reject;

/// Scope of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Affected<'a> {
    /// No table.
    Nothing,
    /// Nodes or networks.
    Everything,
    /// One endpoint.
    Endpoint {
        /// Its network's name.
        network: &'a str,
        /// Its node's name.
        node: &'a str,
        /// Its own name.
        name: &'a str,
    },
}

/// An endpoint by its age: revision, network and name.
type Holder = (i64, String, Box<str>);

/// The followed keys, and the valid state derived from them.
#[derive(Debug, Default)]
pub(crate) struct StoreState {
    revision: i64,
    version: Option<StoreError>,
    nodes: BTreeMap<String, Versioned<NodeRecord>>,
    alive: BTreeSet<String>,
    networks: BTreeMap<String, Versioned<NetworkRecord>>,
    members: BTreeMap<String, Members>,
    /// The endpoints of each interface, by node and interface.
    ports: BTreeMap<(Box<str>, String), BTreeSet<Holder>>,
    /// The owners of interfaces must be recomputed.
    ports_dirty: bool,
    /// Unknown keys, and keys with invalid values.
    invalid: BTreeMap<String, Finding>,
    /// Valid nodes and networks.
    hosts: BTreeMap<String, Host>,
    valid: BTreeMap<String, NetworkSpec>,
    rejected: BTreeMap<String, Finding>,
    dirty: bool,
}

impl StoreState {
    /// The state of a listing of `/overlay/`.
    pub(crate) fn new(listing: Listing) -> Self {
        let mut state = Self { revision: listing.revision, dirty: true, ..Self::default() };
        for entry in listing.entries {
            state.put(&entry);
        }
        state
    }

    /// The last applied revision.
    pub(crate) const fn revision(&self) -> i64 {
        self.revision
    }

    /// Records that all changes up to this revision are applied.
    pub(crate) fn advance(&mut self, revision: i64) {
        self.revision = self.revision.max(revision);
    }

    /// Checks that this version supports the store's schema.
    pub(crate) fn version(&self) -> Result<(), StoreError> {
        self.version.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn alive(&self) -> &BTreeSet<String> {
        &self.alive
    }

    /// Overrides the liveness of nodes.
    pub(crate) fn alive_mut(&mut self) -> &mut BTreeSet<String> {
        &mut self.alive
    }

    /// Applies one change.
    pub(crate) fn apply<'a>(&mut self, event: &'a Event) -> Affected<'a> {
        match event {
            Event::Put(entry) => self.put(entry),
            Event::Delete { key, .. } => self.delete(key),
        }
    }

    fn put<'a>(&mut self, entry: &'a Entry) -> Affected<'a> {
        let affected = self.delete(&entry.key);
        let revision = entry.create_revision;
        let put = match Key::parse(&entry.key) {
            Some(Key::Version) => {
                schema::decode(&entry.value).map(|record: VersionRecord| self.version = record.check().err())
            }
            Some(Key::Config) => schema::decode(&entry.value).map(|_: ConfigRecord| ()),
            Some(Key::Network(name)) => schema::decode(&entry.value).map(|record| {
                self.networks.insert(name.into(), Versioned { revision, record });
            }),
            Some(Key::Node(name)) => schema::decode(&entry.value).map(|record| {
                self.nodes.insert(name.into(), Versioned { revision, record });
            }),
            Some(Key::Alive(node)) => {
                self.alive.insert(node.into());
                Ok(())
            }
            Some(Key::Endpoint { node, network, name }) => {
                schema::decode(&entry.value).map(|record: EndpointRecord| {
                    if let Some(port) = record.port() {
                        let holders = self.ports.entry((node.into(), port.into())).or_default();
                        holders.insert((revision, network.into(), name.into()));
                        self.ports_dirty |= holders.len() > 1;
                    }
                    let members = self.members.entry(network.into()).or_default();
                    members.insert((name.into(), node.into()), Versioned { revision, record });
                })
            }
            None => Err("is not a key of overlay".into()),
        };
        if let Err(reason) = put {
            self.invalid.insert(entry.key.clone(), Finding::unnamed(reason, "correct or remove it"));
        }
        affected
    }

    fn delete<'a>(&mut self, key: &'a str) -> Affected<'a> {
        self.invalid.remove(key);
        match Key::parse(key) {
            Some(Key::Version) => {
                self.version = None;
                Affected::Everything
            }
            Some(Key::Network(name)) => {
                self.networks.remove(name);
                self.dirty = true;
                Affected::Everything
            }
            Some(Key::Node(name)) => {
                self.nodes.remove(name);
                self.dirty = true;
                Affected::Everything
            }
            Some(Key::Alive(node)) => {
                self.alive.remove(node);
                Affected::Everything
            }
            Some(Key::Endpoint { node, network, name }) => {
                if let Some(members) = self.members.get_mut(network) {
                    let gone = members.remove(&(name.into(), node.into()));
                    if let Some(Versioned { revision, record }) = &gone
                        && let Some(port) = record.port()
                        && let key = (node.into(), port.into())
                        && let Some(holders) = self.ports.get_mut(&key)
                    {
                        self.ports_dirty |= holders.len() > 1;
                        holders.remove(&(*revision, network.into(), name.into()));
                        if holders.is_empty() {
                            self.ports.remove(&key);
                        }
                    }
                    if members.records.is_empty() {
                        self.members.remove(network);
                    }
                }
                Affected::Endpoint { network, node, name }
            }
            Some(Key::Config) | None => Affected::Nothing,
        }
    }

    /// Recomputes the valid and the ignored keys after changes.
    fn resolve(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.resolve_topology();
            self.members.values_mut().for_each(|members| members.dirty = true);
        }
        for (name, members) in &mut self.members {
            let added = std::mem::take(&mut members.added);
            let network = match self.valid.get(name) {
                Some(network) => NetworkStatus::Valid(network),
                None if self.networks.get(name).is_some_and(|network| network.record.removing) => {
                    NetworkStatus::Removing
                }
                None => NetworkStatus::Invalid,
            };
            if std::mem::take(&mut members.dirty) {
                members.resolve(network, &self.hosts);
            } else if !added.is_empty() {
                members.resolve_added(added, network, &self.hosts);
            }
            members.port_rejected.clear();
        }
        self.resolve_ports();
    }

    /// Assigns each interface to one endpoint: it can be in one bridge only.
    fn resolve_ports(&mut self) {
        self.ports_dirty = false;
        for ((node, port), holders) in self.ports.iter().filter(|(_, holders)| holders.len() > 1) {
            let mut first = None;
            for (_, network, name) in holders.iter().filter(|(_, network, _)| self.valid.contains_key(network)) {
                let key = (name.clone(), node.clone());
                let Some(members) = self.members.get_mut(network).filter(|members| members.accepts(&key)) else {
                    continue;
                };
                match &first {
                    None => first = Some(endpoint_label(network, name)),
                    Some(by) => {
                        let finding = already_used(Field::Port, format_args!("{port:?}"), by, "endpoint of a host");
                        members.port_rejected.insert(key, finding);
                    }
                }
            }
        }
    }

    fn resolve_topology(&mut self) {
        self.rejected.clear();
        let mut keys = Vec::new();
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        nodes.sort_by_key(|(_, versioned)| versioned.revision);
        let hosts: Vec<_> = nodes.iter().map(|(name, versioned)| versioned.record.host(name)).collect();
        keys.extend(nodes.iter().map(|(name, _)| schema::node(name)));
        let mut networks = Vec::new();
        let mut candidates: Vec<_> = self.networks.iter().filter(|(_, versioned)| !versioned.record.removing).collect();
        candidates.sort_by_key(|(_, versioned)| versioned.revision);
        for (name, versioned) in candidates {
            match versioned.record.network(name) {
                Ok(network) => networks.push(network),
                Err(reason) => {
                    self.rejected.insert(schema::network(name), Finding::unnamed(reason, "correct it"));
                }
            }
        }
        let parts = Parts { hosts, networks, ..Parts::default() };
        let rejected = reject(&parts);
        self.hosts.clear();
        self.valid.clear();
        for (index, host) in parts.hosts.into_iter().enumerate() {
            match rejected.get(&PartRef::Host(index)) {
                Some(finding) => drop(self.rejected.insert(schema::node(&host.name), finding.clone())),
                None => drop(self.hosts.insert(host.name.clone(), host)),
            }
        }
        for (index, network) in parts.networks.into_iter().enumerate() {
            match rejected.get(&PartRef::Network(index)) {
                Some(finding) => drop(self.rejected.insert(schema::network(&network.name), finding.clone())),
                None => drop(self.valid.insert(network.name.clone(), network)),
            }
        }
    }

    /// The cluster for the node of this name: all nodes and networks, and the endpoints of live nodes in the networks
    /// with endpoints on this node. The node itself counts as live. The FDB size follows the number of endpoints,
    /// because the store has no setting for it.
    ///
    /// # Errors
    /// Broken rules, which the recomputation excludes.
    pub(crate) fn cluster(&mut self, node: &str) -> Result<Cluster, Findings<Located>> {
        self.resolve();
        let mut endpoints = Vec::new();
        for (name, members) in self.members.iter().filter(|(name, _)| self.valid.contains_key(*name)) {
            if !members.accepted().any(|((_, of), _)| &**of == node) {
                continue;
            }
            let live = members.accepted().filter(|((_, of), _)| &**of == node || self.alive.contains(&**of));
            endpoints.extend(
                live.filter_map(|(key, versioned)| self.stored(name, key, &versioned.record)).map(|e| e.endpoint),
            );
        }
        let fdb_size = u32::try_from(endpoints.len()).ok().filter(|count| *count > FDB.entries);
        Cluster::new(Parts {
            hosts: self.hosts.values().cloned().collect(),
            networks: self.valid.values().cloned().collect(),
            endpoints,
            fdb_size: fdb_size.map(u32::next_power_of_two),
            discover: None,
        })
    }

    /// Whether a change of one endpoint affects no other endpoint of the network: there are no conflicts.
    pub(crate) fn is_independent(&self, network: &str) -> bool {
        !self.dirty && !self.ports_dirty && self.members.get(network).is_none_or(|members| !members.dirty)
    }

    /// The change of an endpoint on another node; `None` if its network does not exist.
    pub(crate) fn remote_change(&mut self, network: &str, node: &str, name: &str) -> Option<RemoteChange> {
        self.resolve();
        let vni = self.valid.get(network)?.vni;
        let key = (name.into(), node.into());
        let members = self.members.get(network).filter(|members| members.accepts(&key));
        let versioned = members.and_then(|members| members.records.get(&key)).filter(|_| self.alive.contains(node));
        let host = self.hosts.get(node).map(|host| host.address);
        let endpoint = versioned.zip(host).map(|(Versioned { record, .. }, host)| RemoteEndpoint {
            ip: record.ip,
            mac: record.mac,
            host,
        });
        Some(RemoteChange { vni, name: name.into(), endpoint })
    }

    /// The networks with endpoints on the node.
    pub(crate) fn networks_of(&self, node: &str) -> BTreeSet<String> {
        let has_endpoint = |members: &&Members| members.records.keys().any(|(_, of)| &**of == node);
        self.members.iter().filter(|(_, members)| has_endpoint(members)).map(|(name, _)| name.clone()).collect()
    }

    fn stored(
        &self,
        network: &str,
        (name, node): &(Box<str>, Box<str>),
        record: &EndpointRecord,
    ) -> Option<StoredEndpoint> {
        let host = self.hosts.get(&**node)?.address;
        let live = self.alive.contains(&**node);
        Some(StoredEndpoint { live, ..record.stored((node, network, name), host).ok()? })
    }

    /// The valid endpoints of one network, or of all.
    pub(crate) fn endpoints(&mut self, network: Option<&str>) -> Vec<StoredEndpoint> {
        self.resolve();
        let this = &*self;
        let wanted = this.members.iter().filter(|(name, _)| network.is_none_or(|network| network == *name));
        wanted
            .filter(|(name, _)| this.valid.contains_key(*name))
            .flat_map(|(name, members)| {
                members.accepted().filter_map(move |(key, versioned)| this.stored(name, key, &versioned.record))
            })
            .collect()
    }

    /// One finding for each ignored key.
    pub(crate) fn problems(&mut self) -> Vec<Finding> {
        self.resolve();
        let about = |(key, finding): (&String, &Finding)| finding.clone().about(error::key(key));
        let mut problems: Vec<_> = self.invalid.iter().chain(&self.rejected).map(about).collect();
        for (network, members) in &self.members {
            let rejected = members.rejected.iter().chain(&members.port_rejected);
            problems.extend(
                rejected.map(|((name, node), finding)| about((&schema::endpoint(node, network, name), finding))),
            );
        }
        problems.sort();
        problems
    }

    /// The complete state, for reports.
    pub(crate) fn snapshot(&mut self) -> Snapshot {
        let endpoints = self.endpoints(None);
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for endpoint in &endpoints {
            *counts.entry(&endpoint.node).or_default() += 1;
        }
        let nodes = self.hosts.iter().map(|(name, host)| StoredNode {
            host: host.clone(),
            live: self.alive.contains(name),
            endpoints: counts.get(name.as_str()).copied().unwrap_or(0),
        });
        Snapshot {
            revision: self.revision,
            nodes: nodes.collect(),
            networks: self.valid.values().cloned().collect(),
            problems: self.problems(),
            endpoints,
        }
    }
}
