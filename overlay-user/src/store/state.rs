//! What the store's keys say, kept up to date key by key.
//!
//! Every key is kept as it is, valid or not: which of two that exclude each other counts depends on both. The older one
//! wins. What breaks a rule of the model is left out and named in [`State::problems`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

use overlay_common::MacAddr;

use super::{
    Problem, Snapshot, StoreError, StoredNode,
    kv::{Entry, Event, Listing},
    schema::{self, ConfigRecord, EndpointRecord, Key, NetworkRecord, NodeRecord, VersionRecord},
    types::StoredEndpoint,
};
use crate::model::{
    Cluster, Endpoint, Host, Network, Violation,
    rule::{Object, Rule},
};

/// A record and the revision that made its key.
#[derive(Clone, Debug)]
struct Made<T> {
    revision: i64,
    record: T,
}

/// The endpoints of one network's name, whether there is such a network or not.
#[derive(Debug, Default)]
struct Members {
    /// By name and node: so that they come out sorted.
    records: BTreeMap<(Box<str>, Box<str>), Made<EndpointRecord>>,
    /// How many have what only one can have.
    names: HashMap<Box<str>, u32>,
    ips: HashMap<Ipv4Addr, u32>,
    macs: HashMap<MacAddr, u32>,
    /// How many of these counts are above one.
    clashes: usize,
    /// Left out, and why.
    rejected: BTreeMap<(Box<str>, Box<str>), String>,
    /// Came since the last [`Members::resolve`] and clash with none.
    fresh: Vec<(Box<str>, Box<str>)>,
    /// `rejected` is to be found anew.
    dirty: bool,
}

/// What a change can concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touched<'a> {
    /// Nothing that is in tables.
    Nothing,
    /// Nodes or networks.
    Everything,
    /// One endpoint.
    Endpoint {
        /// Its network's name.
        network: &'a str,
        /// Its node's name.
        node: &'a str,
    },
}

/// All that the store says.
#[derive(Debug, Default)]
pub(crate) struct State {
    revision: i64,
    version: Option<StoreError>,
    nodes: BTreeMap<String, Made<NodeRecord>>,
    alive: BTreeSet<String>,
    networks: BTreeMap<String, Made<NetworkRecord>>,
    members: BTreeMap<String, Members>,
    /// Keys that are not ours, or not as we write them.
    foreign: BTreeMap<String, String>,
    /// Nodes and networks that keep the rules.
    hosts: BTreeMap<String, Host>,
    valid: BTreeMap<String, Network>,
    rejected: BTreeMap<String, String>,
    dirty: bool,
}

impl State {
    /// Everything from a listing of `/overlay/`.
    pub(crate) fn new(listing: Listing) -> Self {
        let mut state = Self { revision: listing.revision, dirty: true, ..Self::default() };
        for entry in listing.entries {
            state.put(&entry);
        }
        state
    }

    /// The last revision that it knows.
    pub(crate) const fn revision(&self) -> i64 {
        self.revision
    }

    /// Changes up to this revision are known.
    pub(crate) fn advance(&mut self, revision: i64) {
        self.revision = self.revision.max(revision);
    }

