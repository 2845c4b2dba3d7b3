//! Compares all that the daemon keeps with what is there, and mends what is its own.
//!
//! What the daemon follows by itself is brought up to date first. What differs then is looked at a second time a little
//! later: a change that was on its way has arrived by then.

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
    observe::audit::{AuditReport, Compared, Difference},
    plan::host::Phase,
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

/// What an audit does about what differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditMode {
    /// It reports it.
    Report,
    /// It repairs what is ours, and reports that too.
    Repair,
}

/// Asks a daemon for audits.
#[derive(Clone, Debug)]
pub struct Auditor(mpsc::Sender<Question>);

impl Auditor {
    /// Compares, and repairs what is ours if that is asked for. What is not is never changed.
    ///
    /// # Errors
    /// [`AuditError`].
    pub async fn audit(&self, mode: AuditMode) -> Result<AuditReport, AuditError> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Question { mode, answer }).await.map_err(|_| AuditError::Ended)?;
        answered.await.map_err(|_| AuditError::Ended)?
    }
}

#[derive(Debug)]
struct Question {
    mode: AuditMode,
    answer: oneshot::Sender<Result<AuditReport, AuditError>>,
}

impl Question {
    fn answer(self, report: AuditReport) {
        drop(self.answer.send(Ok(report)));
    }
}

/// An audit that is under way.
struct Running {
    question: Question,
    step: Step,
    next: Instant,
}

/// What has to be done next. Between the steps the daemon does its other work: with many endpoints each takes its time.
enum Step {
    /// Look.
    First,
    /// Look again, at what differed, and mend it if that is asked for.
    Again(Vec<Difference>),
    /// Look whether it was repaired, and why not.
    Repaired(AuditReport, Result<(), DaemonError>),
}

/// The audits of a daemon, one after the other.
pub(super) struct Audits {
    sender: mpsc::Sender<Question>,
    questions: mpsc::Receiver<Question>,
    running: Option<Running>,
}

impl Default for Audits {
    fn default() -> Self {
        let (sender, questions) = mpsc::channel(QUEUE);
        Self { sender, questions, running: None }
    }
}

impl Audits {
    pub(super) fn auditor(&self) -> Auditor {
        Auditor(self.sender.clone())
    }

    /// Ready when it is time for [`Daemon::audit`].
    pub(super) async fn due(&mut self) {
        if let Some(running) = &self.running {
            sleep_until(running.next).await;
        } else if let Some(question) = self.questions.recv().await {
            self.running = Some(Running { question, step: Step::First, next: Instant::now() });
        }
    }
}

impl Daemon {
    /// Makes the next step of the audit that is under way.
    pub(super) async fn audit(&mut self) {
        let Some(Running { question, step, .. }) = self.audits.running.take() else { return };
        let now = match self.compare().instrument(round()).await {
            Ok(comparison) => comparison,
            // Who asked may have gone, here and below.
            Err(error) => return drop(question.answer.send(Err(AuditError::Impossible(error.to_string())))),
        };
        let (next, wait) = match step {
            Step::First if now.differences.is_empty() => return question.answer(report(now.compared, Vec::new())),
            Step::First => (Step::Again(now.differences), AGAIN),
            Step::Again(before) => {
                let before: BTreeSet<_> = before.iter().map(Difference::location).collect();
                let twice = now.differences.iter().filter(|found| before.contains(&found.location()));
                let report = report(now.compared, twice.cloned().collect());
                if question.mode == AuditMode::Report || !report.differences.iter().any(Difference::is_ours) {
                    return question.answer(report);
                }
                info!("an audit found {} differences, and mends what is ours", report.differences.len());
                let repaired = self.repair(now).await;
                if let Err(error) = &repaired {
                    warn!("while mending what an audit found: {error}");
                }
                (Step::Repaired(report, repaired), Duration::ZERO)
            }
            Step::Repaired(before, repaired) => {
                let left: BTreeSet<_> = now.differences.iter().map(Difference::location).collect();
                let mut differences = before.differences;
                for difference in differences.iter_mut().filter(|difference| difference.is_ours()) {
                    let is_repaired = !left.contains(&difference.location());
                    difference.repaired = Some(is_repaired);
                    if let (false, Err(error)) = (is_repaired, &repaired) {
                        difference.finding.problem += &format!("; the repair failed: {error}");
                    }
                }
                return question.answer(report(before.compared, differences));
            }
        };
        self.audits.running = Some(Running { question, step: next, next: Instant::now() + wait });
    }

    /// Makes what is ours as it should be, in the order of a reconciliation.
    ///
    /// # Errors
    /// The first failure; the rest is repaired.
    async fn repair(&mut self, comparison: Comparison) -> Result<(), DaemonError> {
        let Comparison { mut maps, found, objects, hooks, shims, pins, .. } = comparison;
        let mut snapshot = self.host.snapshot();
        let made = self.host.apply(&objects, Phase::Make, &self.ledger, &mut snapshot).await;
        let mut failed = made.map_err(DaemonError::from);
        for map in pins {
            failed = failed.and(self.datapath.pin(&self.ledger, map).map_err(DaemonError::from));
        }
        let mut found = found;
        found.inherit(std::mem::take(&mut self.applied.tables.retired));
        let written = std::mem::replace(&mut self.applied.tables, found);
        // What was in use before goes on counting.
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
        // The next look makes the shims again, and everything else that is missing still.
        self.health.pend(Part::Maps);
        if failed.is_err() {
            self.health.pend(Part::Objects);
        }
        failed
    }
}

fn report(compared: Compared, differences: Vec<Difference>) -> AuditReport {
    let clean = differences.iter().all(|difference| difference.repaired == Some(true));
    AuditReport { clean, compared, differences }
}
