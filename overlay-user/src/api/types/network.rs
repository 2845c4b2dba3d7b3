//! A network of this host, whatever made it.

use std::{collections::BTreeSet, path::PathBuf};

use overlay_common::VtepAddr;
use serde::{Deserialize, Serialize};

use crate::model::Finding;

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// As on the wire: the segments of a GSO super-packet.
    pub packets: u64,
    /// From the Ethernet header on.
    pub bytes: u64,
}

/// Packets of one interface, as the kernel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCount {
    /// Sent through it.
    pub tx: u64,
    /// Received through it.
    pub rx: u64,
}

/// What made a network, and how its packets get to the VXLAN device.
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

/// Which path serves a network.
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
/// The daemon says what the network is and which path serves it. The counters, and all numbers of a network that is in the
/// maps, are read from the maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// The configuration's, the store's or the orchestrator's name, where it is known.
    pub name: Option<String>,
    /// Network identifier; 0 for a device that has none of its own.
    pub vni: u32,
    /// What made it.
    pub kind: NetworkKind,
    /// Which path serves it.
    pub state: NetworkState,
    /// Why the kernel path serves it, in a word or two; `None`: it is accelerated.
    pub cause: Option<String>,
    /// Why the kernel path serves it, and the remedy; `None`: it is accelerated, or there is nothing to be done.
    pub finding: Option<Finding>,
    /// The VXLAN device.
    pub device: String,
    /// The file of the network namespace that the device is in; `None`: the daemon's own.
    pub sandbox: Option<PathBuf>,
    /// UDP port.
    pub port: u16,
    /// Largest layer-3 packet, in bytes.
    pub mtu: u16,
    /// Frames with a spoofed source are dropped.
    pub strict: bool,
    /// How many endpoints are on this host.
    pub local: usize,
    /// The endpoints on this host.
    pub ports: Vec<PortStatus>,
    /// How many MAC addresses are on other hosts.
    pub remote: usize,
    /// The other hosts.
    pub vteps: BTreeSet<VtepAddr>,
    /// Sent to the underlay by the fast path; `None`: the network is not in the maps.
    pub tx: Option<Amount>,
    /// Received from the underlay by the fast path; `None`: the network is not in the maps.
    pub rx: Option<Amount>,
    /// Packets through the VXLAN device; `None`: it is not there.
    pub kernel: Option<DeviceCount>,
}

/// An endpoint of a network on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// The interface in the network's namespace; of an endpoint that has none, the endpoint's name.
    pub name: String,
    /// The container behind it, as Docker or the store calls it; `None`: unknown.
    pub container: Option<String>,
    /// The MAC address behind it; `None`: unknown, or ambiguous.
    pub mac: Option<String>,
    /// Why the kernel path alone serves it; `None`: the fast path does.
    pub finding: Option<Finding>,
}

/// A VTEP that this host sends to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VtepRow {
    /// Its address.
    pub address: VtepAddr,
    /// UDP port.
    pub port: u16,
    /// Whether the next hop is known; packets go to the kernel otherwise.
    pub resolved: bool,
    /// The interface that the next hop is behind.
    pub device: Option<String>,
    /// MAC address of the next hop.
    pub next_hop: Option<String>,
    /// Largest inner layer-3 packet that fits the route, in bytes.
    pub mtu: u16,
}

/// `overlay status NETWORK`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NetworkDetail {
    /// The network.
    #[serde(flatten)]
    pub network: NetworkStatus,
    /// Those of its VTEPs that are in the maps.
    pub next_hops: Vec<VtepRow>,
}
