//! The simulated nodes: their networks and endpoints, and their registration by many concurrent clients.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use overlay_common::{MacAddr, maps::FdbKey};
use overlay_user::testing::store::{
    EndpointRequest, EtcdOptions, NetworkRequest, NodeRequest, Op, Registration, Store, Txn,
};
use serde_json::json;
use tokio::runtime::Runtime;

use super::Size;
use crate::lab::{Etcd, EtcdClient, Host};

/// Number of etcd clients of the simulated nodes.
const CLIENTS: usize = 50;
/// Endpoints per transaction, with four keys each: etcd accepts 128 operations.
const AT_ONCE: usize = 32;
/// In [`Shape::Narrow`], groups of this many nodes share [`SHARED`] networks.
const GROUP: u32 = 25;
const SHARED: u32 = 5;
/// Base of the subnets of the overlay networks (RFC 6598); unused elsewhere in the lab.
const BASE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
/// The first VNI that the store assigns.
const FIRST_VNI: u32 = 4096;

/// Distribution of the endpoints over networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One network with all endpoints.
    Wide,
    /// Each node is in five networks, with 24 other nodes.
    Narrow,
}

impl Shape {
    pub(super) const ALL: [Self; 2] = [Self::Wide, Self::Narrow];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Wide => "all-relevant",
            Self::Narrow => "few-relevant",
        }
    }
}

/// An endpoint of a simulated node.
#[derive(Clone, Copy, Debug)]
pub(super) struct SimulatedEndpoint {
    pub(super) node: u32,
    pub(super) network: u32,
    pub(super) ip: Ipv4Addr,
}

impl SimulatedEndpoint {
    /// Key in the FDB map.
    pub(super) fn key(self) -> FdbKey {
        FdbKey::new(FIRST_VNI + self.network, MacAddr::from_ipv4(self.ip.octets()))
    }

    pub(super) fn name(self) -> String {
        format!("e-{}", self.ip)
    }
}

/// Numbers of relevant objects: those of the networks of the node under test.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relevant {
    pub(super) endpoints: usize,
    pub(super) remote: usize,
    pub(super) vteps: usize,
}

/// The registered nodes. Dropping this value ends their registration.
pub(super) struct Nodes {
    pub(super) stores: Vec<Store>,
    pub(super) runtime: Runtime,
    pub(super) took: Duration,
    shape: Shape,
    size: Size,
    /// Name of node 0, the node under test.
    real: String,
    _registrations: Vec<Registration>,
    _client: EtcdClient,
}

impl Nodes {
    /// Creates the networks and registers all nodes. Their endpoints are written in large transactions, with the keys
    /// and values of docs/store.md. Node 0 is `host`; its daemon keeps its registration.
    pub(super) fn register(etcd: &Etcd, host: &Host, shape: Shape, size: Size) -> Result<Self> {
        let client = etcd.client(2)?;
        let options = EtcdOptions { endpoints: etcd.urls(), ..EtcdOptions::default() };
        // The threads of the runtime inherit the namespace of the thread that creates it.
        let build = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = client.ns.enter(build)?;
        let mut nodes = Self {
            stores: Vec::new(),
            runtime,
            took: Duration::ZERO,
            shape,
            size,
            real: host.name().to_owned(),
            _registrations: Vec::new(),
            _client: client,
        };
        let start = Instant::now();
        let (stores, registrations) = nodes.runtime.block_on(nodes.fill(&options, host))?;
        nodes.took = start.elapsed();
        (nodes.stores, nodes._registrations) = (stores, registrations);
        Ok(nodes)
    }

    async fn fill(&self, options: &EtcdOptions, host: &Host) -> Result<(Vec<Store>, Vec<Registration>)> {
        let mut stores = Vec::new();
        for _ in 0..CLIENTS {
            stores.push(Store::etcd(options).await?);
        }
        let first = stores.first().context("no etcd client")?;
        for number in 0..self.networks() {
            let network = first.create_network(self.network(number)).await?;
            if network.vni.get() != FIRST_VNI + number {
                return Err(anyhow!("network {number} has VNI {}, expected {}", network.vni, FIRST_VNI + number));
            }
        }
        let container = host.containers().first().context("the host has a container")?.path().to_owned();
        let plan: Vec<Vec<SimulatedEndpoint>> = (0..self.size.nodes).map(|node| self.endpoints(node)).collect();
        let plan = Arc::new(plan);
        let mut tasks = Vec::new();
        for (client, store) in stores.iter().cloned().enumerate() {
            let (plan, container) = (plan.clone(), container.clone());
            let names: Vec<_> = (0..self.size.nodes).map(|node| (self.name(node), address(node, host))).collect();
            tasks.push(tokio::spawn(async move {
                let mut registrations = Vec::new();
                for node in (client..plan.len()).step_by(CLIENTS) {
                    let (name, address) = names[node].clone();
                    let registration = store.register_node(NodeRequest::new(&name, address.into())).await?;
                    // The daemon of node 0 keeps its registration.
                    registrations.extend((node != 0).then_some(registration));
                    for endpoints in plan[node].chunks(AT_ONCE) {
                        let netns = |endpoint: &SimulatedEndpoint| {
                            (node == 0 && endpoint.ip == plan[0][0].ip).then_some(&*container)
                        };
                        let then =
                            endpoints.iter().flat_map(|endpoint| keys(&name, *endpoint, netns(endpoint))).collect();
                        store.kv().commit(Txn { then, ..Txn::default() }).await?;
                    }
                }
                anyhow::Ok(registrations)
            }));
        }
        let mut registrations = Vec::new();
        for task in tasks {
            registrations.extend(task.await??);
        }
        Ok((stores, registrations))
    }

