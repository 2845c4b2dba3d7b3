//! Plans for single changes of remote endpoints: only the entries that change.
//!
//! With a hundred thousand endpoints a full comparison takes most of a second, too long for a change of one endpoint.
//! The desired entries come from the same functions as for a full plan, called with views that contain only the
//! changes.

use std::collections::{BTreeMap, HashSet};

use overlay_common::{
    Vni,
    maps::{FdbEntry, FdbKey},
};

use super::{
    change,
    desired::peer_key,
    host::{DesiredError, HostChanges, HostState, UnderlayDevice},
    tables::{Changes, Tables},
};
use crate::{
    model::RemoteChange,
    model::{Attachment, Cluster, Endpoint, Findings, Located, Parts, RemoteEndpoint, RemoteEndpoints, View},
    plan::host,
};

/// Remote endpoints of some networks, before or after changes.
type Remote = BTreeMap<Vni, RemoteEndpoints>;

/// The changed remote endpoints of a view.
pub(crate) struct Delta {
    old: Remote,
    new: Remote,
    /// Each network still has all its previous hosts.
    has_all_hosts: bool,
}

/// Changes of the kernel's tables and of the maps.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Entries of the kernel's tables.
    pub objects: HostChanges,
    /// Entries of the maps.
    pub maps: Changes,
}

impl Delta {
    /// Applies changes to a view.
    #[must_use]
    pub(crate) fn apply(view: &mut View, changes: &[RemoteChange]) -> Self {
        let (old, new, has_all_hosts) = apply_to_view(view, changes);
        Self { old, new, has_all_hosts }
    }

    /// The changes from the tables of the previous view to those of the changed view. `None`: a network has gained or
    /// lost a host, which changes more than these entries.
    ///
    /// # Errors
    /// [`DesiredError`].
    pub(crate) fn plan(
        &self,
        view: &View,
        underlay: &UnderlayDevice,
        tables: &Tables,
    ) -> Result<Option<Plan>, DesiredError> {
        if !self.has_all_hosts || !have_peers(&self.new, tables) {
            return Ok(None);
        }
        let of = |remote| entries(view, remote, underlay);
        let objects = HostChanges::between(&of(&self.old)?, &of(&self.new)?);
        Ok(Some(Plan { objects, maps: map_changes(&self.old, &self.new, tables) }))
    }
}

/// The kernel's entries for these endpoints. The devices and the flood entries of the hosts exist.
fn entries(view: &View, remote: &Remote, underlay: &UnderlayDevice) -> Result<HostState, DesiredError> {
    let HostState { fdb, bridge_fdb, neighbours, .. } = host::desired(&view.with_remote(remote), underlay)?;
    Ok(HostState { fdb, bridge_fdb, neighbours, ..HostState::default() })
}

/// The changes of map entries for these endpoints, whose hosts are peers of their networks.
fn map_changes(old: &Remote, new: &Remote, tables: &Tables) -> Changes {
    let key = |(vni, endpoint): (&Vni, &RemoteEndpoint)| FdbKey::new(vni.get(), endpoint.mac);
    let written = endpoints_of(new).filter_map(|(vni, endpoint)| {
        let peer = tables.peers.get(&peer_key(*vni, endpoint.host))?;
        Some((key((vni, endpoint)), FdbEntry::remote_with_ip(peer.vtep, endpoint.ip.octets())))
    });
    let written: BTreeMap<FdbKey, FdbEntry> = written.collect();
    let known = written.keys().copied().chain(endpoints_of(old).map(key));
    let known = known.filter_map(|key| Some((key, *tables.fdb.get(&key)?))).collect();
    Changes { fdb: change::between(&known, &written), ..Changes::default() }
}

/// Whether all hosts of these endpoints are peers of their networks.
fn have_peers(remote: &Remote, tables: &Tables) -> bool {
    endpoints_of(remote).all(|(vni, endpoint)| tables.peers.contains_key(&peer_key(*vni, endpoint.host)))
}

/// Applies changes to a pending configuration.
///
/// # Errors
/// The violated rules.
pub(crate) fn apply_to_cluster(cluster: Cluster, changes: &[RemoteChange]) -> Result<Cluster, Findings<Located>> {
    let mut parts = Parts::from(cluster);
    let changed: HashSet<(Vni, &str)> = changes.iter().map(|change| (change.vni, change.name.as_str())).collect();
    parts.endpoints.retain(|endpoint| !changed.contains(&(endpoint.vni, endpoint.name.as_str())));
    parts.endpoints.extend(changes.iter().filter_map(|RemoteChange { vni, name, endpoint }| {
        let RemoteEndpoint { ip, mac, host } = (*endpoint)?;
        Some(Endpoint { name: name.clone(), vni: *vni, ip, mac, host, attachment: Attachment::Unspecified })
    }));
    Cluster::new(parts)
}

fn endpoints_of(remote: &Remote) -> impl Iterator<Item = (&Vni, &RemoteEndpoint)> {
    remote.iter().flat_map(|(vni, endpoints)| endpoints.iter().map(move |endpoint| (vni, endpoint)))
}

/// Applies changes to a view. Returns the previous and the new state of the changed endpoints, and whether each network
/// still has all its previous hosts.
fn apply_to_view(view: &mut View, changes: &[RemoteChange]) -> (Remote, Remote, bool) {
    let (mut old, mut new) = (Remote::new(), Remote::new());
    // The addition of a moved endpoint may precede its removal, so all names are removed first.
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
    let has_host = |vni, host| view.networks().get(vni).is_some_and(|network| network.remote().has_host(host));
    let has_all_hosts = old.iter().all(|(vni, gone)| gone.hosts().all(|host| has_host(vni, host)));
    (old, new, has_all_hosts)
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
