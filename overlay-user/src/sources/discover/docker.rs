//! Docker's API, read-only: names of networks and containers, which networks are encrypted, and the node's own address.
//!
//! Nothing depends on an answer: what was heard last stays, with its age, when dockerd is dead or hangs.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use overlay_common::{MacAddr, VtepAddr};
use serde::Deserialize;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tracing::debug;

#[cfg(feature = "docker")]
mod client;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod fuzz;

use client::Client;

/// A build without Docker's API.
#[cfg(not(feature = "docker"))]
mod client {
    use std::{convert::Infallible, path::Path};

    pub(super) struct Client(Infallible);

    impl Client {
        pub(super) async fn connect(_: &Path) -> Result<Self, String> {
            Err("this build of overlay has no Docker client".to_owned())
        }

        pub(super) async fn get<T>(&mut self, _: &str) -> Result<T, String> {
            match self.0 {}
        }
    }
}

/// How often Docker is asked without a reason.
const POLL: Duration = Duration::from_secs(2);
/// How often it is asked at most.
const SHORTEST: Duration = Duration::from_millis(200);
/// When an answer counts as missing.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The same for all containers' names: meanwhile nothing else is asked.
const NAMES_TIMEOUT: Duration = Duration::from_secs(1);

/// The option with the VNIs of an overlay network, separated by commas (libnetwork, `drivers/overlay/overlayutils`).
const VNI_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";
/// The option of an encrypted network; its value does not matter.
const ENCRYPTED_OPTION: &str = "encrypted";

/// `GET /networks` has a list of these, `GET /networks/ID` one with its containers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    id: Option<String>,
    name: Option<String>,
    driver: Option<String>,
    options: Option<HashMap<String, String>>,
    containers: Option<HashMap<String, ContainerEndpoint>>,
}

/// A container in a network.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerEndpoint {
    name: Option<String>,
    mac_address: Option<String>,
}

/// The part of `GET /info` that is read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SystemInfo {
    swarm: Option<SwarmInfo>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SwarmInfo {
    node_addr: Option<String>,
}

/// What is known from Docker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DockerState {
    /// Whether Docker is asked at all.
    pub asked: bool,
    /// Its overlay networks.
    pub networks: Vec<DockerNetwork>,
    /// The address that the node advertises to its Swarm.
    pub node_address: Option<VtepAddr>,
    /// When it answered last, in seconds since 1970.
    pub answered: Option<u64>,
    /// Why the last question had no answer.
    pub error: Option<String>,
}

/// An overlay network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerNetwork {
    /// Docker's identifier.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Its packets are encrypted.
    pub encrypted: bool,
    /// Its VNIs, where Docker tells.
    pub vnis: Vec<u32>,
    /// Names of its containers on this node, by MAC address.
    pub containers: BTreeMap<MacAddr, String>,
}

/// Asks Docker again and again, in a task that ends with this value.
#[derive(Debug)]
pub(crate) struct DockerWatch {
    state: watch::Receiver<DockerState>,
    nudge: Arc<Notify>,
    task: tokio::task::AbortHandle,
}

impl DockerWatch {
    /// Starts to ask on this socket.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub(crate) fn start(socket: PathBuf) -> Self {
        let (sender, state) = watch::channel(DockerState { asked: true, ..DockerState::default() });
        let nudge = Arc::new(Notify::new());
        let task = tokio::spawn(follow(socket, sender, Arc::clone(&nudge))).abort_handle();
        Self { state, nudge, task }
    }

    /// What is known, and news of it.
    #[must_use]
    pub(crate) fn state(&self) -> watch::Receiver<DockerState> {
        self.state.clone()
    }

    /// Asks now instead of later: there is something that Docker may know.
    pub(crate) fn nudge(&self) {
        self.nudge.notify_one();
    }
}