    /// The store is of a version that this program does not understand.
    pub(crate) fn version(&self) -> Result<(), StoreError> {
        self.version.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn alive(&self) -> &BTreeSet<String> {
        &self.alive
    }

    /// Takes a node for living, or not, whatever its key says.
    pub(crate) fn set_alive(&mut self, node: &str, alive: bool) {
        if alive {
            self.alive.insert(node.into());
        } else {
            self.alive.remove(node);
        }
    }

    /// Applies one change.
    pub(crate) fn apply<'a>(&mut self, event: &'a Event) -> Touched<'a> {
        match event {
            Event::Put(entry) => self.put(entry),
            Event::Delete { key, .. } => self.delete(key),
        }
    }

    fn put<'a>(&mut self, entry: &'a Entry) -> Touched<'a> {
        let touched = self.delete(&entry.key);
        let revision = entry.create_revision;
        let put = match Key::parse(&entry.key) {
            Some(Key::Version) => {
                schema::decode(&entry.value).map(|record: VersionRecord| self.version = record.check().err())
            }
            Some(Key::Config) => schema::decode(&entry.value).map(|_: ConfigRecord| ()),
            Some(Key::Network(name)) => schema::decode(&entry.value).map(|record| {
                self.networks.insert(name.into(), Made { revision, record });
            }),
            Some(Key::Node(name)) => schema::decode(&entry.value).map(|record| {
                self.nodes.insert(name.into(), Made { revision, record });
            }),
            Some(Key::Alive(node)) => {
                self.alive.insert(node.into());
                Ok(())
            }
            Some(Key::Endpoint { node, network, name }) => schema::decode(&entry.value).map(|record| {
                let members = self.members.entry(network.into()).or_default();
                members.insert((name.into(), node.into()), Made { revision, record });
            }),
            None => Err("is no key of overlay".into()),
        };
        if let Err(reason) = put {
            self.foreign.insert(entry.key.clone(), format!("{reason}; correct or remove it"));
        }
        touched
    }

    fn delete<'a>(&mut self, key: &'a str) -> Touched<'a> {
        self.foreign.remove(key);
        match Key::parse(key) {
            Some(Key::Version) => {
                self.version = None;
                Touched::Everything
            }
            Some(Key::Network(name)) => {
                self.networks.remove(name);
                self.dirty = true;
                Touched::Everything
            }
            Some(Key::Node(name)) => {
                self.nodes.remove(name);
                self.dirty = true;
                Touched::Everything
            }
            Some(Key::Alive(node)) => {
                self.alive.remove(node);
                Touched::Everything
            }
            Some(Key::Endpoint { node, network, name }) => {
                if let Some(members) = self.members.get_mut(network) {
                    members.remove(&(name.into(), node.into()));
                    if members.records.is_empty() {
                        self.members.remove(network);
                    }
                }
                Touched::Endpoint { network, node }
            }
            Some(Key::Config) | None => Touched::Nothing,
        }
    }

    /// Finds anew what counts and what is left out, where something has changed.
    fn resolve(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.resolve_topology();
            self.members.values_mut().for_each(|members| members.dirty = true);
        }
        for (name, members) in &mut self.members {
            let fresh = std::mem::take(&mut members.fresh);
            if std::mem::take(&mut members.dirty) {
                let removing = self.networks.get(name).is_some_and(|network| network.record.removing);
                members.resolve(self.valid.get(name), &self.hosts, removing);
            } else if !fresh.is_empty() {
                members.resolve_fresh(fresh, self.valid.get(name), &self.hosts);
            }
        }
    }

    fn resolve_topology(&mut self) {
        self.rejected.clear();
        let mut keys = Vec::new();
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        nodes.sort_by_key(|(_, made)| made.revision);
        let hosts: Vec<_> = nodes.iter().map(|(name, made)| made.record.host(name)).collect();
        keys.extend(nodes.iter().map(|(name, _)| schema::node(name)));
        let mut networks = Vec::new();
        let mut made: Vec<_> = self.networks.iter().filter(|(_, made)| !made.record.removing).collect();
        made.sort_by_key(|(_, made)| made.revision);
        for (name, made) in made {
            match made.record.network(name) {
                Ok(network) => networks.push(network),
                Err(reason) => drop(self.rejected.insert(schema::network(name), format!("{reason}; correct it"))),
            }
        }
        let cluster = Cluster { hosts, networks, ..Cluster::default() };
        let rejected = reject(&cluster);
        self.hosts.clear();
        self.valid.clear();
        for (index, host) in cluster.hosts.into_iter().enumerate() {
            match rejected.get(&Part::Host(index)) {
                Some(reason) => drop(self.rejected.insert(schema::node(&host.name), reason.clone())),
                None => drop(self.hosts.insert(host.name.clone(), host)),
            }
        }
        for (index, network) in cluster.networks.into_iter().enumerate() {
            match rejected.get(&Part::Network(index)) {
                Some(reason) => drop(self.rejected.insert(schema::network(&network.name), reason.clone())),
                None => drop(self.valid.insert(network.name.clone(), network)),
            }
        }
    }

    /// What the node of this name has to know: all nodes and networks, and the endpoints of the networks that it has
    /// endpoints in, as far as their nodes live. The node itself always does.
    pub(crate) fn cluster(&mut self, node: &str) -> Cluster {
        self.resolve();
        let mut endpoints = Vec::new();
        for (name, members) in self.members.iter().filter(|(name, _)| self.valid.contains_key(*name)) {
            if !members.accepted().any(|((_, of), _)| &**of == node) {
                continue;
            }
            let live = members.accepted().filter(|((_, of), _)| &**of == node || self.alive.contains(&**of));
            endpoints.extend(live.filter_map(|(key, made)| self.stored(name, key, &made.record)).map(|e| e.endpoint));
        }
        Cluster {
            hosts: self.hosts.values().cloned().collect(),
            networks: self.valid.values().cloned().collect(),
            endpoints,
            fdb_size: None,
        }
    }

    /// The networks that the node has endpoints in.
    pub(crate) fn networks_of(&self, node: &str) -> BTreeSet<String> {
        let takes_part = |members: &&Members| members.records.keys().any(|(_, of)| &**of == node);
        self.members.iter().filter(|(_, members)| takes_part(members)).map(|(name, _)| name.clone()).collect()
    }

    fn stored(
        &self,
        network: &str,
        (name, node): &(Box<str>, Box<str>),
        record: &EndpointRecord,
    ) -> Option<StoredEndpoint> {
        let host = self.hosts.get(&**node)?.address;
        record.stored((node, network, name), host, self.alive.contains(&**node)).ok()
    }

    /// The valid endpoints of one network, or of all.
    pub(crate) fn endpoints(&mut self, network: Option<&str>) -> Vec<StoredEndpoint> {
        self.resolve();
        let this = &*self;
        let wanted = this.members.iter().filter(|(name, _)| network.is_none_or(|network| network == *name));
        wanted
            .filter(|(name, _)| this.valid.contains_key(*name))
            .flat_map(|(name, members)| {
                members.accepted().filter_map(move |(key, made)| this.stored(name, key, &made.record))
            })
            .collect()
    }

    /// Keys that are left out.
    pub(crate) fn problems(&mut self) -> Vec<Problem> {
        self.resolve();
        let named = self.foreign.iter().chain(&self.rejected);
        let mut problems: Vec<_> =
            named.map(|(key, reason)| Problem { key: key.clone(), reason: reason.clone() }).collect();
        for (network, members) in &self.members {
            problems.extend(members.rejected.iter().map(|((name, node), reason)| Problem {
                key: schema::endpoint(node, network, name),
                reason: reason.clone(),
            }));
        }
        problems.sort();
        problems
    }

    /// Everything, for reports.
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

