//! What the daemon has made of what it was told, for whoever waits for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use overlay_common::{
    MacAddr, Vni, VtepAddr,
    maps::{FdbKey, PortKey},
};

use super::Daemon;
use crate::{
    apply::ledger::AttachPoint,
    model::{Cluster, Endpoint, Finding, Findings, HostNetworks, View},
    sources::discover::docker::DockerState,
};

/// A network's VNI and an endpoint's name.
pub(crate) type EndpointKey = (Vni, String);

/// The daemon's state after its last step.
#[derive(Clone, Debug, Default)]
pub struct DaemonState {
    /// The daemon has taken over its first configuration.
    pub ready: bool,
    /// The endpoints of this host that are in force.
    pub local: BTreeMap<EndpointKey, LocalEndpoint>,
    /// The last desired state that was refused, until one is taken over.
    pub refused: Option<Refused>,
    /// What is wrong now.
    pub findings: Vec<Finding>,
    /// All networks of this host, with what carries their packets.
    pub networks: Arc<HostNetworks>,
    /// What is heard from Docker.
    pub docker: DockerState,
}

/// An endpoint of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its MAC address.
    pub mac: MacAddr,
    /// What carries its packets.
    pub served: Served,
}

/// What carries the packets of an endpoint of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// Nothing: its interface is not in its network's bridge.
    No,
    /// The kernel path alone: its interface is there, and the maps were written as far as possible; they do not hold all of
    /// it, or its program is not attached. [`DaemonState::findings`] say why.
    KernelPath,
    /// The fast path: its port and its FDB entry are in the maps, and its program is attached.
    FastPath,
}

/// A desired state that cannot be made on this host.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The endpoints that it had for this host.
    pub local: BTreeSet<EndpointKey>,
    /// Why.
    pub reason: Findings,
}

impl Daemon {
    /// The endpoints of this host that are in force. The facts are those that the maps were written from last.
    pub(super) fn local(&self) -> BTreeMap<EndpointKey, LocalEndpoint> {
        let networks = self.inputs.view.iter().flat_map(View::networks);
        let endpoints = networks.flat_map(|(vni, network)| {
            network.local().iter().map(|endpoint| {
                let served = self.served(*vni, endpoint);
                ((*vni, endpoint.name.clone()), LocalEndpoint { ip: endpoint.ip, mac: endpoint.mac, served })
            })
        });
        endpoints.collect()
    }

    fn served(&self, vni: Vni, endpoint: &Endpoint) -> Served {
        let Some(interface) = self.applied.facts.ports.get(&(vni, endpoint.name.clone())) else { return Served::No };
        let key = PortKey::host(interface.ifindex);
        let port = self.applied.tables.ports.get(&key);
        let is_port =
            port.is_some_and(|port| (port.vni, port.ip, port.mac) == (vni.get(), endpoint.ip.octets(), endpoint.mac.0));
        let entry = self.applied.tables.fdb.get(&FdbKey::new(vni.get(), endpoint.mac));
        let is_found = entry.is_some_and(|entry| entry.is_local() && entry.target == interface.ifindex);
        if is_port && is_found && self.applied.attached.contains(&AttachPoint::Port(key)) {
            Served::FastPath
        } else {
            Served::KernelPath
        }
    }
}

impl Refused {
    pub(super) fn new(cluster: &Cluster, address: Option<VtepAddr>, reason: Findings) -> Self {
        let here = cluster.endpoints.iter().filter(|endpoint| Some(endpoint.host) == address);
        Self { local: here.map(|endpoint| (endpoint.vni, endpoint.name.clone())).collect(), reason }
    }
}
