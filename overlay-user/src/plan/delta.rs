//! Endpoints of other hosts that come and go one by one: what changes of the tables' entries, and nothing else.
//!
//! With a hundred thousand endpoints a comparison of everything takes the better part of a second; a change of one
//! endpoint must not. What is wanted is found by the same functions, from views with nothing but what has changed in
//! them.

use std::collections::{BTreeMap, HashSet};

use overlay_common::{
    Vni,
    maps::{FdbEntry, FdbKey},
};

use super::{
    change,
    host::{DesiredError, HostChanges, HostState, UnderlayDevice},
    tables::{Changes, Tables},
    wanted::peer_key,
};
use crate::{
    model::RemoteChange,
    model::{Attachment, Cluster, Endpoint, Findings, Located, Parts, RemoteEndpoint, RemoteEndpoints, View},
    plan::host,
};

/// Remote endpoints of some networks, before or after changes.
type Remote = BTreeMap<Vni, RemoteEndpoints>;

/// What has changed in a view.
pub(crate) struct Delta {
    old: Remote,
    new: Remote,
    /// Each network still has all of the hosts that it had.
    same_hosts: bool,
}

/// What to change in the kernel's tables and the maps.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Entries of the kernel's tables.
    pub objects: HostChanges,
    /// Entries of the maps.
    pub maps: Changes,
}

impl Delta {
    /// Puts changes into a view.
    #[must_use]
    pub(crate) fn take(view: &mut View, changes: &[RemoteChange]) -> Self {
        let (old, new, same_hosts) = replace(view, changes);
        Self { old, new, same_hosts }
    }

    /// What makes the tables of the changed view from those of the view before. `None`: a host is new in a network, or is
    /// there no longer, and that is more than entries.
    ///
    /// # Errors
    /// [`DesiredError`].
    pub(crate) fn plan(
        &self,
        view: &View,
        underlay: &UnderlayDevice,
        tables: &Tables,
    ) -> Result<Option<Plan>, DesiredError> {
        if !self.same_hosts || !are_known(&self.new, tables) {
            return Ok(None);
        }
        let of = |remote| entries(view, remote, underlay);
        let objects = HostChanges::between(&of(&self.old)?, &of(&self.new)?);
        Ok(Some(Plan { objects, maps: map_changes(&self.old, &self.new, tables) }))
    }
}

/// The kernel's entries for these endpoints. The devices are there, and the hosts' head-end replication too.
fn entries(view: &View, remote: &Remote, underlay: &UnderlayDevice) -> Result<HostState, DesiredError> {
    let HostState { fdb, bridge_fdb, neighbours, .. } = host::desired(&view.with_remote(remote), underlay)?;
    Ok(HostState { fdb, bridge_fdb, neighbours, ..HostState::default() })
}

/// The maps' entries for these endpoints, whose hosts are known in their networks.
fn map_changes(old: &Remote, new: &Remote, tables: &Tables) -> Changes {
    let key = |(vni, endpoint): (&Vni, &RemoteEndpoint)| FdbKey::new(vni.get(), endpoint.mac);
    let written = each(new).filter_map(|(vni, endpoint)| {
        let peer = tables.peers.get(&peer_key(*vni, endpoint.host))?;
        Some((key((vni, endpoint)), FdbEntry::remote_with_ip(peer.vtep, endpoint.ip.octets())))
    });
    let written: BTreeMap<FdbKey, FdbEntry> = written.collect();
    let known = written.keys().copied().chain(each(old).map(key));
    let known = known.filter_map(|key| Some((key, *tables.fdb.get(&key)?))).collect();
    Changes { fdb: change::between(&known, &written), ..Changes::default() }
}

/// Whether all hosts of these endpoints are in their networks already. One that is new, like one that is there no longer,
/// is more than entries.
fn are_known(remote: &Remote, tables: &Tables) -> bool {
    each(remote).all(|(vni, endpoint)| tables.peers.contains_key(&peer_key(*vni, endpoint.host)))
}

/// Puts changes into a configuration that waits to be tried again.
///
/// # Errors
/// The rules that it breaks then.
pub(crate) fn follow(cluster: Cluster, changes: &[RemoteChange]) -> Result<Cluster, Findings<Located>> {
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
#[path = "delta_tests.rs"]
mod tests;