impl Drop for DockerWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(socket: PathBuf, state: watch::Sender<DockerState>, nudge: Arc<Notify>) {
    let (mut named, mut first) = (Instant::now(), 0);
    loop {
        let answer = within(TIMEOUT, ask(&socket)).await;
        let is_answered = answer.is_ok();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        state.send_modify(|state| match answer {
            Ok((mut networks, node_address)) => {
                for network in &mut networks {
                    let known = state.networks.iter_mut().find(|known| known.id == network.id);
                    network.containers = known.map(|known| std::mem::take(&mut known.containers)).unwrap_or_default();
                }
                let answered = Some(now);
                *state = DockerState { asked: true, networks, node_address, answered, error: None };
            }
            Err(error) => state.error = Some(format!("{}: {error}", socket.display())),
        });
        // After what decides about networks: names of containers are for show.
        if is_answered && named <= Instant::now() {
            first = name_containers(&socket, &state, first).await;
            named = Instant::now() + POLL;
        }
        sleep(SHORTEST).await;
        let _ = timeout(POLL, nudge.notified()).await;
    }
}

async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout(limit, answer).await.unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs())))
}

/// Asks for the containers of each network, beginning with the one at this position. What is not answered in time stays as
/// it was; returns where to go on.
async fn name_containers(socket: &Path, state: &watch::Sender<DockerState>, first: usize) -> usize {
    let mut ids: Vec<_> = state.borrow().networks.iter().map(|network| network.id.clone()).collect();
    let first = if first < ids.len() { first } else { 0 };
    ids.rotate_left(first);
    let mut named = BTreeMap::new();
    let asked = within(NAMES_TIMEOUT, async {
        let mut docker = Client::connect(socket).await?;
        for id in ids {
            // It may be gone by now.
            if let Ok(network) = docker.get::<Network>(&format!("/networks/{id}")).await {
                named.insert(id, containers(network.containers.unwrap_or_default()));
            }
        }
        Ok(())
    });
    if let Err(error) = asked.await {
        debug!("docker: the containers of its networks are not all known ({error})");
    }
    let next = first + named.len().max(1);
    state.send_if_modified(|state| {
        let mut changed = false;
        for network in &mut state.networks {
            if let Some(containers) = named.remove(&network.id) {
                changed |= network.containers != containers;
                network.containers = containers;
            }
        }
        changed
    });
    next
}

async fn ask(socket: &Path) -> Result<(Vec<DockerNetwork>, Option<VtepAddr>), String> {
    let mut docker = Client::connect(socket).await?;
    let networks = docker.get("/networks").await?;
    Ok(read(networks, docker.get("/info").await?))
}

/// Names by MAC address. The endpoint of a Swarm network's load balancer is among them (`<network>-endpoint`).
fn containers(endpoints: HashMap<String, ContainerEndpoint>) -> BTreeMap<MacAddr, String> {
    let named = endpoints.into_values().filter_map(|endpoint| {
        let name = endpoint.name.filter(|name| !name.is_empty())?;
        Some((endpoint.mac_address?.parse().ok()?, name))
    });
    named.collect()
}

/// What Docker's answers about its networks and itself say.
fn read(networks: Vec<Network>, info: SystemInfo) -> (Vec<DockerNetwork>, Option<VtepAddr>) {
    let node_address = info.swarm.and_then(|swarm| swarm.node_addr?.parse().ok());
    let networks = networks
        .into_iter()
        .filter(|network| network.driver.as_deref() == Some("overlay"))
        .filter_map(|network| overlay(network.id?, network.name?, &network.options.unwrap_or_default()));
    (networks.collect(), node_address)
}

fn overlay(id: String, name: String, options: &HashMap<String, String>) -> Option<DockerNetwork> {
    let vnis = options.get(VNI_OPTION).map(String::as_str).unwrap_or_default();
    let vnis = vnis.split(',').filter_map(|vni| vni.trim().parse().ok()).collect();
    Some(DockerNetwork {
        id,
        name,
        encrypted: options.contains_key(ENCRYPTED_OPTION),
        vnis,
        containers: BTreeMap::new(),
    })
}
