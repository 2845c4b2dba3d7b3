//! Reconciles the kernel's tables and the maps with the model.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use overlay_common::{
    Vni, VtepAddr,
    maps::{PortKey, flags},
};
use tracing::{Instrument as _, Span, debug, info, trace, trace_span, warn};

use super::{
    Applied, Daemon, DaemonError, Extent, Pending, Scope, error::PreflightError, health::Part, next_hops::NextHops,
    preflight,
};
use crate::{
    apply::{
        bpf,
        ledger::{AttachPoint, Owned},
    },
    kernel::{self, KernelError, Link, Snapshot},
    model::{Attachment, Endpoint, RemoteChange, Rx, View},
    plan::{
        admission::{Device, Devices, Master},
        delta::{self, Delta},
        hooks::End,
        host::{self, DesiredHost, HostChanges, Phase},
        tables::{self, Changes, Facts},
    },
    sys::{ethtool, fault, netns},
};

/// FDB entries above which a full comparison temporarily allocates tens of MB.
const LARGE_FDB: usize = 10_000;

impl Daemon {
    /// Compares the desired state with the actual state and makes the changes: new objects first, then the maps and the
    /// hooks that refer to them, then the removal of unused objects.
    ///
    /// # Errors
    /// The first failure; one that [`DaemonError::is_degraded`] only when there is no other.
    pub(super) async fn reconcile(&mut self, scope: Scope, extent: Extent) -> Result<(), DaemonError> {
        let mut snapshot = self.host.snapshot();
        self.reconcile_from(&mut snapshot, scope, extent).instrument(round()).await
    }

    /// [`Self::reconcile`] with this snapshot of the kernel. One round; each stage is a function:
    ///
    /// 1. `observe`: reads the underlay, and decides which networks are accelerated,
    /// 2. `create_objects`: creates the kernel's objects,
    /// 3. `create_shims`: creates the cross-netns veths (shims),
    /// 4. `judge_devices`: judges the state of the managed networks' devices,
    /// 5. `read_facts`: reads the facts that the maps are derived from,
    /// 6. `update_maps`: writes the maps,
    /// 7. `attach_hooks`: attaches the programs, and then sets new ports of strict networks up,
    /// 8. `remove_objects`: removes unused objects and shims.
    pub(super) async fn reconcile_from(
        &mut self,
        snapshot: &mut Snapshot,
        scope: Scope,
        extent: Extent,
    ) -> Result<(), DaemonError> {
        self.firewall.refresh().await;
        let underlay = self.observe(snapshot).await?;
        let (mut plan, mut absent, mut created) = (HostChanges::default(), BTreeSet::new(), Ok(()));
        if scope == Scope::Everything {
            (plan, absent, created) = self.create_objects(underlay.as_ref(), snapshot).await;
            if extent == Extent::AllOrNothing {
                // The caller reports the error of a rejected configuration.
                std::mem::replace(&mut created, Ok(()))?;
            }
        }
        let connected = match snapshot.links().await {
            Ok(links) => self.create_shims(links).await,
            Err(error) => return Err(self.unread(Part::Maps, error.into())),
        };
        let underlay = underlay.as_ref().map(|(_, underlay)| underlay);
        let raised = checked(&plan).cloned().collect();
        if let Err(error) = self.judge_devices(scope, underlay, snapshot, raised).await {
            return Err(self.unread(Part::Maps, error));
        }
        let facts = match self.read_facts(underlay, snapshot).await {
            Ok((facts, next_hops)) => {
                self.applied.next_hops = next_hops;
                facts
            }
            Err(error) => return Err(self.unread(Part::Maps, error)),
        };
        self.heartbeat.is_blind = false;
        let written = self.update_maps(scope, facts);
        if extent == Extent::AllOrNothing
            && let Err(DaemonError::Table(full)) = written
        {
            self.health.mark_pending(Part::Maps);
            return Err(full.into());
        }
        self.health.set(Part::Maps, &written);
        // Entries that could not be written are missing, and their packets fall back to the kernel path.
        self.heartbeat.trusted = true;
        fault::kill_at("filled");
        let attached = self.attach_hooks(underlay);
        created = created.and(self.raise_ports(&plan, snapshot).await);
        let (removed, disconnected) = self.remove_objects(&plan, snapshot).await;
        drop(plan);
        if self.applied.tables.fdb.len() > LARGE_FDB {
            trim_heap();
        }
        if scope == Scope::Everything {
            self.log_absent(absent);
            self.health.set(Part::Objects, if created.is_err() { &created } else { &removed });
            if !self.applied.absent.is_empty() {
                self.health.mark_pending(Part::Objects);
            }
        }
        self.health.set(Part::Shims, if connected.is_err() { &connected } else { &disconnected });
        if !self.sandboxes.cover(&self.networks) {
            self.health.mark_pending(Part::Shims);
        }
        self.health.set(Part::Hooks, &attached);
        let mut failed = created.and(removed).and(disconnected);
        // A configuration is not rejected because an external network cannot be served.
        if extent == Extent::BestEffort {
            failed = failed.and(connected);
        }
        // Failures that only degrade the fast path come last.
        let is_degraded = |result: &Result<(), DaemonError>| result.as_ref().is_err_and(DaemonError::is_degraded);
        if is_degraded(&attached) { failed.and(written).and(attached) } else { failed.and(attached).and(written) }
    }

