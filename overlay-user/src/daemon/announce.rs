//! Log lines about networks, endpoints and hosts: once per change, after a short delay for fallbacks.

use std::{collections::BTreeMap, time::Duration};

use overlay_common::Vni;
use tokio::time::Instant;
use tracing::info;

use super::wait_until;
use crate::model::{Cluster, HostNetworks, Network, View, discovery::NetnsRef, network::Admission};

/// A reason is logged after this time: a network that is removed passes through many states.
const SETTLE: Duration = Duration::from_secs(1);
/// Number of changes of a configuration that are named; more are only counted.
const NAMED: usize = 20;

/// [`Network::key`].
type Key = (Option<Vni>, Option<(NetnsRef, String)>);

/// State of a network in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Announced {
    label: String,
    /// Why it falls back to the kernel path; `None`: it is accelerated.
    reason: Option<String>,
}

impl Announced {
    fn of(network: &Network) -> Self {
        let reason = match &network.admission {
            Admission::Accelerated => None,
            Admission::Kernel(refusal) => Some(refusal.finding.reason()),
        };
        Self { label: network.label(), reason }
    }

    fn log(&self) {
        match &self.reason {
            None => info!("{} is accelerated", self.label),
            Some(reason) => info!("{} falls back to the kernel path: {reason}", self.label),
        }
    }
}

/// Logs the state of each network.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    announced: BTreeMap<Key, Announced>,
    /// States that are younger than [`SETTLE`], with their time.
    waiting: BTreeMap<Key, (Announced, Instant)>,
    started: bool,
}

impl Announcer {
    /// Takes the current state. The states of the first call are logged without a delay.
    pub(super) fn update(&mut self, networks: &HostNetworks) {
        let now = Instant::now();
        let mut current: BTreeMap<Key, Announced> =
            networks.list.iter().map(|network| (key(network), Announced::of(network))).collect();
        self.waiting.retain(|key, _| current.contains_key(key));
        self.announced.retain(|key, announced| {
            let Some(now) = current.get(key) else {
                // A managed network is removed with the last endpoint of this host.
                let change = if key.1.is_none() { "has no local endpoints any more" } else { "is gone" };
                info!("{} {change}", announced.label);
                return false;
            };
            // Docker may report the name later.
            announced.label.clone_from(&now.label);
            true
        });
        current.retain(|key, announced| self.announced.get(key) != Some(announced));
        self.waiting.retain(|key, (announced, _)| current.get(key).is_some_and(|now| now.reason == announced.reason));
        for (key, announced) in current {
            if announced.reason.is_none() || !self.started {
                announced.log();
                self.announced.insert(key, announced);
            } else {
                self.waiting.entry(key).or_insert((announced, now));
            }
        }
        self.started = true;
    }

    /// Ready when a state has to be logged.
    pub(super) async fn due(&self) {
        wait_until(self.waiting.values().map(|(_, since)| *since + SETTLE).min()).await;
    }

    /// Logs the states that are older than [`SETTLE`].
    pub(super) fn log_due(&mut self) {
        let now = Instant::now();
        let (due, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, (_, since))| *since + SETTLE <= now);
        self.waiting = waiting;
        let due: BTreeMap<_, _> = due;
        for (key, (announced, _)) in due {
            announced.log();
            self.announced.insert(key, announced);
        }
    }
}

fn key(network: &Network) -> Key {
    let (vni, external) = network.key();
    (vni, external.map(|(netns, device)| (netns.clone(), device.to_owned())))
}

/// Differences between two configurations on this host. Endpoints of other hosts are not named.
pub(super) fn differences(
    (old, old_view): (&Cluster, Option<&View>),
    (new, new_view): (&Cluster, Option<&View>),
) -> Vec<String> {
    let mut found = Vec::new();
    let hosts = |cluster: &Cluster| cluster.hosts.iter().map(|host| (host.name.clone(), host.clone())).collect();
    compare("host", &hosts(old), &hosts(new), &mut found);
    let networks = |cluster: &Cluster| cluster.networks.iter().map(|spec| (spec.name.clone(), spec.clone())).collect();
    compare("network", &networks(old), &networks(new), &mut found);
    let endpoints = |view: Option<&View>| {
        let networks = view.into_iter().flat_map(|view| view.networks().values());
        let endpoints = networks.flat_map(|network| {
            let name = &network.network().name;
            network.local().iter().map(move |endpoint| (format!("{name}/{}", endpoint.name), endpoint.clone()))
        });
        endpoints.collect()
    };
    compare("endpoint", &endpoints(old_view), &endpoints(new_view), &mut found);
    if old.fdb_size != new.fdb_size {
        found.push("fdb_size changed".to_owned());
    }
    if old.discover != new.discover {
        found.push("[discover] changed".to_owned());
    }
    if found.is_empty() {
        found.push("endpoints of other hosts changed".to_owned());
    }
    if found.len() > NAMED {
        let more = found.len() - NAMED;
        found.truncate(NAMED);
        found.push(format!("and {more} more"));
    }
    found
}

fn compare<T: PartialEq>(what: &str, old: &BTreeMap<String, T>, new: &BTreeMap<String, T>, found: &mut Vec<String>) {
    for (name, value) in new {
        match old.get(name) {
            None => found.push(format!("{what} {name} added")),
            Some(before) if before != value => found.push(format!("{what} {name} changed")),
            Some(_) => {}
        }
    }
    found.extend(old.keys().filter(|name| !new.contains_key(*name)).map(|name| format!("{what} {name} removed")));
}
