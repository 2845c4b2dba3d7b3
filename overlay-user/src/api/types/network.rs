//! A managed or external network of this host.

use std::{collections::BTreeSet, path::PathBuf};

use overlay_common::VtepAddr;
use serde::{Deserialize, Serialize};

use crate::model::Finding;

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Packets on the wire: each segment of a GSO super-packet counts.
    pub packets: u64,
    /// Bytes from the Ethernet header on.
    pub bytes: u64,
}

/// Packets of one interface, as the kernel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCount {
    /// Sent packets.
    pub tx: u64,
    /// Received packets.
    pub rx: u64,
}

/// Kind of a network: its origin, and the way of its packets to the VXLAN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// Made by overlay, from the configuration or the store.
    Managed,
    /// Discovered: a VXLAN device in a bridge.
    Bridged,
    /// Discovered: a VXLAN device that the host routes to.
    Routed,
}

/// The path of a network's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkState {
    /// The fast path.
    Accelerated,
    /// The kernel path alone.
    Kernel,
}

/// A network of this host.
///
/// Identity and state are the daemon's. The counters, and all numbers of a network in the maps, are read from the maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// Name in the configuration, the store or Docker; `None`: unknown.
    pub name: Option<String>,
    /// Network identifier; 0 for a device without one (`external` in ip-link(8)).
    pub vni: u32,
    /// Kind.
    pub kind: NetworkKind,
    /// State.
    pub state: NetworkState,
    /// Cause of the kernel path in one or two words; `None`: it is accelerated.
    pub cause: Option<String>,
    /// Cause of the kernel path, and the remedy; `None`: it is accelerated, or no remedy is needed.
    pub finding: Option<Finding>,
    /// The VXLAN device.
    pub device: String,
    /// Path of the device's network namespace; `None`: the daemon's own.
    pub sandbox: Option<PathBuf>,
    /// UDP port.
    pub port: u16,
    /// Largest layer-3 packet, in bytes.
    pub mtu: u16,
    /// Frames with a spoofed source are dropped.
    pub strict: bool,
    /// Number of endpoints on this host.
    pub local: usize,
    /// The endpoints on this host.
    pub ports: Vec<PortStatus>,
    /// Number of MAC addresses on other hosts.
    pub remote: usize,
    /// VTEPs of the other hosts.
    pub vteps: BTreeSet<VtepAddr>,
    /// Sent to the underlay by the fast path; `None`: the network is not in the maps.
    pub tx: Option<Amount>,
    /// Received from the underlay by the fast path; `None`: the network is not in the maps.
    pub rx: Option<Amount>,
    /// Packets of the VXLAN device; `None`: the device does not exist.
    pub kernel: Option<DeviceCount>,
}

/// An endpoint of a network on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// The interface in the network's namespace; without one, the endpoint's name.
    pub name: String,
    /// The container's name in Docker or the store; `None`: unknown.
    pub container: Option<String>,
    /// The container's MAC address; `None`: unknown, or ambiguous.
    pub mac: Option<String>,
    /// Cause of the kernel path; `None`: it is accelerated.
    pub finding: Option<Finding>,
}

/// A VTEP that this host sends to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VtepRow {
    /// Its address.
    pub address: VtepAddr,
    /// UDP port.
    pub port: u16,
    /// Whether the next hop is known; otherwise packets fall back to the kernel path.
    pub resolved: bool,
    /// The egress interface.
    pub device: Option<String>,
    /// MAC address of the next hop.
    pub next_hop: Option<String>,
    /// Largest inner layer-3 packet that fits the route, in bytes.
    pub mtu: u16,
}

/// A VTEP to or from which packets take the kernel path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnresolvedVtep {
    /// Its address.
    pub address: VtepAddr,
    /// UDP port.
    pub port: u16,
    /// The network; `None`: all networks with this port.
    pub vni: Option<u32>,
    /// The cause, and the remedy.
    pub finding: Finding,
}

/// `overlay status NETWORK`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NetworkDetail {
    /// The network.
    #[serde(flatten)]
    pub network: NetworkStatus,
    /// The network's VTEPs in the maps.
    pub next_hops: Vec<VtepRow>,
    /// Those to or from which packets take the kernel path.
    pub unresolved: Vec<UnresolvedVtep>,
}
