//! The endpoints of one network, and their validity.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

use overlay_common::MacAddr;

use super::reject::reject;
use crate::{
    model::{Endpoint, Finding, Host, NetworkSpec, Parts, rule::PartRef},
    store::schema::EndpointRecord,
};

/// A record and the revision that created its key.
#[derive(Clone, Debug)]
pub(super) struct Versioned<T> {
    pub(super) revision: i64,
    pub(super) record: T,
}

/// The network of endpoints.
#[derive(Clone, Copy, Debug)]
pub(super) enum NetworkStatus<'a> {
    Valid(&'a NetworkSpec),
    /// The network and its endpoints are being removed.
    Removing,
    /// The network does not exist or is invalid.
    Invalid,
}

/// The endpoints of one network name; the network need not exist.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// By name and node, sorted.
    pub(super) records: BTreeMap<(Box<str>, Box<str>), Versioned<EndpointRecord>>,
    /// Number of endpoints by each unique property.
    names: HashMap<Box<str>, u32>,
    ips: HashMap<Ipv4Addr, u32>,
    macs: HashMap<MacAddr, u32>,
    /// Number of these counts above one.
    conflicts: usize,
    /// Ignored because of the rules of the network, with the finding.
    pub(super) rejected: BTreeMap<(Box<str>, Box<str>), Finding>,
    /// Ignored because an older endpoint of any network has the same interface, with the finding.
    pub(super) port_rejected: BTreeMap<(Box<str>, Box<str>), Finding>,
    /// Added since the last [`Members::resolve`], without conflicts.
    pub(super) added: Vec<(Box<str>, Box<str>)>,
    /// `rejected` must be recomputed.
    pub(super) dirty: bool,
}

impl Members {
    pub(super) fn accepted(&self) -> impl Iterator<Item = (&(Box<str>, Box<str>), &Versioned<EndpointRecord>)> {
        self.records.iter().filter(|(key, _)| self.accepts(key))
    }

    pub(super) fn accepts(&self, key: &(Box<str>, Box<str>)) -> bool {
        !self.rejected.contains_key(key) && !self.port_rejected.contains_key(key)
    }

    pub(super) fn insert(&mut self, key: (Box<str>, Box<str>), versioned: Versioned<EndpointRecord>) {
        self.conflicts += count(&mut self.names, key.0.clone());
        self.conflicts += count(&mut self.ips, versioned.record.ip);
        self.conflicts += count(&mut self.macs, versioned.record.mac);
        self.dirty |= self.conflicts != 0;
        if !self.dirty {
            self.added.push(key.clone());
        }
        self.records.insert(key, versioned);
    }

    pub(super) fn remove(&mut self, key: &(Box<str>, Box<str>)) -> Option<Versioned<EndpointRecord>> {
        let versioned = self.records.remove(key)?;
        self.dirty |= self.conflicts != 0 || !self.rejected.is_empty();
        self.conflicts -= discount(&mut self.names, &key.0);
        self.conflicts -= discount(&mut self.ips, &versioned.record.ip);
        self.conflicts -= discount(&mut self.macs, &versioned.record.mac);
        self.rejected.remove(key);
        Some(versioned)
    }

    pub(super) fn resolve(&mut self, network: NetworkStatus<'_>, hosts: &BTreeMap<String, Host>) {
        self.rejected = match network {
            NetworkStatus::Valid(network) => {
                let mut sorted: Vec<_> = self.records.iter().collect();
                sorted.sort_by_key(|(_, versioned)| versioned.revision);
                rejected(&sorted, network, hosts)
            }
            NetworkStatus::Removing => BTreeMap::new(),
            NetworkStatus::Invalid => self.records.keys().map(|key| (key.clone(), no_network())).collect(),
        };
    }

    /// [`Self::resolve`] for records without conflicts, independent of the others.
    pub(super) fn resolve_added(
        &mut self,
        added: Vec<(Box<str>, Box<str>)>,
        network: NetworkStatus<'_>,
        hosts: &BTreeMap<String, Host>,
    ) {
        for key in added {
            let Some(versioned) = self.records.get(&key) else { continue };
            match network {
                NetworkStatus::Valid(network) => self.rejected.extend(rejected(&[(&key, versioned)], network, hosts)),
                NetworkStatus::Removing => {}
                NetworkStatus::Invalid => drop(self.rejected.insert(key, no_network())),
            }
        }
    }
}

fn no_network() -> Finding {
    Finding::unnamed("the network does not exist or is invalid", "add the network, or remove the key")
}

type Records<'a> = [(&'a (Box<str>, Box<str>), &'a Versioned<EndpointRecord>)];

/// The invalid ones of these records, which are in the order of their creation, with the findings.
fn rejected(
    records: &Records<'_>,
    network: &NetworkSpec,
    hosts: &BTreeMap<String, Host>,
) -> BTreeMap<(Box<str>, Box<str>), Finding> {
    let mut rejected = BTreeMap::new();
    let (mut keys, mut endpoints) = (Vec::new(), Vec::new());
    for (key, versioned) in records {
        match endpoint(key, &versioned.record, network, hosts) {
            Ok(endpoint) => {
                keys.push(*key);
                endpoints.push(endpoint);
            }
            Err(finding) => drop(rejected.insert((*key).clone(), finding)),
        }
    }
    let used: BTreeSet<_> = endpoints.iter().map(|endpoint| endpoint.host).collect();
    let hosts = hosts.values().filter(|host| used.contains(&host.address)).cloned().collect();
    let parts = Parts { hosts, networks: vec![network.clone()], endpoints, fdb_size: Some(1 << 24), discover: None };
    for (part, finding) in reject(&parts) {
        if let PartRef::Endpoint(index) = part {
            rejected.insert(keys[index].clone(), finding);
        }
    }
    rejected
}

fn endpoint(
    (name, node): &(Box<str>, Box<str>),
    record: &EndpointRecord,
    network: &NetworkSpec,
    hosts: &BTreeMap<String, Host>,
) -> Result<Endpoint, Finding> {
    let no_node = || Finding::unnamed("the node does not exist or is invalid", "start its daemon, or remove the key");
    let host = hosts.get(&**node).ok_or_else(no_node)?;
    if record.vni != network.vni.get() {
        let problem = format!("vni {} differs from the network's vni {}", record.vni, network.vni);
        return Err(Finding::unnamed(problem, "remove the key"));
    }
    record.endpoint(name, host.address).map_err(|reason| Finding::unnamed(reason, "correct it"))
}

/// Increments a count; returns 1 if it becomes two.
fn count<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: K) -> usize {
    let count = counts.entry(key).or_default();
    *count += 1;
    usize::from(*count == 2)
}

/// Decrements a count; returns 1 if it becomes one.
fn discount<K, Q: std::hash::Hash + Eq + ?Sized>(counts: &mut HashMap<K, u32>, key: &Q) -> usize
where
    K: std::hash::Hash + Eq + std::borrow::Borrow<Q>,
{
    let Some(count) = counts.get_mut(key) else { return 0 };
    *count -= 1;
    let left = *count;
    if left == 0 {
        counts.remove(key);
    }
    usize::from(left == 1)
}