    /// Records that the kernel's tables cannot be read. Any entry of the maps may be stale, in both directions.
    fn unread(&mut self, part: Part, error: DaemonError) -> DaemonError {
        self.health.mark_failed(part, &error);
        self.expire_deadline();
        error
    }

    /// Finds the underlay device, and decides which networks are accelerated.
    async fn observe(&mut self, snapshot: &Snapshot) -> Result<Option<(VtepAddr, Link)>, DaemonError> {
        let observed = async {
            // Addresses first: a list of links that is read later has the link of each, unless it was removed.
            let addresses = snapshot.addresses().await?;
            let links: HashMap<u32, &Link> = snapshot.links().await?.iter().map(|link| (link.index, link)).collect();
            let mut devices = Devices::new();
            for (index, address) in addresses {
                let Some(link) = links.get(index) else { continue };
                let master = link.master.and_then(|master| links.get(&master));
                let master = master.map(|master| Master { name: master.name.clone(), is_vrf: master.is_vrf() });
                let device = Device { name: link.name.clone(), ethernet: link.ethernet, master };
                devices.entry(address.addr().into()).or_default().push(device);
            }
            // The kernel receives packets for any of its addresses on each of these. Frames of containers that reach a
            // bridge of overlay are checked at their ports.
            let is_receiver = |link: &&&Link| link.ethernet && !link.is_owned();
            let receivers = addresses.iter().filter_map(|(index, _)| links.get(index));
            let receivers = receivers.filter(is_receiver).map(|link| link.index).collect();
            // Discovery finds the XFRM policies of external networks.
            let xfrm = self.inputs.view.is_some() && kernel::has_xfrm_policies().map_err(KernelError::Socket)?;
            Ok::<_, DaemonError>((devices, receivers, xfrm))
        };
        let observed = observed.await;
        match observed {
            Ok((devices, receivers, xfrm)) => {
                (self.applied.devices, self.applied.receivers, self.applied.xfrm) = (devices, receivers, xfrm);
            }
            Err(error) => return Err(self.unread(Part::Underlay, error)),
        }
        self.admit();
        let Some(address) = self.networks.served else {
            self.health.mark_done(Part::Underlay);
            return Ok(None);
        };
        let found = match snapshot.link_by_address(address).await {
            Ok(found) => found,
            Err(error) => return Err(self.unread(Part::Underlay, error.into())),
        };
        let error = match found {
            Some(underlay) if underlay.ethernet => {
                let underlay = underlay.clone();
                self.health.mark_done(Part::Underlay);
                return Ok(Some((address, underlay)));
            }
            Some(Link { name, .. }) => PreflightError::NotEthernet { device: name.clone() },
            None => PreflightError::NoAddress { address },
        };
        self.health.mark_failed(Part::Underlay, &error);
        self.disable_forwarding(error).map(|()| None)
    }

