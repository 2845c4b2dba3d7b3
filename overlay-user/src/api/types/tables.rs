//! The tables and counters of a loaded data path.

use std::{net::Ipv4Addr, path::PathBuf};

use overlay_common::VtepAddr;
use serde::Serialize;

use super::Amount;

/// `overlay fdb`.
#[derive(Clone, Debug, Serialize)]
pub struct FdbReport {
    /// In the order of VNI and MAC.
    pub entries: Vec<FdbRow>,
}

/// Where a MAC address is.
#[derive(Clone, Debug, Serialize)]
pub struct FdbRow {
    /// Network identifier.
    pub vni: u32,
    /// The network's name, where it is known.
    pub network: Option<String>,
    /// The MAC address.
    pub mac: String,
    /// The port, if it is on this host.
    pub device: Option<String>,
    /// The file of the network namespace that the port is in; `None`: the daemon's own.
    pub sandbox: Option<PathBuf>,
    /// The VTEP, if it is on another.
    pub vtep: Option<VtepAddr>,
    /// Whether the fast path can send there now.
    pub resolved: bool,
}

/// `overlay ports`.
#[derive(Clone, Debug, Serialize)]
pub struct PortsReport {
    /// In the order of interface indices.
    pub ports: Vec<PortRow>,
}

/// Who may send through an interface.
#[derive(Clone, Debug, Serialize)]
pub struct PortRow {
    /// Interface index.
    pub ifindex: u32,
    /// Interface name.
    pub device: String,
    /// The file of the network namespace that it is in; `None`: the daemon's own.
    pub sandbox: Option<PathBuf>,
    /// Network identifier.
    pub vni: u32,
    /// The network's name, where it is known.
    pub network: Option<String>,
    /// From the veth's alias; unknown for ports that overlay did not make.
    pub endpoint: Option<String>,
    /// The container behind the port, where the daemon knows it.
    pub container: Option<String>,
    /// The MAC address that may send.
    pub mac: String,
    /// The IPv4 address that may send.
    pub ip: Ipv4Addr,
    /// Largest layer-3 packet, in bytes.
    pub mtu: u16,
    /// Frames with a spoofed source are dropped.
    pub strict: bool,
    /// XDP can deliver to it.
    pub xdp: bool,
}

/// `overlay counters`.
#[derive(Clone, Debug, Serialize)]
pub struct CountersReport {
    /// Every reason, in the order of the map `OVL_REASONS`.
    pub reasons: Vec<ReasonRow>,
    /// Networks of this host.
    pub networks: Vec<NetworkTraffic>,
    /// VTEPs.
    pub vteps: Vec<VtepTraffic>,
}

/// Packets that went one way for one reason.
#[derive(Clone, Debug, Serialize)]
pub struct ReasonRow {
    /// [`overlay_common::Reason::name`].
    pub reason: &'static str,
    /// `fast`, `kernel` or `drop`.
    pub verdict: &'static str,
    /// How much.
    #[serde(flatten)]
    pub amount: Amount,
    /// What it means.
    pub help: &'static str,
}

/// Inner frames of one network.
#[derive(Clone, Debug, Serialize)]
pub struct NetworkTraffic {
    /// Network identifier.
    pub vni: u32,
    /// Its name, where it is known.
    pub name: Option<String>,
    /// Sent to the underlay by the fast path.
    pub tx: Amount,
    /// Received from the underlay by the fast path.
    pub rx: Amount,
}

/// Inner frames to and from one VTEP.
#[derive(Clone, Debug, Serialize)]
pub struct VtepTraffic {
    /// Its address.
    pub address: VtepAddr,
    /// UDP port.
    pub port: u16,
    /// Sent by the fast path.
    pub tx: Amount,
    /// Received by the fast path.
    pub rx: Amount,
}
