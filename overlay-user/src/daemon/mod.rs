//! The daemon: keeps what is true of the cluster true in the kernel's tables and in the maps.
//!
//! [`Daemon::start`] refuses what cannot work before it changes anything. [`Daemon::run`] then waits for whatever makes
//! the tables untrue (a new configuration, a neighbour, a route, a link) and lets `reconcile` mend them.

mod announce;
mod audit;
mod down;
mod error;
mod health;
mod heartbeat;
mod preflight;
mod privileges;
mod reconcile;
mod sandbox;
mod service;
mod state;

use std::{collections::BTreeSet, future, net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use overlay_common::{VtepAddr, maps};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{Instrument as _, debug, info, warn};

pub use audit::{AuditMode, Auditor};
pub(crate) use down::DownError;
pub use down::down;
pub(crate) use error::{DaemonError, PreflightError};
pub use preflight::Missing;
pub(crate) use preflight::{check, check_netns};
pub(crate) use privileges::{Reach, check as privileges, reduce as reduce_privileges};
pub(crate) use state::{DaemonState, EndpointKey, LocalEndpoint, Refused, Served};

use crate::{
    apply::{
        bpf::{Datapath, LoadError, TcFlavour},
        ledger::{AttachPoint, Fact, Ledger, Owned, PinError, PinRoot},
    },
    kernel::{Host, HostEvent, KernelError, Snapshot, bridge_name},
    model::{Cluster, Endpoint, Findings, HostNetworks, Rx, View},
    plan::{
        admission::{self, AdmissionInputs, Devices},
        tables::{Facts, Tables},
    },
    sources::{Discovered, InitialState, Source, SourceError, SourceResult, Update},
};

use health::{Healths, Part};

/// Events that come this close together are answered once.
const SETTLE: Duration = Duration::from_millis(20);
/// Neighbours are confirmed, and next hops looked at again, at least this often.
const REFRESH: Duration = Duration::from_secs(5);

/// A configuration that was refused is tried again at least this often.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What a daemon is told on its command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where maps and links are pinned.
    pub pin_root: PathBuf,
    /// How TC programs are attached; `None`: the best that the kernel has.
    pub flavour: Option<TcFlavour>,
    /// How packets are received where no configuration says it.
    pub rx: Rx,
    /// What becomes at the first start of endpoints whose namespace or port is not there.
    pub missing: Missing,
    /// How long the programs trust the tables when no daemon says that they are true; `None`: for ever.
    pub deadline: Option<Duration>,
}

/// What [`Options::deadline`] is unless somebody says otherwise.
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
    /// All networks of this host, with what carries their packets: what follows from the inputs.
    networks: Arc<HostNetworks>,
    /// The underlay that was served last while it could be used.
    home: Option<VtepAddr>,
    sandboxes: sandbox::Sandboxes,
    health: Healths,
    announcer: announce::Announcer,
    state: watch::Sender<DaemonState>,
    service: service::Service,
}

/// What the daemon has been told.
#[derive(Debug)]
struct Inputs {
    /// The configuration in force without its endpoints, which are in the view; `None`: the daemon has none.
    cluster: Option<Cluster>,
    /// This host's part of it.
    view: Option<View>,
    /// The last configuration, if it was refused: the obstacle may be removed in the meantime.
    refused: Option<Pending>,
    /// The networks that others made, as they were found.
    found: Discovered,
    /// How packets are received where no configuration says it.
    rx: Rx,
}

/// What the kernel has of it, and what was known of the kernel when it was written.
#[derive(Debug, Default)]
struct Applied {
    /// What the maps hold.
    tables: Tables,
    /// The facts that they were written from.
    facts: Facts,
    /// The addresses of this host.
    devices: Devices,
    /// There are XFRM policies, and the configured networks may not be sent in the clear.
    xfrm: bool,
    /// Hooks whose program is this version's.
    attached: BTreeSet<AttachPoint>,
    /// Next hops in use: whose neighbour entries matter.
    gateways: BTreeSet<Ipv4Addr>,
    /// Endpoints of this host that cannot be attached because what they are attached to is not there.
    absent: BTreeSet<String>,
}

/// A configuration that is to be tried again.
#[derive(Debug)]
struct Pending {
    cluster: Cluster,
    due: Instant,
    /// From this time to the next one.
    pause: Duration,
}

/// How much has to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    /// Next hops alone.
    NextHops,
    /// The kernel's objects too.
    Everything,
}

/// What becomes of the rest when one change of the kernel's objects fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// The maps are not touched.
    AllOrNothing,
    /// Everything that does not need it is done, and it is tried again later.
    Possible,
}

