//! Status of each part of the reconciled state.

use std::{collections::BTreeMap, fmt};

use tracing::{error, info};

use crate::model::Finding;

/// A part of the reconciled state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The last configuration is applied.
    Configuration,
    /// The source address of outer packets is on an Ethernet device.
    Underlay,
    /// The devices and the entries of the kernel's tables.
    Objects,
    /// The cross-netns veths (shims).
    Shims,
    /// The maps hold the desired entries.
    Maps,
    /// The maps hold no stale entries.
    Entries,
    /// The hooks have exactly the desired programs.
    Hooks,
}

/// Status of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It is reconciled in the next round.
    Pending,
    /// It has converged.
    Done,
    /// It failed and is retried.
    Failed(String),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configuration => "configuration",
            Self::Underlay => "underlay",
            Self::Objects => "devices",
            Self::Shims => "shims",
            Self::Maps => "maps",
            Self::Entries => "map entries",
            Self::Hooks => "hooks",
        })
    }
}

/// The health of each part. A part without an entry is pending.
#[derive(Debug, Default)]
pub(super) struct HealthTable(BTreeMap<Part, Health>);

impl HealthTable {
    pub(super) fn is_done(&self, part: Part) -> bool {
        self.0.get(&part) == Some(&Health::Done)
    }

    pub(super) fn is_failed(&self, part: Part) -> bool {
        self.last_error(part).is_some()
    }

    /// The last error of a part.
    pub(super) fn last_error(&self, part: Part) -> Option<&str> {
        match self.0.get(&part) {
            Some(Health::Failed(cause)) => Some(cause),
            _ => None,
        }
    }

    /// Whether the kernel's objects have converged and need no reconciliation without an event. Pending maps are
    /// written in any round.
    pub(super) fn is_converged(&self) -> bool {
        !self.is_failed(Part::Maps)
            && [Part::Underlay, Part::Objects, Part::Shims, Part::Hooks].iter().all(|part| self.is_done(*part))
    }

    /// Requests a reconciliation of the part. A failure stays recorded until then.
    pub(super) fn mark_pending(&mut self, part: Part) {
        if !self.is_failed(part) {
            self.0.insert(part, Health::Pending);
        }
    }

    /// Records that the part has converged, and logs it after a failure.
    pub(super) fn mark_done(&mut self, part: Part) {
        let before = self.0.insert(part, Health::Done);
        // An applied configuration is logged with its changes.
        if part != Part::Configuration && matches!(before, Some(Health::Failed(_))) {
            info!("{part}: recovered");
        }
    }

    /// Records an error of the part, and logs it once.
    pub(super) fn mark_failed(&mut self, part: Part, problem: &impl fmt::Display) {
        let now = Health::Failed(problem.to_string());
        if self.0.get(&part) != Some(&now) {
            match part {
                Part::Configuration => {
                    error!("the configuration is rejected, the running state is unchanged:\n{problem}");
                }
                _ => error!("{part}: {problem}"),
            }
            self.0.insert(part, now);
        }
    }

    /// Records the result of a reconciliation.
    pub(super) fn set(&mut self, part: Part, result: &Result<(), impl fmt::Display>) {
        match result {
            Ok(()) => self.mark_done(part),
            Err(error) => self.mark_failed(part, error),
        }
    }

    /// The current errors.
    pub(super) fn findings(&self) -> impl Iterator<Item = Finding> {
        self.0.iter().filter_map(|(part, health)| match health {
            Health::Failed(problem) => Some(Finding::new(part.to_string(), problem, "")),
            _ => None,
        })
    }
}
