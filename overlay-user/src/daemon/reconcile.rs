//! Makes the kernel's tables and the maps say what the model says.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{debug, info, warn};

use super::{Daemon, DaemonError, Scope, preflight::PreflightError};
use crate::{
    datapath::{AttachError, Hook, PinRoot},
    host::{self, ChangeErrors, Host, HostChange, HostError, HostPlan, Link, NextHop, netns},
    model::{Attachment, Endpoint, NetworkView, Rx, View},
    plan::tables::{self, Facts, Hop, PortFact, TableChange, Tables},
};

impl Daemon {
    /// Compares what should be with what is and makes the changes: what packets will be pointed to first, then the maps
    /// and the hooks, then what packets are no longer pointed to.
    ///
    /// `whole`: the first change of the kernel's objects that fails is the end, and the maps are not touched. Otherwise
    /// everything that does not need it is done, and it is tried again later.
    ///
    /// # Errors
    /// The first failure.
    pub(super) async fn reconcile(&mut self, scope: Scope, whole: bool) -> Result<(), DaemonError> {
        let Some(underlay) = self.host.link_by_address(self.view.host.address).await? else {
            return self.without_underlay();
        };
        let mut failed = Ok(());
        let mut plan = HostPlan::default();
        if scope == Scope::Everything {
            let (present, absent) = present(&self.view, &self.host.links().await?);
            self.incomplete = absent;
            let underlay = host::Underlay { ifindex: underlay.index, mtu: underlay.mtu, addr: self.view.host.address };
            let desired = host::desired(&present, &underlay).map_err(PreflightError::from)?;
            let state = self.host.state(&desired, &made(&self.root)?).await?;
            plan = host::plan(&desired, &state);
            let made = apply(&self.host, &self.root, &plan.before).await;
            if whole {
                made?;
            } else {
                failed = failed.and(made);
            }
        }

        let (facts, vias) = self.facts(&underlay).await?;
        self.vias = vias;
        self.present = facts.ports.keys().cloned().collect();
        let desired = tables::desired(&self.view, &facts, &self.tables)?;
        self.change_maps(&desired)?;
        failed = failed.and(self.attach(underlay.index));
        if facts.xfrm && !whole {
            failed = failed.and(Err(PreflightError::Xfrm.into()));
        }
        // Nothing points there any more.
        failed = failed.and(apply(&self.host, &self.root, &plan.after).await);
        self.incomplete |= failed.is_err();
        failed
    }

    /// The underlay device is gone, or has lost its address. Packets must not be sent to an interface that is not
    /// there: everything is left to the kernel until the address is back.
    fn without_underlay(&mut self) -> Result<(), DaemonError> {
        let mut desired = self.tables.clone();
        for vtep in desired.vteps.values_mut() {
            vtep.resolved = 0;
        }
        self.change_maps(&desired)?;
        Err(PreflightError::NoAddress { address: self.view.host.address }.into())
    }

    fn change_maps(&mut self, desired: &Tables) -> Result<(), DaemonError> {
        for change in tables::plan(desired, &self.tables) {
            debug!(?change, "map");
            self.tell(&change);
            self.datapath.maps.apply(&change)?;
            self.tables.apply(&change);
        }
        Ok(())
    }

    /// Tells the operator which VTEPs leave the fast path and come back to it.
    fn tell(&self, change: &TableChange) {
        let TableChange::Vtep(index, vtep) = change else { return };
        let address = std::net::Ipv4Addr::from(vtep.outer.dst);
        let was = self.tables.vteps.get(index).is_some_and(|old| old.resolved != 0);
        match (was, vtep.resolved != 0) {
            (false, true) => info!("VTEP {address}: next hop resolved, packets take the fast path"),
            (true, false) => warn!("VTEP {address}: next hop lost, packets are left to the kernel"),
            _ => {}
        }
    }

    async fn facts(&self, underlay: &Link) -> Result<(Facts, BTreeSet<std::net::Ipv4Addr>), DaemonError> {
        let mut facts = Facts {
            underlay_mac: underlay.mac,
            underlay_mtu: underlay.mtu,
            ports: ports(&self.view, &self.host.links().await?),
            xfrm: host::has_xfrm_policies().map_err(HostError::Socket)?,
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
        let mut failed = Ok(());
        for hook in self.datapath.attached()? {
            if !wanted.contains(&hook) {
                failed = failed.and(self.datapath.detach(hook));
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
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        Ok(failed?)
    }
}

/// The part of a view that can be made now, and whether something is missing: a namespace that has no interface of ours
/// yet, or a port.
fn present(view: &View, links: &[Link]) -> (View, bool) {
    let has_link = |name: &str| links.iter().any(|link| link.name == name);
    let mut view = view.clone();
    let mut absent = false;
    for network in view.networks.values_mut() {
        let name = &network.network.name;
        network.local.retain(|endpoint| {
            let made_from = match &endpoint.attachment {
                // A path that leads to something else now is as good as none.
                Attachment::Netns(path) => matches!(netns::is_current(path), Ok(false)),
                Attachment::Port(_) => false,
                Attachment::Unspecified => true,
            };
            let present = made_from || interface(name, endpoint).is_some_and(|name| has_link(&name));
            absent |= !present;
            present
        });
    }
    (view, absent)
}

/// The name of an endpoint's host-side interface.
fn interface(network: &str, endpoint: &Endpoint) -> Option<String> {
    match &endpoint.attachment {
        Attachment::Netns(_) => Some(host::veth_name(network, &endpoint.name)),
        Attachment::Port(name) => Some(name.clone()),
        Attachment::Unspecified => None,
    }
}

/// The host-side interfaces of the local endpoints that are ready: in their network's bridge.
fn ports(view: &View, links: &[Link]) -> BTreeMap<(overlay_common::Vni, String), PortFact> {
    let by_name: BTreeMap<&str, &Link> = links.iter().map(|link| (link.name.as_str(), link)).collect();
    let mut ports = BTreeMap::new();
    for (vni, network) in &view.networks {
        let bridge = by_name.get(host::bridge_name(*vni).as_str()).map(|link| link.index);
        for endpoint in &network.local {
            let Some(name) = interface(&network.network.name, endpoint) else { continue };
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
///
/// # Errors
/// What was not made; everything that does not need it was.
pub(super) async fn apply(host: &Host, root: &PinRoot, changes: &[HostChange]) -> Result<(), DaemonError> {
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
    Ok(result?)
}
