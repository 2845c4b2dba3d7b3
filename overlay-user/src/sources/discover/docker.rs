//! Docker's API, read-only: names of networks and containers, encrypted networks, and the node's own address.
//!
//! No operation waits for an answer: if dockerd is stopped or hangs, the last answer stays, with its age.

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

/// Poll interval.
const POLL: Duration = Duration::from_secs(2);
/// Minimum interval between polls.
const SHORTEST: Duration = Duration::from_millis(200);
/// Timeout of one poll.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for the container names of all networks, which delay the next poll.
const NAMES_TIMEOUT: Duration = Duration::from_secs(1);

/// The option with the VNIs of an overlay network, separated by commas (libnetwork, `drivers/overlay/overlayutils`).
const VNI_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";
/// The option of an encrypted network; its value is ignored.
const ENCRYPTED_OPTION: &str = "encrypted";

/// Element of the answer to `GET /networks`, and the answer to `GET /networks/ID`, which has the containers.
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

/// The answer to `GET /info`, as far as it is used.
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

/// State of Docker's API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DockerState {
    /// Docker's API is in use.
    pub enabled: bool,
    /// Its overlay networks.
    pub networks: Vec<DockerNetwork>,
    /// The address that the node advertises to its Swarm.
    pub node_address: Option<VtepAddr>,
    /// Time of the last answer, in seconds since 1970.
    pub answered: Option<u64>,
    /// Error of the last poll.
    pub error: Option<String>,
}

/// An overlay network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerNetwork {
    /// Docker's identifier.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its packets are encrypted.
    pub encrypted: bool,
    /// Its VNIs; empty if Docker does not report them.
    pub vnis: Vec<u32>,
    /// Names of its containers on this node, by MAC address.
    pub containers: BTreeMap<MacAddr, String>,
}

/// Polls Docker in a task that is aborted on drop.
#[derive(Debug)]
pub(crate) struct DockerWatch {
    state: watch::Receiver<DockerState>,
    poll_now: Arc<Notify>,
    task: tokio::task::AbortHandle,
}

impl DockerWatch {
    /// Starts polling this socket.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub(crate) fn start(socket: PathBuf) -> Self {
        let (sender, state) = watch::channel(DockerState { enabled: true, ..DockerState::default() });
        let poll_now = Arc::new(Notify::new());
        let task = tokio::spawn(follow(socket, sender, Arc::clone(&poll_now))).abort_handle();
        Self { state, poll_now, task }
    }

    /// The current state and its changes.
    #[must_use]
    pub(crate) fn state(&self) -> watch::Receiver<DockerState> {
        self.state.clone()
    }

    /// Polls without waiting for the interval.
    pub(crate) fn poll_now(&self) {
        self.poll_now.notify_one();
    }
}

impl Drop for DockerWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(socket: PathBuf, state: watch::Sender<DockerState>, poll_now: Arc<Notify>) {
    let (mut named, mut first) = (Instant::now(), 0);
    loop {
        let answer = within(TIMEOUT, request_state(&socket)).await;
        let is_answered = answer.is_ok();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        state.send_modify(|state| match answer {
            Ok((mut networks, node_address)) => {
                for network in &mut networks {
                    let known = state.networks.iter_mut().find(|known| known.id == network.id);
                    network.containers = known.map(|known| std::mem::take(&mut known.containers)).unwrap_or_default();
                }
                let answered = Some(now);
                *state = DockerState { enabled: true, networks, node_address, answered, error: None };
            }
            Err(error) => state.error = Some(format!("{}: {error}", socket.display())),
        });
        // Last: container names are informative only.
        if is_answered && named <= Instant::now() {
            first = name_containers(&socket, &state, first).await;
            named = Instant::now() + POLL;
        }
        sleep(SHORTEST).await;
        let _ = timeout(POLL, poll_now.notified()).await;
    }
}

async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout(limit, answer).await.unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs())))
}

/// Requests the containers of each network, beginning at this position. A network without an answer in time keeps its
/// containers. Returns the position to continue from.
async fn name_containers(socket: &Path, state: &watch::Sender<DockerState>, first: usize) -> usize {
    let mut ids: Vec<_> = state.borrow().networks.iter().map(|network| network.id.clone()).collect();
    let first = if first < ids.len() { first } else { 0 };
    ids.rotate_left(first);
    let mut named = BTreeMap::new();
    let requests = within(NAMES_TIMEOUT, async {
        let mut docker = Client::connect(socket).await?;
        for id in ids {
            // The network may be gone.
            if let Ok(network) = docker.get::<Network>(&format!("/networks/{id}")).await {
                named.insert(id, containers(network.containers.unwrap_or_default()));
            }
        }
        Ok(())
    });
    if let Err(error) = requests.await {
        debug!("docker: some container names are unknown ({error})");
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

async fn request_state(socket: &Path) -> Result<(Vec<DockerNetwork>, Option<VtepAddr>), String> {
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

/// Extracts the overlay networks and the node's address from Docker's answers.
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
