//! A real Docker Swarm on one machine: one dockerd per node, nodes connected by the lab's wire.
//!
//! ```text
//!  node01 192.168.1.9, manager               node02 192.168.1.10, worker
//!  ┌───────────────────────┐   the wire    ┌───────────────────────┐
//!  │ dockerd        enp0s3 ├───────────────┤ enp0s3        dockerd │
//!  │ sandboxes, containers │               │ sandboxes, containers │
//!  └───────────────────────┘               └───────────────────────┘
//! ```
//!
//! Needs root and Debian's packages docker.io, iptables and busybox-static, of the machine or of another Debian suite
//! ([`Engine`]). No image is pulled: the only one, [`IMAGE`], is built here.

mod api;
mod engine;
mod kernel;
mod node;

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::Lab;

pub use engine::Engine;
pub use kernel::{Sandbox, SandboxFdb};
pub use node::Node;

/// The image of all containers: busybox with `sh`, `sleep`, `nc` and `hostname`.
pub const IMAGE: &str = "lab:1";

/// Longest time for any operation of dockerd or the Swarm, also on an emulated machine.
const TIMEOUT: Duration = Duration::from_secs(240);

/// A Swarm of one manager, node01, and workers.
///
/// When the process ends, its nodes are stopped and removed.
#[derive(Debug)]
pub struct Swarm {
    nodes: Vec<Node>,
    // The wire.
    _lab: Lab,
}

