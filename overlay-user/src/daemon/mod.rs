//! The daemon: reconciles the kernel's tables and the BPF maps with the state of the cluster.
//!
//! [`Daemon::start`] checks the configuration against this host before it changes anything. [`Daemon::run`] then waits
//! for changes (of the configuration, of neighbours, routes and links) and calls `reconcile`.

mod announce;
mod audit;
mod devices;
mod down;
mod error;
mod firewall;
mod health;
mod heartbeat;
mod hooks;
mod next_hops;
mod preflight;
mod privileges;
mod reconcile;
mod sandbox;
mod service;
mod state;

use std::{collections::BTreeSet, future, path::PathBuf, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use overlay_common::{VtepAddr, maps};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tracing::{Instrument as _, debug, info, warn};

pub use audit::{AuditMode, Auditor};
pub(crate) use devices::findings as device_findings;
pub(crate) use down::DownError;
pub use down::down;
pub(crate) use error::{DaemonError, PreflightError};
pub(crate) use firewall::findings as rule_findings;
pub(crate) use next_hops::Unresolved;
pub use preflight::Missing;
pub(crate) use preflight::{check, check_netns};
pub(crate) use privileges::{Reach, check as privileges, reduce as reduce_privileges};
pub(crate) use state::{DaemonState, EndpointKey, LocalEndpoint, Refused, Served};

use crate::{
    apply::{
        bpf::{Datapath, LoadError, TcFlavour},
        ledger::{AttachPoint, Fact, Ledger, Owned, PinError, PinRoot},
    },
    kernel::{Host, HostEvent, KernelError, NFTABLES, RuleWatch, Snapshot, XFRM_POLICIES, bridge_name},
    model::{Cluster, Endpoint, Findings, HostNetworks, Rx, View},
    plan::{
        admission::{self, AdmissionInputs, Devices},
        tables::{Facts, PortFact, Tables},
    },
    sources::{Discovered, InitialState, Source, SourceError, SourceResult, Update},
};

use health::{HealthTable, Part};

/// Events within this time cause one reconciliation.
const SETTLE: Duration = Duration::from_millis(20);
/// Longest interval between two reconciliations, which read next hops again and confirm neighbours.
const REFRESH: Duration = Duration::from_secs(5);
/// Interval of reconciliations while the kernel's tables cannot be read.
const RETRY: Duration = Duration::from_millis(500);

/// Longest interval between two retries of a rejected configuration.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Options of a daemon from its command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where maps and links are pinned.
    pub pin_root: PathBuf,
    /// Attachment of the TC programs; `None`: TCX if the kernel has it.
    pub flavour: Option<TcFlavour>,
    /// Receive hook, unless the configuration sets one.
    pub rx: Rx,
    /// Treatment of endpoints with a missing netns or port at the first start.
    pub missing: Missing,
    /// Heartbeat deadline: how long the programs trust the maps without a heartbeat; `None`: without limit.
    pub deadline: Option<Duration>,
}

/// Default of [`Options::deadline`].
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The daemon of one host.
pub struct Daemon {
    host: Host,
    ledger: Ledger,
    datapath: Datapath,
    heartbeat: heartbeat::HeartbeatTimer,
    audits: audit::Audits,
    inputs: Inputs,
    applied: Applied,
    /// All networks of this host with their admission, derived from the inputs.
    networks: Arc<HostNetworks>,
    /// The underlay that was usable and served last.
    last_served: Option<VtepAddr>,
    sandboxes: sandbox::Sandboxes,
    health: HealthTable,
    hook_watch: hooks::HookWatch,
    firewall: firewall::Firewall,
    announcer: announce::Announcer,
    state: watch::Sender<DaemonState>,
    service: service::Service,
}

/// Desired state, as the sources report it.
#[derive(Debug)]
struct Inputs {
    /// The applied configuration without its endpoints, which are in the view; `None`: the daemon has none.
    cluster: Option<Cluster>,
    /// This host's part of it.
    view: Option<View>,
    /// The last configuration, if it was rejected; it is retried.
    refused: Option<Pending>,
    /// The discovered external networks.
    found: Discovered,
    /// Receive hook, unless the configuration sets one.
    rx: Rx,
}

