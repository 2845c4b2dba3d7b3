//! The daemon: keeps what is true of the cluster true in the kernel's tables and in the maps.
//!
//! [`Daemon::start`] refuses what cannot work before it changes anything. [`Daemon::run`] then waits for whatever makes
//! the tables untrue (a new configuration, a neighbour, a route, a link) and lets `reconcile` mend them.

mod audit;
mod down;
mod heartbeat;
mod preflight;
mod privileges;
mod reconcile;
mod remote;
mod sandbox;
mod service;
mod state;

use std::{collections::BTreeSet, net::Ipv4Addr, path::PathBuf, time::Duration};

use futures_util::StreamExt as _;
use overlay_common::maps;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{Instrument as _, error, info, warn};

pub use audit::{AuditError, Auditor};
pub use down::{DownError, Left, down};
pub use preflight::{Missing, Preflight, PreflightError, check, check_netns};
pub use privileges::{check as privileges, reduce as reduce_privileges};
pub use state::{DaemonState, EndpointKey, LocalEndpoint, Refused, Served};

use crate::{
    control::{Change, News, Source},
    datapath::{AttachError, Datapath, LoadError, Lock, PinError, PinRoot, TableIoError, TcFlavour},
    host::{Host, HostError, HostEvent, Snapshot},
    model::{
        Cluster, Endpoint, Rx, View,
        mirror::{Mirrored, Settings},
    },
    plan::{
        mirror,
        tables::{Facts, TableError, Tables},
    },
};

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

