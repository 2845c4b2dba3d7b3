//! The endpoints of one network, and which of them count.

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

/// A record and the revision that made its key.
#[derive(Clone, Debug)]
pub(super) struct Versioned<T> {
    pub(super) revision: i64,
    pub(super) record: T,
}

/// The network that endpoints are of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Of<'a> {
    Valid(&'a NetworkSpec),
    /// It is being removed, and its endpoints with it.
    Leaving,
    /// There is none, or none that is valid.
    Invalid,
}

/// The endpoints of one network's name, whether there is such a network or not.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// By name and node: so that they come out sorted.
    pub(super) records: BTreeMap<(Box<str>, Box<str>), Versioned<EndpointRecord>>,
    /// How many have what only one can have.
    names: HashMap<Box<str>, u32>,
    ips: HashMap<Ipv4Addr, u32>,
    macs: HashMap<MacAddr, u32>,
    /// How many of these counts are above one.
    clashes: usize,
    /// Left out because of others of the same network, and why.
    pub(super) rejected: BTreeMap<(Box<str>, Box<str>), Finding>,
    /// Left out because an older endpoint, of any network, has the same interface, and why.
    pub(super) outdone: BTreeMap<(Box<str>, Box<str>), Finding>,
    /// Came since the last [`Members::resolve`] and clash with none.
    pub(super) fresh: Vec<(Box<str>, Box<str>)>,
    /// `rejected` is to be found anew.
    pub(super) dirty: bool,
}

impl Members {
    pub(super) fn accepted(&self) -> impl Iterator<Item = (&(Box<str>, Box<str>), &Versioned<EndpointRecord>)> {
        self.records.iter().filter(|(key, _)| self.accepts(key))
    }

    pub(super) fn accepts(&self, key: &(Box<str>, Box<str>)) -> bool {
        !self.rejected.contains_key(key) && !self.outdone.contains_key(key)
    }

    pub(super) fn insert(&mut self, key: (Box<str>, Box<str>), made: Versioned<EndpointRecord>) {
        self.clashes += count(&mut self.names, key.0.clone());
        self.clashes += count(&mut self.ips, made.record.ip);
        self.clashes += count(&mut self.macs, made.record.mac);
        self.dirty |= self.clashes != 0;
        if !self.dirty {
            self.fresh.push(key.clone());
        }
        self.records.insert(key, made);
    }

    pub(super) fn remove(&mut self, key: &(Box<str>, Box<str>)) -> Option<Versioned<EndpointRecord>> {
        let made = self.records.remove(key)?;
        self.dirty |= self.clashes != 0 || !self.rejected.is_empty();
        self.clashes -= discount(&mut self.names, &key.0);
        self.clashes -= discount(&mut self.ips, &made.record.ip);
        self.clashes -= discount(&mut self.macs, &made.record.mac);
        self.rejected.remove(key);
        Some(made)
    }

    pub(super) fn resolve(&mut self, network: Of<'_>, hosts: &BTreeMap<String, Host>) {
        self.rejected = match network {
            Of::Valid(network) => {
                let mut sorted: Vec<_> = self.records.iter().collect();
                sorted.sort_by_key(|(_, made)| made.revision);
                rejected(&sorted, network, hosts)
            }
            Of::Leaving => BTreeMap::new(),
            Of::Invalid => self.records.keys().map(|key| (key.clone(), no_network())).collect(),
        };
    }

    /// As [`Self::resolve`], for records that clash with none: the others need not be looked at.
    pub(super) fn resolve_fresh(
        &mut self,
        fresh: Vec<(Box<str>, Box<str>)>,
        network: Of<'_>,
        hosts: &BTreeMap<String, Host>,
    ) {
        for key in fresh {
            let Some(made) = self.records.get(&key) else { continue };
            match network {
                Of::Valid(network) => self.rejected.extend(rejected(&[(&key, made)], network, hosts)),
                Of::Leaving => {}
                Of::Invalid => drop(self.rejected.insert(key, no_network())),
            }
        }
    }
}

fn no_network() -> Finding {
    Finding::unnamed("there is no valid network of this name", "add the network, or remove the key")
}

type Records<'a> = [(&'a (Box<str>, Box<str>), &'a Versioned<EndpointRecord>)];

/// Which of these must go, in the order in which they were made, and why.
fn rejected(
    records: &Records<'_>,
    network: &NetworkSpec,
    hosts: &BTreeMap<String, Host>,
) -> BTreeMap<(Box<str>, Box<str>), Finding> {
    let mut rejected = BTreeMap::new();
    let (mut keys, mut endpoints) = (Vec::new(), Vec::new());
    for (key, made) in records {
        match endpoint(key, &made.record, network, hosts) {
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
    let no_node = || Finding::unnamed("there is no valid node of this name", "start the node, or remove the key");
    let host = hosts.get(&**node).ok_or_else(no_node)?;
    if record.vni != network.vni.get() {
        let problem = format!("vni {} is not the network's, {}", record.vni, network.vni);
        return Err(Finding::unnamed(problem, "remove the key"));
    }
    record.endpoint(name, host.address).map_err(|reason| Finding::unnamed(reason, "correct it"))
}

/// Counts one more: 1 when that makes two.
fn count<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: K) -> usize {
    let count = counts.entry(key).or_default();
    *count += 1;
    usize::from(*count == 2)
}

/// Counts one less: 1 when that leaves one.
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