    /// Creates missing kernel objects. Returns the plan, whose removals come later, and the endpoints that are skipped
    /// because their netns or port is missing.
    async fn create_objects(
        &mut self,
        underlay: Option<&(VtepAddr, Link)>,
        snapshot: &mut Snapshot,
    ) -> (HostChanges, BTreeSet<String>, Result<(), DaemonError>) {
        let planned = self.host_plan(underlay, snapshot).await;
        // The entries are large with many endpoints, and not needed again.
        snapshot.forget_entries();
        match planned {
            Ok((mut plan, absent)) => {
                if let Err(error) = self.check_before_joining(&mut plan, underlay.map(|(_, link)| link), snapshot).await
                {
                    self.health.mark_failed(Part::Hooks, &error);
                }
                let created = self.host.apply(&plan, Phase::Create, &self.ledger, snapshot).await;
                (plan, absent, created.map_err(DaemonError::from))
            }
            Err(error) => (HostChanges::default(), self.applied.absent.clone(), Err(error)),
        }
    }

    /// Attaches the checks of a strict network to existing interfaces that are going to be ports of its bridge, with their
    /// entries in the maps. Interfaces without them do not become ports in this round.
    async fn check_before_joining(
        &mut self,
        plan: &mut HostChanges,
        underlay: Option<&Link>,
        snapshot: &Snapshot,
    ) -> Result<(), DaemonError> {
        let Some(view) = &self.inputs.view else { return Ok(()) };
        let is_strict = |vni: &Vni| view.networks().get(vni).is_some_and(|network| network.network().strict);
        let joining = plan.ports.iter().filter(|change| change.new.as_ref().is_some_and(is_strict));
        let joining: BTreeSet<String> = joining.map(|change| change.key.clone()).collect();
        if joining.is_empty() {
            return Ok(());
        }
        let links = snapshot.links().await?;
        let keys: BTreeMap<&String, PortKey> = joining
            .iter()
            .filter_map(|name| Some((name, PortKey::host(links.iter().find(|link| link.name == *name)?.index))))
            .collect();
        let facts = match self.judge_devices(Scope::Everything, underlay, snapshot, joining.clone()).await {
            Ok(()) => self.read_facts(underlay, snapshot).await,
            Err(error) => Err(error),
        };
        let mut result = facts.and_then(|(facts, _)| self.update_maps(Scope::Everything, facts));
        for key in keys.values() {
            for hook in [AttachPoint::PortCheck(*key), AttachPoint::Port(*key)] {
                if !self.applied.attached.contains(&hook) {
                    result = result.and(self.attach_one(hook, None).map_err(DaemonError::from));
                }
            }
        }
        let (attached, tables) = (&self.applied.attached, &self.applied.tables);
        let is_checked =
            |key: &PortKey| tables.ports.contains_key(key) && attached.contains(&AttachPoint::PortCheck(*key));
        plan.ports.retain(|change| !joining.contains(&change.key) || keys.get(&change.key).is_some_and(is_checked));
        result
    }

    /// Sets the new ports of strict networks up whose checks are attached.
    async fn raise_ports(&self, plan: &HostChanges, snapshot: &Snapshot) -> Result<(), DaemonError> {
        let mut raised = Ok(());
        for name in checked(plan) {
            // The list of links is older than a link that could not be created.
            let Some(link) = snapshot.links().await?.iter().find(|link| link.name == *name) else { continue };
            if self.applied.attached.contains(&AttachPoint::PortCheck(PortKey::host(link.index))) {
                raised = raised.and(self.host.raise_veth(link).await.map_err(DaemonError::from));
            }
        }
        raised
    }