impl Swarm {
    /// Starts `count` nodes and joins them to a Swarm. Takes about 4 s.
    ///
    /// # Errors
    /// Without root, when a program is missing, or when Docker fails; the message has the end of dockerd's log.
    pub fn up(count: u8) -> Result<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let group = format!("overlay-swarm-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let engine = Engine::of_environment();
        engine.check_programs()?;
        let lab = Lab::builder(count).build()?;
        // In parallel: each start takes one to two seconds.
        let nodes = lab.hosts().iter().map(|host| Node::start(host, &group, &engine)).collect::<Result<Vec<_>>>()?;
        let swarm = Self { nodes, _lab: lab };
        let import = |node: &Node| {
            node.wait_for_dockerd()?;
            node.docker(&["import", "/run/image.tar", IMAGE])
        };
        let imported: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = swarm.nodes.iter().map(|node| scope.spawn(move || import(node))).collect();
            threads.into_iter().map(|thread| thread.join().expect("the thread does not panic")).collect()
        });
        imported.into_iter().collect::<Result<Vec<_>>>()?;
        swarm.join()?;
        Ok(swarm)
    }

    fn join(&self) -> Result<()> {
        let [manager, workers @ ..] = self.nodes.as_slice() else { bail!("a Swarm needs at least one node") };
        let address = |node: &Node| node.address().to_string();
        manager.docker(&["swarm", "init", "--advertise-addr", &address(manager)])?;
        let token = manager.docker(&["swarm", "join-token", "--quiet", "worker"])?;
        let to = format!("{}:2377", manager.address());
        for worker in workers {
            worker.docker(&["swarm", "join", "--advertise-addr", &address(worker), "--token", token.trim(), &to])?;
        }
        self.nodes.iter().try_for_each(Self::wait_for_ingress)
    }

    /// Waits for the ingress network, which dockerd creates when a node joins. On an emulated machine, creating another
    /// network at the same time would exceed Docker's time limit.
    fn wait_for_ingress(node: &Node) -> Result<()> {
        let start = Instant::now();
        while !node.query("/networks/ingress").is_ok_and(|network| network["Containers"]["ingress-sbox"].is_object()) {
            ensure!(start.elapsed() < TIMEOUT, "{}: no ingress network after {TIMEOUT:?}\n{}", node.name(), node.log());
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The `number`th node, from 1.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    #[track_caller]
    pub fn node(&self, number: usize) -> &Node {
        number.checked_sub(1).and_then(|index| self.nodes.get(index)).expect("the Swarm has this node")
    }

    /// All nodes, in the order of their numbers.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Creates an attachable overlay network with a /24. A node gets it with its first container. Docker assigns
    /// automatic addresses from the upper half.
    ///
    /// # Errors
    /// When `docker` fails.
    pub fn network(&self, name: &str, subnet: &str, options: &[&str]) -> Result<()> {
        let range = subnet.replace(".0/24", ".128/25");
        let fixed =
            ["network", "create", "--driver", "overlay", "--attachable", "--subnet", subnet, "--ip-range", &range];
        self.node(1).docker(&[&fixed, options, &[name]].concat()).map(drop)
    }

    /// Keeps a network on every node with a service. For a container, Docker gives up after 20 s and removes the network
    /// from the node, which is too short for an emulated machine; tasks of services have no such limit.
    ///
    /// # Errors
    /// When `docker` fails, or after 240 s.
    pub fn hold_network(&self, network: &str) -> Result<()> {
        let name = format!("hold-{network}");
        self.create_service(&name, network, &["--mode", "global"])?;
        self.wait_for_tasks(&name, self.nodes.len())
    }

    /// Starts a sleeping container with a given address.
    ///
    /// # Errors
    /// When `docker` fails. Only one failure is repeated, others can have their cause in a daemon: dockerd does not find
    /// a network whose last container on the node it has just removed, and does not repeat the look-up (its
    /// `findAndAttachNetwork` expects another type of error).
    pub fn container(&self, node: usize, name: &str, network: &str, ip: Ipv4Addr) -> Result<()> {
        let run = ["run", "--detach", "--init", "--name", name, "--network", network, "--ip", &ip.to_string()];
        let run = [&run, [IMAGE, "sleep", "1000000"].as_slice()].concat();
        let result = self.node(node).docker(&run);
        if result.as_ref().is_err_and(is_network_missing) {
            thread::sleep(Duration::from_secs(1));
            self.node(node).docker(&["rm", "--force", name])?;
            return self.node(node).docker(&run).map(drop);
        }
        result.map(drop)
    }

    /// Number of containers that are attached to a network, on all nodes together.
    ///
    /// # Errors
    /// When dockerd does not answer, or there is no such network.
    pub fn attachments(&self, network: &str) -> Result<usize> {
        let manager = self.node(1);
        let id = &manager.query(&format!("/networks/{network}"))?["Id"];
        // {"runtime":["attachment"]}
        let tasks = manager.query("/tasks?filters=%7B%22runtime%22%3A%5B%22attachment%22%5D%7D")?;
        let networks = tasks.as_array().into_iter().flatten().flat_map(|task| task["NetworksAttachments"].as_array());
        Ok(networks.flatten().filter(|attachment| attachment["Network"]["ID"] == *id).count())
    }

    /// Removes a network whose containers are removed. The manager learns of that later: before, `docker network rm`
    /// fails because the network is in use.
    ///
    /// # Errors
    /// When `docker` fails, or after 240 s.
    pub fn remove_network(&self, name: &str) -> Result<()> {
        let start = Instant::now();
        while self.attachments(name)? > 0 {
            ensure!(start.elapsed() < TIMEOUT, "network {name} has attachments after {TIMEOUT:?}");
            thread::sleep(Duration::from_millis(20));
        }
        self.node(1).docker(&["network", "rm", name]).map(drop)
    }

    /// Starts a service of sleeping containers without a virtual IP.
    ///
    /// # Errors
    /// When `docker` fails.
    pub fn service(&self, name: &str, network: &str, replicas: u32) -> Result<()> {
        self.create_service(name, network, &["--replicas", &replicas.to_string()])
    }

    fn create_service(&self, name: &str, network: &str, mode: &[&str]) -> Result<()> {
        let fixed = ["service", "create", "--detach", "--quiet", "--no-resolve-image", "--endpoint-mode", "dnsrr"];
        let rest = ["--name", name, "--network", network, IMAGE, "sleep", "1000000"];
        self.node(1).docker(&[fixed.as_slice(), mode, &rest].concat()).map(drop)
    }

    /// Scales a service and waits until exactly `replicas` of its tasks run.
    ///
    /// # Errors
    /// When `docker` fails, or after 240 s.
    pub fn scale(&self, service: &str, replicas: u32) -> Result<()> {
        self.node(1).docker(&["service", "scale", "--detach", &format!("{service}={replicas}")])?;
        self.wait_for_tasks(service, replicas as usize)
    }

    /// Waits until exactly `count` containers of a service run, on all nodes together.
    ///
    /// # Errors
    /// When dockerd does not answer, or after 240 s.
    pub fn wait_for_tasks(&self, service: &str, count: usize) -> Result<()> {
        let start = Instant::now();
        loop {
            let tasks = self.tasks(service)?;
            if tasks.len() == count {
                return Ok(());
            }
            ensure!(start.elapsed() < TIMEOUT, "{service}: running tasks: {}, expected {count}", tasks.len());
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Running containers of a service: node number and container name.
    ///
    /// # Errors
    /// When dockerd does not answer.
    pub fn tasks(&self, service: &str) -> Result<Vec<(usize, String)>> {
        let mut tasks = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let running = node.query("/containers/json")?;
            let containers = running.as_array().into_iter().flatten();
            let names = containers
                .filter(|container| container["Labels"]["com.docker.swarm.service.name"] == service)
                .filter_map(|container| container["Names"][0].as_str()?.strip_prefix('/'));
            tasks.extend(names.map(|name| (index + 1, name.to_owned())));
        }
        Ok(tasks)
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        if thread::panicking() {
            for node in &self.nodes {
                eprintln!("--- end of dockerd's log on {}\n{}---", node.name(), node.log());
            }
        }
        // In parallel: each node waits for its processes.
        self.nodes.iter_mut().for_each(Node::request_shutdown);
        for node in &mut self.nodes {
            if let Err(error) = node.wait_for_shutdown().context("cannot stop the node") {
                eprintln!("{}: {error:#}", node.name());
            }
        }
    }
}

/// dockerd's answer for a network that it does not find, by its ID.
fn is_network_missing(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    text.contains("network ") && text.contains(" not found")
}
