//! Compares all that the daemon keeps with what is there, and mends what is its own.
//!
//! What the daemon follows by itself is brought up to date first. What differs then is looked at a second time a little
//! later: a change that was on its way has arrived by then.

mod compare;

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use self::compare::Comparison;
use super::{Daemon, DaemonError, Scope, reconcile::apply};
use crate::{
    audit::{AuditReport, Difference, Owner},
    plan::tables::{self, TableChange},
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
