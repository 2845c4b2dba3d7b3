//! What a cluster consists of.
//!
//! [`Parts`] are plain data, which may say anything. A [`Cluster`] is made of parts that keep the rules ([`Cluster::new`]),
//! cannot be changed, and is the same on every host. [`Cluster::view`] is the part of it that one host has to know: the
//! networks that the host has endpoints in, and the other endpoints of these networks.

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

pub(crate) use count::counted;
pub use finding::Finding;
pub(crate) use finding::Findings;
pub(crate) use network::HostNetworks;
pub use network::Network;
pub(crate) use remote::{RemoteChange, RemoteEndpoint, RemoteEndpoints};
pub(crate) use rule::Located;
pub(crate) use rule::endpoint_label;

/// A host that takes part: one VTEP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Unique in the cluster.
    pub name: String,
    /// Address of the underlay device: source and destination of the outer packets. Unique in the cluster.
    pub address: VtepAddr,
    /// How this host receives.
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
    /// Where the endpoints' addresses are from.
    pub subnet: Ipv4Net,
    /// Default route of the endpoints, inside `subnet`.
    pub gateway: Ipv4Addr,
    /// Largest layer-3 packet in bytes; `None`: the underlay's MTU less 50.
    pub mtu: Option<u16>,
    /// UDP port of the VXLAN packets.
    pub port: u16,
    /// Drop frames with a spoofed source instead of leaving them to the kernel.
    pub strict: bool,
    /// Other networks may use the same addresses. Such a network has no gateway on the hosts and no default route.
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
    /// Address of the [`Host`] that it is on.
    pub host: VtepAddr,
    /// How it is attached on its host.
    pub attachment: Attachment,
}

/// How an endpoint is attached on its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// A veth into this network namespace is made: a path, as below `/run/netns`.
    Netns(PathBuf),
    /// An existing host-side interface is used.
    Port(String),
    /// The other hosts need not know.
    Unspecified,
}

/// What the control plane says. The rules are those of [`Parts::validate`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Unique names and addresses.
    pub hosts: Vec<Host>,
    /// Unique names and VNIs.
    pub networks: Vec<NetworkSpec>,
    /// Every `vni` and `host` exists.
    pub endpoints: Vec<Endpoint>,
    /// Most entries of the map `OVL_FDB`; `None`: the default.
    pub fdb_size: Option<u32>,
    /// Networks that others made are followed, too.
    pub discover: Option<discovery::Settings>,
}

/// [`Parts`] that keep the rules.
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

/// What one host has to know of a cluster. Made by [`Cluster::view`].
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

    /// The networks that this host has endpoints in.
    #[must_use]
    pub const fn networks(&self) -> &BTreeMap<Vni, NetworkView> {
        &self.networks
    }

    /// Leaves out the endpoints of this host that `keep` is false for. Their networks stay.
    pub(crate) fn retain_local(&mut self, mut keep: impl FnMut(&NetworkSpec, &Endpoint) -> bool) {
        for NetworkView { network, local, .. } in self.networks.values_mut() {
            local.retain(|endpoint| keep(network, endpoint));
        }
    }

    /// The networks of `remote` with these endpoints of other hosts, and no others.
    pub(crate) fn with_remote(&self, remote: &BTreeMap<Vni, RemoteEndpoints>) -> Self {
        let network = |(vni, remote): (&Vni, &RemoteEndpoints)| {
            let network = self.networks.get(vni)?.network.clone();
            Some((*vni, NetworkView { network, local: Vec::new(), remote: remote.clone() }))
        };
        Self { host: self.host.clone(), networks: remote.iter().filter_map(network).collect() }
    }

    /// Takes out an endpoint of another host.
    pub(crate) fn remove_remote(&mut self, vni: Vni, name: &str) -> Option<RemoteEndpoint> {
        self.networks.get_mut(&vni)?.remote.remove(name)
    }

    /// Puts in an endpoint of another host. False: it is on this one, or in a network that this host has no part in.
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
    /// The same with other settings for external networks.
    #[must_use]
    pub fn with_discovery(mut self, discover: Option<discovery::Settings>) -> Self {
        self.0.discover = discover;
        self
    }

    /// The same without any endpoint.
    #[must_use]
    pub fn without_endpoints(&self) -> Self {
        let Parts { hosts, networks, endpoints: _, fdb_size, discover } = &self.0;
        let (hosts, networks, discover) = (hosts.clone(), networks.clone(), discover.clone());
        Self(Parts { hosts, networks, endpoints: Vec::new(), fdb_size: *fdb_size, discover })
    }

    /// Whether it says nothing but which external networks to accelerate. It needs no hosts then.
    #[must_use]
    pub fn is_discovery_only(&self) -> bool {
        self.discover.is_some() && self.hosts.is_empty() && self.networks.is_empty() && self.endpoints.is_empty()
    }

    /// What the host at `address` has to know; `None` when the cluster has no such host.
    #[must_use]
    pub fn view(&self, address: VtepAddr) -> Option<View> {
        let host = self.hosts.iter().find(|host| host.address == address)?.clone();
        let mine: HashSet<Vni> =
            self.endpoints.iter().filter(|endpoint| endpoint.host == address).map(|endpoint| endpoint.vni).collect();
        let mut networks: BTreeMap<Vni, NetworkView> = self
            .networks
            .iter()
            .filter(|network| mine.contains(&network.vni))
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
