//! Makes the kernel's tables and the maps say what the model says.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
};

use overlay_common::Vni;
use tracing::{Instrument as _, Span, debug, info, trace, trace_span, warn};

use super::{
    Daemon, DaemonError, Scope,
    preflight::{self, PreflightError},
};
use crate::{
    datapath::{AttachPoint, PinRoot},
    fault,
    host::{self, DesiredHost, HostChanges, HostError, Ledger, Link, NextHop, Phase, Snapshot, netns},
    model::{Attachment, Endpoint, Rx, View},
    plan::{
        mirror::accelerated,
        tables::{self, Changes, Facts, Hop, PortFact},
    },
};

/// Entries of the FDB from which on comparing everything takes tens of MB for a moment.
const MANY: usize = 10_000;

impl Daemon {
    /// Compares what should be with what is and makes the changes: what packets will be pointed to first, then the maps
    /// and the hooks, then what packets are no longer pointed to.
    ///
    /// `whole`: the first change of the kernel's objects that fails is the end, and the maps are not touched. Otherwise
    /// everything that does not need it is done, and it is tried again later.
    ///
    /// # Errors
    /// The first failure; one that [`DaemonError::is_carried`] only when there is no other.
    pub(super) async fn reconcile(&mut self, scope: Scope, whole: bool) -> Result<(), DaemonError> {
        let mut snapshot = self.host.snapshot();
        self.reconcile_from(&mut snapshot, scope, whole).instrument(round()).await
    }

    /// [`Self::reconcile`], with what `snapshot` has read already and reads now.
    pub(super) async fn reconcile_from(
        &mut self,
        snapshot: &mut Snapshot,
        scope: Scope,
        whole: bool,
    ) -> Result<(), DaemonError> {
        let result = self.reconcile_once(snapshot, scope, whole).await;
        // Whatever it was that failed, not everything was compared.
        self.incomplete |= result.is_err();
        result
    }

    async fn reconcile_once(&mut self, snapshot: &mut Snapshot, scope: Scope, whole: bool) -> Result<(), DaemonError> {
        let underlay = match self.address() {
            Some(address) => match snapshot.link_by_address(address).await?.cloned() {
                Some(underlay) if underlay.ethernet => Some((address, underlay)),
                Some(Link { name: device, .. }) => return self.without(PreflightError::NotEthernet { device }),
                None => return self.without(PreflightError::NoAddress { address }),
            },
            None => None,
        };
        // What the fast path lacks is on its own: the kernel carries it.
        let (mut failed, mut written) = (Ok(()), Ok(()));
        let mut plan = HostChanges::default();
        if scope == Scope::Everything {
            self.incomplete = false;
            let planned = self.host_plan(underlay.as_ref(), snapshot).await;
            // They are large where there are many endpoints, and not looked at again.
            snapshot.forget_entries();
            let made = match planned {
                Ok(found) => {
                    plan = found;
                    let made = self.host.apply(&plan, Phase::Make, &self.root, snapshot).await;
                    made.map_err(DaemonError::from)
                }
                Err(error) => Err(error),
            };
            if whole {
                made?;
            } else {
                failed = failed.and(made);
            }
        }

        match self.make_shims(snapshot.links().await?).await {
            // A foreign network that cannot be served is no reason to refuse a configuration.
            Err(error) if whole => warn!("a foreign network is left to the kernel: {error}"),
            result => failed = failed.and(result),
        }
        let underlay = underlay.as_ref().map(|(_, underlay)| underlay);
        let (facts, vias) = self.look(underlay, snapshot).await?;
        self.vias = vias;
        // Looking again mostly finds nothing new.
        if scope == Scope::Everything || !self.settled || facts != self.facts {
            self.facts = facts;
            self.settled = false;
            written = self.write_maps();
            self.settled = written.is_ok();
            if whole && let Err(DaemonError::Table(full)) = written {
                return Err(full.into());
            }
        }
        // What could not be written is missing there, and so the kernel's.
        self.heartbeat.trusted = true;
        fault::point("filled");
        let attached = self.attach(underlay);
        if attached.as_ref().is_err_and(DaemonError::is_carried) {
            written = written.and(attached);
        } else {
            failed = failed.and(attached);
        }
        if self.facts.xfrm && !whole {
            failed = failed.and(Err(PreflightError::Xfrm.into()));
        }
        // Nothing points there any more.
        let removed = self.host.apply(&plan, Phase::Remove, &self.root, snapshot).await;
        failed = failed.and(removed.map_err(DaemonError::from));
        failed = failed.and(self.remove_shims().await);
        failed = failed.and(written);
        drop(plan);
        if self.tables.fdb.len() > MANY {
            give_memory_back();
        }
        failed
    }

