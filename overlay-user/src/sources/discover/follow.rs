//! Keeping the facts fresh, and deciding again when they have changed.

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
    facts::{Facts, HostFacts, NetnsFacts},
    namespaces::{namespaces, open},
    read::{self, NetnsTables, Rules, Visit},
    watch::{DirectoryWatch, Subscriptions, TableWatch},
};
use crate::{
    kernel::{Host, KernelError, LinkKind},
    model::{
        Network,
        discovery::{NetnsRef, Settings},
        network::Cause,
    },
    sources::Found,
    sys::netns::Netns,
};

/// Events that come this close together are answered once.
const SETTLE: Duration = Duration::from_millis(5);
/// How often what has no events is looked at: netfilter, XFRM, traffic control, the directory.
const LOOK: Duration = Duration::from_millis(500);
/// How often everything is read, events or not.
const REFRESH: Duration = Duration::from_secs(5);
/// A file that is not a namespace yet becomes one soon: Docker makes the file first, and mounts the namespace on it.
const PENDING: Duration = Duration::from_millis(20);
/// How long after a sandbox is first seen Docker has set its encryption up.
const ENCRYPTION_SET_UP: Duration = Duration::from_secs(3);

/// What is read of a namespace in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Nothing,
    /// What has no events.
    Rules,
    /// The tables, too.
    Everything,
}

/// A namespace that is followed.
struct Tracked {
    netns_ref: NetnsRef,
    watch: TableWatch,
    /// It was there long before the daemon.
    old: bool,
    /// VXLAN devices, by interface index, since when they have been seen; `None`: long before the daemon.
    first_seen: BTreeMap<u32, Option<Instant>>,
    read: Instant,
    /// `None`: could not be read.
    facts: Option<(NetnsTables, Rules)>,
}

