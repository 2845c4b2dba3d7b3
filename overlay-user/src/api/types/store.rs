//! Networks, endpoints and nodes of the store.

use std::{net::Ipv4Addr, path::PathBuf};

use ipnet::Ipv4Net;
use overlay_common::VtepAddr;
use serde::{Deserialize, Serialize};

use crate::model::Finding;

/// The connection to the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreReport {
    /// `embedded` or `etcd`.
    pub kind: String,
    /// Whether the store is reachable.
    pub reachable: bool,
    /// Age of the reported state in milliseconds; 0 while the store is reachable.
    pub age_ms: u64,
    /// Revision of the state.
    pub revision: i64,
    /// Why the store cannot be reached.
    pub error: Option<String>,
}

/// `overlay network ls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkList {
    /// In the order of their names.
    pub networks: Vec<NetworkReport>,
    /// The connection to the store.
    pub store: StoreReport,
}

/// A network of the store, alone or with all of its endpoints (`overlay network inspect`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkReport {
    /// Unique in the cluster.
    pub name: String,
    /// Network identifier.
    pub vni: u32,
    /// Subnet of the endpoints.
    pub subnet: Ipv4Net,
    /// Gateway of the endpoints.
    pub gateway: Ipv4Addr,
    /// Largest layer-3 packet in bytes; `None`: the MTU of each host's underlay device minus 50.
    pub mtu: Option<u16>,
    /// UDP port.
    pub port: u16,
    /// Frames with a spoofed source are dropped.
    pub strict: bool,
    /// Subnets of other networks with `overlap` may overlap.
    pub overlap: bool,
    /// Number of endpoints.
    pub endpoints: usize,
    /// The endpoints; only in `overlay network inspect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containers: Option<Vec<EndpointReport>>,
    /// The hosts with endpoints in the network; only in `overlay network inspect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<Peer>>,
    /// The connection to the store; only in `overlay network inspect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreReport>,
    /// Problems of this host that the new network has; only in `overlay network create`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Finding>,
}

/// A host with endpoints in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    /// The node's name.
    pub node: String,
    /// Its VTEP.
    pub address: VtepAddr,
    /// Number of its endpoints in the network.
    pub endpoints: usize,
    /// Its registration is valid, and other hosts have its endpoints in their tables.
    pub alive: bool,
}

/// `overlay endpoint ls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndpointList {
    /// In the order of networks' and endpoints' names.
    pub endpoints: Vec<EndpointReport>,
    /// The connection to the store.
    pub store: StoreReport,
}

/// `overlay endpoint inspect` and `overlay endpoint add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndpointReport {
    /// The network's name.
    pub network: String,
    /// Unique in its network.
    pub name: String,
    /// Network identifier.
    pub vni: u32,
    /// The address, with the subnet's prefix length.
    pub ip: Ipv4Net,
    /// The MAC address.
    pub mac: String,
    /// Its node.
    pub node: String,
    /// That node's VTEP.
    pub address: VtepAddr,
    /// The network namespace, on the endpoint's own host.
    pub netns: Option<PathBuf>,
    /// The host-side interface, on the endpoint's own host.
    pub device: Option<String>,
    /// The interface in the container, on the endpoint's own host and only for one endpoint.
    pub interface: Option<String>,
    /// On its own host: it is accelerated. On other hosts: its node's registration is valid.
    pub ready: bool,
    /// On its own host: it takes the kernel path; `overlay status` shows the cause.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kernel_path: bool,
    /// Problems of this host that its network has; only in `overlay endpoint add`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Finding>,
}

/// `overlay node ls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeList {
    /// In the order of their names.
    pub nodes: Vec<NodeReport>,
    /// The connection to the store.
    pub store: StoreReport,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeReport {
    /// Unique in the cluster.
    pub name: String,
    /// Its VTEP.
    pub address: VtepAddr,
    /// Its registration is valid.
    pub alive: bool,
    /// It is the node of this daemon.
    pub local: bool,
    /// Number of its endpoints.
    pub endpoints: usize,
}

/// The result of `rm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Removed {
    /// The network, node or endpoint, as `my-overlay-network/gindemo1`.
    pub removed: String,
    /// Number of removed endpoints.
    pub endpoints: usize,
}
