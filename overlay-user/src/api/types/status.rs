//! A host and its daemon.

use std::path::PathBuf;

use overlay_common::VtepAddr;
use serde::{Deserialize, Serialize};

use super::{NetworkStatus, StoreReport, VtepRow};
use crate::model::Finding;

/// `overlay status`.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    /// The daemon runs and has made everything that the configuration asks for at least once.
    pub ready: bool,
    /// Process id of the daemon, if it runs.
    pub daemon: Option<i32>,
    /// Kernel release.
    pub kernel: String,
    /// Where maps and links are pinned.
    pub pin_root: PathBuf,
    /// Until when the programs trust the tables.
    pub heartbeat: HeartbeatRow,
    /// The NIC; absent while this host takes part in no network.
    pub underlay: Option<UnderlayRow>,
    /// Networks of this host, in the order of their VNIs.
    pub networks: Vec<NetworkStatus>,
    /// VTEPs that this host sends to.
    pub vteps: Vec<VtepRow>,
    /// Attachments, as they are named below `links`.
    pub hooks: Vec<String>,
    /// The daemon's own word, without the networks; `None`: no daemon answers.
    pub control: Option<DaemonReport>,
}

/// Until when the programs trust the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HeartbeatRow {
    /// Whole seconds that are left of the deadline, 0 past it; `None`: there is none.
    pub left_s: Option<u64>,
    /// Packets are left to the kernel, because no daemon has extended the deadline.
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

/// What the daemon says of itself, and of each network of its host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonReport {
    /// Of the daemon's program.
    pub version: String,
    /// Where the desired state comes from: `file`, `store` or `discovery`.
    pub source: String,
    /// Name of this host in the cluster.
    pub node: String,
    /// Address of this host's underlay device.
    pub address: Option<VtepAddr>,
    /// The store; absent where there is none.
    pub store: Option<StoreReport>,
    /// What is wrong now, beyond single networks.
    pub problems: Vec<Finding>,
    /// What is heard from Docker; `None`: it is not asked.
    pub docker: Option<DockerReport>,
    /// Every network of this host, once. In [`StatusReport`] they stand beside this report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkStatus>,
}

/// What is heard from Docker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerReport {
    /// When it answered last, in seconds since 1970.
    pub answered: Option<u64>,
    /// Why it does not answer now.
    pub error: Option<String>,
}

/// `overlay status --problems`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProblemList {
    /// What is wrong with the daemon, the networks and their ports.
    pub problems: Vec<Finding>,
}