/// Why the daemon could not start, or could not do what a new configuration asks.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration source.
    #[error(transparent)]
    Source(#[from] crate::control::SourceError),
    /// This host cannot do what the configuration says.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The kernel's networking objects.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The pin root.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The programs.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A table's size.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A map.
    #[error(transparent)]
    TableIo(#[from] TableIoError),
    /// A hook.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

impl DaemonError {
    /// The fast path lacks something, and the kernel carries its packets: no reason to refuse a configuration.
    const fn is_carried(&self) -> bool {
        matches!(self, Self::TableIo(_) | Self::Attach(AttachError::Attach { .. }))
    }
}

/// The daemon of one host.
pub struct Daemon {
    host: Host,
    root: PinRoot,
    _lock: Lock,
    datapath: Datapath,
    heartbeat: heartbeat::Heartbeat,
    audits: audit::Audits,
    /// What the maps hold.
    tables: Tables,
    /// The configuration without its endpoints, which are in the view; `None`: only foreign networks are served.
    cluster: Option<Cluster>,
    /// This host's part of it.
    view: Option<View>,
    /// The foreign networks, as far as they are admitted beside the configuration.
    mirrored: Mirrored,
    /// As they were found.
    found: Mirrored,
    /// What the configuration in force says of them.
    settings: watch::Sender<Option<Settings>>,
    rx: Rx,
    sandboxes: sandbox::Sandboxes,
    /// What the last reconciliation knew of the kernel.
    facts: Facts,
    /// Hooks whose program is this version's.
    attached: BTreeSet<crate::datapath::AttachPoint>,
    /// Next hops in use: whose neighbour entries matter.
    vias: BTreeSet<Ipv4Addr>,
    /// Something could not be made and is to be tried again.
    incomplete: bool,
    /// The maps hold what the view, the foreign networks and the facts ask for.
    settled: bool,
    /// An entry of a map that is not true any more could not be taken out or overwritten.
    doubtful: bool,
    /// The last configuration, if it was refused: what kept it from being made may be mended meanwhile.
    refused: Option<Pending>,
    /// What was last said about something that is wrong for as long as it is.
    complaint: Option<String>,
    state: watch::Sender<DaemonState>,
    service: service::Service,
}

/// A configuration that is to be tried again.
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

impl Daemon {
    /// Takes the pin root, loads the programs and makes everything that the first configuration asks for and the foreign
    /// networks `found` need. When that fails and nothing was there before, nothing is there again; what an earlier daemon
    /// left goes on forwarding. Without a configuration and without foreign networks the daemon waits for these.
    ///
    /// What an earlier daemon left and is not in `found` is taken out of the maps: let the mirror look first.
    ///
    /// # Errors
    /// [`DaemonError`], with the object and what mends it.
    pub async fn start(options: &Options, cluster: Option<Cluster>, found: Mirrored) -> Result<Self, DaemonError> {
        // Endpoints are looked at when it is known which are this host's.
        privileges::check(cluster.is_none() || !found.networks.is_empty())?;
        let host = Host::open()?;
        let mut snapshot = host.snapshot();
        let fresh = matches!(PinRoot::open(&options.pin_root), Err(PinError::Absent(_)));
        if let Ok(root) = PinRoot::open(&options.pin_root)
            && root.daemon_pid().is_none()
            && let failed = host.remove_unfinished(&reconcile::made(&root)?, &mut snapshot).await?
            && let Some(error) = failed.into_iter().next()
        {
            return Err(error.into());
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
        let bridges = view.iter().flat_map(|view| view.networks().keys()).map(|vni| crate::host::bridge_name(*vni));
        let links = snapshot.links().await?;
        let fresh = fresh && !bridges.into_iter().any(|bridge| links.iter().any(|link| link.name == bridge));
        let started = Self::take(options, host.clone(), (cluster, view, found), fresh).await;
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
        (cluster, view, found): (Option<Cluster>, Option<View>, Mirrored),
        fresh: bool,
    ) -> Result<Self, DaemonError> {
        let root = PinRoot::create(&options.pin_root)?;
        let lock = root.lock()?;
        root.set_daemon(std::process::id())?;
        root.unmark("state", "ready")?;
        let fdb_size = cluster.as_ref().and_then(|cluster| cluster.fdb_size);
        let settings = cluster.as_ref().and_then(|cluster| cluster.mirror.clone());
        let new = !root.map(maps::LEASE.name).exists();
        let datapath = Datapath::load(&root, fdb_size, options.flavour)?;
        let tables = datapath.maps.read()?;
        let sandboxes = sandbox::Sandboxes::read(&root)?;
        let cluster = cluster.as_ref().map(Cluster::without_endpoints);
        let mut daemon = Self {
            host,
            root,
            _lock: lock,
            datapath,
            heartbeat: heartbeat::Heartbeat::new(options.deadline),
            audits: audit::Audits::default(),
            tables,
            cluster,
            view,
            mirrored: Mirrored::default(),
            found,
            settings: watch::Sender::new(settings),
            rx: options.rx,
            sandboxes,
            facts: Facts::default(),
            attached: BTreeSet::new(),
            vias: BTreeSet::new(),
            incomplete: false,
            settled: false,
            doubtful: false,
            refused: None,
            complaint: None,
            state: watch::Sender::default(),
            service: service::Service::of_environment(),
        };
        if new || daemon.datapath.has_new_maps() {
            // What will be in the tables is this daemon's. Without a deadline before the first program is attached, one
            // that dies before it is ready would leave them to be trusted for ever.
            daemon.extend_deadline();
        }
        daemon.admit();
        let whole = fresh && options.missing == Missing::Refused;
        match daemon.reconcile(Scope::Everything, whole).await {
            Err(error) if whole => return Err(error),
            // Where a data path runs already, a daemon that mends what it can is better than none.
            result => daemon.complain(result.err()),
        }
        daemon.root.mark("state", "ready")?;
        daemon.resume();
        daemon.publish(None);
        Ok(daemon)
    }

    /// The loaded programs, for a log reader.
    pub fn datapath_mut(&mut self) -> &mut Datapath {
        &mut self.datapath
    }

    /// Has [`down`] remove this socket too, when the daemon could not.
    ///
    /// # Errors
    /// [`PinError`].
    pub fn record_socket(&self, path: &std::path::Path) -> Result<(), PinError> {
        for old in self.root.marks(down::SOCKET)? {
            self.root.unmark(down::SOCKET, &old)?;
        }
        self.root.mark(down::SOCKET, &path.display().to_string())
    }

    /// This host's part of the cluster; `None` without a configuration.
    #[must_use]
    pub fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// The foreign networks, each with the reason why it is left to the kernel, if it is.
    #[must_use]
    pub fn mirrored(&self) -> &Mirrored {
        &self.mirrored
    }

    /// What the configuration in force says of foreign networks, and news of it.
    #[must_use]
    pub fn mirror_settings(&self) -> watch::Receiver<Option<Settings>> {
        self.settings.subscribe()
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

    /// Follows the source, the foreign networks and the kernel until `stop` is ready. The data path stays as it is then.
    ///
    /// When the sender of `mirror` is dropped, nobody knows the foreign networks any more, and they are left to the kernel.
    ///
    /// # Errors
    /// [`HostError`] when the kernel's events cannot be had.
    pub async fn run(
        &mut self,
        source: &mut impl Source,
        mut mirror: watch::Receiver<Mirrored>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), DaemonError> {
        let mut events = Host::events()?;
        let mut stop = std::pin::pin!(stop);
        let mut mirrors = true;
        // What it holds now may be newer than what the daemon was started with.
        mirror.mark_changed();
        // Between the first reconciliation and the subscription something may have happened.
        let mut dirty = Some((Scope::Everything, Instant::now()));
        let mut refresh = Instant::now() + REFRESH;
        self.tell_manager();
        loop {
            let due = dirty.map_or(refresh, |(_, at)| at.min(refresh));
            tokio::select! {
                () = &mut stop => {
                    self.service.stopping();
                    return Ok(());
                }
                changed = mirror.changed(), if mirrors => {
                    mirrors = changed.is_ok();
                    let found = if mirrors { mirror.borrow_and_update().clone() } else { Mirrored::default() };
                    if self.follow(found) {
                        dirty = Some((dirty.map_or(Scope::NextHops, |(scope, _)| scope), Instant::now()));
                    }
                }
                change = source.next_change() => self.take_in(change).await,
                event = events.next() => match event {
                    Some(event) => self.note(&mut dirty, &event),
                    None => return Err(HostError::Socket(std::io::ErrorKind::BrokenPipe.into()).into()),
                },
                // On its own: whatever holds this loop up for too long, holds up the fast path too.
                () = self.heartbeat.due() => self.extend_deadline(),
                () = self.audits.due() => self.audit().await,
                () = self.service.due() => self.service.alive(),
                () = sleep_until(due) => {
                    // Nothing that comes could be attached or recorded, and nobody could look at what is there.
                    self.root.check_present()?;
                    // Nor could anything be read or changed.
                    if !self.host.is_connected() {
                        return Err(HostError::Socket(std::io::ErrorKind::BrokenPipe.into()).into());
                    }
                    let least = if self.incomplete { Scope::Everything } else { Scope::NextHops };
                    let scope = dirty.take().map_or(least, |(scope, _)| scope.max(least));
                    let result = self.reconcile(scope, false).await;
                    self.complain(result.err());
                    if let Some(pending) = self.refused.take_if(|pending| pending.due <= Instant::now()) {
                        self.update(pending.cluster, pending.pause).await;
                    }
                    self.resume();
                    self.publish(None);
                    self.tell_manager();
                    refresh = Instant::now() + REFRESH;
                }
            }
        }
    }

    fn note(&self, dirty: &mut Option<(Scope, Instant)>, event: &HostEvent) {
        let scope = match event {
            HostEvent::Neighbour { ip, .. } if !self.vias.contains(ip) => return,
            HostEvent::Neighbour { .. } | HostEvent::Route => Scope::NextHops,
            HostEvent::Link(_) | HostEvent::LinkGone(_) | HostEvent::Address { .. } | HostEvent::Overrun => {
                Scope::Everything
            }
        };
        let (so_far, at) = dirty.unwrap_or((scope, Instant::now() + SETTLE));
        *dirty = Some((so_far.max(scope), at));
    }

    /// Takes over what is known of the foreign networks, and takes out of the maps at once what is not so any more. Says
    /// whether anything changed.
    fn follow(&mut self, found: Mirrored) -> bool {
        if found == self.found {
            return false;
        }
        self.found = found;
        self.admit();
        // Only comparing everything can tell that nothing is wrong any more.
        if let Err(error) = self.prune() {
            self.complain(Some(error));
        }
        true
    }

    /// Refuses the foreign networks that do not go with the configuration, and says so once.
    fn admit(&mut self) {
        let admitted = mirror::admit(self.found.clone(), self.view.as_ref(), self.fdb_size());
        for (vni, network) in &admitted.networks {
            let was = self.mirrored.networks.get(vni).map(|network| &network.refused);
            match &network.refused {
                Some(refusal) if was != Some(&network.refused) => info!("VNI {vni} is left to the kernel: {refusal}"),
                None if was != Some(&None) => info!("VNI {vni} is accelerated"),
                _ => {}
            }
        }
        self.mirrored = admitted;
    }

    fn fdb_size(&self) -> u32 {
        self.cluster.as_ref().and_then(|cluster| cluster.fdb_size).unwrap_or(maps::FDB.entries)
    }

    /// Makes new maps when the configuration asks for others than there are. The next reconciliation fills them, and puts
    /// programs that use them in the place of those that are attached.
    fn resize(&mut self) -> Result<(), DaemonError> {
        if self.datapath.fdb_size() == self.fdb_size() {
            return Ok(());
        }
        let datapath = Datapath::load(&self.root, Some(self.fdb_size()), Some(self.datapath.flavour()))?;
        // Nothing carries on with maps of which it is not known what they hold.
        let tables = datapath.maps.read().map_err(LoadError::Table)?;
        (self.datapath, self.tables) = (datapath, tables);
        // Of the maps that were.
        self.doubtful = false;
        self.attached.clear();
        self.sandboxes.forget_shims();
        self.settled = false;
        if self.datapath.has_new_maps() {
            self.extend_deadline();
        }
        Ok(())
    }

    /// Says what is wrong once, and that it is over.
    fn complain(&mut self, error: Option<DaemonError>) {
        let complaint = error.map(|error| error.to_string());
        if complaint != self.complaint {
            match &complaint {
                Some(text) => error!("{text}"),
                None => info!("the tables are true again"),
            }
            self.complaint = complaint;
        }
    }

    /// Takes over what the source says, or stays with what was.
    async fn take_in(&mut self, change: Change) {
        match change {
            Ok(News::Cluster(cluster)) => self.update(cluster, REFRESH).await,
            Ok(News::Remote(changes)) => {
                // Only comparing everything can tell that nothing is wrong any more.
                if let Err(error) = self.change_remote(changes).await {
                    self.complain(Some(error));
                }
            }
            Err(error) => error!("the configuration is refused and the running state stays:\n{error}"),
        }
    }

    /// Takes over a new configuration, or stays with the old one. When it is refused it is tried again after `pause`.
    async fn update(&mut self, cluster: Cluster, pause: Duration) {
        self.refused = None;
        if self.is_running(&cluster) {
            info!("the configuration is the running one");
            self.state.send_modify(|state| state.refused = None);
            return;
        }
        match self.take_over(&cluster).instrument(reconcile::round()).await {
            Ok(()) => {
                info!("the new configuration is in force");
                self.state.send_modify(|state| state.refused = None);
                self.publish(None);
            }
            Err(error) => {
                let address = self.view.as_ref().map(|view| view.host().address);
                let refused = Refused::new(&cluster, address, error.to_string());
                let known = self.state.borrow().refused.as_ref().is_some_and(|known| known.reason == refused.reason);
                if !known {
                    error!("the configuration is refused and the running state stays:\n{error}");
                }
                // A try may make and remove devices: less and less often.
                let next = (2 * pause).min(LONGEST_PAUSE);
                self.refused = Some(Pending { cluster, due: Instant::now() + pause, pause: next });
                self.publish(Some(refused));
            }
        }
    }

    /// Whether a configuration says what is in force.
    fn is_running(&self, cluster: &Cluster) -> bool {
        let Some(running) = &self.cluster else { return false };
        let same = (&running.hosts, &running.networks, running.fdb_size, &running.mirror)
            == (&cluster.hosts, &cluster.networks, cluster.fdb_size, &cluster.mirror);
        same && self.view == self.view.as_ref().and_then(|view| cluster.view(view.host().address))
    }

    /// Tells those who wait what is in force, and what was refused just now.
    fn publish(&self, refused: Option<Refused>) {
        self.state.send_modify(|state| {
            state.ready = true;
            state.local = self.local();
            state.mirrored.clone_from(&self.mirrored);
            state.complaint.clone_from(&self.complaint);
            if refused.is_some() {
                state.refused = refused;
            }
        });
    }

    async fn take_over(&mut self, cluster: &Cluster) -> Result<(), DaemonError> {
        // One container that has gone must not keep changes from the others.
        let known = |endpoint: &Endpoint| {
            let network = self.view.as_ref().and_then(|view| view.networks().get(&endpoint.vni));
            if network.is_some_and(|network| network.local().contains(endpoint)) {
                Missing::Tolerated
            } else {
                Missing::Refused
            }
        };
        let mut snapshot = self.host.snapshot();
        let view = preflight::view(&snapshot, cluster, self.root.path(), &known).await?;
        let old = (self.cluster.replace(cluster.without_endpoints()), std::mem::replace(&mut self.view, view));
        self.admit();
        let result = self.enforce(&mut snapshot, true).await;
        if result.as_ref().is_err_and(DaemonError::is_carried) {
            self.complain(result.err());
        } else if let Err(error) = result {
            (self.cluster, self.view) = old;
            self.admit();
            if let Err(again) = self.enforce(&mut self.host.snapshot(), false).await {
                warn!("while going back to the old configuration: {again}");
            }
            return Err(error);
        }
        self.settings.send_replace(self.cluster.as_ref().and_then(|cluster| cluster.mirror.clone()));
        Ok(())
    }

    /// Makes maps and tables what the configuration asks for; `whole` as in [`Daemon::reconcile`].
    async fn enforce(&mut self, snapshot: &mut Snapshot, whole: bool) -> Result<(), DaemonError> {
        self.resize()?;
        self.reconcile_from(snapshot, Scope::Everything, whole).await
    }
}
