//! Differences between the desired and the actual state, with their causes. Pure: [`crate::daemon`] reads and repairs.
//!
//! | file | compares |
//! |---|---|
//! | `maps` | the BPF maps with the desired entries |
//! | `kernel` | the devices, FDB entries and neighbours of overlay with the desired ones |
//! | `hooks` | the attached programs with the desired ones |
//! | `external` | the tables of external networks with each other and with the maps |
//!
//! The table of a difference is a map by its name; `devices`, `fdb`, `flood`, `bridge_fdb` or `neighbours` of the
//! kernel; `hooks`, `shims` or `pins`.

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
    /// There are no differences, or all of them were repaired.
    pub clean: bool,
    /// Numbers of compared objects.
    pub compared: Compared,
    /// The kernel's objects first, then maps, pins, hooks, shims, and external networks.
    pub differences: Vec<Difference>,
    /// Networks and ports that take the kernel path, as `overlay status` lists them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Finding>,
}

/// Numbers of compared objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Desired map entries.
    pub map_entries: usize,
    /// Desired devices, FDB entries and neighbours of overlay.
    pub kernel_objects: usize,
    /// Desired programs.
    pub hooks: usize,
    /// Accelerated external networks.
    pub external_networks: usize,
    /// Network namespaces: the daemon's own, and those of external networks.
    pub namespaces: usize,
}

/// One object that differs. Its finding has the likely cause, and the remedy where overlay cannot repair it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The table of the object.
    pub table: String,
    /// The kind of difference.
    pub kind: Kind,
    /// The object and the likely cause.
    #[serde(flatten, with = "Cause")]
    pub finding: Finding,
    /// The network namespace of the object; `None`: the daemon's own.
    pub netns: Option<PathBuf>,
    /// The desired state; `None`: no object.
    pub wanted: Option<String>,
    /// The actual state; `None`: no object.
    pub found: Option<String>,
    /// The owner of the object.
    pub owner: Owner,
    /// With `--repair`: whether the repair succeeded. `None`: no repair was tried.
    pub repaired: Option<bool>,
}

/// [`Finding`] in the report of an audit.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Finding")]
struct Cause {
    object: String,
    #[serde(rename = "cause")]
    problem: String,
    remedy: String,
}

/// Kind of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A desired object is missing.
    Missing,
    /// An object differs from the desired one.
    Differs,
    /// An object is not desired.
    Stray,
}

/// Owner of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// Overlay; repaired on request.
    Overlay,
    /// Docker or another tool that made the external network; never changed.
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
    /// A difference of an object of overlay in the daemon's namespace. Its kind follows from `wanted` and `found`.
    fn new(table: &str, wanted: Option<String>, found: Option<String>, finding: Finding) -> Self {
        let kind = match (&wanted, &found) {
            (Some(_), None) => Kind::Missing,
            (None, Some(_)) => Kind::Stray,
            _ => Kind::Differs,
        };
        let (netns, owner, repaired) = (None, Owner::Overlay, None);
        Self { table: table.to_owned(), kind, finding, netns, wanted, found, owner, repaired }
    }

    /// The difference in another namespace.
    fn inside(self, netns: Option<PathBuf>) -> Self {
        Self { netns, ..self }
    }

    /// Table, object and namespace, which identify the object.
    #[must_use]
    pub fn location(&self) -> (&str, &str, Option<&Path>) {
        (&self.table, &self.finding.object, self.netns.as_deref())
    }

    /// Whether overlay owns the object and can repair it.
    #[must_use]
    pub fn is_owned(&self) -> bool {
        self.owner == Owner::Overlay
    }
}

/// A missing or broken cross-netns veth (shim).
#[must_use]
pub(crate) fn shim(name: String, netns: PathBuf) -> Difference {
    let wanted = Some("both ends up, the peer in the network's namespace".to_owned());
    let cause = "another program removed or moved it, or set one of its ends down";
    Difference::new("shims", wanted, None, Finding::new(name, cause, "")).inside(Some(netns))
}

/// A map without its pin.
#[must_use]
pub(crate) fn pin(map: &str) -> Difference {
    let cause =
        "another program removed the pin; the programs still use the map, but a new daemon would create another";
    Difference::new("pins", Some("pinned".to_owned()), None, Finding::new(map, cause, ""))
}
