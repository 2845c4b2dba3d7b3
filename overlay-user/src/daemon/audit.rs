//! Compares all that the daemon keeps with what is there, and mends what is its own.
//!
//! What the daemon follows by itself is brought up to date first. What differs then is looked at a second time a little
//! later: a change that was on its way has arrived by then.

use std::{collections::BTreeMap, time::Duration};

use overlay_common::{Vni, maps::PortKey, names};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::{
    Daemon, DaemonError, PreflightError, Scope,
    reconcile::{apply, made},
};
use crate::{
    audit::{self, AuditReport, Compared, Difference, ForeignTables, Names, Owner},
    datapath::Hook,
    host::{self, Host, HostError, HostPlan, Link, LinkKind},
    model::mirror::{MirroredNetwork, Site},
    plan::{
        mirror::accelerated,
        tables::{self, TableChange, Tables},
    },
};

/// After which time a difference is looked at again.
const AGAIN: Duration = Duration::from_millis(300);
/// Audits that may wait.
const QUEUE: usize = 16;

/// Why there is no report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The daemon is about to end, or has.
    #[error("audit: the daemon ends; start it again")]
    Ended,
    /// Something cannot be looked at, or has no right state now.
    #[error("audit: the tables cannot be compared: {0}")]
    Impossible(String),
}

/// Asks a daemon for audits.
#[derive(Clone, Debug)]
pub struct Auditor(mpsc::Sender<Question>);

impl Auditor {
    /// Compares; `repair`: and mends what is ours. What is not is never changed.
    ///
    /// # Errors
    /// [`AuditError`].
    pub async fn audit(&self, repair: bool) -> Result<AuditReport, AuditError> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Question { repair, answer }).await.map_err(|_| AuditError::Ended)?;
        answered.await.map_err(|_| AuditError::Ended)?
    }
}

#[derive(Debug)]
struct Question {
    repair: bool,
    answer: oneshot::Sender<Result<AuditReport, AuditError>>,
}

/// An audit that is under way.
struct Begun {
    question: Question,
    /// What differed at the first look.
    before: Option<Vec<Difference>>,
    next: Instant,
}

/// The audits of a daemon, one after the other.
pub(super) struct Audits {
    sender: mpsc::Sender<Question>,
    questions: mpsc::Receiver<Question>,
    begun: Option<Begun>,
}

impl Default for Audits {
    fn default() -> Self {
        let (sender, questions) = mpsc::channel(QUEUE);
        Self { sender, questions, begun: None }
    }
}

impl Audits {
    pub(super) fn auditor(&self) -> Auditor {
        Auditor(self.sender.clone())
    }

    /// Ready when it is time for [`Daemon::audit`].
    pub(super) async fn due(&mut self) {
        if let Some(begun) = &self.begun {
            sleep_until(begun.next).await;
        } else if let Some(question) = self.questions.recv().await {
            self.begun = Some(Begun { question, before: None, next: Instant::now() });
        }
    }
}

/// What should be and what is, side by side.
struct Comparison {
    compared: Compared,
    differences: Vec<Difference>,
    wanted: Tables,
    found: Tables,
    objects: HostPlan,
    /// Hooks whose program is not there, with the networks of their ports.
    hooks: BTreeMap<Hook, Option<Vni>>,
    /// Shims that carry nothing.
    shims: Vec<Vni>,
    /// Maps without their pins.
    pins: Vec<&'static str>,
}

impl Daemon {
    /// Makes the next step of the audit that is under way.
    pub(super) async fn audit(&mut self) {
        let Some(begun) = self.audits.begun.take() else { return };
        let comparison = match self.compare().await {
            Ok(comparison) => comparison,
            Err(error) => {
                // Who asked may have gone.
                let _ = begun.question.answer.send(Err(AuditError::Impossible(error.to_string())));
                return;
            }
        };
        if begun.before.is_none() && !comparison.differences.is_empty() {
            let before = Some(comparison.differences);
            self.audits.begun = Some(Begun { before, next: Instant::now() + AGAIN, ..begun });
            return;
        }
        let before = begun.before.unwrap_or_default();
        let report = self.report(comparison, &before, begun.question.repair).await;
        let _ = begun.question.answer.send(report);
    }

