//! What a cluster consists of: plain data, valid by construction.
//!
//! A [`Cluster`] is the same on every host; [`Cluster::new`] and [`Cluster::validate`] hold the rules.
//! [`Cluster::view`] is what one host has to know of it: the networks that it has endpoints in, and who else is in them.

use std::{
    collections::{BTreeMap, HashSet},
    net::Ipv4Addr,
    path::PathBuf,
};

use ipnet::Ipv4Net;
use overlay_common::{MacAddr, Vni};

pub mod mirror;
mod remote;
pub mod rule;
mod validate;

#[cfg(test)]
mod tests;

pub use remote::{RemoteEndpoint, RemoteEndpoints};
pub use rule::{Violation, Violations};

/// A host that takes part: one VTEP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Unique in the cluster.
    pub name: String,
    /// Address of the underlay device: source and destination of the outer packets. Unique in the cluster.
    pub address: Ipv4Addr,
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
pub struct Network {
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
    /// Drop frames with a false sender instead of leaving them to the kernel.
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
    pub host: Ipv4Addr,
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

/// Everything that the control plane says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Unique names and addresses.
    pub hosts: Vec<Host>,
    /// Unique names and VNIs.
    pub networks: Vec<Network>,
    /// Every `vni` and `host` exists.
    pub endpoints: Vec<Endpoint>,
    /// Most entries of the map `OVL_FDB`; `None`: the default.
    pub fdb_size: Option<u32>,
    /// Networks that others made are followed, too.
    pub mirror: Option<mirror::Settings>,
}

/// What one host has to know of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// This host.
    pub host: Host,
    /// The networks that this host has endpoints in.
    pub networks: BTreeMap<Vni, NetworkView>,
}

/// One network as seen from one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkView {
    /// The network.
    pub network: Network,
    /// Endpoints on this host.
    pub local: Vec<Endpoint>,
    /// Endpoints on other hosts.
    pub remote: RemoteEndpoints,
}

impl Cluster {
    /// Whether it says nothing but which foreign networks to accelerate. It needs no hosts then.
    #[must_use]
    pub fn is_mirror_only(&self) -> bool {
        self.mirror.is_some() && self.hosts.is_empty() && self.networks.is_empty() && self.endpoints.is_empty()
    }

    /// What the host at `address` has to know; `None` when the cluster has no such host.
    #[must_use]
    pub fn view(&self, address: Ipv4Addr) -> Option<View> {
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