    /// The kernel's objects that should be there now, and whether something that they need is missing.
    pub(super) fn wanted_objects(
        &self,
        underlay: Option<&(Ipv4Addr, Link)>,
        links: &[Link],
    ) -> Result<(DesiredHost, bool), DaemonError> {
        let (Some(view), Some((addr, underlay))) = (&self.view, underlay) else {
            return Ok((DesiredHost::default(), false));
        };
        let (present, absent) = present(view, links);
        let underlay = host::UnderlayDevice { ifindex: underlay.index, mtu: underlay.mtu, addr: *addr };
        Ok((host::desired(&present, &underlay).map_err(PreflightError::from)?, absent))
    }

    /// What to change of the kernel's objects.
    async fn host_plan(
        &mut self,
        underlay: Option<&(Ipv4Addr, Link)>,
        snapshot: &Snapshot,
    ) -> Result<HostChanges, DaemonError> {
        let (desired, absent) = self.wanted_objects(underlay, snapshot.links().await?)?;
        self.incomplete = absent;
        let made = made(&self.root)?;
        let state = snapshot.state(&desired, &made).await?;
        // What is wanted, there and marked as ours is ours, also where the record was lost.
        let bridges = state.bridges.keys().map(|vni| host::bridge_name(*vni));
        let vxlans = state.vxlans.keys().map(|vni| host::vxlan_name(*vni));
        for name in bridges.chain(vxlans).chain(state.veths.keys().cloned()) {
            if !made.contains(&host::link_key(&name)) {
                self.root.mark("link", &name)?;
            }
        }
        Ok(HostChanges::between(&state, &desired))
    }

    /// Makes the maps say what the view, the foreign networks and the facts ask for. Where there is no room for all of
    /// it, what is not so any more is taken out at least.
    fn write_maps(&mut self) -> Result<(), DaemonError> {
        self.doubtful = false;
        match tables::desired(self.view.as_ref(), &self.mirrored, &self.facts, &self.tables) {
            Ok(desired) => self.change_maps(&Changes::between(&self.tables, &desired)),
            Err(full) => self.prune().and(Err(full.into())),
        }
    }

    /// The address of this host, from which outer packets are sent.
    pub(super) fn address(&self) -> Option<Ipv4Addr> {
        self.view.as_ref().map(|view| view.host().address).or(self.mirrored.address)
    }

    pub(super) fn rx(&self) -> Rx {
        self.view.as_ref().map_or(self.rx, |view| view.host().rx)
    }

    /// The underlay device is gone, or has lost its address. Packets must not be sent to an interface that is not
    /// there: everything is left to the kernel until the address is back.
    fn without(&mut self, underlay: PreflightError) -> Result<(), DaemonError> {
        self.settled = false;
        let mut desired = self.tables.clone();
        for vtep in desired.vteps.values_mut() {
            vtep.resolved = 0;
        }
        self.change_maps(&Changes::between(&self.tables, &desired))?;
        Err(underlay.into())
    }

