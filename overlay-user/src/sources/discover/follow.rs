//! Refreshes the facts and derives the networks again when they change.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use overlay_common::VtepAddr;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};

use tracing::{Instrument as _, trace, trace_span};

use super::{
    decide::{decide, vxlans},
    docker::{DockerState, DockerWatch},
    facts::{Facts, HostFacts, NetnsFacts, source_query},
    namespaces::{namespaces, open},
    pace::Pace,
    read::{self, NetnsTables, Rules, Visit},
    watch::{DirectoryWatch, Subscriptions, TableWatch},
};
use crate::{
    kernel::{
        FdbEntry, Host, KernelError, LinkKind, NFTABLES, POLL_INTERVAL, RouteQuery, RuleEvents, RuleWatch,
        XFRM_POLICIES,
    },
    model::{
        Network,
        discovery::{NetnsRef, Settings},
        network::Cause,
    },
    sources::Discovered,
    sys::netns::Netns,
};

/// Debounce time of events.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// Interval of complete reads, independent of events.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);
/// Longest such interval. An interval is at least this many times as long as the read.
const LONGEST_REFRESH: Duration = Duration::from_secs(60);
const REFRESH_SHARE: u32 = 20;
/// Poll interval while a file is not a namespace yet: Docker creates the file, then mounts the namespace on it.
const PENDING: Duration = Duration::from_millis(20);
/// Age of a sandbox by which Docker has installed its encryption rules.
const ENCRYPTION_SET_UP: Duration = Duration::from_secs(3);

/// Scope of a read in one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Nothing,
    /// State without events.
    Rules,
    /// The rules and the tables.
    Everything,
}

/// A followed namespace.
struct Tracked {
    netns_ref: NetnsRef,
    watch: TableWatch,
    rule_watch: RuleWatch,
    /// It is older than the daemon by at least [`ENCRYPTION_SET_UP`].
    predates_daemon: bool,
    /// Time of discovery of each VXLAN device, by interface index; `None`: it predates the daemon.
    first_seen: BTreeMap<u32, Option<Instant>>,
    read: Instant,
    /// Duration of the last complete read.
    cost: Duration,
    /// `None`: unreadable.
    facts: Option<(NetnsTables, Rules)>,
    /// Pauses between reads because of events.
    pace: Pace,
}

/// State of the discovery task.
pub(super) struct Follower {
    settings: watch::Receiver<Option<Settings>>,
    /// The settings in use.
    followed: Option<Settings>,
    underlay: Netns,
    receive_buffer: usize,
    wake: Arc<Notify>,
    /// `None`: discovery is off.
    directory: Option<DirectoryWatch>,
    docker: Option<DockerWatch>,
    namespaces: BTreeMap<NetnsRef, Tracked>,
    host: HostFacts,
    /// Sockets in the daemon's own namespace; they stay open.
    own_host: Option<Host>,
    /// Time of the last read of `host.sources`.
    sources_read: Option<Instant>,
    polled: Option<Instant>,
    /// A file is not a namespace yet.
    pending: bool,
    /// When a namespace must be read whose events have to wait.
    next_read: Option<Instant>,
}

impl Follower {
    pub(super) fn new(settings: watch::Receiver<Option<Settings>>, underlay: Netns, receive_buffer: usize) -> Self {
        let wake = Arc::new(Notify::new());
        let mut follower = Self {
            directory: None,
            docker: None,
            settings,
            followed: None,
            underlay,
            receive_buffer,
            wake,
            namespaces: BTreeMap::new(),
            host: HostFacts::default(),
            own_host: None,
            sources_read: None,
            polled: None,
            pending: false,
            next_read: None,
        };
        follower.reconfigure();
        follower
    }

    /// Waits for Docker's first answer or error, at most for `limit`.
    pub(super) async fn wait_for_docker(&self, limit: Duration) {
        let Some(docker) = &self.docker else { return };
        let mut state = docker.state();
        let answered = state.wait_for(|state| state.answered.is_some() || state.error.is_some());
        let _ = tokio::time::timeout(limit, answered).await;
    }

    /// Runs until the receiver is dropped.
    pub(super) async fn run(mut self, sender: watch::Sender<Discovered>) {
        loop {
            let mut docker = self.docker.as_ref().map(DockerWatch::state);
            if let Some(docker) = &mut docker {
                docker.mark_unchanged();
            }
            let next_poll = self.polled.map_or_else(Instant::now, |polled| polled + POLL_INTERVAL);
            let waiting = [self.next_read, self.pending.then(|| Instant::now() + PENDING)];
            let next_poll = waiting.into_iter().flatten().fold(next_poll, Instant::min);
            tokio::select! {
                () = sender.closed() => return,
                () = self.wake.notified() => sleep(DEBOUNCE).await,
                () = changed(docker.as_mut()) => {}
                result = self.settings.changed() => match result {
                    Ok(()) => self.reconfigure(),
                    Err(_) => return,
                },
                () = sleep_until(next_poll), if self.directory.is_some() => {}
            }
            let found = self.round().await;
            sender.send_if_modified(|current| {
                let changed = *current != found;
                *current = found;
                changed
            });
        }
    }