impl Members {
    fn accepted(&self) -> impl Iterator<Item = (&(Box<str>, Box<str>), &Made<EndpointRecord>)> {
        self.records.iter().filter(|(key, _)| !self.rejected.contains_key(*key))
    }

    fn insert(&mut self, key: (Box<str>, Box<str>), made: Made<EndpointRecord>) {
        self.clashes += count(&mut self.names, key.0.clone());
        self.clashes += count(&mut self.ips, made.record.ip);
        self.clashes += count(&mut self.macs, made.record.mac);
        self.dirty |= self.clashes != 0;
        if !self.dirty {
            self.fresh.push(key.clone());
        }
        self.records.insert(key, made);
    }

    fn remove(&mut self, key: &(Box<str>, Box<str>)) {
        let Some(made) = self.records.remove(key) else { return };
        self.dirty |= self.clashes != 0 || !self.rejected.is_empty();
        self.clashes -= discount(&mut self.names, &key.0);
        self.clashes -= discount(&mut self.ips, &made.record.ip);
        self.clashes -= discount(&mut self.macs, &made.record.mac);
        self.rejected.remove(key);
    }

    fn resolve(&mut self, network: Option<&Network>, hosts: &BTreeMap<String, Host>, removing: bool) {
        self.rejected.clear();
        let Some(network) = network else {
            if !removing {
                self.rejected = self.records.keys().map(|key| (key.clone(), NO_NETWORK.into())).collect();
            }
            return;
        };
        let mut sorted: Vec<_> = self.records.iter().collect();
        sorted.sort_by_key(|(_, made)| made.revision);
        self.rejected = rejected(&sorted, network, hosts);
    }

    /// As [`Self::resolve`], for records that clash with none: the others need not be looked at.
    fn resolve_fresh(
        &mut self,
        fresh: Vec<(Box<str>, Box<str>)>,
        network: Option<&Network>,
        hosts: &BTreeMap<String, Host>,
    ) {
        for key in fresh {
            let Some(made) = self.records.get(&key) else { continue };
            match network {
                Some(network) => self.rejected.extend(rejected(&[(&key, made)], network, hosts)),
                None => drop(self.rejected.insert(key, NO_NETWORK.into())),
            }
        }
    }
}

const NO_NETWORK: &str = "there is no valid network of this name; add the network, or remove the key";

type Records<'a> = [(&'a (Box<str>, Box<str>), &'a Made<EndpointRecord>)];

/// Which of these must go, in the order in which they were made, and why.
fn rejected(
    records: &Records<'_>,
    network: &Network,
    hosts: &BTreeMap<String, Host>,
) -> BTreeMap<(Box<str>, Box<str>), String> {
    let mut rejected = BTreeMap::new();
    let (mut keys, mut endpoints) = (Vec::new(), Vec::new());
    for (key, made) in records {
        match endpoint(key, &made.record, network, hosts) {
            Ok(endpoint) => {
                keys.push(*key);
                endpoints.push(endpoint);
            }
            Err(reason) => drop(rejected.insert((*key).clone(), reason)),
        }
    }
    let used: BTreeSet<_> = endpoints.iter().map(|endpoint| endpoint.host).collect();
    let hosts = hosts.values().filter(|host| used.contains(&host.address)).cloned().collect();
    let cluster = Cluster { hosts, networks: vec![network.clone()], endpoints, fdb_size: Some(1 << 24) };
    for (part, reason) in reject(&cluster) {
        if let Part::Endpoint(index) = part {
            rejected.insert(keys[index].clone(), reason);
        }
    }
    rejected
}

