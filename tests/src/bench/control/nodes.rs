//! The simulated nodes: who they are, which networks they are in, and their registration by many clients at once.

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

use super::Extent;
use crate::lab::{Etcd, EtcdClient, Host};

/// Connections to etcd that the simulated nodes share.
const CLIENTS: usize = 50;
/// Endpoints in one transaction, with four keys each: etcd takes 128 operations.
const AT_ONCE: usize = 32;
/// Nodes that share networks, and how many networks they share, in [`Shape::Narrow`].
const GROUP: u32 = 25;
const SHARED: u32 = 5;
/// Where the overlay networks are (RFC 6598): nothing else in the lab is.
const BASE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
/// The first VNI that the store gives.
const FIRST_VNI: u32 = 4096;

/// How endpoints are spread over networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One network, of all.
    Wide,
    /// Each node is in five networks, with 24 others.
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
pub(super) struct Place {
    pub(super) node: u32,
    pub(super) network: u32,
    pub(super) ip: Ipv4Addr,
}

impl Place {
    /// Its key in the map.
    pub(super) fn key(self) -> FdbKey {
        FdbKey::new(FIRST_VNI + self.network, MacAddr::from_ipv4(self.ip.octets()))
    }

    pub(super) fn name(self) -> String {
        format!("e-{}", self.ip)
    }
}

/// What concerns the node under test.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relevant {
    pub(super) endpoints: usize,
    pub(super) remote: usize,
    pub(super) vteps: usize,
}

/// Registered nodes, as long as this lives.
pub(super) struct Nodes {
    pub(super) stores: Vec<Store>,
    pub(super) runtime: Runtime,
    pub(super) took: Duration,
    shape: Shape,
    extent: Extent,
    /// Name of node 0, which is the one under test.
    real: String,
    _registrations: Vec<Registration>,
    _client: EtcdClient,
}

impl Nodes {
    /// Makes networks and registers all nodes, as daemons do. Their endpoints are written in larger transactions, with
    /// the keys and values that one by one they would have (docs/store.md). Node 0 is `host`, which is left for its daemon to keep.
    pub(super) fn register(etcd: &Etcd, host: &Host, shape: Shape, extent: Extent) -> Result<Self> {
        let client = etcd.client(2)?;
        let options = EtcdOptions { endpoints: etcd.urls(), ..EtcdOptions::default() };
        // Its threads are where it is made.
        let build = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = client.ns.enter(build)?;
        let mut nodes = Self {
            stores: Vec::new(),
            runtime,
            took: Duration::ZERO,
            shape,
            extent,
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
        let first = stores.first().context("there are clients")?;
        for number in 0..self.networks() {
            let network = first.create_network(self.network(number)).await?;
            if network.vni.get() != FIRST_VNI + number {
                return Err(anyhow!("network {number} has VNI {}", network.vni));
            }
        }
        let container = host.containers().first().context("the host has a container")?.path().to_owned();
        let plan: Arc<Vec<Vec<Place>>> = Arc::new((0..self.extent.nodes).map(|node| self.endpoints(node)).collect());
        let mut tasks = Vec::new();
        for (client, store) in stores.iter().cloned().enumerate() {
            let (plan, container) = (plan.clone(), container.clone());
            let names: Vec<_> = (0..self.extent.nodes).map(|node| (self.name(node), address(node, host))).collect();
            tasks.push(tokio::spawn(async move {
                let mut registrations = Vec::new();
                for node in (client..plan.len()).step_by(CLIENTS) {
                    let (name, address) = names[node].clone();
                    let registration = store.register_node(NodeRequest::new(&name, address.into())).await?;
                    // The daemon of node 0 keeps its own.
                    registrations.extend((node != 0).then_some(registration));
                    for places in plan[node].chunks(AT_ONCE) {
                        let attached = |place: &Place| (node == 0 && place.ip == plan[0][0].ip).then_some(&*container);
                        let then = places.iter().flat_map(|place| keys(&name, *place, attached(place))).collect();
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
            Shape::Narrow => self.extent.nodes.div_ceil(GROUP) * SHARED,
        }
    }

    /// The network of this number: /14, or /22 each.
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

    /// The `index`th endpoint of a node. Those from [`Extent::endpoints`] up are not there at first.
    pub(super) fn place(&self, node: u32, index: u32) -> Place {
        let (network, host) = match self.shape {
            // 2 and on: behind the subnet's own address and the gateway's.
            Shape::Wide => (0, 2 + index * self.extent.nodes + node),
            Shape::Narrow => (node / GROUP * SHARED + index % SHARED, 2 + index / SHARED * GROUP + node % GROUP),
        };
        let base = match self.shape {
            Shape::Wide => u32::from(BASE),
            Shape::Narrow => u32::from(BASE) + network * 1024,
        };
        Place { node, network, ip: Ipv4Addr::from(base + host) }
    }

    fn endpoints(&self, node: u32) -> Vec<Place> {
        (0..self.extent.endpoints).map(|index| self.place(node, index)).collect()
    }

    /// Whether the node under test is in the network of this number.
    pub(super) fn concerns(&self, network: u32) -> bool {
        self.shape == Shape::Wide || network < SHARED
    }

    pub(super) fn relevant(&self) -> Relevant {
        let places = (0..self.extent.nodes).flat_map(|node| self.endpoints(node));
        let inside: Vec<_> = places.filter(|place| self.concerns(place.network)).collect();
        let vteps: BTreeSet<_> = inside.iter().filter(|place| place.node != 0).map(|place| place.node).collect();
        let remote = inside.iter().filter(|place| place.node != 0).count();
        Relevant { endpoints: inside.len(), remote, vteps: vteps.len() }
    }
}

/// Of a node's underlay.
fn address(node: u32, host: &Host) -> Ipv4Addr {
    if node == 0 { host.address() } else { Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + node) }
}

/// The keys of an endpoint; `netns`: where it is attached.
fn keys(node: &str, place: Place, netns: Option<&std::path::Path>) -> [Op; 4] {
    let (ip, mac, name) = (place.ip, MacAddr::from_ipv4(place.ip.octets()).to_string(), place.name());
    let network = format!("network-{:03}", place.network);
    let mut record = json!({ "vni": FIRST_VNI + place.network, "ip": ip, "mac": mac });
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

/// What a daemon asks of the store for it. Others need not know how it is attached.
pub(super) fn request(place: Place) -> EndpointRequest {
    EndpointRequest {
        ip: Some(place.ip),
        attachment: overlay_user::testing::model::Attachment::Unspecified,
        ..EndpointRequest::new(format!("network-{:03}", place.network), place.name(), "")
    }
}