    fn reconfigure(&mut self) {
        let settings = self.settings.borrow_and_update().clone();
        let of = |settings: &Option<Settings>| {
            settings.as_ref().map(|known| (known.netns_dir.clone(), known.docker.clone()))
        };
        // A changed allow or deny list does not restart the watches.
        let (before, now) = (of(&self.followed), of(&settings));
        if before.as_ref().map(|(directory, _)| directory) != now.as_ref().map(|(directory, _)| directory) {
            self.namespaces.clear();
            self.directory = now.as_ref().map(|(directory, _)| DirectoryWatch::new(directory, Arc::clone(&self.wake)));
        }
        if before.and_then(|(_, docker)| docker) != now.as_ref().and_then(|(_, docker)| docker.clone()) {
            self.docker = now.and_then(|(_, docker)| docker).map(DockerWatch::start);
        }
        self.followed = settings;
    }

    /// Refreshes the facts and derives the networks. The requests to the kernel are logged at level `trace` in its
    /// span.
    pub(super) async fn round(&mut self) -> Discovered {
        let span = trace_span!("discovery");
        span.in_scope(|| trace!("a round begins"));
        self.update().instrument(span).await
    }

    async fn update(&mut self) -> Discovered {
        let Some(settings) = self.settings.borrow().clone() else { return Discovered::default() };
        let now = Instant::now();
        let rules_due = self.polled.is_none_or(|polled| now >= polled + POLL_INTERVAL);
        self.rescan(&settings.netns_dir);
        let mut namespaces: Vec<&mut Tracked> = self.namespaces.values_mut().collect();
        // The underlay's namespace last: its rules show which of the discovered networks are encrypted.
        namespaces.sort_by_key(|tracked| tracked.netns_ref == NetnsRef::Own);
        for tracked in namespaces {
            let has_events = tracked.next_read().is_some_and(|due| now >= due);
            let rules_due = rules_due | tracked.rule_watch.take_changed();
            let is_host = tracked.netns_ref == NetnsRef::Own;
            if has_events && is_host {
                self.sources_read = None;
            }
            let scope = if has_events || tracked.facts.is_none() || now >= tracked.refresh() {
                Scope::Everything
            } else if rules_due && tracked.has_networks() {
                Scope::Rules
            } else {
                Scope::Nothing
            };
            let encryption = if is_host && rules_due { Some(&mut self.host) } else { None };
            tracked.visit(&self.underlay, scope, encryption, now).await;
            if scope == Scope::Everything {
                // A new device needs its subscription before the last read of its tables.
                tracked.renew_watch(&self.underlay, &self.wake, self.receive_buffer);
            }
        }
        if rules_due {
            self.polled = Some(now);
        }
        self.next_read = self.namespaces.values().filter_map(Tracked::next_read).min();
        let namespaces = self.facts(now);
        self.sources(&namespaces, &settings, now).await;
        let docker = self.docker.as_ref().map_or_else(DockerState::default, |docker| docker.state().borrow().clone());
        let facts = Facts { namespaces, host: self.host.clone(), docker };
        let found = decide(&facts, &settings);
        // Docker's answer may admit the network.
        let is_unknown = |network: &Network| {
            let cause = network.kind.external().and_then(|external| external.refusal.as_ref()).map(|why| why.cause);
            network.name.is_none() && matches!(cause, Some(Cause::New | Cause::Encrypted))
        };
        if let Some(docker) = &self.docker
            && found.networks.iter().any(is_unknown)
        {
            docker.poll_now();
        }
        found
    }

