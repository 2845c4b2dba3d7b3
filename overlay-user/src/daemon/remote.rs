//! Endpoints of other hosts that come and go one by one: the tables' entries are changed, and nothing else is looked at.
//!
//! With a hundred thousand endpoints a whole [`Daemon::reconcile`] takes the better part of a second; a change of one
//! endpoint must not. What is wanted is found by the same functions, from views with nothing but what has changed in
//! them.

use std::collections::{BTreeMap, HashSet};

use overlay_common::{
    Vni,
    maps::{FdbEntry, FdbKey, SenderKey},
};

use tracing::warn;

use super::{Daemon, DaemonError, Pending, PreflightError, Scope};
use crate::{
    control::RemoteChange,
    host::{self, DesiredError, HostChanges, HostState, Phase},
    model::{Attachment, Cluster, Endpoint, Parts, RemoteEndpoint, RemoteEndpoints, View, Violations},
    plan::{
        change,
        tables::{Changes, Tables},
    },
};

/// Remote endpoints of some networks, before or after changes.
type Remote = BTreeMap<Vni, RemoteEndpoints>;

impl Daemon {
    /// Takes over changes of other hosts' endpoints.
    ///
    /// # Errors
    /// The first failure; what could not be done is tried again later.
    pub(super) async fn change_remote(&mut self, changes: Vec<RemoteChange>) -> Result<(), DaemonError> {
        if let Some(pending) = self.refused.take() {
            match follow(pending.cluster, &changes) {
                Ok(cluster) => self.refused = Some(Pending { cluster, ..pending }),
                Err(error) => warn!("the refused configuration is not tried again: {error}"),
            }
        }
        let Some(view) = &mut self.view else { return Ok(()) };
        let alone = self.settled && !self.facts.xfrm && self.mirrored.networks.is_empty();
        let (old, new, same_hosts) = replace(view, &changes);
        if !alone || !same_hosts || !are_known(&new, &self.tables) {
            self.settled = false;
            self.admit();
            return self.reconcile(Scope::Everything, false).await;
        }
        let result = self.change_entries(&old, &new).await;
        self.incomplete |= result.is_err();
        result
    }

    /// The same order as in [`Daemon::reconcile`]: what packets will be pointed to, the maps, what they no longer are.
    async fn change_entries(&mut self, old: &Remote, new: &Remote) -> Result<(), DaemonError> {
        let Some(view) = &self.view else { return Ok(()) };
        let underlay = host::UnderlayDevice {
            ifindex: self.facts.underlay_ifindex,
            mtu: self.facts.underlay_mtu,
            addr: view.host().address,
        };
        let of = |remote| entries(view, remote, &underlay).map_err(PreflightError::from);
        let plan = HostChanges::between(&of(old)?, &of(new)?);
        let mut snapshot = self.host.snapshot();
        let made = self.host.apply(&plan, Phase::Make, &self.root, &mut snapshot).await.map_err(DaemonError::from);
        let written = self.change_maps(&map_changes(old, new, &self.tables));
        let removed = self.host.apply(&plan, Phase::Remove, &self.root, &mut snapshot).await.map_err(DaemonError::from);
        made.and(written).and(removed)
    }
}

/// The kernel's entries for these endpoints. The devices are there, and the hosts' head-end replication too.
fn entries(view: &View, remote: &Remote, underlay: &host::UnderlayDevice) -> Result<HostState, DesiredError> {
    let HostState { fdb, bridge_fdb, neighbours, .. } = host::desired(&view.with_remote(remote), underlay)?;
    Ok(HostState { fdb, bridge_fdb, neighbours, ..HostState::default() })
}

/// The maps' entries for these endpoints, whose hosts are known in their networks.
fn map_changes(old: &Remote, new: &Remote, tables: &Tables) -> Changes {
    let key = |(vni, endpoint): (&Vni, &RemoteEndpoint)| FdbKey::new(vni.get(), endpoint.mac);
    let written = each(new).filter_map(|(vni, endpoint)| {
        let sender = tables.senders.get(&SenderKey { vni: vni.get(), addr: endpoint.host.octets() })?;
        Some((key((vni, endpoint)), FdbEntry::remote_with_ip(sender.vtep, endpoint.ip.octets())))
    });
    let written: BTreeMap<FdbKey, FdbEntry> = written.collect();
    let known = written.keys().copied().chain(each(old).map(key));
    let known = known.filter_map(|key| Some((key, *tables.fdb.get(&key)?))).collect();
    Changes { fdb: change::between(&known, &written), ..Changes::default() }
}

/// Whether all hosts of these endpoints are in their networks already. One that is new, like one that is there no longer,
/// is more than entries.
fn are_known(remote: &Remote, tables: &Tables) -> bool {
    each(remote)
        .all(|(vni, endpoint)| tables.senders.contains_key(&SenderKey { vni: vni.get(), addr: endpoint.host.octets() }))
}

/// Puts changes into a configuration that is to be tried again.
fn follow(cluster: Cluster, changes: &[RemoteChange]) -> Result<Cluster, Violations> {
    let mut parts = Parts::from(cluster);
    let changed: HashSet<(Vni, &str)> = changes.iter().map(|change| (change.vni, change.name.as_str())).collect();
    parts.endpoints.retain(|endpoint| !changed.contains(&(endpoint.vni, endpoint.name.as_str())));
    parts.endpoints.extend(changes.iter().filter_map(|RemoteChange { vni, name, endpoint }| {
        let RemoteEndpoint { ip, mac, host } = (*endpoint)?;
        Some(Endpoint { name: name.clone(), vni: *vni, ip, mac, host, attachment: Attachment::Unspecified })
    }));
    Cluster::new(parts)
}

fn each(remote: &Remote) -> impl Iterator<Item = (&Vni, &RemoteEndpoint)> {
    remote.iter().flat_map(|(vni, endpoints)| endpoints.iter().map(move |endpoint| (vni, endpoint)))
}

/// Puts changes into a view. Returns the endpoints that changed as they were and as they are, and whether each network
/// still has all of the hosts that it had.
fn replace(view: &mut View, changes: &[RemoteChange]) -> (Remote, Remote, bool) {
    let (mut old, mut new) = (Remote::new(), Remote::new());
    // An endpoint that has moved may come before it goes: names are emptied first.
    for RemoteChange { vni, name, .. } in changes {
        if let Some(gone) = view.remove_remote(*vni, name) {
            old.entry(*vni).or_default().insert(name, gone);
        }
    }
    for RemoteChange { vni, name, endpoint } in changes {
        if let Some(endpoint) = endpoint
            && view.insert_remote(*vni, name, *endpoint)
        {
            new.entry(*vni).or_default().insert(name, *endpoint);
        }
    }
    let still_there = |vni, host| view.networks().get(vni).is_some_and(|network| network.remote().has_host(host));
    let same_hosts = old.iter().all(|(vni, gone)| gone.hosts().all(|host| still_there(vni, host)));
    (old, new, same_hosts)
}

#[cfg(test)]
#[path = "remote_tests.rs"]
mod tests;
