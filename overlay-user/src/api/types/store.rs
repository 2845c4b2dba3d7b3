//! Networks, endpoints and nodes of the store.

use std::{net::Ipv4Addr, path::PathBuf};

use ipnet::Ipv4Net;
use overlay_common::VtepAddr;
use serde::{Deserialize, Serialize};

/// How well the store can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreReport {
    /// `embedded` or `etcd`.
    pub kind: String,
    /// Whether it answered last time.
    pub reachable: bool,
    /// Milliseconds since what is shown was known to be the store's newest state.
    pub age_ms: u64,
    /// Revision of the state.
    pub revision: i64,
    /// Why it cannot be reached.
    pub error: Option<String>,
}

/// `overlay network ls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkList {
    /// In the order of their names.
    pub networks: Vec<NetworkReport>,
    /// How old this is.
    pub store: StoreReport,
}

/// A network of the store, alone or with all of its endpoints (`overlay network inspect`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkReport {
    /// Unique in the cluster.
    pub name: String,
    /// Network identifier.
    pub vni: u32,
    /// Where the endpoints' addresses are from.
    pub subnet: Ipv4Net,
    /// Default route of the endpoints.
    pub gateway: Ipv4Addr,
    /// Largest layer-3 packet in bytes; `None`: each host's underlay less 50.
    pub mtu: Option<u16>,
    /// UDP port.
    pub port: u16,
    /// Frames with a spoofed source are dropped.
    pub strict: bool,
    /// Other networks may use the same addresses.
    pub overlap: bool,
    /// How many endpoints it has.
    pub endpoints: usize,
    /// The endpoints; only when one network is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containers: Option<Vec<EndpointReport>>,
    /// The hosts that have endpoints in it; only when one network is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<Peer>>,
    /// How old this is; only when one network is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreReport>,
}

/// A host with endpoints in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    /// The node's name.
    pub node: String,
    /// Its VTEP.
    pub address: VtepAddr,
    /// How many endpoints of the network it has.
    pub endpoints: usize,
    /// Its registration is valid: its endpoints are in the other hosts' tables.
    pub alive: bool,
}

/// `overlay endpoint ls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndpointList {
    /// In the order of networks' and endpoints' names.
    pub endpoints: Vec<EndpointReport>,
    /// How old this is.
    pub store: StoreReport,
}

/// `overlay endpoint inspect`, and what `overlay endpoint add` made.
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
    /// The node that it is on.
    pub node: String,
    /// That node's VTEP.
    pub address: VtepAddr,
    /// The network namespace, on the endpoint's own host.
    pub netns: Option<PathBuf>,
    /// The host-side interface, on the endpoint's own host.
    pub device: Option<String>,
    /// The interface in the container, on the endpoint's own host and only when one endpoint is looked at.
    pub interface: Option<String>,
    /// On its own host: the fast path serves it, with its port and FDB entry in the maps. Elsewhere: its node's
    /// registration is valid.
    pub ready: bool,
    /// On its own host: only the kernel path serves it; `overlay status` says why.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kernel_path: bool,
}

/// `overlay node ls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeList {
    /// In the order of their names.
    pub nodes: Vec<NodeReport>,
    /// How old this is.
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
    /// It is the node that was asked.
    pub local: bool,
    /// How many endpoints it has.
    pub endpoints: usize,
}

/// What `rm` took away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Removed {
    /// The network, node or endpoint, as `my-overlay-network/gindemo1`.
    pub removed: String,
    /// Endpoints that went with it.
    pub endpoints: usize,
}
