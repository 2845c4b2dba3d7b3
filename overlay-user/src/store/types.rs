//! Requests and answers of the store.

use std::{
    fmt,
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use overlay_common::{MacAddr, Vni, VtepAddr, wire::VXLAN_PORT};

use super::StoreError;
use crate::model::{Attachment, Endpoint, Finding, Host, NetworkSpec, Rx};

/// Connection options of etcd.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EtcdOptions {
    /// URLs of the members, like `https://10.77.0.1:2379`.
    pub endpoints: Vec<String>,
    /// User name and password.
    pub user: Option<(String, String)>,
    /// PEM file of the CA that signed the servers' certificates. Required for `https`.
    pub ca: Option<PathBuf>,
    /// PEM files of this client's certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|(name, _)| name);
        let Self { endpoints, ca, client, .. } = self;
        f.debug_struct("EtcdOptions")
            .field("endpoints", endpoints)
            .field("user", &user)
            .field("ca", ca)
            .field("client", client)
            .finish_non_exhaustive()
    }
}

/// A network to create. The store chooses values for `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRequest {
    /// Unique.
    pub name: String,
    /// `None`: the first free one of the pools.
    pub subnet: Option<Ipv4Net>,
    /// `None`: the subnet's first address.
    pub gateway: Option<Ipv4Addr>,
    /// `None`: the next one from 4096 upward.
    pub vni: Option<Vni>,
    /// Largest layer-3 packet in bytes; `None`: the underlay's less 50, on each host.
    pub mtu: Option<u16>,
    /// UDP port of the VXLAN packets.
    pub port: u16,
    /// Drops frames with a spoofed source instead of passing them to the kernel.
    pub strict: bool,
    /// Other networks may use the same addresses.
    pub overlap: bool,
}

impl NetworkRequest {
    /// A request whose values the store chooses.
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "for tests"))]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            subnet: None,
            gateway: None,
            vni: None,
            mtu: None,
            port: VXLAN_PORT,
            strict: false,
            overlap: false,
        }
    }
}

/// An endpoint to add on a node. The store chooses values for `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRequest {
    /// The network's name.
    pub network: String,
    /// Unique in the network.
    pub name: String,
    /// `None`: the next free one.
    pub ip: Option<Ipv4Addr>,
    /// `None`: `02:42` and the address.
    pub mac: Option<MacAddr>,
    /// Its attachment on its node.
    pub attachment: Attachment,
    /// The interface in the container, shown by `inspect`.
    pub interface: Option<String>,
}

impl EndpointRequest {
    /// A request with addresses that the store chooses, and a veth into the network namespace at `netns`.
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "for tests"))]
    pub fn new(network: impl Into<String>, name: impl Into<String>, netns: impl Into<PathBuf>) -> Self {
        Self {
            network: network.into(),
            name: name.into(),
            ip: None,
            mac: None,
            attachment: Attachment::Netns(netns.into()),
            interface: None,
        }
    }
}

/// A node to register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRequest {
    /// Unique; the node's keys are below `/overlay/nodes/<name>/`.
    pub name: String,
    /// Address of the underlay device. Unique.
    pub address: VtepAddr,
    /// Its receive hook.
    pub rx: Rx,
    /// Time to live of the node's registration without renewal. Whole seconds, at least 2.
    pub ttl: Duration,
}

impl NodeRequest {
    /// The default time to live.
    pub const TTL: Duration = Duration::from_secs(15);

    /// A request with the default time to live.
    pub fn new(name: impl Into<String>, address: VtepAddr) -> Self {
        Self { name: name.into(), address, rx: Rx::Tc, ttl: Self::TTL }
    }
}

/// An endpoint with the store's additional state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEndpoint {
    /// The network's name.
    pub network: String,
    /// The node's name.
    pub node: String,
    /// The endpoint of the model.
    pub endpoint: Endpoint,
    /// The interface in the container, if set.
    pub interface: Option<String>,
    /// The node is alive: other nodes have the endpoint in their tables.
    pub live: bool,
}

/// Handling of the users of a removed object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The object must have no users.
    Unused,
    /// The users are removed too.
    Forced,
}

impl From<bool> for Removal {
    /// From `--force`.
    fn from(force: bool) -> Self {
        if force { Self::Forced } else { Self::Unused }
    }
}

/// A node with the store's additional state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredNode {
    /// The host of the model.
    pub host: Host,
    /// Its lease has not expired.
    pub live: bool,
    /// Its number of endpoints in the store.
    pub endpoints: usize,
}

/// The contents of the store at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The store's revision.
    pub revision: i64,
    /// By name.
    pub nodes: Vec<StoredNode>,
    /// By name.
    pub networks: Vec<NetworkSpec>,
    /// By network and name.
    pub endpoints: Vec<StoredEndpoint>,
    /// One finding for each ignored key.
    pub problems: Vec<Finding>,
}

/// State of the connection to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The database is reachable.
    pub connected: bool,
    /// Time of the last change of `connected`. While not connected, the age of the state is the time since then.
    pub since: Instant,
    /// The last followed revision.
    pub revision: i64,
    /// The reason for the missing connection.
    pub error: Option<StoreError>,
}