    /// Adds new namespaces and removes deleted ones. Immediately, because an open socket keeps a namespace and its
    /// devices alive in the kernel.
    fn rescan(&mut self, netns_dir: &Path) {
        if let Some(directory) = &mut self.directory {
            directory.renew();
        }
        let (mut present, pending) = namespaces(netns_dir);
        self.pending = pending;
        present.retain(|netns| match netns {
            NetnsRef::Other { inode, .. } => Some(*inode) != self.underlay.inode(),
            NetnsRef::Own => true,
        });
        present.insert(NetnsRef::Own);
        // Without events, nothing is known about a namespace: it is followed again as a new one.
        let is_followed = |tracked: &Tracked| !tracked.watch.pending().is_closed;
        self.namespaces.retain(|netns, tracked| present.contains(netns) && is_followed(tracked));
        let now = Instant::now();
        // Namespaces found at the start are at least as old as the last change of the directory.
        let is_unchanged = fs::metadata(netns_dir)
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > ENCRYPTION_SET_UP));
        let predates_daemon = is_unchanged && self.polled.is_none();
        for netns_ref in present {
            if self.namespaces.contains_key(&netns_ref) {
                continue;
            }
            let subscriptions = Subscriptions { routes: netns_ref == NetnsRef::Own, other_netns: false };
            let watch = open(&netns_ref, &self.underlay).map_err(KernelError::from).and_then(|netns| {
                let rules = RuleWatch::open(rule_events(&netns_ref), &netns, &self.wake)?;
                let wake = Arc::clone(&self.wake);
                Ok((TableWatch::open(&netns, wake, self.receive_buffer, subscriptions)?, rules))
            });
            match watch {
                Ok((watch, rule_watch)) => {
                    let first_seen = BTreeMap::new();
                    let tracked = Tracked {
                        netns_ref: netns_ref.clone(),
                        watch,
                        rule_watch,
                        predates_daemon,
                        first_seen,
                        read: now,
                        facts: None,
                        pace: Pace::new(now),
                        cost: Duration::ZERO,
                    };
                    self.namespaces.insert(netns_ref, tracked);
                }
                // The namespace is gone, or the next round succeeds.
                Err(error) => tracing::debug!("{error}"),
            }
        }
    }

    fn facts(&self, now: Instant) -> Vec<NetnsFacts> {
        let of = |tracked: &Tracked| {
            let (is_lost, moved) = {
                let pending = tracked.watch.pending();
                (pending.is_lost, pending.moved.clone())
            };
            let (tables, rules) = tracked.facts.clone()?;
            Some(NetnsFacts {
                netns_ref: tracked.netns_ref.clone(),
                underlay_netns: tables.underlay_netns,
                links: tables.links,
                veth_peers: tables.veth_peers,
                fdb: tables.fdb,
                moved,
                is_lost,
                rules: rules.netfilter,
                tc: rules.tc,
                local_ports: tables.local_ports,
                aged: tracked.aged(now),
            })
        };
        self.namespaces.values().filter_map(of).collect()
    }

    /// Reads the source addresses of packets to the VTEPs if a lookup is new or the last read is old.
    async fn sources(&mut self, namespaces: &[NetnsFacts], settings: &Settings, now: Instant) {
        let mut lookups = BTreeSet::<(RouteQuery, VtepAddr)>::new();
        for netns in namespaces {
            let devices = vxlans(netns, settings);
            let devices: BTreeMap<u32, RouteQuery> =
                devices.filter_map(|(link, info)| Some((link.index, source_query(info)?))).collect();
            let of = |entry: &FdbEntry| Some((*devices.get(&entry.ifindex)?, entry.dst?));
            lookups.extend(netns.fdb.iter().filter(|entry| entry.own).filter_map(of));
        }
        let known = lookups.iter().all(|lookup| self.host.sources.contains_key(lookup));
        if !known || self.sources_read.is_none_or(|read| now >= read + REFRESH_INTERVAL) {
            self.sources_read = Some(now);
            if let Err(error) = self.read_sources(lookups).await {
                tracing::debug!("{error}");
                self.host.sources.clear();
                self.sources_read = None;
            }
        }
    }

    async fn read_sources(&mut self, lookups: BTreeSet<(RouteQuery, VtepAddr)>) -> Result<(), KernelError> {
        let host = match &self.own_host {
            Some(host) if host.is_connected() => host,
            _ => self.own_host.insert(Host::open()?),
        };
        read::sources(host, lookups, &mut self.host).await
    }
}

