//! A real Docker Swarm on one machine: a dockerd for each node, nodes joined by the lab's wire.
//!
//! ```text
//!  node01 192.168.1.9, manager               node02 192.168.1.10, worker
//!  ┌───────────────────────┐   the wire    ┌───────────────────────┐
//!  │ dockerd        enp0s3 ├───────────────┤ enp0s3        dockerd │
//!  │ sandboxes, containers │               │ sandboxes, containers │
//!  └───────────────────────┘               └───────────────────────┘
//! ```
//!
//! Needs root and Debian's packages docker.io, iptables and busybox-static. Nothing is pulled: the one image, [`IMAGE`],
//! is made here.

mod api;
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

pub use kernel::{Sandbox, SandboxFdb};
pub use node::Node;

/// The image that every node has: busybox with `sh`, `sleep`, `nc` and `hostname`.
pub const IMAGE: &str = "lab:1";

/// How long dockerds and their cluster may take for anything, on an emulated machine, too.
const PATIENCE: Duration = Duration::from_secs(240);

/// A Swarm of one manager, node01, and workers.
///
/// However this process ends, its nodes end with it, and leave nothing behind.
#[derive(Debug)]
pub struct Swarm {
    nodes: Vec<Node>,
    // Held only: the wire.
    _lab: Lab,
}

impl Swarm {
    /// Starts `count` nodes and joins them. Takes some 4 s.
    ///
    /// # Errors
    /// Without root, when a program is missing, or when Docker fails; the message has the end of dockerd's log.
    pub fn up(count: u8) -> Result<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let group = format!("overlay-swarm-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        node::check_programs()?;
        let lab = Lab::builder(count).build()?;
        // All at once: each needs a second or two.
        let nodes = lab.hosts().iter().map(|host| Node::start(host, &group)).collect::<Result<Vec<_>>>()?;
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
        let [manager, workers @ ..] = self.nodes.as_slice() else { bail!("a Swarm needs a node") };
        let address = |node: &Node| node.address().to_string();
        manager.docker(&["swarm", "init", "--advertise-addr", &address(manager)])?;
        let token = manager.docker(&["swarm", "join-token", "--quiet", "worker"])?;
        let to = format!("{}:2377", manager.address());
        for worker in workers {
            worker.docker(&["swarm", "join", "--advertise-addr", &address(worker), "--token", token.trim(), &to])?;
        }
        self.nodes.iter().try_for_each(Self::wait_for_ingress)
    }

    /// Waits for the network that dockerd makes of its own accord with a Swarm: where the machine is emulated, that takes
    /// so long that a container's network beside it would not be ready in time.
    fn wait_for_ingress(node: &Node) -> Result<()> {
        let start = Instant::now();
        while !node.ask("/networks/ingress").is_ok_and(|network| network["Containers"]["ingress-sbox"].is_object()) {
            ensure!(start.elapsed() < PATIENCE, "{}: dockerd makes no ingress network\n{}", node.name(), node.log());
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The `number`th node, from 1.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn node(&self, number: usize) -> &Node {
        number.checked_sub(1).and_then(|index| self.nodes.get(index)).expect("the Swarm has no node of that number")
    }

    /// All nodes, in the order of their numbers.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Makes an attachable overlay network of a /24. Nodes get it with its first container there. The addresses that
    /// Docker gives to whoever asks for none are from the upper half.
    ///
    /// # Errors
    /// Docker's.
    pub fn network(&self, name: &str, subnet: &str, options: &[&str]) -> Result<()> {
        let range = subnet.replace(".0/24", ".128/25");
        let fixed =
            ["network", "create", "--driver", "overlay", "--attachable", "--subnet", subnet, "--ip-range", &range];
        self.node(1).docker(&[&fixed, options, &[name]].concat()).map(drop)
    }

    /// Starts a container that sleeps, with a given address, and waits until `node` has the network for it: the manager
    /// tells workers of it a moment after it was made.
    ///
    /// # Errors
    /// Docker's, when they persist.
    pub fn container(&self, node: usize, name: &str, network: &str, ip: Ipv4Addr) -> Result<()> {
        let (node, ip) = (self.node(node), ip.to_string());
        let start = Instant::now();
        loop {
            let run = ["run", "--detach", "--init", "--name", name, "--network", network, "--ip", &ip];
            match node.docker(&[&run, [IMAGE, "sleep", "1000000"].as_slice()].concat()) {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > PATIENCE => return Err(error),
                Err(error) => {
                    // It was made and could not be started.
                    let _ = node.docker(&["rm", "--force", name]);
                    if format!("{error:#}").contains("deadline exceeded") {
                        self.hold(network)?;
                    }
                    thread::sleep(Duration::from_millis(200));
                }
            }
        }
    }

    /// Gives every node the network by a service. A container has to get it within 20 s, or Docker gives up and takes the
    /// network away again, too little for an emulated machine; tasks of services have all the time that they need.
    fn hold(&self, network: &str) -> Result<()> {
        let name = format!("hold-{network}");
        let fixed = ["service", "create", "--detach", "--quiet", "--no-resolve-image", "--endpoint-mode", "dnsrr"];
        let rest = ["--mode", "global", "--name", &name, "--network", network, IMAGE, "sleep", "1000000"];
        // The second time it is there.
        let _ = self.node(1).docker(&[fixed.as_slice(), &rest].concat());
        self.wait_for_tasks(&name, self.nodes.len())
    }

    /// Starts a service of containers that sleep, each with an address of its own and no virtual one.
    ///
    /// # Errors
    /// Docker's.
    pub fn service(&self, name: &str, network: &str, replicas: u32) -> Result<()> {
        let fixed = ["service", "create", "--detach", "--quiet", "--no-resolve-image", "--endpoint-mode", "dnsrr"];
        let replicas = replicas.to_string();
        let rest = ["--name", name, "--network", network, "--replicas", &replicas, IMAGE, "sleep", "1000000"];
        self.node(1).docker(&[fixed.as_slice(), &rest].concat()).map(drop)
    }

    /// Scales a service and waits until `replicas` of its tasks run and no more.
    ///
    /// # Errors
    /// Docker's, or when that takes too long.
    pub fn scale(&self, service: &str, replicas: u32) -> Result<()> {
        self.node(1).docker(&["service", "scale", "--detach", &format!("{service}={replicas}")])?;
        self.wait_for_tasks(service, replicas as usize)
    }

    /// Waits until so many containers of a service run, on all nodes together.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn wait_for_tasks(&self, service: &str, count: usize) -> Result<()> {
        let start = Instant::now();
        loop {
            let tasks = self.tasks(service)?;
            if tasks.len() == count {
                return Ok(());
            }
            ensure!(start.elapsed() < PATIENCE, "{service} has {} tasks, not {count}", tasks.len());
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Running containers of a service: number of the node, and name.
    ///
    /// # Errors
    /// Docker's.
    pub fn tasks(&self, service: &str) -> Result<Vec<(usize, String)>> {
        let mut tasks = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let running = node.ask("/containers/json")?;
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
        // All at once: each waits for its processes.
        self.nodes.iter_mut().for_each(Node::begin_to_end);
        for node in &mut self.nodes {
            if let Err(error) = node.wait_for_end().context("ending a node") {
                eprintln!("{}: {error:#}", node.name());
            }
        }
    }
}
