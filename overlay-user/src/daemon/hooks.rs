//! Keeps the programs attached, and at their places among the programs and filters of other owners.
//!
//! Filters of the daemon's own namespace have events. Links of programs have none, and neither have, for this daemon,
//! filters in other namespaces: these are polled.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::{Daemon, REFRESH, SETTLE, health::Part};
use crate::{
    apply::{
        bpf::{self, AttachError, Displaced},
        ledger::AttachPoint,
    },
    kernel::{Link, POLL_INTERVAL},
    model::{Finding, Rx},
    sys::ethtool,
};

/// Shortest and longest interval between two attachments of a program that another owner has displaced or detached: two
/// owners that both want the end of a hook must not move their programs without end.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// State of the polls.
#[derive(Debug)]
pub(super) struct HookWatch {
    due: Instant,
    /// The filters of the daemon's own namespace may have changed.
    is_dirty: bool,
    /// When these filters are read without an event.
    refresh: Instant,
    /// Programs that were attached again: when they may be attached once more, and the pause after that.
    moved: BTreeMap<AttachPoint, (Instant, Duration)>,
    /// XDP is not attached because of a filter or program of another owner.
    xdp_is_bypass: bool,
    /// Programs that are not at their places.
    pub(super) findings: Vec<Finding>,
}

impl Default for HookWatch {
    fn default() -> Self {
        let now = Instant::now();
        let (moved, findings) = (BTreeMap::new(), Vec::new());
        Self { due: now + POLL_INTERVAL, is_dirty: true, refresh: now, moved, xdp_is_bypass: false, findings }
    }
}

impl HookWatch {
    /// Ready when [`Daemon::check_hooks`] has to be called.
    pub(super) async fn due(&self) {
        sleep_until(self.due).await;
    }

    /// Reports a change of the filters of the daemon's own namespace.
    pub(super) fn hurry(&mut self) {
        self.is_dirty = true;
        self.due = self.due.min(Instant::now() + SETTLE);
    }

    /// Whether a displaced program is attached again now.
    fn may_move(&mut self, hook: AttachPoint, now: Instant) -> bool {
        let (again, pause) = self.moved.get(&hook).copied().unwrap_or((now, PAUSE.0));
        let is_due = again <= now;
        if is_due {
            self.moved.insert(hook, (now + pause, (2 * pause).min(PAUSE.1)));
        }
        is_due
    }
}

impl Daemon {
    /// Looks for programs that are not attached or not at their places, and lets the next round attach them again.
    /// Returns whether a round is needed.
    pub(super) fn check_hooks(&mut self) -> bool {
        let now = Instant::now();
        self.hook_watch.due = now + POLL_INTERVAL;
        let read_filters = std::mem::take(&mut self.hook_watch.is_dirty) || now >= self.hook_watch.refresh;
        if read_filters {
            self.hook_watch.refresh = now + REFRESH;
        }
        let mut by_netns = BTreeMap::<u32, Vec<AttachPoint>>::new();
        for hook in &self.applied.attached {
            by_netns.entry(hook.netns_id()).or_default().push(*hook);
        }
        let mut displaced = Vec::new();
        for (netns_id, hooks) in by_netns {
            match self.displaced_in(netns_id, &hooks, read_filters) {
                Ok(found) => displaced.extend(found),
                // The namespace or the device is being removed.
                Err(error) => debug!("the hooks cannot be read: {error}"),
            }
        }
        let (mut findings, mut beyond) = (Vec::new(), BTreeSet::new());
        let mut is_changed = false;
        for (hook, why) in displaced {
            if why != Displaced::Place {
                beyond.insert(hook);
                if !self.hook_watch.may_move(hook, now) {
                    findings.push(finding(hook, why));
                    continue;
                }
            }
            if why == Displaced::Detached {
                warn!("{}", finding(hook, why));
            }
            self.applied.attached.remove(&hook);
            is_changed = true;
        }
        self.hook_watch.moved.retain(|hook, (again, pause)| beyond.contains(hook) || now < *again + *pause);
        if self.hook_watch.findings != findings {
            self.log_findings(findings);
            self.publish(None);
        }
        is_changed |= self.is_xdp_changed();
        if is_changed {
            self.health.mark_pending(Part::Hooks);
        }
        is_changed
    }

    fn displaced_in(
        &self,
        netns_id: u32,
        hooks: &[AttachPoint],
        read_filters: bool,
    ) -> io::Result<Vec<(AttachPoint, Displaced)>> {
        let (root, flavour) = (self.ledger.root(), self.datapath.flavour());
        let read = move || bpf::displaced(root, hooks, flavour, read_filters || netns_id != 0);
        if netns_id == 0 {
            return read();
        }
        match self.sandboxes.open(netns_id) {
            Some(netns) => netns.within(read).map_err(io::Error::other)?,
            None => Ok(Vec::new()),
        }
    }

    /// Whether filters or programs that XDP would bypass were added or removed.
    fn is_xdp_changed(&self) -> bool {
        let nic = self.applied.facts.underlay_ifindex;
        if self.rx() != Rx::Xdp || nic == 0 {
            return false;
        }
        let is_bypass = bpf::other_at_ingress(self.ledger.root(), nic).is_ok_and(|other| other.is_some());
        is_bypass != self.hook_watch.xdp_is_bypass
    }

    /// Whether XDP on the NIC sees what TC sees, and bypasses nothing. A change of features is an event of the link.
    pub(super) fn check_xdp(&mut self, nic: &Link) -> Result<(), AttachError> {
        let other = bpf::other_at_ingress(self.ledger.root(), nic.index).ok().flatten();
        self.hook_watch.xdp_is_bypass = other.is_some();
        if let Some(what) = other {
            return Err(AttachError::XdpBypass { device: nic.name.clone(), what });
        }
        if ethtool::removes_vlan_tags(&nic.name).unwrap_or(true) {
            return Err(AttachError::XdpVlan { device: nic.name.clone() });
        }
        Ok(())
    }

    fn log_findings(&mut self, findings: Vec<Finding>) {
        let before = std::mem::replace(&mut self.hook_watch.findings, findings);
        for finding in self.hook_watch.findings.iter().filter(|finding| !before.contains(finding)) {
            warn!("{finding}");
        }
        for finding in before.iter().filter(|finding| !self.hook_watch.findings.contains(finding)) {
            info!("{}: solved: {}", finding.object, finding.problem);
        }
    }
}

/// A program that another owner has displaced or detached again.
fn finding(hook: AttachPoint, why: Displaced) -> Finding {
    use crate::plan::hooks::End;
    let (problem, remedy) = match (why, hook.end()) {
        (Displaced::Detached, _) => ("another program detached it", "find the program that detaches it (bpftool net)"),
        (_, End::First) => {
            ("a TCX program of another owner runs ahead of it, and can end the chain before the checks", ORDER)
        }
        (_, End::Last) => ("a TCX program of another owner runs after it, and does not see forwarded packets", ORDER),
    };
    Finding::new(format!("{} on interface {}", hook.program(), hook.ifindex()), problem, remedy)
}

/// Remedy for a program of another owner at the wrong place.
const ORDER: &str = "attach that program before `ovl_` programs, or detach it (bpftool net)";