/// Everything that is followed.
pub(super) struct Follower {
    settings: watch::Receiver<Option<Settings>>,
    /// The settings that are in use.
    followed: Option<Settings>,
    underlay: Netns,
    receive_buffer: usize,
    wake: Arc<Notify>,
    /// `None`: nothing is followed.
    directory: Option<DirectoryWatch>,
    docker: Option<DockerWatch>,
    namespaces: BTreeMap<NetnsRef, Tracked>,
    host: HostFacts,
    /// Sockets in the daemon's own namespace, which may stay open.
    here: Option<Host>,
    /// When `host.sources` was read.
    sources_read: Option<Instant>,
    looked: Option<Instant>,
    /// A namespace is about to appear.
    pending: bool,
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
            here: None,
            sources_read: None,
            looked: None,
            pending: false,
        };
        follower.reconfigure();
        follower
    }

    /// Waits for Docker's first word, or until `patience` is over.
    pub(super) async fn hear_docker(&self, patience: Duration) {
        let Some(docker) = &self.docker else { return };
        let mut state = docker.state();
        let answered = state.wait_for(|state| state.answered.is_some() || state.error.is_some());
        let _ = tokio::time::timeout(patience, answered).await;
    }

    /// Follows until the receiver is gone.
    pub(super) async fn run(mut self, sender: watch::Sender<Found>) {
        loop {
            let mut docker = self.docker.as_ref().map(DockerWatch::state);
            if let Some(docker) = &mut docker {
                docker.mark_unchanged();
            }
            let look =
                self.looked.map_or_else(Instant::now, |looked| looked + if self.pending { PENDING } else { LOOK });
            tokio::select! {
                () = sender.closed() => return,
                () = self.wake.notified() => sleep(SETTLE).await,
                () = changed(docker.as_mut()) => {}
                result = self.settings.changed() => match result {
                    Ok(()) => self.reconfigure(),
                    Err(_) => return,
                },
                () = sleep_until(look), if self.directory.is_some() => {}
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
        // What is followed already is not new because a list has changed.
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

    /// Brings all facts up to date and decides. What it asks the kernel is logged inside, at the level `trace`.
    pub(super) async fn round(&mut self) -> Found {
        let span = trace_span!("discovery");
        span.in_scope(|| trace!("a round begins"));
        self.update().instrument(span).await
    }

    async fn update(&mut self) -> Found {
        let Some(settings) = self.settings.borrow().clone() else { return Found::default() };
        let now = Instant::now();
        let look = self.looked.is_none_or(|looked| now >= looked + LOOK);
        self.rescan(&settings.netns_dir);
        let mut namespaces: Vec<&mut Tracked> = self.namespaces.values_mut().collect();
        // The underlay's namespace last: it says which networks are encrypted, of those that were found.
        namespaces.sort_by_key(|tracked| tracked.netns_ref == NetnsRef::Own);
        for tracked in namespaces {
            let changed = tracked.watch.take();
            let is_host = tracked.netns_ref == NetnsRef::Own;
            if changed && is_host {
                self.sources_read = None;
            }
            let scope = if changed || tracked.facts.is_none() || now >= tracked.read + REFRESH {
                Scope::Everything
            } else if look && tracked.has_networks() {
                Scope::Rules
            } else {
                Scope::Nothing
            };
            let encryption = if is_host && look { Some(&mut self.host) } else { None };
            tracked.visit(&self.underlay, scope, encryption, now).await;
            if scope == Scope::Everything {
                // A new device is listened to before its tables are read for good.
                tracked.listen(&self.underlay, &self.wake, self.receive_buffer);
            }
        }
        if look {
            self.looked = Some(now);
        }
        let namespaces = self.facts(now);
        self.sources(&namespaces, &settings, now).await;
        let docker = self.docker.as_ref().map_or_else(DockerState::default, |docker| docker.state().borrow().clone());
        let facts = Facts { namespaces, host: self.host.clone(), docker };
        let found = decide(&facts, &settings);
        // Docker may know, and the network waits for it.
        let is_unknown = |network: &Network| {
            let cause = network.kind.external().and_then(|external| external.refusal.as_ref()).map(|why| why.cause);
            network.name.is_none() && matches!(cause, Some(Cause::New | Cause::Encrypted))
        };
        if let Some(docker) = &self.docker
            && found.networks.iter().any(is_unknown)
        {
            docker.nudge();
        }
        found
    }

    /// Finds namespaces that have come, and forgets those that have gone: at once, because as long as a socket is open
    /// in one, the kernel keeps it and what is in it.
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
        self.namespaces.retain(|netns, _| present.contains(netns));
        let now = Instant::now();
        // What is there at the start is as old as the last change of the directory.
        let settled = fs::metadata(netns_dir)
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > ENCRYPTION_SET_UP));
        let old = settled && self.looked.is_none();
        for netns_ref in present {
            if self.namespaces.contains_key(&netns_ref) {
                continue;
            }
            let subscriptions = Subscriptions { routes: netns_ref == NetnsRef::Own, others: false };
            let watch = open(&netns_ref, &self.underlay)
                .map_err(KernelError::from)
                .and_then(|netns| TableWatch::open(&netns, Arc::clone(&self.wake), self.receive_buffer, subscriptions));
            match watch {
                Ok(watch) => {
                    let first_seen = BTreeMap::new();
                    let tracked =
                        Tracked { netns_ref: netns_ref.clone(), watch, old, first_seen, read: now, facts: None };
                    self.namespaces.insert(netns_ref, tracked);
                }
                // It has gone already, or the next look will be luckier.
                Err(error) => tracing::debug!("{error}"),
            }
        }
    }

    fn facts(&self, now: Instant) -> Vec<NetnsFacts> {
        let of = |tracked: &Tracked| {
            let (tables, rules) = tracked.facts.clone()?;
            Some(NetnsFacts {
                netns_ref: tracked.netns_ref.clone(),
                underlay_netns: tables.underlay_netns,
                links: tables.links,
                veth_peers: tables.veth_peers,
                fdb: tables.fdb,
                netfilter: rules.netfilter,
                bridge_nf: rules.bridge_nf,
                tc: rules.tc,
                settled: tracked.settled(now),
            })
        };
        self.namespaces.values().filter_map(of).collect()
    }

    /// Reads the routes to the VTEPs, where there is a reason to.
    async fn sources(&mut self, namespaces: &[NetnsFacts], settings: &Settings, now: Instant) {
        let mut vteps = BTreeSet::<VtepAddr>::new();
        for netns in namespaces {
            let devices: BTreeSet<u32> = vxlans(netns, settings).map(|(link, _)| link.index).collect();
            let entries = netns.fdb.iter().filter(|entry| entry.own && devices.contains(&entry.ifindex));
            vteps.extend(entries.filter_map(|entry| entry.dst));
        }
        let known = vteps.iter().all(|vtep| self.host.sources.contains_key(vtep));
        if !known || self.sources_read.is_none_or(|read| now >= read + REFRESH) {
            self.sources_read = Some(now);
            if let Err(error) = self.read_sources(vteps).await {
                tracing::debug!("{error}");
                self.host.sources.clear();
                self.sources_read = None;
            }
        }
    }

    async fn read_sources(&mut self, vteps: BTreeSet<VtepAddr>) -> Result<(), KernelError> {
        let here = match &self.here {
            Some(here) if here.is_connected() => here,
            _ => self.here.insert(Host::open()?),
        };
        read::sources(here, vteps, &mut self.host).await
    }
}