    /// Writes the maps, unless nothing can have changed.
    fn update_maps(&mut self, scope: Scope, facts: Facts) -> Result<(), DaemonError> {
        // The facts of a periodic round are mostly the same.
        if scope == Scope::NextHops && self.health.is_done(Part::Maps) && facts == self.applied.facts {
            return Ok(());
        }
        self.applied.facts = facts;
        self.write_maps()
    }

    /// Removes unused kernel objects and shims.
    async fn remove_objects(
        &mut self,
        plan: &HostChanges,
        snapshot: &mut Snapshot,
    ) -> (Result<(), DaemonError>, Result<(), DaemonError>) {
        let removed = self.host.apply(plan, Phase::Remove, &self.ledger, snapshot).await;
        (removed.map_err(DaemonError::from), self.remove_shims().await)
    }

    /// Applies changes of other hosts' endpoints.
    ///
    /// # Errors
    /// The first failure; failed changes are retried later.
    pub(super) async fn change_remote(&mut self, changes: Vec<RemoteChange>) -> Result<(), DaemonError> {
        if let Some(pending) = self.inputs.refused.take() {
            match delta::apply_to_cluster(pending.cluster, &changes) {
                Ok(cluster) => self.inputs.refused = Some(Pending { cluster, ..pending }),
                Err(error) => warn!("the rejected configuration is not retried: {error}"),
            }
        }
        let Some(view) = &mut self.inputs.view else { return Ok(()) };
        let facts = &self.applied.facts;
        let is_alone = self.health.is_done(Part::Maps)
            && !self.applied.xfrm
            && self.networks.accelerated().next().is_none()
            && self.networks.refused_managed().next().is_none();
        let delta = Delta::apply(view, &changes);
        let underlay = host::UnderlayDevice {
            ifindex: facts.underlay_ifindex,
            mtu: facts.underlay_mtu,
            addr: view.host().address,
        };
        let plan = if is_alone { delta.plan(view, &underlay, &self.applied.tables) } else { Ok(None) };
        // A full round reports the error of a failed plan.
        let Ok(Some(delta::Plan { objects, maps })) = plan else {
            self.health.mark_pending(Part::Maps);
            let result = self.reconcile(Scope::Everything, Extent::BestEffort).await;
            self.publish(None);
            return result;
        };
        // In the same order as a round.
        let mut snapshot = self.host.snapshot();
        let created = self.host.apply(&objects, Phase::Create, &self.ledger, &mut snapshot).await;
        let written = self.change_maps(&maps);
        let removed = self.host.apply(&objects, Phase::Remove, &self.ledger, &mut snapshot).await;
        let entries = created.and(removed).map_err(DaemonError::from);
        if let Err(error) = &entries {
            self.health.mark_failed(Part::Objects, error);
        }
        if let Err(error) = &written {
            self.health.mark_failed(Part::Maps, error);
        }
        entries.and(written)
    }

    /// The desired kernel objects, and the endpoints that are skipped because their netns or port is missing.
    pub(super) fn wanted_objects(
        &self,
        underlay: Option<&(VtepAddr, Link)>,
        links: &[Link],
    ) -> Result<(DesiredHost, BTreeSet<String>), DaemonError> {
        let (Some(view), Some((addr, underlay))) = (&self.inputs.view, underlay) else {
            return Ok((DesiredHost::default(), BTreeSet::new()));
        };
        let (present, absent) = present(view, links);
        let underlay = host::UnderlayDevice { ifindex: underlay.index, mtu: underlay.mtu, addr: *addr };
        Ok((host::desired(&present, &underlay).map_err(PreflightError::from)?, absent))
    }