impl Daemon {
    /// Takes the pin root, loads the programs and makes everything that the sources' first word asks for. When that fails
    /// and nothing was there before, nothing is there again; what an earlier daemon left goes on forwarding. Without a
    /// configuration and without networks of others the daemon waits for these.
    ///
    /// What an earlier daemon left and is not in `first` is taken out of the maps.
    ///
    /// # Errors
    /// [`DaemonError`], with the object and what mends it.
    pub async fn start(options: &Options, first: InitialState) -> Result<Self, DaemonError> {
        let InitialState { cluster, found } = first;
        // Endpoints are looked at when it is known which are this host's.
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
        // A daemon that comes back must not stay away because one container has gone in the meantime. The devices tell when
        // the pins were lost.
        let first = fresh && snapshot.marked().await?.is_empty();
        let missing = if first { options.missing } else { Missing::Tolerated };
        let view = match &cluster {
            Some(cluster) => preflight::view(&snapshot, cluster, &options.pin_root, &|_| missing).await?,
            None => None,
        };
        // With the pins lost, the devices that the containers use are there, and stay whatever happens.
        let bridges = view.iter().flat_map(|view| view.networks().keys()).map(|vni| bridge_name(*vni));
        let links = snapshot.links().await?;
        let fresh = fresh && !bridges.into_iter().any(|bridge| links.iter().any(|link| link.name == bridge));
        // Where a data path runs already, a daemon that repairs what it can is better than none.
        let extent = if fresh && options.missing == Missing::Refused { Extent::AllOrNothing } else { Extent::Possible };
        let started = Self::take(options, host.clone(), (cluster, view, found), extent).await;
        // Somebody else may have made it meanwhile.
        let is_ours = !matches!(started, Err(DaemonError::Pin(PinError::Busy(..))));
        if started.is_err() && fresh && is_ours {
            // The error above is the one to tell; a second one here would hide it.
            if let Err(error) = down(&options.pin_root).await
                && !matches!(error, DownError::Pin(PinError::Absent(_)))
            {
                warn!("cannot undo a failed start: {error}");
            }
        }
        started
    }