fn endpoint(
    (name, node): &(Box<str>, Box<str>),
    record: &EndpointRecord,
    network: &Network,
    hosts: &BTreeMap<String, Host>,
) -> Result<Endpoint, String> {
    let host = hosts.get(&**node).ok_or("there is no valid node of this name; start the node, or remove the key")?;
    if record.vni != network.vni.get() {
        return Err(format!("vni {} is not the network's, {}; remove the key", record.vni, network.vni));
    }
    record.endpoint(name, host.address)
}

/// Counts one more: 1 when that makes two.
fn count<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: K) -> usize {
    let count = counts.entry(key).or_default();
    *count += 1;
    usize::from(*count == 2)
}

/// Counts one less: 1 when that leaves one.
fn discount<K: std::hash::Hash + Eq, Q: std::hash::Hash + Eq + ?Sized>(counts: &mut HashMap<K, u32>, key: &Q) -> usize
where
    K: std::borrow::Borrow<Q>,
{
    let Some(count) = counts.get_mut(key) else { return 0 };
    *count -= 1;
    let left = *count;
    if left == 0 {
        counts.remove(key);
    }
    usize::from(left == 1)
}

/// [`Object`], as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Part {
    Cluster,
    Host(usize),
    Network(usize),
    Endpoint(usize),
}

impl From<Object> for Part {
    fn from(object: Object) -> Self {
        match object {
            Object::Cluster => Self::Cluster,
            Object::Host(index) => Self::Host(index),
            Object::Network(index) => Self::Network(index),
            Object::Endpoint(index) => Self::Endpoint(index),
        }
    }
}

/// What must go for the cluster to keep the rules, and why. Of two parts that exclude each other the later one goes.
fn reject(cluster: &Cluster) -> BTreeMap<Part, String> {
    let mut rejected: BTreeMap<Part, String> = BTreeMap::new();
    let (mut kept, mut indices) = (cluster.clone(), None::<Indices>);
    while let Err(violations) = kept.validate() {
        let all: BTreeSet<Part> = violations.0.iter().map(|violation| violation.object.into()).collect();
        let mut goes: BTreeMap<Part, String> = BTreeMap::new();
        for Violation { object, rule, .. } in violations.0 {
            // A claim of a part that goes itself may be nobody's in the next round.
            if !other(&rule).is_some_and(|other| all.contains(&other)) {
                goes.entry(object.into()).or_insert_with(|| rule.to_string());
            }
        }
        if goes.is_empty() || goes.contains_key(&Part::Cluster) {
            break;
        }
        let indices = indices.get_or_insert_with(|| Indices::all(cluster));
        rejected.extend(goes.iter().map(|(part, reason)| (indices.original(*part), reason.clone())));
        indices.hosts = keep(&mut kept.hosts, &indices.hosts, |index| !goes.contains_key(&Part::Host(index)));
        indices.networks =
            keep(&mut kept.networks, &indices.networks, |index| !goes.contains_key(&Part::Network(index)));
        indices.endpoints =
            keep(&mut kept.endpoints, &indices.endpoints, |index| !goes.contains_key(&Part::Endpoint(index)));
    }
    rejected
}

/// Where the parts that are left were at first.
struct Indices {
    hosts: Vec<usize>,
    networks: Vec<usize>,
    endpoints: Vec<usize>,
}

impl Indices {
    fn all(cluster: &Cluster) -> Self {
        Self {
            hosts: (0..cluster.hosts.len()).collect(),
            networks: (0..cluster.networks.len()).collect(),
            endpoints: (0..cluster.endpoints.len()).collect(),
        }
    }

    fn original(&self, part: Part) -> Part {
        match part {
            Part::Cluster => Part::Cluster,
            Part::Host(index) => Part::Host(self.hosts[index]),
            Part::Network(index) => Part::Network(self.networks[index]),
            Part::Endpoint(index) => Part::Endpoint(self.endpoints[index]),
        }
    }
}

fn keep<T>(parts: &mut Vec<T>, indices: &[usize], stays: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut index = 0;
    parts.retain(|_| {
        index += 1;
        stays(index - 1)
    });
    indices.iter().enumerate().filter(|(index, _)| stays(*index)).map(|(_, original)| *original).collect()
}

fn other(rule: &Rule) -> Option<Part> {
    match rule {
        Rule::Taken { by, .. } | Rule::Overlap { by, .. } => Some(by.object.into()),
        _ => None,
    }
}
