//! Docker's API, read-only: names of networks, which are encrypted, and the node's own address.
//!
//! Nothing depends on an answer: what was heard last stays, with its age, when dockerd is dead or hangs.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    models::{Network, SystemInfo},
};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;

/// How often Docker is asked without a reason.
const POLL: Duration = Duration::from_secs(2);
/// How often it is asked at most.
const SHORTEST: Duration = Duration::from_millis(200);
/// When an answer counts as missing.
const TIMEOUT: Duration = Duration::from_secs(5);
/// When a request of the client is given up, in seconds.
const CLIENT_TIMEOUT: u64 = 5;

/// The option with the VNIs of an overlay network, separated by commas (libnetwork, `drivers/overlay/overlayutils`).
const VNI_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";
/// The option of an encrypted network; its value does not matter.
const ENCRYPTED_OPTION: &str = "encrypted";

/// What is known from Docker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DockerState {
    /// Whether Docker is asked at all.
    pub asked: bool,
    /// Its overlay networks.
    pub networks: Vec<DockerNetwork>,
    /// The address that the node advertises to its Swarm.
    pub node_address: Option<Ipv4Addr>,
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
}

/// Asks Docker again and again, in a task that ends with this value.
#[derive(Debug)]
pub struct DockerWatch {
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
    pub fn start(socket: PathBuf) -> Self {
        let (sender, state) = watch::channel(DockerState { asked: true, ..DockerState::default() });
        let nudge = Arc::new(Notify::new());
        let task = tokio::spawn(follow(socket, sender, Arc::clone(&nudge))).abort_handle();
        Self { state, nudge, task }
    }

    /// What is known, and news of it.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<DockerState> {
        self.state.clone()
    }

    /// Asks now instead of later: there is something that Docker may know.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }
}

impl Drop for DockerWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(socket: PathBuf, state: watch::Sender<DockerState>, nudge: Arc<Notify>) {
    loop {
        let answer = match timeout(TIMEOUT, ask(&socket)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        state.send_modify(|state| match answer {
            Ok((networks, node_address)) => {
                let answered = Some(now);
                *state = DockerState { asked: true, networks, node_address, answered, error: None };
            }
            Err(error) => state.error = Some(format!("{}: {error}", socket.display())),
        });
        sleep(SHORTEST).await;
        let _ = timeout(POLL, nudge.notified()).await;
    }
}

async fn ask(socket: &std::path::Path) -> Result<(Vec<DockerNetwork>, Option<Ipv4Addr>), bollard::errors::Error> {
    let docker = Docker::connect_with_unix(&socket.to_string_lossy(), CLIENT_TIMEOUT, API_DEFAULT_VERSION)?
        .negotiate_version()
        .await?;
    let networks = docker.list_networks(None).await?;
    Ok(read(networks, docker.info().await?))
}

/// What Docker's answers about its networks and itself say.
fn read(networks: Vec<Network>, info: SystemInfo) -> (Vec<DockerNetwork>, Option<Ipv4Addr>) {
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
    Some(DockerNetwork { id, name, encrypted: options.contains_key(ENCRYPTED_OPTION), vnis })
}