/// Applied state, with the facts about the kernel that it was derived from.
#[derive(Debug, Default)]
struct Applied {
    /// Contents of the maps.
    tables: Tables,
    /// Facts that the contents of the maps were derived from.
    facts: Facts,
    /// The addresses of this host.
    devices: Devices,
    /// XFRM policies exist, so packets of configured networks must pass through the kernel.
    xfrm: bool,
    /// The judged devices of the managed networks.
    managed: devices::ManagedDevices,
    /// Hooks with a program of this daemon's version.
    attached: BTreeSet<AttachPoint>,
    /// The next hops in use; events of other neighbours are ignored. And the VTEPs without one.
    next_hops: next_hops::NextHops,
    /// Devices that receive packets for this host, by interface index.
    receivers: BTreeSet<u32>,
    /// Endpoints of this host that are skipped because their netns or port is missing.
    absent: BTreeSet<String>,
}

/// A rejected configuration that is retried.
#[derive(Debug)]
struct Pending {
    cluster: Cluster,
    due: Instant,
    /// Interval between this attempt and the next one.
    pause: Duration,
}

/// Scope of a reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    /// Next hops and maps.
    NextHops,
    /// The kernel's objects, too.
    Everything,
}

/// Handling of the other changes when one change of the kernel's objects fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// The maps stay unchanged.
    AllOrNothing,
    /// Independent changes are made, and the failed one is retried later.
    BestEffort,
}

impl Daemon {
    /// Locks the pin root, loads the programs and applies the sources' initial state. A failed first start is rolled
    /// back; the data path of an earlier daemon keeps forwarding. Without a configuration and external networks the
    /// daemon waits for these.
    ///
    /// Map entries of an earlier daemon that are not in `first` are removed.
    ///
    /// # Errors
    /// [`DaemonError`] with the object and the remedy.
    pub async fn start(options: &Options, first: InitialState) -> Result<Self, DaemonError> {
        let InitialState { cluster, found } = first;
        // `preflight::view` checks the capabilities for endpoints of this host.
        let containers = cluster.is_none() || !found.networks.is_empty();
        privileges::check(if containers { Reach::Containers } else { Reach::Host })?;
        let host = Host::open()?;
        let mut snapshot = host.snapshot();
        let fresh = matches!(PinRoot::open(&options.pin_root), Err(PinError::Absent(_)));
        if let Ok(root) = PinRoot::open(&options.pin_root)
            && root.daemon_pid().is_none()
        {
            let ledger = root.lock()?;
            ledger.forget_daemon()?;
            if let Some(error) = host.remove_unfinished(&ledger, &mut snapshot).await?.into_iter().next() {
                return Err(error.into());
            }
        }
        // A restart must not fail because of one removed container. Marked devices prove a restart where the pins were
        // lost.
        let first = fresh && snapshot.marked().await?.is_empty();
        let missing = if first { options.missing } else { Missing::Tolerated };
        let view = match &cluster {
            Some(cluster) => preflight::view(&snapshot, cluster, &options.pin_root, &|_| missing).await?,
            None => None,
        };
        // With the pins lost, existing bridges are in use by containers and must not be rolled back.
        let bridges = view.iter().flat_map(|view| view.networks().keys()).map(|vni| bridge_name(*vni));
        let links = snapshot.links().await?;
        let fresh = fresh && !bridges.into_iter().any(|bridge| links.iter().any(|link| link.name == bridge));
        // Over a running data path, incomplete changes are better than no daemon.
        let extent =
            if fresh && options.missing == Missing::Refused { Extent::AllOrNothing } else { Extent::BestEffort };
        let started = Self::start_at(options, host.clone(), (cluster, view, found), extent).await;
        // Another daemon may have locked the pin root meanwhile.
        let is_locked = matches!(started, Err(DaemonError::Pin(PinError::Busy(..))));
        if started.is_err() && fresh && !is_locked {
            // Logged, because the error above is returned.
            if let Err(error) = down(&options.pin_root).await
                && !matches!(error, DownError::Pin(PinError::Absent(_)))
            {
                warn!("cannot roll back a failed start: {error}");
            }
        }
        started
    }