    /// Takes out of the maps what the foreign networks no longer say.
    ///
    /// # Errors
    /// The first failure; the other entries are removed.
    pub(super) fn prune(&mut self) -> Result<(), DaemonError> {
        self.settled = false;
        self.facts.shims = self.sandboxes.facts(&self.mirrored);
        let desired = tables::still_true(self.view.as_ref(), &self.mirrored, &self.facts, &self.tables);
        self.change_maps(&Changes::pruning(&self.tables, &desired))
    }

    /// Makes all changes that can be made.
    ///
    /// # Errors
    /// The first failure.
    pub(super) fn change_maps(&mut self, changes: &Changes) -> Result<(), DaemonError> {
        self.tell(changes);
        let sandboxes = &self.sandboxes;
        let outcome = self.datapath.maps.apply(changes, &mut self.tables, &|site| sandboxes.open(site));
        self.doubtful |= outcome.is_stale;
        outcome.failed.into_iter().next().map_or(Ok(()), |error| Err(error.into()))
    }

    /// Tells the operator which VTEPs leave the fast path and come back to it.
    fn tell(&self, changes: &Changes) {
        for change in &changes.vteps {
            let Some(vtep) = change.new else { continue };
            let address = Ipv4Addr::from(vtep.outer.dst);
            let was = self.tables.vteps.get(&change.key).is_some_and(|old| old.resolved != 0);
            match (was, vtep.resolved != 0) {
                (false, true) => info!("VTEP {address}: next hop resolved, packets take the fast path"),
                (true, false) => warn!("VTEP {address}: next hop lost, packets are left to the kernel"),
                _ => {}
            }
        }
    }

    /// Looks at the kernel, for [`Daemon::facts`]. Returns also whose neighbour entries matter.
    async fn look(
        &self,
        underlay: Option<&Link>,
        snapshot: &Snapshot,
    ) -> Result<(Facts, BTreeSet<Ipv4Addr>), DaemonError> {
        let mut facts =
            Facts { shims: self.sandboxes.facts(&self.mirrored), xdp: self.rx() == Rx::Xdp, ..Facts::default() };
        if let Some(underlay) = underlay {
            facts.underlay_ifindex = underlay.index;
            facts.underlay_mac = underlay.mac;
            facts.underlay_mtu = underlay.mtu;
        }
        if let Some(view) = &self.view {
            facts.ports = ports(view, snapshot.links().await?);
            facts.xfrm = host::has_xfrm_policies().map_err(HostError::Socket)?;
        }
        let (mut vias, mut probed) = (BTreeSet::new(), BTreeSet::new());
        let configured =
            self.view.iter().flat_map(|view| view.networks().values()).flat_map(|network| network.remote().hosts());
        let mut addresses: BTreeSet<Ipv4Addr> = configured.collect();
        for (_, network) in accelerated(&self.mirrored) {
            addresses.extend(network.remote.values().chain(&network.senders));
        }
        for (address, next_hop) in snapshot.next_hops(addresses).await? {
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
            let worthwhile = probe && next_hop.neighbour().is_none_or(|neighbour| probed.insert(neighbour));
            if worthwhile && let Err(error) = self.host.probe_neighbour(&next_hop).await {
                debug!("cannot probe the next hop to {address}: {error}");
            }
        }
        Ok((facts, vias))
    }

    /// The hooks of the NIC and of the ports in the maps, with the networks of the ports; and what keeps one from being used.
    pub(super) fn wanted_hooks(
        &self,
        underlay: Option<&Link>,
    ) -> (BTreeMap<AttachPoint, Option<Vni>>, Result<(), DaemonError>) {
        let mut failed = Ok(());
        let mut wanted: BTreeMap<AttachPoint, Option<Vni>> = BTreeMap::new();
        if let Some(underlay) = underlay.filter(|_| !self.tables.networks.is_empty()) {
            wanted.insert(AttachPoint::Nic(underlay.index), None);
            if self.rx() == Rx::Xdp {
                match preflight::xdp(underlay) {
                    Ok(()) => _ = wanted.insert(AttachPoint::Xdp(underlay.index), None),
                    Err(error) => failed = Err(error.into()),
                }
            }
        }
        wanted.extend(self.tables.ports.iter().map(|(key, port)| (AttachPoint::Port(*key), Vni::new(port.vni).ok())));
        (wanted, failed)
    }

