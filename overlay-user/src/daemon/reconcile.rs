//! Makes the kernel's tables and the maps say what the model says.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{debug, warn};

use super::{Daemon, DaemonError, Scope, preflight::PreflightError};
use crate::{
    datapath::{AttachError, Hook, PinRoot},
    host::{self, ChangeErrors, Host, HostChange, HostError, HostPlan, Link, NextHop},
    model::{Attachment, NetworkView, Rx, View},
    plan::tables::{self, Facts, Hop, PortFact},
};

impl Daemon {
    /// Compares what should be with what is and makes the changes: what packets will be pointed to first, then the maps
    /// and the hooks, then what packets are no longer pointed to.
    ///
    /// `whole`: one failed change of the kernel's objects is an error and the maps are not touched. Otherwise it is
    /// logged, and everything that does not need it is done.
    pub(super) async fn reconcile(&mut self, scope: Scope, whole: bool) -> Result<(), DaemonError> {
        let underlay = underlay(&self.host, &self.view).await?;
        let mut plan = HostPlan::default();
        if scope == Scope::Everything {
            let underlay = host::Underlay { ifindex: underlay.index, mtu: underlay.mtu, addr: self.view.host.address };
            let desired = host::desired(&self.view, &underlay).map_err(PreflightError::from)?;
            let state = self.host.state(&desired, &made(&self.root)?).await?;
            plan = host::plan(&desired, &state);
            apply(&self.host, &self.root, &plan.before, whole).await?;
        }

        let (facts, vias) = self.facts(&underlay).await?;
        self.vias = vias;
        let desired = tables::desired(&self.view, &facts, &self.tables)?;
        for change in tables::plan(&desired, &self.tables) {
            debug!(?change, "map");
            self.datapath.maps.apply(&change)?;
            self.tables.apply(&change);
        }
        self.attach(underlay.index)?;

        // Nothing points there any more; a failure leaves something behind, it does not harm.
        apply(&self.host, &self.root, &plan.after, false).await?;
        Ok(())
    }

    async fn facts(&self, underlay: &Link) -> Result<(Facts, BTreeSet<std::net::Ipv4Addr>), DaemonError> {
        let mut facts = Facts {
            underlay_mac: underlay.mac,
            underlay_mtu: underlay.mtu,
            ports: ports(&self.view, &self.host.links().await?),
            next_hops: BTreeMap::new(),
        };
        let mut vias = BTreeSet::new();
        let addresses: BTreeSet<_> = self.view.networks.values().flat_map(NetworkView::vteps).collect();
        for address in addresses {
            let next_hop = self.host.next_hop(address).await?;
            let probe = match &next_hop {
                NextHop::Resolved { ifindex, src_mac, dst_mac, mtu, via, stale } => {
                    let hop = Hop { ifindex: *ifindex, src_mac: *src_mac, dst_mac: *dst_mac, mtu: *mtu };
                    facts.next_hops.insert(address, hop);
                    vias.insert(*via);
                    *stale
                }
                NextHop::Unresolved { reason, via, .. } => {
                    debug!("{address} is left to the kernel: {reason}");
                    vias.extend(via);
                    true
                }
            };
            // The kernel's own traffic would have neighbours confirmed; packets of the fast path do not.
            if probe && let Err(error) = self.host.probe_neighbour(&next_hop).await {
                debug!("cannot probe the next hop to {address}: {error}");
            }
        }
        Ok((facts, vias))
    }

