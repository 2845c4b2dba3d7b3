//! What differs from what should be, and why. Pure: [`crate::daemon`] looks, and mends.
//!
//! | file | what it compares |
//! |---|---|
//! | `maps` | the BPF maps with what they should hold |
//! | `kernel` | our devices, FDB entries and neighbours with what they should be |
//! | `hooks` | the programs that run with those that should |
//! | `external` | the tables of external networks with each other, and with what is accelerated of them |
//!
//! A difference names its table: a map by its name, `devices`, `fdb`, `flood`, `bridge_fdb` and `neighbours` in the kernel,
//! `hooks` and `shims`, and `pins`.

mod external;
mod hooks;
mod kernel;
mod maps;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub(crate) use external::{ExternalTables, external};
pub(crate) use hooks::hook;
pub(crate) use kernel::kernel;
pub(crate) use maps::maps;

use crate::model::Finding;
pub(crate) use crate::plan::names::Names;

/// `overlay audit`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Nothing differs, or everything that did was repaired.
    pub clean: bool,
    /// How much was compared.
    pub compared: Compared,
    /// The kernel's objects first, then maps, pins, hooks, shims, and what is not ours.
    pub differences: Vec<Difference>,
}

/// How much was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Entries that the maps should have.
    pub map_entries: usize,
    /// Devices, FDB entries and neighbours that the kernel should have of ours.
    pub kernel_objects: usize,
    /// Programs that should run.
    pub hooks: usize,
    /// Networks that others made and that are accelerated.
    pub external_networks: usize,
    /// Network namespaces: the daemon's own, and those that hold external networks.
    pub namespaces: usize,
}

/// One object that is not as it should be. Its finding says what has most likely happened, and what mends it where overlay
/// cannot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The table that it is in.
    pub table: String,
    /// How it differs.
    pub kind: Kind,
    /// Which object, and the likely cause.
    #[serde(flatten, with = "Cause")]
    pub finding: Finding,
    /// The network namespace that it is in; `None`: the daemon's own.
    pub netns: Option<PathBuf>,
    /// What should be; `None`: nothing.
    pub wanted: Option<String>,
    /// What is; `None`: nothing.
    pub found: Option<String>,
    /// Whose it is.
    pub owner: Owner,
    /// With `--repair`: whether it is as it should be now. `None`: nobody tried.
    pub repaired: Option<bool>,
}

/// [`Finding`], as an audit reports it.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Finding")]
struct Cause {
    object: String,
    #[serde(rename = "cause")]
    problem: String,
    remedy: String,
}

/// How an object differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It should be there and is not.
    Missing,
    /// It is there and is another.
    Differs,
    /// It is there and should not be.
    Stray,
}

/// Whose an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// Ours, and repaired on request.
    Overlay,
    /// Docker's, or whoever's that made the network. Reported, and never touched.
    External,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Missing => "missing",
            Self::Differs => "differs",
            Self::Stray => "stray",
        })
    }
}

impl Difference {
    /// A difference of something of ours in the daemon's namespace. `wanted` and `found` say which kind it is.
    fn new(table: &str, wanted: Option<String>, found: Option<String>, finding: Finding) -> Self {
        let kind = match (&wanted, &found) {
            (Some(_), None) => Kind::Missing,
            (None, Some(_)) => Kind::Stray,
            _ => Kind::Differs,
        };
        let (netns, owner, repaired) = (None, Owner::Overlay, None);
        Self { table: table.to_owned(), kind, finding, netns, wanted, found, owner, repaired }
    }

    /// The same in another namespace.
    fn inside(self, netns: Option<PathBuf>) -> Self {
        Self { netns, ..self }
    }

    /// Table, object and namespace: the same for two differences of the same object.
    #[must_use]
    pub fn location(&self) -> (&str, &str, Option<&Path>) {
        (&self.table, &self.finding.object, self.netns.as_deref())
    }

    /// Whether the object is ours, to be repaired on request.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.owner == Owner::Overlay
    }
}

/// A shim that does not carry frames.
#[must_use]
pub(crate) fn shim(name: String, netns: PathBuf) -> Difference {
    let wanted = Some("both ends up, the other end in the network's namespace".to_owned());
    let cause = "somebody else removed it, moved it, or set one of its ends down";
    Difference::new("shims", wanted, None, Finding::new(name, cause, "")).inside(Some(netns))
}

/// A map whose pin is not there.
#[must_use]
pub(crate) fn pin(map: &str) -> Difference {
    let cause = "somebody else removed it; the programs still have the map, but a new daemon would begin another";
    Difference::new("pins", Some("pinned".to_owned()), None, Finding::new(map, cause, ""))
}