    /// Attaches what is missing, and on the first call puts this version in the place of what an earlier daemon left.
    fn attach(&mut self, underlay: Option<&Link>) -> Result<(), DaemonError> {
        let (mut wanted, mut failed) = self.wanted_hooks(underlay);
        // Mostly attached since there are shims.
        wanted.extend(self.sandboxes.hooks());
        failed = failed.and(self.detach_others(|hook| wanted.contains_key(hook)));
        self.attached.retain(|hook| wanted.contains_key(hook));
        for (hook, vni) in wanted {
            if self.attached.contains(&hook) {
                continue;
            }
            match self.attach_one(hook, vni) {
                Ok(()) => fault::point("attached"),
                // It vanished since the links were read; the event about that is on its way.
                Err(error) if error.is_gone() => debug!("{error}"),
                Err(error) => failed = failed.and(Err(error.into())),
            }
        }
        if self.datapath.is_taking_over() {
            // Nobody keeps true what the programs go by that could not be replaced: the kernel takes their packets.
            let attached = self.attached.clone();
            failed = failed.and(self.detach_others(|hook| attached.contains(hook)));
            failed = failed.and(self.datapath.taken_over().map_err(DaemonError::from));
        }
        failed
    }

    fn detach_others(&mut self, stays: impl Fn(&AttachPoint) -> bool) -> Result<(), DaemonError> {
        let mut failed = Ok(());
        for hook in self.datapath.attached()?.into_iter().filter(|hook| !stays(hook)) {
            let netns = self.sandboxes.open(hook.site());
            failed = failed.and(self.datapath.detach(hook, netns.as_ref()).map_err(DaemonError::from));
        }
        failed
    }
}

/// A round of the daemon: what it asks the kernel is logged inside, at the level `trace`.
pub(super) fn round() -> Span {
    let span = trace_span!("round");
    span.in_scope(|| trace!("a round begins"));
    span
}

/// Returns to the kernel what a comparison of large tables needed for a moment; the allocator would keep it.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no arguments that could be wrong; the allocator locks what it looks at.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// The part of a view that can be made now, and whether something is missing: a namespace that has no interface of ours
/// yet, or a port.
fn present(view: &View, links: &[Link]) -> (View, bool) {
    let has_link = |name: &str| links.iter().any(|link| link.name == name);
    let mut view = view.clone();
    let mut absent = false;
    view.retain_local(|network, endpoint| {
        let made_from = match &endpoint.attachment {
            // A path that leads to something else now is as good as none.
            Attachment::Netns(path) => matches!(netns::is_current(path), Ok(false)),
            Attachment::Port(_) => false,
            Attachment::Unspecified => true,
        };
        let present = made_from || interface(&network.name, endpoint).is_some_and(|name| has_link(&name));
        absent |= !present;
        present
    });
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
fn ports(view: &View, links: &[Link]) -> BTreeMap<(Vni, String), PortFact> {
    let by_name: BTreeMap<&str, &Link> = links.iter().map(|link| (link.name.as_str(), link)).collect();
    let mut ports = BTreeMap::new();
    for (vni, network) in view.networks() {
        let bridge = by_name.get(host::bridge_name(*vni).as_str()).map(|link| link.index);
        for endpoint in network.local() {
            let Some(name) = interface(&network.network().name, endpoint) else { continue };
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

impl Ledger for PinRoot {
    fn record(&self, kind: &str, name: &str) -> io::Result<()> {
        self.mark(kind, name).map_err(io::Error::other)
    }

    fn forget(&self, kind: &str, name: &str) -> io::Result<()> {
        self.unmark(kind, name).map_err(io::Error::other)
    }
}
