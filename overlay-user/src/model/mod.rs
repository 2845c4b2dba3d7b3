//! The configuration model of a cluster.
//!
//! [`Parts`] are plain, unchecked data. A [`Cluster`] consists of valid parts ([`Cluster::new`]), is immutable, and is
//! the same on every host. [`Cluster::view`] is the part of it that is relevant for one host: the networks in which the
//! host has endpoints, and the other endpoints of these networks.

use std::{
    collections::{BTreeMap, HashSet},
    net::Ipv4Addr,
    ops::Deref,
    path::PathBuf,
};

use ipnet::Ipv4Net;
use overlay_common::{MacAddr, Vni, VtepAddr};

mod count;
pub(crate) mod discovery;
mod finding;
pub(crate) mod network;
mod remote;
pub(crate) mod rule;
mod validate;

#[cfg(test)]
mod tests;

pub(crate) use count::{counted, listed};
pub use finding::Finding;
pub(crate) use finding::Findings;
pub(crate) use network::HostNetworks;
pub use network::Network;
pub(crate) use remote::{RemoteChange, RemoteEndpoint, RemoteEndpoints};
pub(crate) use rule::Located;
pub(crate) use rule::endpoint_label;

/// A host with one VTEP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Unique in the cluster.
    pub name: String,
    /// Address of the underlay device: source and destination of the outer packets. Unique in the cluster.
    pub address: VtepAddr,
    /// The receive hook of this host.
    pub rx: Rx,
}

/// The hook that decapsulates on the NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rx {
    /// TC ingress, after GRO.
    #[default]
    Tc,
    /// XDP for everything but TCP; TC for the rest.
    Xdp,
}

/// One layer-2 segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Unique in the cluster.
    pub name: String,
    /// Unique in the cluster.
    pub vni: Vni,
    /// Subnet of the endpoints' addresses.
    pub subnet: Ipv4Net,
    /// Default route of the endpoints, inside `subnet`.
    pub gateway: Ipv4Addr,
    /// Largest layer-3 packet, in bytes; `None`: the underlay's MTU less 50.
    pub mtu: Option<u16>,
    /// UDP port of the VXLAN packets.
    pub port: u16,
    /// Drop frames with a spoofed source instead of passing them to the kernel.
    pub strict: bool,
    /// The subnet may overlap those of other networks. Such a network has no gateway on the hosts and no default route.
    pub overlap: bool,
}

/// One container, or anything else behind a host-side interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Unique in its network.
    pub name: String,
    /// The network's VNI.
    pub vni: Vni,
    /// Unique in its network, inside its subnet.
    pub ip: Ipv4Addr,
    /// Unique in its network.
    pub mac: MacAddr,
    /// Address of its [`Host`].
    pub host: VtepAddr,
    /// How the endpoint is attached on its host.
    pub attachment: Attachment,
}

/// How an endpoint is attached on its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// By a new veth into the network namespace at this path, for instance below `/run/netns`.
    Netns(PathBuf),
    /// By an existing host-side interface.
    Port(String),
    /// Unknown. Other hosts do not need it.
    Unspecified,
}

/// The input of the control plane, unchecked. [`Parts::validate`] has the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Unique names and addresses.
    pub hosts: Vec<Host>,
    /// Unique names and VNIs.
    pub networks: Vec<NetworkSpec>,
    /// Every `vni` and `host` exists.
    pub endpoints: Vec<Endpoint>,
    /// Size of the map `OVL_FDB`, in entries; `None`: the default.
    pub fdb_size: Option<u32>,
    /// Settings for the discovery of external networks; `None`: no discovery.
    pub discover: Option<discovery::Settings>,
}

/// Valid [`Parts`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster(Parts);

impl Deref for Cluster {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl From<Cluster> for Parts {
    fn from(cluster: Cluster) -> Self {
        cluster.0
    }
}

/// The part of a cluster that is relevant for one host. Made by [`Cluster::view`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    host: Host,
    networks: BTreeMap<Vni, NetworkView>,
}

/// One network as seen from one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkView {
    network: NetworkSpec,
    local: Vec<Endpoint>,
    remote: RemoteEndpoints,
}

