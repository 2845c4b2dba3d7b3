//! A host and its daemon.

use std::path::PathBuf;

use overlay_common::VtepAddr;
use serde::{Deserialize, Serialize};

use super::{NetworkStatus, StoreReport, UnresolvedVtep, VtepRow};
use crate::model::Finding;

/// `overlay status`.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    /// The daemon is running and has applied its configuration at least once.
    pub ready: bool,
    /// Process id of the daemon, if it runs.
    pub daemon: Option<i32>,
    /// Kernel release.
    pub kernel: String,
    /// Where maps and links are pinned.
    pub pin_root: PathBuf,
    /// The heartbeat deadline.
    pub heartbeat: HeartbeatRow,
    /// The NIC; absent while no program is attached to it.
    pub underlay: Option<UnderlayRow>,
    /// Networks of this host, in the order of their VNIs.
    pub networks: Vec<NetworkStatus>,
    /// VTEPs that this host sends to.
    pub vteps: Vec<VtepRow>,
    /// Attached programs, by the names of their pins in `links`.
    pub hooks: Vec<String>,
    /// The daemon's report, without the networks; `None`: no daemon answers.
    pub control: Option<DaemonReport>,
}

/// The heartbeat deadline, until which the programs trust the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HeartbeatRow {
    /// Whole seconds until the deadline, 0 after it; `None`: there is no deadline.
    pub left_s: Option<u64>,
    /// The deadline has expired, and packets fall back to the kernel path.
    pub expired: bool,
}

/// The NIC.
#[derive(Clone, Debug, Serialize)]
pub struct UnderlayRow {
    /// Interface name.
    pub device: String,
    /// Address of this VTEP.
    pub address: VtepAddr,
    /// MAC address.
    pub mac: String,
    /// UDP ports of the networks.
    pub ports: Vec<u16>,
    /// `tc` or `xdp`.
    pub rx: &'static str,
}

/// The daemon's report of itself and of each network of its host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonReport {
    /// Version of the daemon.
    pub version: String,
    /// Source of the desired state: `file`, `store` or `discovery`.
    pub source: String,
    /// Name of this host in the cluster.
    pub node: String,
    /// Address of this host's underlay device.
    pub address: Option<VtepAddr>,
    /// The store; `None`: the daemon has none.
    pub store: Option<StoreReport>,
    /// Interval at which the daemon reads state of the kernel that has no events: rules of iptables-legacy, and the order
    /// of TCX programs.
    #[serde(default)]
    pub poll_interval_ms: u64,
    /// Current problems, except those of single networks.
    pub problems: Vec<Finding>,
    /// The VTEPs to or from which packets take the kernel path.
    #[serde(default)]
    pub unresolved: Vec<UnresolvedVtep>,
    /// The connection to Docker; `None`: it is disabled.
    pub docker: Option<DockerReport>,
    /// Every network of this host, once. [`StatusReport`] has its own list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkStatus>,
}

/// The connection to Docker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerReport {
    /// Time of the last answer, in seconds since 1970.
    pub answered: Option<u64>,
    /// The current error.
    pub error: Option<String>,
}

/// `overlay status --problems`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProblemList {
    /// Problems of the daemon, the networks and their ports.
    pub problems: Vec<Finding>,
}