    /// What was found twice; with `repair` mended, as far as it is ours.
    async fn report(
        &mut self,
        comparison: Comparison,
        before: &[Difference],
        repair: bool,
    ) -> Result<AuditReport, AuditError> {
        let was_there = |found: &Difference| before.iter().any(|before| before.is_about_the_same(found));
        let mut report = AuditReport { clean: false, compared: comparison.compared, differences: Vec::new() };
        report.differences.extend(comparison.differences.iter().filter(|found| was_there(found)).cloned());
        let is_ours = |difference: &Difference| difference.owner == Owner::Overlay;
        if repair && report.differences.iter().any(is_ours) {
            info!("an audit found {} differences, and mends what is ours", report.differences.len());
            let repaired = self.repair(comparison).await;
            if let Err(error) = &repaired {
                warn!("while mending what an audit found: {error}");
            }
            let left = self.compare().await.map_err(|error| AuditError::Impossible(error.to_string()))?.differences;
            for difference in report.differences.iter_mut().filter(|difference| is_ours(difference)) {
                let mended = !left.iter().any(|left| left.is_about_the_same(difference));
                difference.mended = Some(mended);
                if let (false, Err(error)) = (mended, &repaired) {
                    difference.cause = format!("{}; mending it failed: {error}", difference.cause);
                }
            }
        }
        report.clean = report.differences.iter().all(|difference| difference.mended == Some(true));
        Ok(report)
    }

    async fn compare(&mut self) -> Result<Comparison, DaemonError> {
        match self.reconcile(Scope::NextHops, false).await {
            // There is no right state without an underlay.
            Err(
                error @ DaemonError::Preflight(PreflightError::NoAddress { .. } | PreflightError::NotEthernet { .. }),
            ) => {
                return Err(error);
            }
            Err(error) => self.complain(Some(error)),
            Ok(()) => {}
        }
        let links = self.host.links().await?;
        let underlay = match self.address() {
            Some(address) => self.host.link_by_address(address).await?.map(|link| (address, link)),
            None => None,
        };
        let (objects, _) = self.wanted_objects(underlay.as_ref(), &links)?;
        let state = self.host.state(&objects, &made(&self.root)?).await?;
        let plan = host::plan(&objects, &state);
        let found = self.datapath.maps.read()?;
        let wanted = tables::desired(self.view.as_ref(), &self.mirrored, &self.facts, &self.tables)?;
        let names = self.names(&links).await;

        let mut comparison = Comparison {
            compared: Compared {
                map_entries: entries(&wanted),
                kernel_objects: objects.count(),
                namespaces: 1 + names.places.len(),
                ..Compared::default()
            },
            differences: audit::kernel(&objects, &state, &plan, self.complaint.as_deref()),
            wanted,
            found,
            objects: plan,
            hooks: BTreeMap::new(),
            shims: Vec::new(),
            pins: Vec::new(),
        };
        let complaint = self.complaint.as_deref();
        let maps = audit::maps(&comparison.wanted, &comparison.found, &self.tables, &names, complaint);
        comparison.differences.extend(maps);
        self.compare_pins(&mut comparison);
        self.compare_hooks(&mut comparison, underlay.as_ref().map(|(_, link)| link), &names)?;
        self.compare_shims(&mut comparison).await?;
        self.compare_foreign(&mut comparison).await;
        Ok(comparison)
    }

    /// Names for what a report is about.
    async fn names(&self, links: &[Link]) -> Names {
        let mut names = Names::default();
        let mut note = |site, links: &[Link]| {
            let devices = links.iter().map(|link| (PortKey { site, ifindex: link.index }, link.name.clone()));
            names.devices.extend(devices);
        };
        note(0, links);
        for (site, place) in self.sandboxes.places() {
            // One that has gone has no names, and nothing that could differ.
            if let Ok(host) = place.open().map_err(HostError::from).and_then(|netns| Host::open_in(&netns))
                && let Ok(links) = host.links().await
            {
                note(site, &links);
            }
        }
        names.places = self.sandboxes.places().map(|(site, place)| (site, place.path.clone())).collect();
        names
    }

    fn compare_pins(&self, comparison: &mut Comparison) {
        for map in names::MAPS {
            let difference = audit::pin(map, self.root.map(map).exists());
            if difference.is_some() {
                comparison.pins.push(map);
            }
            comparison.differences.extend(difference);
        }
    }