    /// Attaches what is missing, and on the first call puts this version in the place of what an earlier daemon left.
    fn attach(&mut self, underlay: u32) -> Result<(), DaemonError> {
        let mut wanted: BTreeSet<Hook> = self.tables.ports.keys().map(|ifindex| Hook::Port(*ifindex)).collect();
        if !self.view.networks.is_empty() {
            wanted.insert(Hook::Nic(underlay));
            if self.view.host.rx == Rx::Xdp {
                wanted.insert(Hook::Xdp(underlay));
            }
        }
        for hook in self.datapath.attached()? {
            if !wanted.contains(&hook) {
                self.datapath.detach(hook)?;
            }
        }
        self.attached.retain(|hook| wanted.contains(hook));
        for hook in wanted {
            if self.attached.contains(&hook) {
                continue;
            }
            match self.datapath.attach(hook) {
                Ok(()) => {
                    self.attached.insert(hook);
                }
                // It vanished since the links were read; the event about that is on its way.
                Err(AttachError::Gone(ifindex)) => debug!("interface {ifindex} vanished"),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The device that has this host's address.
pub(super) async fn underlay(host: &Host, view: &View) -> Result<Link, DaemonError> {
    let found = host.link_by_address(view.host.address).await?;
    Ok(found.ok_or(PreflightError::NoAddress { address: view.host.address })?)
}

/// The host-side interfaces of the local endpoints that are ready: in their network's bridge.
fn ports(view: &View, links: &[Link]) -> BTreeMap<(overlay_common::Vni, String), PortFact> {
    let by_name: BTreeMap<&str, &Link> = links.iter().map(|link| (link.name.as_str(), link)).collect();
    let mut ports = BTreeMap::new();
    for (vni, network) in &view.networks {
        let bridge = by_name.get(host::bridge_name(*vni).as_str()).map(|link| link.index);
        for endpoint in &network.local {
            let name = match &endpoint.attachment {
                Attachment::Netns(_) => host::veth_name(&network.network.name, &endpoint.name),
                Attachment::Port(name) => name.clone(),
                Attachment::Unspecified => continue,
            };
            if let Some(link) = by_name.get(name.as_str())
                && link.master.is_some()
                && link.master == bridge
            {
                let fact = PortFact { ifindex: link.index, peer_netns: link.peer_netns };
                ports.insert((*vni, endpoint.name.clone()), fact);
            }
        }
    }
    ports
}

/// What of the kernel's objects this daemon, or one before it at the same pin root, has made.
pub(super) fn made(root: &PinRoot) -> Result<BTreeSet<String>, DaemonError> {
    let mut keys = BTreeSet::new();
    for kind in ["link", "port"] {
        keys.extend(root.marks(kind)?.into_iter().map(|name| format!("{kind}:{name}")));
    }
    Ok(keys)
}

/// Makes changes of the kernel's objects, and keeps the record of what is ours.
pub(super) async fn apply(
    host: &Host,
    root: &PinRoot,
    changes: &[HostChange],
    whole: bool,
) -> Result<(), DaemonError> {
    // First the note, then the object: a daemon killed in between leaves a note of nothing, not an object of nobody.
    for key in changes.iter().filter_map(HostChange::made) {
        if let Some((kind, name)) = key.split_once(':') {
            root.mark(kind, name)?;
        }
    }
    for change in changes {
        debug!("{change}");
    }
    let result = host.apply(changes).await;
    let failed = match &result {
        Err(HostError::Changes(errors)) => Some(errors),
        _ => None,
    };
    let done = |index| failed.is_none_or(|errors: &ChangeErrors| errors.succeeded(index));
    for (index, change) in changes.iter().enumerate() {
        let gone = if done(index) { change.unmade() } else { None };
        if let Some((kind, name)) = gone.as_deref().and_then(|key| key.split_once(':'))
            // A device that was made anew in the same plan is there.
            && !changes[index..].iter().any(|later| later.made().as_deref() == gone.as_deref())
        {
            root.unmark(kind, name)?;
        }
    }
    // What could not be made is nobody's.
    for (_, change) in changes.iter().enumerate().filter(|(index, _)| !done(*index)) {
        if let Some(("link", name)) = change.made().as_deref().and_then(|key| key.split_once(':'))
            && host.link_by_name(name).await?.is_none()
        {
            root.unmark("link", name)?;
        }
    }
    match result {
        Err(error @ HostError::Changes(_)) if !whole => {
            warn!("{error}");
            Ok(())
        }
        other => Ok(other?),
    }
}