    async fn start_at(
        options: &Options,
        host: Host,
        (cluster, view, found): (Option<Cluster>, Option<View>, Discovered),
        extent: Extent,
    ) -> Result<Self, DaemonError> {
        let ledger = Ledger::create(&options.pin_root)?;
        let fdb_size = cluster.as_ref().and_then(|cluster| cluster.fdb_size);
        let new = !ledger.root().map(maps::HEARTBEAT.name).exists();
        let datapath = Datapath::load(&ledger, fdb_size, options.flavour)?;
        let tables = datapath.maps.read()?;
        let sandboxes = sandbox::Sandboxes::read(ledger.root())?;
        let cluster = cluster.as_ref().map(Cluster::without_endpoints);
        let mut daemon = Self {
            host,
            ledger,
            datapath,
            heartbeat: heartbeat::HeartbeatTimer::new(options.deadline),
            audits: audit::Audits::default(),
            inputs: Inputs { cluster, view, refused: None, found, rx: options.rx },
            applied: Applied { tables, ..Applied::default() },
            networks: Arc::default(),
            last_served: None,
            sandboxes,
            health: HealthTable::default(),
            hook_watch: hooks::HookWatch::default(),
            firewall: firewall::Firewall::default(),
            announcer: announce::Announcer::default(),
            state: watch::Sender::default(),
            service: service::Service::of_environment(),
        };
        if new || daemon.datapath.has_new_maps() {
            // New maps hold only entries of this daemon. The deadline is set before the first program is attached,
            // because a crash before the first heartbeat would leave them trusted without limit.
            daemon.extend_deadline();
        }
        match daemon.reconcile(Scope::Everything, extent).await {
            Err(error) if extent == Extent::AllOrNothing && !error.is_yielding() => return Err(error),
            _ => {}
        }
        daemon.resume();
        daemon.publish(None);
        Ok(daemon)
    }

    /// Records for `overlay status` that the data path is ready.
    ///
    /// # Errors
    /// [`PinError`].
    pub fn mark_ready(&self) -> Result<(), PinError> {
        self.ledger.set(Fact::STATE, "ready")
    }

    /// The loaded programs, for a log reader.
    #[cfg(feature = "log")]
    pub fn datapath_mut(&mut self) -> &mut Datapath {
        &mut self.datapath
    }

    /// Records this socket, so that [`down()`] removes it when the daemon could not.
    ///
    /// # Errors
    /// [`PinError`].
    pub fn record_socket(&self, path: &std::path::Path) -> Result<(), PinError> {
        for old in self.ledger.root().owned()?.iter().filter(|owned| matches!(owned, Owned::Socket(_))) {
            self.ledger.forget(old)?;
        }
        self.ledger.record(&Owned::Socket(path.to_owned())).map(|_| ())
    }

    /// This host's part of the cluster; `None` without a configuration.
    #[must_use]
    pub fn view(&self) -> Option<&View> {
        self.inputs.view.as_ref()
    }

    /// All networks of this host with their admission.
    #[must_use]
    pub fn networks(&self) -> &HostNetworks {
        &self.networks
    }