    fn compare_hooks(
        &mut self,
        comparison: &mut Comparison,
        underlay: Option<&Link>,
        names: &Names,
    ) -> Result<(), DaemonError> {
        // What keeps a hook from being used was complained of.
        let (mut hooks, _) = self.wanted_hooks(underlay);
        hooks.extend(self.sandboxes.hooks().map(|(hook, vni)| (hook, Some(vni))));
        comparison.compared.hooks = hooks.len();
        let xdp = underlay.and_then(|link| link.xdp_program);
        for (hook, vni) in hooks {
            let netns = self.sandboxes.open(hook.site());
            if hook.site() != 0 && netns.is_none() {
                continue;
            }
            let running = self.datapath.running(hook, netns.as_ref(), vni, xdp).map_err(HostError::Socket)?;
            let key = PortKey { site: hook.site(), ifindex: hook.ifindex() };
            let complaint = self.complaint.as_deref().filter(|_| !self.attached.contains(&hook));
            let difference = audit::hook(hook, &running, (&names.device(key), names.place(key.site)), complaint);
            if difference.is_some() {
                comparison.hooks.insert(hook, vni);
            }
            comparison.differences.extend(difference);
        }
        Ok(())
    }

    async fn compare_shims(&self, comparison: &mut Comparison) -> Result<(), DaemonError> {
        for (vni, place) in self.sandboxes.shims() {
            // With the namespace goes the shim.
            let Ok(netns) = place.open() else { continue };
            let usable = self.host.find_shim(vni, &netns).await?.is_some();
            let difference = audit::shim(host::shim_name(vni), place.path.clone(), usable);
            if difference.is_some() {
                comparison.shims.push(vni);
            }
            comparison.differences.extend(difference);
        }
        Ok(())
    }

    async fn compare_foreign(&self, comparison: &mut Comparison) {
        for (_, network) in accelerated(&self.mirrored) {
            comparison.compared.foreign_networks += 1;
            // One that cannot be read is about to go.
            if let Ok(Some(tables)) = self.foreign_tables(network).await {
                comparison.differences.extend(audit::foreign(network, &tables));
            }
        }
    }

    async fn foreign_tables(&self, network: &MirroredNetwork) -> Result<Option<ForeignTables>, HostError> {
        let host = match &network.site {
            Site::Host => self.host.clone(),
            Site::Netns { path, inode } => Host::open_in(&host::netns::Netns::open_same(path, *inode)?)?,
        };
        let Some(link) = host.link_by_name(&network.device).await? else { return Ok(None) };
        Ok(Some(ForeignTables {
            device: link.index,
            proxy: matches!(&link.kind, LinkKind::Vxlan(info) if info.proxy),
            fdb: host.fdb().await?,
            neighbours: host.permanent_neighbours().await?,
        }))
    }

    /// Makes what is ours as it should be, in the order of a reconciliation.
    async fn repair(&mut self, comparison: Comparison) -> Result<(), DaemonError> {
        let Comparison { wanted, found, objects, hooks, shims, pins, .. } = comparison;
        let mut failed = apply(&self.host, &self.root, &objects.before).await;
        for map in pins {
            failed = failed.and(self.datapath.pin(map).map_err(DaemonError::from));
        }
        let written = std::mem::replace(&mut self.tables, found);
        // What was in use before goes on counting.
        let is_new = |change: &TableChange| match change {
            TableChange::ResetVtepStats(index) => !written.vteps.contains_key(index),
            TableChange::ResetNetworkStats(slot) => written.networks.values().all(|network| network.slot != *slot),
            _ => true,
        };
        let changes: Vec<_> = tables::plan(&wanted, &self.tables).into_iter().filter(is_new).collect();
        failed = failed.and(self.change_maps(&changes));
        for (hook, vni) in hooks {
            match self.attach_one(hook, vni) {
                Err(error) if !error.is_gone() => failed = failed.and(Err(error.into())),
                _ => {}
            }
        }
        failed = failed.and(apply(&self.host, &self.root, &objects.after).await);
        for vni in shims {
            self.forget_shim(vni);
        }
        self.settled = false;
        failed.and(self.reconcile(Scope::Everything, false).await)
    }
}

/// How many entries the maps have.
fn entries(tables: &Tables) -> usize {
    let Tables { underlay: _, vteps, networks, senders, txports, fdb, ports } = tables;
    1 + vteps.len() + networks.len() + senders.len() + txports.len() + fdb.len() + ports.len()
}
