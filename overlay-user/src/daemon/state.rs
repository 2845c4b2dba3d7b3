//! The daemon's state, published for the API and for tests that wait for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use overlay_common::{
    MacAddr, Vni, VtepAddr,
    maps::{FdbKey, PortKey},
};

use super::{Daemon, Unresolved};
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
    /// The applied endpoints of this host.
    pub local: BTreeMap<EndpointKey, LocalEndpoint>,
    /// The last rejected configuration, until one is applied.
    pub refused: Option<Refused>,
    /// The current problems.
    pub findings: Vec<Finding>,
    /// All networks of this host with their admission.
    pub networks: Arc<HostNetworks>,
    /// The VTEPs to or from which packets take the kernel path.
    pub unresolved: Vec<Unresolved>,
    /// The connection to Docker.
    pub docker: DockerState,
}

/// An endpoint of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// Its IPv4 address.
    pub ip: Ipv4Addr,
    /// Its MAC address.
    pub mac: MacAddr,
    /// The path of its packets.
    pub served: Served,
    /// Why its port does not suit the fast path.
    pub finding: Option<Finding>,
}

/// The path of an endpoint's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// None: its interface is not a port of its network's bridge.
    No,
    /// The kernel path alone: its interface exists, but the maps lack one of its entries, or its program is not
    /// attached. [`DaemonState::findings`] have the cause.
    KernelPath,
    /// The fast path: its port and its FDB entry are in the maps, and its program is attached.
    FastPath,
}

/// A configuration that cannot be applied on this host.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Its endpoints on this host.
    pub local: BTreeSet<EndpointKey>,
    /// The causes.
    pub reason: Findings,
}

impl Daemon {
    /// The applied endpoints of this host, by the facts of the last write of the maps.
    pub(super) fn local(&self) -> BTreeMap<EndpointKey, LocalEndpoint> {
        let networks = self.inputs.view.iter().flat_map(View::networks);
        let endpoints = networks.flat_map(|(vni, network)| {
            network.local().iter().map(|endpoint| {
                let served = self.served(*vni, endpoint);
                let key = (*vni, endpoint.name.clone());
                let finding = self.applied.managed.judged.findings.get(&key).cloned();
                (key, LocalEndpoint { ip: endpoint.ip, mac: endpoint.mac, served, finding })
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
