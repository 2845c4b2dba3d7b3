//! Checks of a configuration against this host before anything is changed.

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

/// Handling of an endpoint whose namespace or port is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The configuration is rejected.
    Refused,
    /// The endpoint is skipped until its namespace or port exists.
    Tolerated,
}

/// A configuration that fits this host.
#[derive(Debug)]
pub(crate) struct Preflight {
    /// This host's part of the cluster.
    pub view: View,
    /// The underlay device.
    pub underlay: Link,
}

/// Checks a configuration against this host, read by `snapshot`. Changes nothing.
///
/// # Errors
/// [`PreflightError`] inside [`DaemonError`], for the first problem.
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
    // Objects of this pin root's daemon are no conflict.
    let owned = match &root {
        Some(root) => root.owned()?,
        None => orphans(&desired, links),
    };
    // The ports are checked above, by the endpoints' names.
    desired.ports.clear();
    snapshot.conflicts(&desired, &owned).await.map_err(PreflightError::Conflict)?;
    Ok(Preflight { view, underlay: underlay.clone() })
}

/// Desired devices with the owner mark whose data path is lost: no port of their bridge has a program. They remain when
/// the BPF filesystem was unmounted and the daemon has stopped. Devices of another daemon, even a stopped one, have its
/// programs.
fn orphans(desired: &host::DesiredHost, links: &[Link]) -> BTreeSet<Owned> {
    let mut orphans = BTreeSet::new();
    for vni in desired.bridges.keys() {
        let Some(bridge) = links.iter().find(|link| link.name == kernel::bridge_name(*vni)) else { continue };
        let ports = || links.iter().filter(|link| link.master == Some(bridge.index));
        if ports().all(|port| bpf::is_free(&port.name)) {
            orphans.extend(ports().chain([bridge]).filter(|link| link.is_owned()).map(Owned::link));
        }
    }
    orphans
}

/// [`check`], and a check of the capabilities; `None` for a configuration with `[discover]` alone.
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

/// Checks that XDP can redirect packets from this underlay device.
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

/// Checks that the network namespace at `path` exists and is not this host's.
///
/// # Errors
/// [`PreflightError::NoNetns`] and [`PreflightError::Conflict`], for the endpoint `<network>/<name>`.
pub(crate) fn check_netns(endpoint: &str, path: &Path) -> Result<(), PreflightError> {
    let (endpoint, path) = (endpoint.to_owned(), path.to_owned());
    // A path without access permission is not missing.
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
        // The namespace is gone, or its path leads to another one.
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
                // The port may be moved from another managed network.
                Some(master) if !master.is_owned() => {
                    Err(PreflightError::PortInUse { endpoint: name(), port: port.clone(), master: master.name.clone() })
                }
                _ => Ok(()),
            }
        }
        Attachment::Unspecified => Ok(()),
    }
}
