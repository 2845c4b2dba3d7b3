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

/// Location of a MAC address.
#[derive(Clone, Debug, Serialize)]
pub struct FdbRow {
    /// Network identifier.
    pub vni: u32,
    /// The network's name; `None`: unknown.
    pub network: Option<String>,
    /// The MAC address.
    pub mac: String,
    /// The port, if it is on this host.
    pub device: Option<String>,
    /// Path of the port's network namespace; `None`: the daemon's own.
    pub sandbox: Option<PathBuf>,
    /// The VTEP, if it is on another host.
    pub vtep: Option<VtepAddr>,
    /// Whether the fast path can send to it; false while the VTEP has no next hop.
    pub resolved: bool,
}

/// `overlay ports`.
#[derive(Clone, Debug, Serialize)]
pub struct PortsReport {
    /// In the order of interface indices.
    pub ports: Vec<PortRow>,
}

/// A port: an interface of a local container, with its allowed source addresses.
#[derive(Clone, Debug, Serialize)]
pub struct PortRow {
    /// Interface index.
    pub ifindex: u32,
    /// Interface name.
    pub device: String,
    /// Path of its network namespace; `None`: the daemon's own.
    pub sandbox: Option<PathBuf>,
    /// Network identifier.
    pub vni: u32,
    /// The network's name; `None`: unknown.
    pub network: Option<String>,
    /// The endpoint's name, from the veth's alias; `None`: overlay did not create the interface.
    pub endpoint: Option<String>,
    /// The container's name; `None`: unknown.
    pub container: Option<String>,
    /// The allowed source MAC address.
    pub mac: String,
    /// The allowed source IPv4 address; unspecified: any.
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

/// Packets with one reason.
#[derive(Clone, Debug, Serialize)]
pub struct ReasonRow {
    /// [`overlay_common::Reason::name`].
    pub reason: &'static str,
    /// `fast`, `kernel` or `drop`.
    pub verdict: &'static str,
    /// Packets and bytes.
    #[serde(flatten)]
    pub amount: Amount,
    /// Meaning of the reason.
    pub help: &'static str,
}

/// Inner frames of one network.
#[derive(Clone, Debug, Serialize)]
pub struct NetworkTraffic {
    /// Network identifier.
    pub vni: u32,
    /// Its name; `None`: unknown.
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
