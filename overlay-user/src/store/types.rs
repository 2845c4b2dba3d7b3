//! What is asked of the store, and what it answers.

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

/// How etcd is reached.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EtcdOptions {
    /// URLs of the members, like `https://10.77.0.1:2379`.
    pub endpoints: Vec<String>,
    /// User name and password.
    pub user: Option<(String, String)>,
    /// PEM file of the authority that signed the servers' certificates. Needed for `https`.
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

/// A network to make. What is `None` is chosen by the store.
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
    /// Drop frames with a spoofed source instead of leaving them to the kernel.
    pub strict: bool,
    /// Other networks may use the same addresses.
    pub overlap: bool,
}

impl NetworkRequest {
    /// Everything chosen by the store.
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

/// An endpoint to add on a node. What is `None` is chosen by the store.
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
    /// How it is attached on its node.
    pub attachment: Attachment,
    /// The interface in the container, for `inspect`; the store keeps it as it is.
    pub interface: Option<String>,
}

impl EndpointRequest {
    /// Addresses chosen by the store, with a veth into the network namespace at `netns`.
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
    /// How it receives.
    pub rx: Rx,
    /// For how long others keep the node's endpoints without a sign of life. Whole seconds, at least 2.
    pub ttl: Duration,
}

impl NodeRequest {
    /// How long a node may be silent, unless told otherwise.
    pub const TTL: Duration = Duration::from_secs(15);

    /// With the default time to live.
    pub fn new(name: impl Into<String>, address: VtepAddr) -> Self {
        Self { name: name.into(), address, rx: Rx::Tc, ttl: Self::TTL }
    }
}

/// An endpoint with what the model does not say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEndpoint {
    /// The network's name.
    pub network: String,
    /// The node's name.
    pub node: String,
    /// As the model has it.
    pub endpoint: Endpoint,
    /// The interface in the container, where it was told.
    pub interface: Option<String>,
    /// The node is there: others have the endpoint in their tables.
    pub live: bool,
}

/// What becomes of what uses an object that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// There must be nothing.
    Unused,
    /// It is removed too.
    Forced,
}

impl From<bool> for Removal {
    /// From `--force`.
    fn from(force: bool) -> Self {
        if force { Self::Forced } else { Self::Unused }
    }
}

/// A node with what the model does not say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredNode {
    /// As the model has it.
    pub host: Host,
    /// Its lease has not run out.
    pub live: bool,
    /// How many endpoints it has in the store.
    pub endpoints: usize,
}

/// All that the store has, at one revision.
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
    /// Keys that are ignored.
    pub problems: Vec<Finding>,
}

/// How well the store is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The database answers.
    pub connected: bool,
    /// Since when that is so: while not connected, the age of what is known is the time since then.
    pub since: Instant,
    /// The revision of what is known.
    pub revision: i64,
    /// Why it is not connected.
    pub error: Option<StoreError>,
}
