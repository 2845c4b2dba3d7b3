//! What can be known to be wrong before anything is changed.

use std::{collections::BTreeSet, path::Path};

use overlay_common::VtepAddr;

use super::{
    Reach,
    error::{DaemonError, PreflightError},
    privileges,
};
use crate::{
    apply::{
        bpf::{self, AttachError},
        ledger::{AttachPoint, Owned, PinRoot},
        net::HostError,
    },
    kernel::{self, Link, LinkKind, Snapshot},
    model::{Attachment, Cluster, Endpoint, NetworkView, Rx, View},
    plan::host,
    sys::{ethtool, netns},
};

/// What becomes of an endpoint whose namespace or port is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// It refuses the configuration.
    Refused,
    /// It is left out until it is there.
    Tolerated,
}

/// What a configuration means on this host.
#[derive(Debug)]
pub(crate) struct Preflight {
    /// This host's part of the cluster.
    pub view: View,
    /// The underlay device.
    pub underlay: Link,
}

/// Checks a configuration against this host, which `snapshot` is of. Changes nothing.
///
/// # Errors
/// [`PreflightError`] inside [`DaemonError`], for the first thing that cannot work.
pub(crate) async fn check(
    snapshot: &Snapshot,
    cluster: &Cluster,
    pin_root: &Path,
    missing: &dyn Fn(&Endpoint) -> Missing,
) -> Result<Preflight, DaemonError> {
    let view = find_view(snapshot, cluster).await?;
    let address = view.host().address;
    let underlay = snapshot.link_by_address(address).await?.ok_or(PreflightError::NoAddress { address })?;
    if !underlay.ethernet {
        return Err(PreflightError::NotEthernet { device: underlay.name.clone() }.into());
    }
    let wanted = host::UnderlayDevice { ifindex: underlay.index, mtu: underlay.mtu, addr: view.host().address };
    let mut desired = host::desired(&view, &wanted).map_err(PreflightError::from)?;
    let links = snapshot.links().await?;
    for network in view.networks().values() {
        for endpoint in network.local() {
            check_attachment(&network.network().name, endpoint, links, missing(endpoint))?;
        }
    }
    let root = PinRoot::open(pin_root).ok();
    let hooks = root.as_ref().map_or_else(|| Ok(Vec::new()), PinRoot::hooks)?;
    if view.host().rx == Rx::Xdp && underlay.xdp && !hooks.contains(&AttachPoint::Xdp(underlay.index)) {
        return Err(PreflightError::Xdp(AttachError::XdpBusy { device: underlay.name.clone() }).into());
    }
    if view.host().rx == Rx::Xdp {
        xdp(underlay)?;
    }
    // What this pin root's daemon has made is not in the way.
    let made = match &root {
        Some(root) => root.owned()?,
        None => orphans(&desired, links),
    };
    // The ports were looked at above, by the endpoints' names.
    desired.ports.clear();
    snapshot.conflicts(&desired, &made).await.map_err(PreflightError::Conflict)?;
    Ok(Preflight { view, underlay: underlay.clone() })
}

/// Devices that are wanted, carry our mark and have lost the data path that they were made for: no program is at any port of
/// their bridge. That is what is left when the BPF filesystem was unmounted and the daemon has ended; what another
/// daemon serves, even one that has ended, has its programs.
fn orphans(desired: &host::DesiredHost, links: &[Link]) -> BTreeSet<Owned> {
    let mut orphans = BTreeSet::new();
    for vni in desired.bridges.keys() {
        let Some(bridge) = links.iter().find(|link| link.name == kernel::bridge_name(*vni)) else { continue };
        let ports = || links.iter().filter(|link| link.master == Some(bridge.index));
        if ports().all(|port| bpf::is_free(&port.name)) {
            orphans.extend(ports().chain([bridge]).filter(|link| link.is_ours()).map(Owned::link));
        }
    }
    orphans
}

