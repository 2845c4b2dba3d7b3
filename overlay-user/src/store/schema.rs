//! Keys and values, described in `docs/store.md`.

use std::{net::Ipv4Addr, path::PathBuf};

use ipnet::Ipv4Net;
use overlay_common::{MacAddr, Vni, VtepAddr, wire::VXLAN_PORT};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use super::{StoreError, StoredEndpoint, kv::Entry};
use crate::model::{Attachment, Endpoint, Host, NetworkSpec, Rx};

/// Prefix of all followed keys.
pub(super) const ROOT: &str = "/overlay/";
/// The schema's version.
pub(super) const VERSION: &str = "/overlay/version";
/// Pools and the first VNI.
pub(super) const CONFIG: &str = "/overlay/config";
/// Networks.
pub(super) const NETWORKS: &str = "/overlay/networks/";
/// Nodes.
pub(super) const NODES: &str = "/overlay/nodes/";
/// Changed by every creation of a network, which serializes them.
pub(super) const ALLOCATOR: &str = "/overlay-ipam/allocator";
/// The schema version that overlay writes, and the only major version that it reads.
pub(super) const KNOWN: VersionRecord = VersionRecord { major: 1, minor: 0 };

pub(super) fn network(name: &str) -> String {
    format!("{NETWORKS}{name}")
}

pub(super) fn node(name: &str) -> String {
    format!("{NODES}{name}")
}

pub(super) fn alive(node: &str) -> String {
    format!("/overlay/alive/{node}")
}

pub(super) fn endpoint(node: &str, network: &str, name: &str) -> String {
    format!("/overlay/endpoints/{node}/{network}/{name}")
}

pub(super) fn node_endpoints(node: &str) -> String {
    format!("/overlay/endpoints/{node}/")
}

pub(super) fn ipam(network: &str) -> String {
    format!("/overlay-ipam/networks/{network}/")
}

pub(super) fn cursor(network: &str) -> String {
    format!("/overlay-ipam/networks/{network}/cursor")
}

pub(super) fn names(network: &str) -> String {
    format!("/overlay-ipam/networks/{network}/names/")
}

pub(super) fn name(network: &str, name: &str) -> String {
    format!("/overlay-ipam/networks/{network}/names/{name}")
}

pub(super) fn address(network: &str, ip: Ipv4Addr) -> String {
    format!("/overlay-ipam/networks/{network}/addresses/{ip}")
}

pub(super) fn mac(network: &str, mac: MacAddr) -> String {
    format!("/overlay-ipam/networks/{network}/macs/{mac}")
}

pub(super) fn node_address(address: VtepAddr) -> String {
    format!("/overlay-ipam/nodes/{address}")
}