impl Tracked {
    /// Reads the namespace in one visit. An unreadable namespace has no facts, so its networks are not accelerated with
    /// stale entries. With `encryption`, its XFRM policies and netfilter rules are read too.
    async fn visit(&mut self, underlay: &Netns, scope: Scope, encryption: Option<&mut HostFacts>, now: Instant) {
        if scope == Scope::Nothing && encryption.is_none() {
            return;
        }
        let begin = Instant::now();
        let by_event = scope == Scope::Everything && self.watch.pending().is_dirty();
        if scope == Scope::Everything {
            self.watch.begin_read();
        }
        let devices = self.facts.as_ref().map(|(tables, _)| read::on_path(&tables.links)).unwrap_or_default();
        // XDP programs of containers can be attached without an event (`bpf_xdp_link_attach` in net/core/dev.c).
        let ports = self.facts.as_ref().map(|(tables, _)| read::veth_ports(&tables.links)).unwrap_or_default();
        let last = self.facts.as_ref().and_then(|(_, rules)| Some((rules.version?, Arc::clone(&rules.netfilter))));
        let (reference, encrypted) = (underlay.clone(), encryption.is_some());
        let read = move |visit: &Visit<'_>| {
            let netns = match scope {
                Scope::Everything => visit.tables(&reference).map(|tables| {
                    let rules = visit.rules(&read::on_path(&tables.links), last);
                    (Some(tables), BTreeMap::new(), Some(rules))
                }),
                Scope::Rules => Ok((None, visit.veth_peers(&ports), Some(visit.rules(&devices, last)))),
                Scope::Nothing => Ok((None, BTreeMap::new(), None)),
            };
            // After the tables: Docker creates a network's device before the rules that encrypt it.
            Ok((encrypted.then(|| visit.encryption()), netns))
        };
        let result = match open(&self.netns_ref, underlay) {
            Ok(netns) => read::visit(&netns, read).await,
            Err(error) => Err(error.into()),
        };
        let (found, netns) = match result {
            Ok((found, netns)) => (found.ok_or_else(String::new), netns),
            Err(error) => (Err(error.to_string()), Err(error)),
        };
        if let Some(facts) = encryption {
            match found {
                Ok(found) => {
                    (facts.xfrm, facts.netfilter) = (found.xfrm, found.netfilter);
                }
                Err(error) => (facts.xfrm, facts.netfilter) = (Err(error.clone()), Err(error)),
            }
        }
        match netns {
            Ok((Some(tables), _, Some(rules))) => {
                self.record_devices(&tables, now);
                self.watch.pending().set_important(read::important(&tables));
                self.facts = Some((tables, rules));
            }
            Ok((_, peers, Some(new))) => {
                if let Some((tables, rules)) = &mut self.facts {
                    // Nothing is known about a peer that cannot be read.
                    let read = read::veth_ports(&tables.links);
                    tables.veth_peers.retain(|port, _| !read.iter().any(|(index, ..)| index == port));
                    tables.veth_peers.extend(peers);
                    *rules = new;
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!("{error}");
                self.facts = None;
            }
        }
        if scope == Scope::Everything {
            self.read = Instant::now();
            self.cost = self.read - begin;
            if by_event {
                self.pace.record(self.read);
            }
        }
    }

    /// When the tables must be read without events: large tables more seldom.
    fn refresh(&self) -> Instant {
        self.read + (self.cost * REFRESH_SHARE).clamp(REFRESH_INTERVAL, LONGEST_REFRESH)
    }

    /// When the tables must be read because of events.
    fn next_read(&self) -> Option<Instant> {
        let pending = self.watch.pending();
        pending.is_dirty().then(|| self.pace.due(pending.is_changed))
    }

    /// Whether the namespace may have VXLAN networks, so that its rules must be polled.
    fn has_networks(&self) -> bool {
        self.facts.as_ref().is_some_and(|(tables, _)| !tables.fdb.is_empty() || tables.underlay_netns.is_some())
    }

    /// Subscribes to the peers of veths if the namespace has a VXLAN device.
    fn renew_watch(&mut self, underlay: &Netns, wake: &Arc<Notify>, receive_buffer: usize) {
        let subscriptions =
            Subscriptions { routes: self.netns_ref == NetnsRef::Own, other_netns: !self.first_seen.is_empty() };
        if subscriptions != self.watch.subscriptions()
            && let Ok(netns) = open(&self.netns_ref, underlay)
            && let Ok(watch) = TableWatch::open(&netns, Arc::clone(wake), receive_buffer, subscriptions)
        {
            self.watch = watch;
            // Events before the subscription require a read.
            wake.notify_one();
        }
    }

    fn record_devices(&mut self, tables: &NetnsTables, now: Instant) {
        let devices = tables.links.iter().filter(|link| matches!(link.kind, LinkKind::Vxlan(_)));
        let devices: BTreeSet<u32> = devices.map(|link| link.index).collect();
        self.first_seen.retain(|device, _| devices.contains(device));
        let since = if self.predates_daemon { None } else { Some(now) };
        for device in devices {
            self.first_seen.entry(device).or_insert(since);
        }
        self.predates_daemon = false;
    }

    fn aged(&self, now: Instant) -> BTreeSet<u32> {
        let is_aged = |since: &Option<Instant>| since.is_none_or(|since| now >= since + ENCRYPTION_SET_UP);
        self.first_seen.iter().filter(|(_, since)| is_aged(since)).map(|(device, _)| *device).collect()
    }
}

/// The events of rules of a namespace: XFRM policies apply to outer packets.
fn rule_events(netns: &NetnsRef) -> &'static [RuleEvents] {
    if *netns == NetnsRef::Own { &[NFTABLES, XFRM_POLICIES] } else { &[NFTABLES] }
}

async fn changed(docker: Option<&mut watch::Receiver<DockerState>>) {
    if let Some(docker) = docker
        && docker.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}
