//! Audits: compare the desired with the actual state, and repair owned objects on request.
//!
//! Pending changes of next hops are applied first. Differences are compared a second time after a short delay, so that
//! changes in progress are not reported.

mod compare;

use std::{collections::BTreeSet, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tracing::{Instrument as _, info, warn};

use self::compare::Comparison;
use super::{Daemon, DaemonError, health::Part, reconcile::round};
use crate::{
    model::{Finding, counted},
    observe::audit::{AuditReport, Compared, Difference},
    plan::host::Phase,
};

/// Delay before differences are compared a second time.
const CONFIRM_DELAY: Duration = Duration::from_millis(300);
/// Length of the queue of audits.
const QUEUE: usize = 16;

/// An audit without a report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The daemon is stopping or has stopped.
    #[error("audit: the daemon is stopping; start it again")]
    Ended,
    /// A table cannot be read, or there is no desired state.
    #[error("audit: the tables cannot be compared: {0}")]
    Impossible(String),
}

/// Handling of differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditMode {
    /// Differences are reported.
    Report,
    /// Differences of owned objects are repaired and reported.
    Repair,
}

/// Handle for audits of a daemon.
#[derive(Clone, Debug)]
pub struct Auditor(mpsc::Sender<PendingAudit>);

impl Auditor {
    /// Compares, and repairs owned objects in [`AuditMode::Repair`]. External objects are never changed.
    ///
    /// # Errors
    /// [`AuditError`].
    pub async fn audit(&self, mode: AuditMode) -> Result<AuditReport, AuditError> {
        let (answer, answered) = oneshot::channel();
        self.0.send(PendingAudit { mode, answer }).await.map_err(|_| AuditError::Ended)?;
        answered.await.map_err(|_| AuditError::Ended)?
    }
}

#[derive(Debug)]
struct PendingAudit {
    mode: AuditMode,
    answer: oneshot::Sender<Result<AuditReport, AuditError>>,
}

impl PendingAudit {
    fn answer(self, report: AuditReport) {
        drop(self.answer.send(Ok(report)));
    }
}

/// An audit in progress.
struct Running {
    request: PendingAudit,
    step: Step,
    next: Instant,
}

/// The next step. Between the steps, which take long with many endpoints, the daemon does its other work.
enum Step {
    /// Compare.
    Compare,
    /// Compare again, keep the differences that persist, and repair them in [`AuditMode::Repair`].
    Confirm(Vec<Difference>),
    /// Compare again after the repair.
    Verify(AuditReport, Result<(), DaemonError>),
}

/// The audits of a daemon, one after the other.
pub(super) struct Audits {
    sender: mpsc::Sender<PendingAudit>,
    pending: mpsc::Receiver<PendingAudit>,
    running: Option<Running>,
}

impl Default for Audits {
    fn default() -> Self {
        let (sender, pending) = mpsc::channel(QUEUE);
        Self { sender, pending, running: None }
    }
}

impl Audits {
    pub(super) fn auditor(&self) -> Auditor {
        Auditor(self.sender.clone())
    }

    /// Ready when [`Daemon::audit`] has to be called.
    pub(super) async fn due(&mut self) {
        if let Some(running) = &self.running {
            sleep_until(running.next).await;
        } else if let Some(request) = self.pending.recv().await {
            self.running = Some(Running { request, step: Step::Compare, next: Instant::now() });
        }
    }
}

impl Daemon {
    /// Performs the next step of the audit in progress.
    pub(super) async fn audit(&mut self) {
        let Some(Running { request, step, .. }) = self.audits.running.take() else { return };
        let now = match self.compare().instrument(round()).await {
            Ok(comparison) => comparison,
            // The client may have disconnected, here and below.
            Err(error) => return drop(request.answer.send(Err(AuditError::Impossible(error.to_string())))),
        };
        let (next, wait) = match step {
            Step::Compare if now.differences.is_empty() => {
                return request.answer(report(now.compared, Vec::new(), now.refused));
            }
            Step::Compare => (Step::Confirm(now.differences), CONFIRM_DELAY),
            Step::Confirm(before) => {
                let before: BTreeSet<_> = before.iter().map(Difference::location).collect();
                let twice = now.differences.iter().filter(|found| before.contains(&found.location()));
                let report = report(now.compared, twice.cloned().collect(), now.refused.clone());
                if request.mode == AuditMode::Report || !report.differences.iter().any(Difference::is_owned) {
                    return request.answer(report);
                }
                info!("audit: repairing {}", counted(report.differences.len(), "difference"));
                let repaired = self.repair(now).await;
                if let Err(error) = &repaired {
                    warn!("audit: the repair failed: {error}");
                }
                (Step::Verify(report, repaired), Duration::ZERO)
            }
            Step::Verify(before, repaired) => {
                let left: BTreeSet<_> = now.differences.iter().map(Difference::location).collect();
                let mut differences = before.differences;
                for difference in differences.iter_mut().filter(|difference| difference.is_owned()) {
                    let is_repaired = !left.contains(&difference.location());
                    difference.repaired = Some(is_repaired);
                    if let (false, Err(error)) = (is_repaired, &repaired) {
                        difference.finding.problem += &format!("; the repair failed: {error}");
                    }
                }
                return request.answer(report(before.compared, differences, now.refused));
            }
        };
        self.audits.running = Some(Running { request, step: next, next: Instant::now() + wait });
    }

    /// Repairs owned objects, in the order of a reconciliation.
    ///
    /// # Errors
    /// The first failure; the rest is repaired.
    async fn repair(&mut self, comparison: Comparison) -> Result<(), DaemonError> {
        let Comparison { mut maps, found, objects, hooks, shims, pins, .. } = comparison;
        let mut snapshot = self.host.snapshot();
        let created = self.host.apply(&objects, Phase::Create, &self.ledger, &mut snapshot).await;
        let mut failed = created.map_err(DaemonError::from);
        for map in pins {
            failed = failed.and(self.datapath.pin(&self.ledger, map).map_err(DaemonError::from));
        }
        let mut found = found;
        found.inherit(std::mem::take(&mut self.applied.tables.retired));
        let written = std::mem::replace(&mut self.applied.tables, found);
        // Counters of entries that were in use before are kept.
        maps.vteps.iter_mut().for_each(|change| change.old = change.old.or(written.vteps.get(&change.key).copied()));
        maps.networks
            .iter_mut()
            .for_each(|change| change.old = change.old.or(written.networks.get(&change.key).copied()));
        failed = failed.and(self.change_maps(&maps));
        for (hook, vni) in hooks {
            match self.attach_one(hook, vni) {
                Err(error) if !error.is_gone() => failed = failed.and(Err(error.into())),
                _ => {}
            }
        }
        let removed = self.host.apply(&objects, Phase::Remove, &self.ledger, &mut snapshot).await;
        failed = failed.and(removed.map_err(DaemonError::from));
        for vni in shims {
            self.forget_shim(vni);
        }
        // The next round creates the shims and all other objects that are still missing.
        self.health.mark_pending(Part::Maps);
        if failed.is_err() {
            self.health.mark_pending(Part::Objects);
        }
        failed
    }
}

fn report(compared: Compared, differences: Vec<Difference>, refused: Vec<Finding>) -> AuditReport {
    let clean = differences.iter().all(|difference| difference.repaired == Some(true));
    AuditReport { clean, compared, differences, refused }
}