impl Tracked {
    /// Reads what is asked for, in one visit. What cannot be read is not accelerated: a stale entry is worse than none.
    /// `encryption`: what the namespace says of it is read, too.
    async fn visit(&mut self, underlay: &Netns, scope: Scope, encryption: Option<&mut HostFacts>, now: Instant) {
        if scope == Scope::Nothing && encryption.is_none() {
            return;
        }
        let devices = self.facts.as_ref().map(|(tables, _)| read::on_path(&tables.links)).unwrap_or_default();
        let (reference, encrypted) = (underlay.clone(), encryption.is_some());
        let read = move |visit: &mut Visit<'_>| {
            let netns = match scope {
                Scope::Everything => visit.tables(&reference).map(|tables| {
                    let rules = visit.rules(&read::on_path(&tables.links));
                    (Some(tables), Some(rules))
                }),
                Scope::Rules => Ok((None, Some(visit.rules(&devices)))),
                Scope::Nothing => Ok((None, None)),
            };
            // After the tables: a network's device is there before the rules that encrypt it.
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
                    (facts.xfrm, facts.netfilter, facts.default_ttl) = (found.xfrm, found.netfilter, found.default_ttl);
                }
                Err(error) => (facts.xfrm, facts.netfilter) = (Err(error.clone()), Err(error)),
            }
        }
        match netns {
            Ok((Some(tables), Some(rules))) => {
                self.note_devices(&tables, now);
                (self.facts, self.read) = (Some((tables, rules)), now);
            }
            Ok((_, Some(new))) => {
                if let Some((_, rules)) = &mut self.facts {
                    *rules = new;
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!("{error}");
                self.facts = None;
                if scope == Scope::Everything {
                    self.watch.again();
                }
            }
        }
    }

    /// Whether there may be VXLAN networks, so that what has no events matters.
    fn has_networks(&self) -> bool {
        self.facts.as_ref().is_some_and(|(tables, _)| !tables.fdb.is_empty() || tables.underlay_netns.is_some())
    }

    /// Where there is a VXLAN device, changes at the other ends of veths matter, too.
    fn listen(&mut self, underlay: &Netns, wake: &Arc<Notify>, receive_buffer: usize) {
        let subscriptions =
            Subscriptions { routes: self.netns_ref == NetnsRef::Own, others: !self.first_seen.is_empty() };
        if subscriptions != self.watch.subscriptions()
            && let Ok(netns) = open(&self.netns_ref, underlay)
            && let Ok(watch) = TableWatch::open(&netns, Arc::clone(wake), receive_buffer, subscriptions)
        {
            self.watch = watch;
            // What happened before it listened is to be read.
            wake.notify_one();
        }
    }

    fn note_devices(&mut self, tables: &NetnsTables, now: Instant) {
        let devices = tables.links.iter().filter(|link| matches!(link.kind, LinkKind::Vxlan(_)));
        let devices: BTreeSet<u32> = devices.map(|link| link.index).collect();
        self.first_seen.retain(|device, _| devices.contains(device));
        let since = if self.old { None } else { Some(now) };
        for device in devices {
            self.first_seen.entry(device).or_insert(since);
        }
        self.old = false;
    }

    fn settled(&self, now: Instant) -> BTreeSet<u32> {
        let is_settled = |since: &Option<Instant>| since.is_none_or(|since| now >= since + ENCRYPTION_SET_UP);
        self.first_seen.iter().filter(|(_, since)| is_settled(since)).map(|(device, _)| *device).collect()
    }
}

async fn changed(docker: Option<&mut watch::Receiver<DockerState>>) {
    if let Some(docker) = docker
        && docker.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}