    /// The daemon's state, as a channel to wait for changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<DaemonState> {
        self.state.subscribe()
    }

    /// Handle for audits, which are answered while the daemon runs.
    #[must_use]
    pub fn auditor(&self) -> Auditor {
        self.audits.auditor()
    }

    /// Follows the source and the kernel's events until `stop` is ready. The data path stays in place.
    ///
    /// # Errors
    /// [`DaemonError::Host`] when the kernel's events cannot be received.
    pub async fn run(&mut self, source: &mut impl Source, stop: impl Future<Output = ()>) -> Result<(), DaemonError> {
        let mut events = Host::events()?;
        let (policies, rules) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let _watches = [RuleWatch::here(&[XFRM_POLICIES], &policies), RuleWatch::here(&[NFTABLES], &rules)];
        let mut stop = std::pin::pin!(stop);
        // Events between the first reconciliation and the subscription were missed.
        let mut dirty = Some((Scope::Everything, Instant::now()));
        let mut refresh = Instant::now() + REFRESH;
        self.notify_systemd();
        loop {
            let due = dirty.map_or(refresh, |(_, at)| at.min(refresh));
            tokio::select! {
                () = &mut stop => {
                    self.service.notify_stopping();
                    return Ok(());
                }
                result = source.next() => {
                    if self.apply_update(result, source).await {
                        dirty = Some((dirty.map_or(Scope::NextHops, |(scope, _)| scope), Instant::now()));
                    }
                }
                event = events.next() => match event {
                    Some(event) => self.mark_dirty(&mut dirty, &event),
                    None => return Err(KernelError::Socket(std::io::ErrorKind::BrokenPipe.into()).into()),
                },
                () = policies.notified() => {
                    let soon = Instant::now() + SETTLE;
                    let (scope, at) = dirty.unwrap_or((Scope::NextHops, soon));
                    dirty = Some((scope, at.min(soon)));
                }
                () = rules.notified() => {
                    // A tool that writes many rules causes an event for each transaction.
                    let at = Instant::now() + SETTLE;
                    let at = self.firewall.next_read().map_or(at, |next| at.max(next));
                    dirty = Some(dirty.unwrap_or((Scope::NextHops, at)));
                }
                // In this loop: while the loop hangs, the heartbeat stops and the deadline expires.
                () = self.heartbeat.due() => self.extend_deadline(),
                () = self.hook_watch.due() => {
                    if self.check_hooks() {
                        dirty = Some((dirty.map_or(Scope::NextHops, |(scope, _)| scope), Instant::now()));
                    }
                }
                () = self.audits.due() => self.audit().await,
                () = self.announcer.due() => self.announcer.log_due(),
                () = self.service.due() => self.service.notify_watchdog(),
                () = sleep_until(due) => {
                    // Without the pin root, nothing can be attached or recorded; without netlink, nothing read or
                    // changed.
                    self.ledger.root().check_present()?;
                    if !self.host.is_connected() {
                        return Err(KernelError::Socket(std::io::ErrorKind::BrokenPipe.into()).into());
                    }
                    let least = if self.health.is_converged() { Scope::NextHops } else { Scope::Everything };
                    let scope = dirty.take().map_or(least, |(scope, _)| scope.max(least));
                    if let Err(error) = self.reconcile(scope, Extent::BestEffort).await {
                        debug!("{error}");
                    }
                    if let Some(pending) = self.inputs.refused.take_if(|pending| pending.due <= Instant::now()) {
                        self.update(pending.cluster, pending.pause, source).await;
                    }
                    self.resume();
                    self.publish(None);
                    self.notify_systemd();
                    refresh = Instant::now() + if self.heartbeat.is_blind { RETRY } else { REFRESH };
                }
            }
        }
    }

    fn mark_dirty(&mut self, dirty: &mut Option<(Scope, Instant)>, event: &HostEvent) {
        let mut at = Instant::now() + SETTLE;
        let scope = match event {
            HostEvent::Neighbour { ip, .. } | HostEvent::NeighbourGone { ip }
                if !self.applied.next_hops.gateways.contains(ip) =>
            {
                return;
            }
            HostEvent::Neighbour { .. }
            | HostEvent::NeighbourGone { .. }
            | HostEvent::BridgePort
            | HostEvent::Route => Scope::NextHops,
            HostEvent::AnyLink { index, xdp } => {
                let is_changed = |port: &PortFact| port.peer == Some(*index) && port.peer_xdp != *xdp;
                if !self.applied.facts.ports.values().any(is_changed) {
                    return;
                }
                at = self.applied.managed.expire().map_or(at, |next| at.max(next));
                Scope::NextHops
            }
            HostEvent::TrafficControl => {
                self.hook_watch.hurry();
                if self.inputs.view.is_none() {
                    return;
                }
                at = self.applied.managed.expire().map_or(at, |next| at.max(next));
                Scope::NextHops
            }
            HostEvent::Link(_) | HostEvent::LinkGone(_) | HostEvent::Address { .. } | HostEvent::Overrun => {
                Scope::Everything
            }
        };
        let (so_far, at) = dirty.unwrap_or((scope, at));
        *dirty = Some((so_far.max(scope), at));
    }

    /// Takes over the discovered networks, and removes stale entries from the maps at once. Returns whether anything
    /// changed.
    fn update_discovered(&mut self, found: Discovered) -> bool {
        let before = std::mem::replace(&mut self.inputs.found, found);
        let now = &self.inputs.found;
        if (&before.networks, before.docker.node_address) == (&now.networks, now.docker.node_address) {
            return false;
        }
        self.admit();
        // A success proves nothing about other entries, so only a failure is recorded.
        if let Err(error) = self.prune() {
            self.health.mark_failed(Part::Maps, &error);
        }
        true
    }

    /// Decides for each network whether it is accelerated.
    fn admit(&mut self) {
        let inputs = AdmissionInputs {
            view: self.inputs.view.as_ref(),
            devices: &self.applied.devices,
            last_served: self.last_served,
            docker: self.inputs.found.docker.node_address,
            xfrm: self.applied.xfrm,
            refused: &self.applied.managed.judged.networks,
            fdb_size: self.fdb_size(),
        };
        let networks = admission::admit(self.inputs.found.networks.iter().cloned(), &inputs);
        // An underlay whose address is missing for a moment is served again.
        let is_unusable = |address| networks.underlays.get(&address).is_some_and(|underlay| underlay.finding.is_some());
        if networks.served.is_some() && !self.last_served.is_some_and(is_unusable) {
            self.last_served = networks.served;
        }
        if *self.networks != networks {
            self.health.mark_pending(Part::Maps);
            self.networks = Arc::new(networks);
        }
    }

    fn fdb_size(&self) -> u32 {
        self.inputs.cluster.as_ref().and_then(|cluster| cluster.fdb_size).unwrap_or(maps::FDB.entries)
    }

    /// Creates new maps when the configuration changes their size. The next reconciliation fills them, and replaces the
    /// attached programs by programs that use them.
    fn resize(&mut self) -> Result<(), DaemonError> {
        if self.datapath.fdb_size() == self.fdb_size() {
            return Ok(());
        }
        let datapath = Datapath::load(&self.ledger, Some(self.fdb_size()), Some(self.datapath.flavour()))?;
        // Maps that cannot be read are not used.
        let mut tables = datapath.maps.read().map_err(LoadError::Table)?;
        tables.inherit(std::mem::take(&mut self.applied.tables.retired));
        (self.datapath, self.applied.tables) = (datapath, tables);
        // The stale entries were in the old maps.
        self.health.mark_done(Part::Entries);
        self.applied.attached.clear();
        self.sandboxes.forget_shims();
        self.health.mark_pending(Part::Maps);
        if self.datapath.has_new_maps() {
            self.extend_deadline();
        }
        Ok(())
    }

    /// Applies an update of a source. Returns whether a reconciliation is needed soon.
    async fn apply_update(&mut self, result: SourceResult, source: &mut impl Source) -> bool {
        match result {
            Ok(Update::Cluster(cluster)) => {
                self.update(cluster, REFRESH, source).await;
                false
            }
            Ok(Update::Remote(changes)) => {
                // A failure is retried and reported by its part.
                if let Err(error) = self.change_remote(changes).await {
                    debug!("{error}");
                }
                false
            }
            Ok(Update::Discovered(found)) => {
                let changed = self.update_discovered(found);
                self.publish(None);
                changed
            }
            // The source logs the end of the outage.
            Err(SourceError::Store(error)) if error.is_unreachable() => {
                warn!("{error}; the running state is unchanged");
                false
            }
            Err(error) => {
                // The rejected configuration is no longer the last one.
                self.inputs.refused = None;
                self.health.mark_failed(Part::Configuration, &error);
                self.publish(None);
                false
            }
        }
    }

    /// Takes over a new configuration, or keeps the old one. A rejected one is retried after `pause`.
    async fn update(&mut self, cluster: Cluster, pause: Duration, source: &mut impl Source) {
        self.inputs.refused = None;
        if self.is_running(&cluster) {
            info!("the configuration is unchanged");
            self.accept();
            return;
        }
        match self.take_over(&cluster).instrument(reconcile::round()).await {
            Ok((before, view)) => {
                let now = (&cluster, self.inputs.view.as_ref());
                let changes = announce::differences((&before.unwrap_or_default(), view.as_ref()), now);
                info!("the new configuration is applied: {}", changes.join(", "));
                source.set_applied(&cluster);
                self.accept();
            }
            Err(error) => {
                let address = self.inputs.view.as_ref().map(|view| view.host().address);
                let refused = Refused::new(&cluster, address, Findings::from_error(&error));
                self.health.mark_failed(Part::Configuration, &refused.reason);
                // An attempt may create and remove devices, so the interval grows.
                let next = (2 * pause).min(LONGEST_PAUSE);
                self.inputs.refused = Some(Pending { cluster, due: Instant::now() + pause, pause: next });
                self.publish(Some(refused));
            }
        }
    }

    /// Records that the last configuration is applied.
    fn accept(&mut self) {
        self.health.mark_done(Part::Configuration);
        self.state.send_modify(|state| state.refused = None);
        self.publish(None);
    }

    /// Whether a configuration equals the applied one.
    fn is_running(&self, cluster: &Cluster) -> bool {
        let Some(running) = &self.inputs.cluster else { return false };
        let view = self.inputs.view.as_ref();
        let same = (&running.hosts, &running.networks, running.fdb_size, &running.discover)
            == (&cluster.hosts, &cluster.networks, cluster.fdb_size, &cluster.discover);
        same && view == view.and_then(|view| cluster.view(view.host().address)).as_ref()
    }

    /// Publishes the daemon's state with a configuration that was rejected just now, and logs changes of networks.
    fn publish(&mut self, refused: Option<Refused>) {
        self.announcer.update(&self.networks);
        self.state.send_modify(|state| {
            state.ready = true;
            state.local = self.local();
            state.networks = Arc::clone(&self.networks);
            state.unresolved.clone_from(&self.applied.next_hops.unresolved);
            state.docker.clone_from(&self.inputs.found.docker);
            state.findings = self.health.findings().chain(self.hook_watch.findings.iter().cloned()).collect();
            if refused.is_some() {
                state.refused = refused;
            }
        });
    }

    /// Takes over a configuration. Returns the previous one, with this host's part of it.
    async fn take_over(&mut self, cluster: &Cluster) -> Result<(Option<Cluster>, Option<View>), DaemonError> {
        // One removed container must not block changes of the others.
        let known = |endpoint: &Endpoint| {
            let network = self.inputs.view.as_ref().and_then(|view| view.networks().get(&endpoint.vni));
            if network.is_some_and(|network| network.local().contains(endpoint)) {
                Missing::Tolerated
            } else {
                Missing::Refused
            }
        };
        let mut snapshot = self.host.snapshot();
        let view = preflight::view(&snapshot, cluster, self.ledger.root().path(), &known).await?;
        let inputs = &mut self.inputs;
        let old = (inputs.cluster.replace(cluster.without_endpoints()), std::mem::replace(&mut inputs.view, view));
        let (networks, last_served) = (Arc::clone(&self.networks), self.last_served);
        match self.enforce(&mut snapshot, Extent::AllOrNothing).await {
            Err(error) if !error.is_degraded() => {
                (self.inputs.cluster, self.inputs.view) = old;
                (self.networks, self.last_served) = (networks, last_served);
                if let Err(again) = self.enforce(&mut self.host.snapshot(), Extent::BestEffort).await {
                    warn!("cannot restore the old configuration: {again}");
                }
                Err(error)
            }
            _ => Ok(old),
        }
    }

    /// Reconciles maps and tables with the configuration.
    async fn enforce(&mut self, snapshot: &mut Snapshot, extent: Extent) -> Result<(), DaemonError> {
        self.resize()?;
        self.reconcile_from(snapshot, Scope::Everything, extent).await
    }
}

/// Waits until `due`; without limit if it is `None`.
async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => future::pending().await,
    }
}