impl NetworkView {
    /// The network.
    #[must_use]
    pub const fn network(&self) -> &NetworkSpec {
        &self.network
    }

    /// Endpoints on this host.
    #[must_use]
    pub fn local(&self) -> &[Endpoint] {
        &self.local
    }

    /// Endpoints on other hosts.
    #[must_use]
    pub const fn remote(&self) -> &RemoteEndpoints {
        &self.remote
    }
}

impl View {
    /// This host.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The networks in which this host has endpoints.
    #[must_use]
    pub const fn networks(&self) -> &BTreeMap<Vni, NetworkView> {
        &self.networks
    }

    /// Removes the endpoints of this host for which `keep` is false. Their networks stay.
    pub(crate) fn retain_local(&mut self, mut keep: impl FnMut(&NetworkSpec, &Endpoint) -> bool) {
        for NetworkView { network, local, .. } in self.networks.values_mut() {
            local.retain(|endpoint| keep(network, endpoint));
        }
    }

    /// The networks of `remote` with these remote endpoints only.
    pub(crate) fn with_remote(&self, remote: &BTreeMap<Vni, RemoteEndpoints>) -> Self {
        let network = |(vni, remote): (&Vni, &RemoteEndpoints)| {
            let network = self.networks.get(vni)?.network.clone();
            Some((*vni, NetworkView { network, local: Vec::new(), remote: remote.clone() }))
        };
        Self { host: self.host.clone(), networks: remote.iter().filter_map(network).collect() }
    }

    /// Removes a remote endpoint.
    pub(crate) fn remove_remote(&mut self, vni: Vni, name: &str) -> Option<RemoteEndpoint> {
        self.networks.get_mut(&vni)?.remote.remove(name)
    }

    /// Inserts a remote endpoint. Returns false if it is on this host, or in a network without endpoints of this host.
    pub(crate) fn insert_remote(&mut self, vni: Vni, name: &str, endpoint: RemoteEndpoint) -> bool {
        match self.networks.get_mut(&vni) {
            Some(network) if endpoint.host != self.host.address => {
                network.remote.insert(name, endpoint);
                true
            }
            _ => false,
        }
    }
}

impl Cluster {
    /// The same cluster with other discovery settings.
    #[must_use]
    pub fn with_discovery(mut self, discover: Option<discovery::Settings>) -> Self {
        self.0.discover = discover;
        self
    }

    /// The same cluster without endpoints.
    #[must_use]
    pub fn without_endpoints(&self) -> Self {
        let Parts { hosts, networks, endpoints: _, fdb_size, discover } = &self.0;
        let (hosts, networks, discover) = (hosts.clone(), networks.clone(), discover.clone());
        Self(Parts { hosts, networks, endpoints: Vec::new(), fdb_size: *fdb_size, discover })
    }

    /// Whether it contains only discovery settings. Such a cluster needs no hosts.
    #[must_use]
    pub fn is_discovery_only(&self) -> bool {
        self.discover.is_some() && self.hosts.is_empty() && self.networks.is_empty() && self.endpoints.is_empty()
    }

    /// The part that is relevant for the host at `address`; `None` if the cluster has no such host.
    #[must_use]
    pub fn view(&self, address: VtepAddr) -> Option<View> {
        let host = self.hosts.iter().find(|host| host.address == address)?.clone();
        let local: HashSet<Vni> =
            self.endpoints.iter().filter(|endpoint| endpoint.host == address).map(|endpoint| endpoint.vni).collect();
        let mut networks: BTreeMap<Vni, NetworkView> = self
            .networks
            .iter()
            .filter(|network| local.contains(&network.vni))
            .map(|network| {
                (
                    network.vni,
                    NetworkView { network: network.clone(), local: Vec::new(), remote: RemoteEndpoints::default() },
                )
            })
            .collect();
        for endpoint in &self.endpoints {
            if let Some(view) = networks.get_mut(&endpoint.vni) {
                if endpoint.host == address {
                    view.local.push(endpoint.clone());
                } else {
                    view.remote.insert(&endpoint.name, endpoint.into());
                }
            }
        }
        Some(View { host, networks })
    }
}
