//! What the daemon has made of what it was told, for whoever waits for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use overlay_common::{MacAddr, Vni};

use crate::model::{Cluster, View, mirror::Mirrored};

/// A network's VNI and an endpoint's name.
pub type EndpointKey = (Vni, String);

/// The daemon's state after its last step.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The daemon has taken over its first configuration.
    pub ready: bool,
    /// The endpoints of this host that are in force.
    pub local: BTreeMap<EndpointKey, LocalEndpoint>,
    /// The last desired state that was refused, until one is taken over.
    pub refused: Option<Refused>,
    /// What is wrong with the tables now.
    pub complaint: Option<String>,
    /// Networks that others made.
    pub mirrored: Mirrored,
}

/// An endpoint of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its interface is there, in its network's bridge.
    pub ready: bool,
}

/// A desired state that cannot be made on this host.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The endpoints that it had for this host.
    pub local: BTreeSet<EndpointKey>,
    /// Why.
    pub reason: String,
}

impl State {
    pub(super) fn take(&mut self, view: Option<&View>, ready: &BTreeSet<EndpointKey>) {
        let networks = view.into_iter().flat_map(|view| &view.networks);
        let endpoints = networks.flat_map(|(vni, network)| {
            network.local.iter().map(|endpoint| {
                let key = (*vni, endpoint.name.clone());
                let ready = ready.contains(&key);
                (key, LocalEndpoint { ip: endpoint.ip, mac: endpoint.mac, ready })
            })
        });
        self.local = endpoints.collect();
    }
}

impl Refused {
    pub(super) fn new(cluster: &Cluster, address: Option<Ipv4Addr>, reason: String) -> Self {
        let here = cluster.endpoints.iter().filter(|endpoint| Some(endpoint.host) == address);
        Self { local: here.map(|endpoint| (endpoint.vni, endpoint.name.clone())).collect(), reason }
    }
}