    fn networks(&self) -> u32 {
        match self.shape {
            Shape::Wide => 1,
            Shape::Narrow => self.size.nodes.div_ceil(GROUP) * SHARED,
        }
    }

    /// The `number`th network: one /14, or /22 each.
    fn network(&self, number: u32) -> NetworkRequest {
        let subnet = match self.shape {
            Shape::Wide => format!("{BASE}/14"),
            Shape::Narrow => format!("{}/22", Ipv4Addr::from(u32::from(BASE) + number * 1024)),
        };
        NetworkRequest { subnet: subnet.parse().ok(), ..NetworkRequest::new(format!("network-{number:03}")) }
    }

    pub(super) fn name(&self, node: u32) -> String {
        if node == 0 { self.real.clone() } else { format!("simulated-{node:04}") }
    }

    /// The `index`th endpoint of a node. Initially, the first [`Size::endpoints`] exist.
    pub(super) fn endpoint(&self, node: u32, index: u32) -> SimulatedEndpoint {
        let (network, host) = match self.shape {
            // From 2: 0 is the subnet address, 1 the gateway.
            Shape::Wide => (0, 2 + index * self.size.nodes + node),
            Shape::Narrow => (node / GROUP * SHARED + index % SHARED, 2 + index / SHARED * GROUP + node % GROUP),
        };
        let base = match self.shape {
            Shape::Wide => u32::from(BASE),
            Shape::Narrow => u32::from(BASE) + network * 1024,
        };
        SimulatedEndpoint { node, network, ip: Ipv4Addr::from(base + host) }
    }

    fn endpoints(&self, node: u32) -> Vec<SimulatedEndpoint> {
        (0..self.size.endpoints).map(|index| self.endpoint(node, index)).collect()
    }

    /// Whether the node under test is in the `network`th network.
    pub(super) fn is_relevant(&self, network: u32) -> bool {
        self.shape == Shape::Wide || network < SHARED
    }

    pub(super) fn relevant(&self) -> Relevant {
        let all = (0..self.size.nodes).flat_map(|node| self.endpoints(node));
        let relevant: Vec<_> = all.filter(|endpoint| self.is_relevant(endpoint.network)).collect();
        let remote: Vec<_> = relevant.iter().map(|endpoint| endpoint.node).filter(|node| *node != 0).collect();
        let vteps: BTreeSet<_> = remote.iter().collect();
        Relevant { endpoints: relevant.len(), remote: remote.len(), vteps: vteps.len() }
    }
}

/// Underlay address of a node.
fn address(node: u32, host: &Host) -> Ipv4Addr {
    if node == 0 { host.address() } else { Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + node) }
}

/// The keys of an endpoint; `netns`: its namespace, if it is attached.
fn keys(node: &str, endpoint: SimulatedEndpoint, netns: Option<&std::path::Path>) -> [Op; 4] {
    let (ip, mac, name) = (endpoint.ip, MacAddr::from_ipv4(endpoint.ip.octets()).to_string(), endpoint.name());
    let network = format!("network-{:03}", endpoint.network);
    let mut record = json!({ "vni": FIRST_VNI + endpoint.network, "ip": ip, "mac": mac });
    if let Some(netns) = netns {
        record["netns"] = json!(netns);
    }
    let claim =
        json!({ "node": node, "endpoint": name, "ip": ip, "mac": mac, "id": format!("{:016x}", u32::from(ip)) });
    let claims = format!("/overlay-ipam/networks/{network}");
    [
        (format!("/overlay/endpoints/{node}/{network}/{name}"), record),
        (format!("{claims}/names/{name}"), claim.clone()),
        (format!("{claims}/addresses/{ip}"), claim.clone()),
        (format!("{claims}/macs/{mac}"), claim),
    ]
    .map(|(key, value)| Op::put(key, value.to_string().into_bytes()))
}

/// The request that adds the endpoint to the store.
pub(super) fn request(endpoint: SimulatedEndpoint) -> EndpointRequest {
    EndpointRequest {
        ip: Some(endpoint.ip),
        attachment: overlay_user::testing::model::Attachment::Unspecified,
        ..EndpointRequest::new(format!("network-{:03}", endpoint.network), endpoint.name(), "")
    }
}
