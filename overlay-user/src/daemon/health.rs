//! What the daemon keeps as it should be, and how each of it is.

use std::{collections::BTreeMap, fmt};

use tracing::{error, info};

use crate::model::Finding;

/// Something that the daemon keeps as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The last configuration that was heard of is in force.
    Configuration,
    /// The address that outer packets are sent from is on an Ethernet device.
    Underlay,
    /// The devices and the entries of the kernel's tables.
    Objects,
    /// The ways to networks in other namespaces.
    Shims,
    /// The maps hold what the networks and the facts ask for.
    Maps,
    /// No map holds what is known not to be so.
    Entries,
    /// The programs are at their hooks, and no others.
    Hooks,
}

/// How something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It is looked at in the next round.
    Pending,
    /// As it should be.
    Done,
    /// It is tried again.
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

/// The health of each part. What was never said is pending.
#[derive(Debug, Default)]
pub(super) struct Healths(BTreeMap<Part, Health>);

impl Healths {
    pub(super) fn is_done(&self, part: Part) -> bool {
        self.0.get(&part) == Some(&Health::Done)
    }

    pub(super) fn is_failed(&self, part: Part) -> bool {
        self.cause(part).is_some()
    }

    /// What is wrong with the part.
    pub(super) fn cause(&self, part: Part) -> Option<&str> {
        match self.0.get(&part) {
            Some(Health::Failed(cause)) => Some(cause),
            _ => None,
        }
    }

    /// Whether the kernel's objects need not be looked at without an event. Maps that are pending are written in any round.
    pub(super) fn is_whole(&self) -> bool {
        !self.is_failed(Part::Maps)
            && [Part::Underlay, Part::Objects, Part::Shims, Part::Hooks].iter().all(|part| self.is_done(*part))
    }

    /// Has the part looked at again. A failure stays one until then.
    pub(super) fn pend(&mut self, part: Part) {
        if !self.is_failed(part) {
            self.0.insert(part, Health::Pending);
        }
    }

    /// The part is as it should be; says so if it was not.
    pub(super) fn done(&mut self, part: Part) {
        let before = self.0.insert(part, Health::Done);
        // A configuration that is taken over is told by its name.
        if part != Part::Configuration && matches!(before, Some(Health::Failed(_))) {
            info!("{part}: as it should be again");
        }
    }

    /// Something is wrong with the part; says so once.
    pub(super) fn fail(&mut self, part: Part, problem: &impl fmt::Display) {
        let now = Health::Failed(problem.to_string());
        if self.0.get(&part) != Some(&now) {
            match part {
                Part::Configuration => {
                    error!("the configuration is refused and the running state stays:\n{problem}");
                }
                _ => error!("{part}: {problem}"),
            }
            self.0.insert(part, now);
        }
    }

    /// What a try has come to.
    pub(super) fn set(&mut self, part: Part, result: &Result<(), impl fmt::Display>) {
        match result {
            Ok(()) => self.done(part),
            Err(error) => self.fail(part, error),
        }
    }

    /// What is wrong.
    pub(super) fn findings(&self) -> impl Iterator<Item = Finding> {
        self.0.iter().filter_map(|(part, health)| match health {
            Health::Failed(problem) => Some(Finding::new(part.to_string(), problem, "")),
            _ => None,
        })
    }
}