    async fn take(
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
            home: None,
            sandboxes,
            health: Healths::default(),
            announcer: announce::Announcer::default(),
            state: watch::Sender::default(),
            service: service::Service::of_environment(),
        };
        if new || daemon.datapath.has_new_maps() {
            // What will be in the tables is this daemon's. Without a deadline before the first program is attached, one
            // that dies before it is ready would leave them to be trusted for ever.
            daemon.extend_deadline();
        }
        match daemon.reconcile(Scope::Everything, extent).await {
            Err(error) if extent == Extent::AllOrNothing => return Err(error),
            _ => {}
        }
        daemon.resume();
        daemon.publish(None);
        Ok(daemon)
    }

    /// Has `overlay status` say that the data path is ready.
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

    /// Has [`down()`] remove this socket too, when the daemon could not.
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

    /// All networks of this host, with what carries their packets.
    #[must_use]
    pub fn networks(&self) -> &HostNetworks {
        &self.networks
    }

    /// What the daemon has made so far, to be waited for.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<DaemonState> {
        self.state.subscribe()
    }

    /// For whoever wants to know what differs from what should be. Answers while the daemon runs.
    #[must_use]
    pub fn auditor(&self) -> Auditor {
        self.audits.auditor()
    }

    /// Follows the source and the kernel until `stop` is ready. The data path stays as it is then.
    ///
    /// # Errors
    /// [`DaemonError::Host`] when the kernel's events cannot be had.
    pub async fn run(&mut self, source: &mut impl Source, stop: impl Future<Output = ()>) -> Result<(), DaemonError> {
        let mut events = Host::events()?;
        let mut stop = std::pin::pin!(stop);
        // Between the first reconciliation and the subscription something may have happened.
        let mut dirty = Some((Scope::Everything, Instant::now()));
        let mut refresh = Instant::now() + REFRESH;
        self.notify_systemd();
        loop {
            let due = dirty.map_or(refresh, |(_, at)| at.min(refresh));
            tokio::select! {
                () = &mut stop => {
                    self.service.stopping();
                    return Ok(());
                }
                result = source.next() => {
                    if self.take_in(result, source).await {
                        dirty = Some((dirty.map_or(Scope::NextHops, |(scope, _)| scope), Instant::now()));
                    }
                }
                event = events.next() => match event {
                    Some(event) => self.note(&mut dirty, &event),
                    None => return Err(KernelError::Socket(std::io::ErrorKind::BrokenPipe.into()).into()),
                },
                // On its own: whatever holds this loop up for too long, holds up the fast path too.
                () = self.heartbeat.due() => self.extend_deadline(),
                () = self.audits.due() => self.audit().await,
                () = self.announcer.due() => self.announcer.log_due(),
                () = self.service.due() => self.service.alive(),
                () = sleep_until(due) => {
                    // Nothing that comes could be attached or recorded, and nobody could look at what is there.
                    self.ledger.root().check_present()?;
                    // Nor could anything be read or changed.
                    if !self.host.is_connected() {
                        return Err(KernelError::Socket(std::io::ErrorKind::BrokenPipe.into()).into());
                    }
                    let least = if self.health.is_whole() { Scope::NextHops } else { Scope::Everything };
                    let scope = dirty.take().map_or(least, |(scope, _)| scope.max(least));
                    if let Err(error) = self.reconcile(scope, Extent::Possible).await {
                        debug!("{error}");
                    }
                    if let Some(pending) = self.inputs.refused.take_if(|pending| pending.due <= Instant::now()) {
                        self.update(pending.cluster, pending.pause, source).await;
                    }
                    self.resume();
                    self.publish(None);
                    self.notify_systemd();
                    refresh = Instant::now() + REFRESH;
                }
            }
        }
    }

    fn note(&self, dirty: &mut Option<(Scope, Instant)>, event: &HostEvent) {
        let scope = match event {
            HostEvent::Neighbour { ip, .. } | HostEvent::NeighbourGone { ip }
                if !self.applied.gateways.contains(ip) =>
            {
                return;
            }
            HostEvent::Neighbour { .. } | HostEvent::NeighbourGone { .. } | HostEvent::Route => Scope::NextHops,
            HostEvent::Link(_) | HostEvent::LinkGone(_) | HostEvent::Address { .. } | HostEvent::Overrun => {
                Scope::Everything
            }
        };
        let (so_far, at) = dirty.unwrap_or((scope, Instant::now() + SETTLE));
        *dirty = Some((so_far.max(scope), at));
    }

    /// Takes over what is known of the networks that others made, and takes out of the maps at once what is not so any
    /// more. Says whether anything changed.
    fn follow(&mut self, found: Discovered) -> bool {
        let before = std::mem::replace(&mut self.inputs.found, found);
        let now = &self.inputs.found;
        if (&before.networks, before.docker.node_address) == (&now.networks, now.docker.node_address) {
            return false;
        }
        self.admit();
        // Only comparing everything can tell that nothing is wrong any more.
        if let Err(error) = self.prune() {
            self.health.fail(Part::Maps, &error);
        }
        true
    }

    /// Decides what carries the packets of each network.
    fn admit(&mut self) {
        let around = AdmissionInputs {
            view: self.inputs.view.as_ref(),
            devices: &self.applied.devices,
            home: self.home,
            docker: self.inputs.found.docker.node_address,
            xfrm: self.applied.xfrm,
            fdb_size: self.fdb_size(),
        };
        let networks = admission::admit(self.inputs.found.networks.iter().cloned(), &around);
        // An underlay whose address is away for a moment is served again.
        let is_away = |home| networks.underlays.get(&home).is_some_and(|underlay| underlay.finding.is_some());
        if networks.served.is_some() && !self.home.is_some_and(is_away) {
            self.home = networks.served;
        }
        if *self.networks != networks {
            self.health.pend(Part::Maps);
            self.networks = Arc::new(networks);
        }
    }

    fn fdb_size(&self) -> u32 {
        self.inputs.cluster.as_ref().and_then(|cluster| cluster.fdb_size).unwrap_or(maps::FDB.entries)
    }

    /// Makes new maps when the configuration asks for others than there are. The next reconciliation fills them, and puts
    /// programs that use them in the place of those that are attached.
    fn resize(&mut self) -> Result<(), DaemonError> {
        if self.datapath.fdb_size() == self.fdb_size() {
            return Ok(());
        }
        let datapath = Datapath::load(&self.ledger, Some(self.fdb_size()), Some(self.datapath.flavour()))?;
        // Nothing carries on with maps of which it is not known what they hold.
        let mut tables = datapath.maps.read().map_err(LoadError::Table)?;
        tables.inherit(std::mem::take(&mut self.applied.tables.retired));
        (self.datapath, self.applied.tables) = (datapath, tables);
        // Of the maps that were.
        self.health.done(Part::Entries);
        self.applied.attached.clear();
        self.sandboxes.forget_shims();
        self.health.pend(Part::Maps);
        if self.datapath.has_new_maps() {
            self.extend_deadline();
        }
        Ok(())
    }

    /// Takes over what a source says, or stays with what was. Says whether there is something to look at soon.
    async fn take_in(&mut self, result: SourceResult, source: &mut impl Source) -> bool {
        match result {
            Ok(Update::Cluster(cluster)) => {
                self.update(cluster, REFRESH, source).await;
                false
            }
            Ok(Update::Remote(changes)) => {
                // What fails is tried again; its part says so.
                if let Err(error) = self.change_remote(changes).await {
                    debug!("{error}");
                }
                false
            }
            Ok(Update::Discovered(found)) => {
                let changed = self.follow(found);
                self.publish(None);
                changed
            }
            // The source says when it is over.
            Err(SourceError::Store(error)) if error.is_unreachable() => {
                warn!("{error}; the running state stays");
                false
            }
            Err(error) => {
                // It is not the last one any more.
                self.inputs.refused = None;
                self.health.fail(Part::Configuration, &error);
                self.publish(None);
                false
            }
        }
    }

    /// Takes over a new configuration, or stays with the old one. When it is refused it is tried again after `pause`.
    async fn update(&mut self, cluster: Cluster, pause: Duration, source: &mut impl Source) {
        self.inputs.refused = None;
        if self.is_running(&cluster) {
            info!("the configuration is the running one");
            self.accept();
            return;
        }
        match self.take_over(&cluster).instrument(reconcile::round()).await {
            Ok((before, view)) => {
                let now = (&cluster, self.inputs.view.as_ref());
                let changes = announce::differences((&before.unwrap_or_default(), view.as_ref()), now);
                info!("the new configuration is in force: {}", changes.join(", "));
                source.set_applied(&cluster);
                self.accept();
            }
            Err(error) => {
                let address = self.inputs.view.as_ref().map(|view| view.host().address);
                let refused = Refused::new(&cluster, address, Findings::of_error(&error));
                self.health.fail(Part::Configuration, &refused.reason);
                // A try may make and remove devices: less and less often.
                let next = (2 * pause).min(LONGEST_PAUSE);
                self.inputs.refused = Some(Pending { cluster, due: Instant::now() + pause, pause: next });
                self.publish(Some(refused));
            }
        }
    }

    /// The last configuration that was heard of is in force.
    fn accept(&mut self) {
        self.health.done(Part::Configuration);
        self.state.send_modify(|state| state.refused = None);
        self.publish(None);
    }

    /// Whether a configuration says what is in force.
    fn is_running(&self, cluster: &Cluster) -> bool {
        let Some(running) = &self.inputs.cluster else { return false };
        let view = self.inputs.view.as_ref();
        let same = (&running.hosts, &running.networks, running.fdb_size, &running.discover)
            == (&cluster.hosts, &cluster.networks, cluster.fdb_size, &cluster.discover);
        same && view == view.and_then(|view| cluster.view(view.host().address)).as_ref()
    }

    /// Tells those who wait what is in force, and what was refused just now; and the log, what serves the networks.
    fn publish(&mut self, refused: Option<Refused>) {
        self.announcer.update(&self.networks);
        self.state.send_modify(|state| {
            state.ready = true;
            state.local = self.local();
            state.networks = Arc::clone(&self.networks);
            state.docker.clone_from(&self.inputs.found.docker);
            state.findings = self.health.findings().collect();
            if refused.is_some() {
                state.refused = refused;
            }
        });
    }

    /// Takes over a configuration. Returns the one before, with this host's part of it.
    async fn take_over(&mut self, cluster: &Cluster) -> Result<(Option<Cluster>, Option<View>), DaemonError> {
        // One container that has gone must not keep changes from the others.
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
        let (networks, home) = (Arc::clone(&self.networks), self.home);
        match self.enforce(&mut snapshot, Extent::AllOrNothing).await {
            Err(error) if !error.is_carried() => {
                (self.inputs.cluster, self.inputs.view) = old;
                (self.networks, self.home) = (networks, home);
                if let Err(again) = self.enforce(&mut self.host.snapshot(), Extent::Possible).await {
                    warn!("while going back to the old configuration: {again}");
                }
                Err(error)
            }
            _ => Ok(old),
        }
    }

    /// Makes maps and tables what the configuration asks for.
    async fn enforce(&mut self, snapshot: &mut Snapshot, extent: Extent) -> Result<(), DaemonError> {
        self.resize()?;
        self.reconcile_from(snapshot, Scope::Everything, extent).await
    }
}

/// Waits until then; for ever where there is no such time.
async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => future::pending().await,
    }
}