    /// The changes of the kernel's objects, and the skipped endpoints of [`Self::wanted_objects`].
    async fn host_plan(
        &self,
        underlay: Option<&(VtepAddr, Link)>,
        snapshot: &Snapshot,
    ) -> Result<(HostChanges, BTreeSet<String>), DaemonError> {
        let (desired, absent) = self.wanted_objects(underlay, snapshot.links().await?)?;
        let owned = self.ledger.root().owned()?;
        let state = snapshot.state(&desired, &owned).await?;
        // Desired objects with the owner mark are recorded again where the record was lost.
        let bridges = state.bridges.keys().map(|vni| kernel::bridge_name(*vni));
        let vxlans = state.vxlans.keys().map(|vni| kernel::vxlan_name(*vni));
        for name in bridges.chain(vxlans).chain(state.veths.keys().cloned()) {
            let link = Owned::Link(name);
            if !owned.contains(&link) {
                // The object exists, so the result is not needed for its creation.
                let _ = self.ledger.record(&link)?;
            }
        }
        Ok((HostChanges::between(&state, &desired), absent))
    }

    /// Records the skipped endpoints, and logs changes.
    fn log_absent(&mut self, absent: BTreeSet<String>) {
        let list = |names: Vec<&String>| names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let (gone, back) = (
            list(absent.difference(&self.applied.absent).collect()),
            list(self.applied.absent.difference(&absent).collect()),
        );
        if !gone.is_empty() {
            warn!("endpoints are skipped until their netns or port exists: {gone}");
        }
        if !back.is_empty() {
            info!("endpoints are served again: {back}");
        }
        self.applied.absent = absent;
    }

    /// Writes the desired entries into the maps. Where they do not fit, only stale entries are removed.
    fn write_maps(&mut self) -> Result<(), DaemonError> {
        let Applied { facts, tables, .. } = &self.applied;
        let changes = tables::desired(self.inputs.view.as_ref(), &self.networks, facts, tables)
            .map(|desired| Changes::between(tables, &desired));
        let (written, is_stale) = match changes {
            Ok(changes) => self.apply(&changes),
            Err(full) => {
                let (pruned, is_stale) = self.apply(&self.pruning());
                (pruned.and(Err(full.into())), is_stale)
            }
        };
        // Every entry was compared, so no other stale entry exists.
        if !is_stale {
            self.health.mark_done(Part::Entries);
        }
        written
    }

    pub(super) fn rx(&self) -> Rx {
        self.inputs.view.as_ref().map_or(self.inputs.rx, |view| view.host().rx)
    }

    /// Marks all next hops unresolved and withdraws the address, because the underlay device is gone or has lost its
    /// address. All packets fall back to the kernel path, in both directions, until the address returns.
    fn disable_forwarding(&mut self, underlay: PreflightError) -> Result<(), DaemonError> {
        // A network with another underlay is served by another round, or falls back to the kernel path.
        self.prune()?;
        let mut desired = self.applied.tables.clone();
        for vtep in desired.vteps.values_mut() {
            vtep.resolved = 0;
        }
        // The kernel no longer receives packets to the address, or on another device. The other fields stay, because
        // ports of strict networks are checked with them.
        for underlay in desired.underlay.values_mut() {
            underlay.addr = [0; 4];
        }
        self.applied.next_hops.unresolved.clear();
        self.change_maps(&Changes::between(&self.applied.tables, &desired))?;
        Err(underlay.into())
    }

    /// Removes stale entries of external networks from the maps.
    ///
    /// # Errors
    /// The first failure; the other entries are removed.
    pub(super) fn prune(&mut self) -> Result<(), DaemonError> {
        self.health.mark_pending(Part::Maps);
        self.applied.facts.shims = self.sandboxes.facts(&self.networks);
        self.change_maps(&self.pruning())
    }

    fn pruning(&self) -> Changes {
        let Applied { facts, tables, .. } = &self.applied;
        let desired = tables::desired_unchecked(self.inputs.view.as_ref(), &self.networks, facts, tables);
        Changes::pruning(tables, &desired)
    }

    /// Makes all changes that can be made.
    ///
    /// # Errors
    /// The first failure.
    pub(super) fn change_maps(&mut self, changes: &Changes) -> Result<(), DaemonError> {
        self.apply(changes).0
    }

