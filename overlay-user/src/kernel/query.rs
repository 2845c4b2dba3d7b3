//! The route lookup of a VXLAN device, and what prevents the programs from using its result.

use overlay_common::VtepAddr;

/// The part of a VXLAN device's route lookup that is the same for all VTEPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteQuery {
    /// `local` of the device; `None`: the source address is the route's.
    pub source: Option<VtepAddr>,
    /// Destination port.
    pub port: u16,
    /// Smallest source port of its packets, and the first one after the largest.
    pub source_ports: (u16, u16),
}

/// Why the kernel's path to a VTEP is not the programs', and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Obstacle {
    /// The problem, to follow the name of the VTEP.
    pub problem: String,
    /// The remedy.
    pub remedy: String,
}

impl Obstacle {
    pub(crate) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }

    /// An obstacle in the answer to a route lookup.
    pub(super) fn route(problem: impl Into<String>) -> Self {
        Self::new(problem, "keep the kernel path, or change the route")
    }
}