/// [`check`], and what the daemon may do, for what has a part for this host: not for a configuration that is about
/// external networks alone.
pub(super) async fn view(
    snapshot: &Snapshot,
    cluster: &Cluster,
    pin_root: &Path,
    missing: &dyn Fn(&Endpoint) -> Missing,
) -> Result<Option<View>, DaemonError> {
    if cluster.is_discovery_only() {
        return Ok(None);
    }
    let view = find_view(snapshot, cluster).await?;
    let is_netns = |endpoint: &Endpoint| matches!(endpoint.attachment, Attachment::Netns(_));
    if view.networks().values().flat_map(NetworkView::local).any(is_netns) {
        privileges::check(Reach::Containers)?;
    }
    Ok(Some(check(snapshot, cluster, pin_root, missing).await?.view))
}

/// Checks that XDP may redirect from this underlay device.
pub(super) fn xdp(underlay: &Link) -> Result<(), PreflightError> {
    if underlay.kind == LinkKind::Veth && ethtool::tx_checksum(&underlay.name).unwrap_or(true) {
        return Err(PreflightError::XdpOnVeth { device: underlay.name.clone() });
    }
    Ok(())
}

async fn find_view(snapshot: &Snapshot, cluster: &Cluster) -> Result<View, DaemonError> {
    let own: BTreeSet<VtepAddr> =
        snapshot.addresses().await?.iter().map(|(_, address)| address.addr().into()).collect();
    let here: Vec<_> = cluster.hosts.iter().filter(|candidate| own.contains(&candidate.address)).collect();
    let list = |hosts: &[&crate::model::Host]| {
        hosts.iter().map(|host| format!("{} {}", host.name, host.address)).collect::<Vec<_>>().join(", ")
    };
    match here.as_slice() {
        [] => Err(PreflightError::NotAHost(list(&cluster.hosts.iter().collect::<Vec<_>>())).into()),
        [only] => cluster.view(only.address).ok_or_else(|| PreflightError::NotAHost(list(&here)).into()),
        several => Err(PreflightError::SeveralHosts(list(several)).into()),
    }
}

/// Checks that the network namespace at `path` can have an endpoint: that there is one, and that it is not this host's.
///
/// # Errors
/// [`PreflightError::NoNetns`] and [`PreflightError::Conflict`], for the endpoint `<network>/<name>`.
pub(crate) fn check_netns(endpoint: &str, path: &Path) -> Result<(), PreflightError> {
    let (endpoint, path) = (endpoint.to_owned(), path.to_owned());
    // One that may not be looked at is no missing one.
    if matches!(path.try_exists(), Ok(false)) {
        return Err(PreflightError::NoNetns { endpoint, path });
    }
    match netns::is_current(&path) {
        Ok(false) => Ok(()),
        Ok(true) => Err(PreflightError::Conflict(HostError::NetnsIsHost { endpoint, path })),
        Err(source) => Err(PreflightError::Conflict(HostError::EndpointNetns { endpoint, source })),
    }
}

fn check_attachment(
    network: &str,
    endpoint: &Endpoint,
    links: &[Link],
    missing: Missing,
) -> Result<(), PreflightError> {
    let name = || format!("{network}/{}", endpoint.name);
    match &endpoint.attachment {
        // It is gone, or its path has come to mean something else.
        Attachment::Netns(_) if missing == Missing::Tolerated => Ok(()),
        Attachment::Netns(path) => check_netns(&name(), path),
        Attachment::Port(port) => {
            let Some(link) = links.iter().find(|link| link.name == *port) else {
                return match missing {
                    Missing::Refused => Err(PreflightError::NoPort { endpoint: name(), port: port.clone() }),
                    Missing::Tolerated => Ok(()),
                };
            };
            let master = links.iter().find(|other| Some(other.index) == link.master);
            match master {
                // It may come from another of our networks.
                Some(master) if !master.is_ours() => {
                    Err(PreflightError::PortInUse { endpoint: name(), port: port.clone(), master: master.name.clone() })
                }
                _ => Ok(()),
            }
        }
        Attachment::Unspecified => Ok(()),
    }
}