    /// [`Self::change_maps`], and whether a stale entry could not be removed or overwritten.
    fn apply(&mut self, changes: &Changes) -> (Result<(), DaemonError>, bool) {
        self.log_changes(changes);
        let sandboxes = &self.sandboxes;
        let outcome = self
            .datapath
            .maps
            .apply(&self.ledger, changes, &mut self.applied.tables, &|netns_id| sandboxes.open(netns_id));
        let failed = outcome.failed.into_iter().next().map_or(Ok(()), |error| Err(DaemonError::from(error)));
        if outcome.is_stale {
            self.health.set(Part::Entries, &failed);
        }
        (failed, outcome.is_stale)
    }

    /// Logs VTEPs that leave or return to the fast path.
    fn log_changes(&self, changes: &Changes) {
        for change in &changes.vteps {
            let Some(vtep) = change.new else { continue };
            let address = VtepAddr::from(vtep.outer.dst);
            let was = self.applied.tables.vteps.get(&change.key).is_some_and(|old| old.resolved != 0);
            match (was, vtep.resolved != 0) {
                (false, true) => info!("VTEP {address}: next hop resolved, packets take the fast path"),
                (true, false) => warn!("VTEP {address}: next hop lost, packets fall back to the kernel path"),
                _ => {}
            }
        }
    }

    /// Reads the facts of the kernel for `Applied::facts` and `Applied::next_hops`.
    async fn read_facts(&self, underlay: Option<&Link>, snapshot: &Snapshot) -> Result<(Facts, NextHops), DaemonError> {
        let mut facts =
            Facts { shims: self.sandboxes.facts(&self.networks), xdp: self.rx() == Rx::Xdp, ..Facts::default() };
        if let Some(underlay) = underlay {
            facts.underlay_ifindex = underlay.index;
            facts.underlay_mac = underlay.mac;
            facts.underlay_mtu = underlay.mtu;
            // A change of features is an event of the link.
            facts.underlay_segments = !ethtool::merges_segments(&underlay.name).unwrap_or(true);
        }
        facts.xfrm = self.applied.xfrm;
        facts.ports.clone_from(&self.applied.managed.judged.ports);
        facts.tunnels.clone_from(&self.applied.managed.judged.tunnels);
        let next_hops = match underlay {
            Some(underlay) => self.read_next_hops(underlay, snapshot, &mut facts).await?,
            None => NextHops::default(),
        };
        Ok((facts, next_hops))
    }

    /// The hooks of the NIC and of the ports in the maps, with the networks of the ports; and the error of an unusable
    /// hook.
    pub(super) fn wanted_hooks(
        &mut self,
        underlay: Option<&Link>,
    ) -> (BTreeMap<AttachPoint, Option<Vni>>, Result<(), DaemonError>) {
        let mut failed = Ok(());
        let mut wanted: BTreeMap<AttachPoint, Option<Vni>> = BTreeMap::new();
        if let Some(underlay) = underlay.filter(|_| !self.applied.tables.networks.is_empty()) {
            wanted.insert(AttachPoint::Nic(underlay.index), None);
            if self.rx() == Rx::Xdp {
                let checked = self.check_xdp(underlay).map_err(DaemonError::from);
                match preflight::xdp(underlay).map_err(DaemonError::from).and(checked) {
                    Ok(()) => _ = wanted.insert(AttachPoint::Xdp(underlay.index), None),
                    Err(error) => failed = Err(error),
                }
            }
        }
        let tables = &self.applied.tables;
        let is_strict = tables.underlay.values().any(|underlay| underlay.flags & flags::STRICT as u16 != 0);
        if is_strict {
            // A packet for this host can arrive on any of its devices.
            let hops = self.applied.facts.next_hops.values().map(|hop| hop.ifindex);
            let receivers = self.applied.receivers.iter().copied().chain(underlay.map(|link| link.index));
            wanted.extend(receivers.chain(hops).map(|index| (AttachPoint::NicCheck(index), None)));
        }
        for (key, port) in &tables.ports {
            let vni = Vni::new(port.vni).ok();
            wanted.insert(AttachPoint::Port(*key), vni);
            // Ports of other networks must not send into a strict one either.
            if is_strict || port.flags & flags::STRICT != 0 {
                wanted.insert(AttachPoint::PortCheck(*key), vni);
            }
        }
        (wanted, failed)
    }