/// A followed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key<'a> {
    Version,
    Config,
    Network(&'a str),
    Node(&'a str),
    Alive(&'a str),
    Endpoint { node: &'a str, network: &'a str, name: &'a str },
}

impl<'a> Key<'a> {
    /// `None`: not a key of overlay.
    pub(super) fn parse(key: &'a str) -> Option<Self> {
        let mut parts = key.strip_prefix(ROOT)?.split('/');
        let kind = parts.next()?;
        let parsed = match (kind, parts.next(), parts.next(), parts.next()) {
            ("version", None, ..) => Self::Version,
            ("config", None, ..) => Self::Config,
            ("networks", Some(name), None, _) => Self::Network(name),
            ("nodes", Some(name), None, _) => Self::Node(name),
            ("alive", Some(node), None, _) => Self::Alive(node),
            ("endpoints", Some(node), Some(network), Some(name)) => Self::Endpoint { node, network, name },
            _ => return None,
        };
        parts.next().is_none().then_some(parsed)
    }
}

/// The JSON of a record.
pub(super) fn encode(record: &impl Serialize) -> Vec<u8> {
    // Records have string keys and no maps: serialization cannot fail.
    serde_json::to_vec(record).unwrap_or_default()
}

/// The record in a value, or the problem of the value.
pub(super) fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| format!("has an invalid value ({error})"))
}

/// The record of an entry.
pub(super) fn record<T: DeserializeOwned>(entry: &Entry) -> Result<T, StoreError> {
    decode(&entry.value).map_err(|reason| StoreError::Invalid { key: entry.key.clone(), reason })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VersionRecord {
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl VersionRecord {
    /// Rejects a newer major version.
    pub(super) fn check(self) -> Result<(), StoreError> {
        let print = |Self { major, minor }| format!("{major}.{minor}");
        if self.major == KNOWN.major {
            Ok(())
        } else {
            Err(StoreError::Version { found: print(self), known: print(KNOWN) })
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PoolRecord {
    pub(super) base: Ipv4Net,
    pub(super) prefix: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ConfigRecord {
    pub(super) pools: Vec<PoolRecord>,
    pub(super) first_vni: u32,
}

impl Default for ConfigRecord {
    fn default() -> Self {
        let base = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8);
        Self { pools: vec![PoolRecord { base, prefix: 24 }], first_vni: 4096 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AllocatorRecord {
    pub(super) next_vni: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetworkRecord {
    pub(super) vni: u32,
    pub(super) subnet: Ipv4Net,
    pub(super) gateway: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mtu: Option<u16>,
    #[serde(default = "default_port")]
    pub(super) port: u16,
    #[serde(default)]
    pub(super) strict: bool,
    #[serde(default)]
    pub(super) overlap: bool,
    /// The network is being removed: it accepts no endpoints.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) removing: bool,
}

const fn default_port() -> u16 {
    VXLAN_PORT
}

impl NetworkRecord {
    pub(super) fn new(network: &NetworkSpec) -> Self {
        let &NetworkSpec { vni, subnet, gateway, mtu, port, strict, overlap, .. } = network;
        Self { vni: vni.get(), subnet, gateway, mtu, port, strict, overlap, removing: false }
    }

    pub(super) fn network(&self, name: &str) -> Result<NetworkSpec, String> {
        let &Self { vni, subnet, gateway, mtu, port, strict, overlap, .. } = self;
        let vni = Vni::new(vni).map_err(|error| format!("vni {error}"))?;
        Ok(NetworkSpec { name: name.into(), vni, subnet, gateway, mtu, port, strict, overlap })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeRecord {
    pub(super) address: VtepAddr,
    #[serde(default)]
    pub(super) rx: Rx,
}

impl NodeRecord {
    pub(super) fn host(self, name: &str) -> Host {
        Host { name: name.into(), address: self.address, rx: self.rx }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AliveRecord {
    /// Seconds.
    pub(super) ttl: u64,
}

/// The claim of a node's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeClaim {
    pub(super) node: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CursorRecord {
    pub(super) next: Ipv4Addr,
}

/// The claim of a name, an IP address or a MAC address of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    pub(super) node: String,
    pub(super) endpoint: String,
    pub(super) ip: Ipv4Addr,
    #[serde(with = "mac_text")]
    pub(super) mac: MacAddr,
    /// Identifies one `add`, which recognizes its committed claim after a lost answer.
    pub(super) id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EndpointRecord {
    pub(super) vni: u32,
    pub(super) ip: Ipv4Addr,
    #[serde(with = "mac_text")]
    pub(super) mac: MacAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) netns: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) interface: Option<String>,
}

impl EndpointRecord {
    pub(super) fn new(endpoint: &Endpoint, interface: Option<String>) -> Self {
        let (netns, port) = match &endpoint.attachment {
            Attachment::Netns(path) => (Some(path.clone()), None),
            Attachment::Port(name) => (None, Some(name.clone())),
            Attachment::Unspecified => (None, None),
        };
        Self { vni: endpoint.vni.get(), ip: endpoint.ip, mac: endpoint.mac, netns, port, interface }
    }

    /// The adopted interface.
    pub(super) fn port(&self) -> Option<&str> {
        self.port.as_deref().filter(|_| self.netns.is_none())
    }

    pub(super) fn endpoint(&self, name: &str, host: VtepAddr) -> Result<Endpoint, String> {
        let vni = Vni::new(self.vni).map_err(|error| format!("vni {error}"))?;
        let attachment = match (&self.netns, &self.port) {
            (Some(path), _) => Attachment::Netns(path.clone()),
            (None, Some(port)) => Attachment::Port(port.clone()),
            (None, None) => Attachment::Unspecified,
        };
        Ok(Endpoint { name: name.into(), vni, ip: self.ip, mac: self.mac, host, attachment })
    }

    /// The endpoint, with `live` unset.
    pub(super) fn stored(
        &self,
        (node, network, name): (&str, &str, &str),
        host: VtepAddr,
    ) -> Result<StoredEndpoint, String> {
        let endpoint = self.endpoint(name, host)?;
        Ok(StoredEndpoint {
            network: network.into(),
            node: node.into(),
            endpoint,
            interface: self.interface.clone(),
            live: false,
        })
    }
}

mod mac_text {
    use super::{Deserialize, Deserializer, MacAddr, Serializer};

    pub(super) fn serialize<S: Serializer>(mac: &MacAddr, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(mac)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MacAddr, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