    /// Attaches missing programs; the first call also replaces the programs of an earlier daemon.
    fn attach_hooks(&mut self, underlay: Option<&Link>) -> Result<(), DaemonError> {
        let (mut wanted, mut failed) = self.wanted_hooks(underlay);
        // Except at a takeover, `create_shims` has attached these.
        wanted.extend(self.sandboxes.hooks());
        failed = failed.and(self.detach_others(|hook| wanted.contains_key(hook)));
        self.applied.attached.retain(|hook| wanted.contains_key(hook));
        // The checks of strict networks first.
        let (first, last): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(hook, _)| hook.end() == End::First);
        for (hook, vni) in first.into_iter().chain(last) {
            if self.applied.attached.contains(&hook) {
                continue;
            }
            match self.attach_one(hook, vni) {
                Ok(()) => fault::kill_at("attached"),
                // The interface was removed after the links were read; its event follows.
                Err(error) if error.is_gone() => debug!("{error}"),
                Err(error) => failed = failed.and(Err(error.into())),
            }
        }
        if self.datapath.is_taking_over() {
            // Programs that could not be replaced use maps that are no longer updated.
            let attached = self.applied.attached.clone();
            failed = failed.and(self.detach_others(|hook| attached.contains(hook)));
            failed = failed.and(self.datapath.finish_takeover(&self.ledger).map_err(DaemonError::from));
        }
        failed
    }

    fn detach_others(&mut self, stays: impl Fn(&AttachPoint) -> bool) -> Result<(), DaemonError> {
        let mut failed = Ok(());
        for hook in self.ledger.root().hooks()?.into_iter().filter(|hook| !stays(hook)) {
            let netns = self.sandboxes.open(hook.netns_id());
            failed = failed.and(bpf::detach(&self.ledger, hook, netns.as_ref()).map_err(DaemonError::from));
        }
        failed
    }
}

/// The new veths of strict networks, which are set up after their checks are attached.
fn checked(plan: &HostChanges) -> impl Iterator<Item = &String> {
    let veths = plan.veths.iter().filter(|change| change.new.as_ref().is_some_and(|veth| veth.checked));
    veths.map(|change| &change.key)
}

/// The span of a round; requests to the kernel are logged in it at the level `trace`.
pub(super) fn round() -> Span {
    let span = trace_span!("round");
    span.in_scope(|| trace!("a round begins"));
    span
}

/// Returns the memory of a comparison of large tables to the kernel; the allocator would keep it.
fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call has no preconditions; the allocator takes its own locks.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// The part of a view whose interfaces exist or can be created, and the other endpoints: those whose namespace is
/// missing and has no interface of overlay, or whose port is missing.
fn present(view: &View, links: &[Link]) -> (View, BTreeSet<String>) {
    let has_link = |name: &str| links.iter().any(|link| link.name == name);
    let mut view = view.clone();
    let mut absent = BTreeSet::new();
    view.retain_local(|network, endpoint| {
        let is_creatable = match &endpoint.attachment {
            // The host's own netns, or another file at this path, counts as missing.
            Attachment::Netns(path) => matches!(netns::is_current(path), Ok(false)),
            Attachment::Port(_) => false,
            Attachment::Unspecified => true,
        };
        let present = is_creatable || interface(&network.name, endpoint).is_some_and(|name| has_link(&name));
        if !present {
            absent.insert(format!("{}/{}", network.name, endpoint.name));
        }
        present
    });
    (view, absent)
}

/// The name of an endpoint's host-side interface.
pub(super) fn interface(network: &str, endpoint: &Endpoint) -> Option<String> {
    match &endpoint.attachment {
        Attachment::Netns(_) => Some(kernel::veth_name(network, &endpoint.name)),
        Attachment::Port(name) => Some(name.clone()),
        Attachment::Unspecified => None,
    }
}
