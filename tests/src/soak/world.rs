//! What is soaked: four hosts on one wire, a daemon on each, and endpoints that come and go.

use std::{
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    lab::{
        Cluster, ClusterHost, Container, Endpoint, Lab, NIC, NetNs, Network, private_bpffs, private_directory,
        traffic::{Ping, ping},
    },
    truth::Told,
    world::{self, without_checksum_offload},
};

/// Hosts that a file tells what to do, from 1; each has a file of its own.
pub(super) const BY_FILE: usize = 3;
/// The host whose daemon keeps the embedded store and is told by command. It is a cluster of its own.
pub(super) const BY_COMMAND: usize = 4;
/// The host whose daemon is never ended: what it holds at the end is compared with what it held at the beginning.
pub(super) const STEADY: usize = 3;
/// All hosts.
pub(super) const HOSTS: usize = 4;
/// Where `rx` is "xdp".
const XDP: usize = 2;
/// The network of the host that is told by command.
const NETWORK: &str = "by-command";
/// What takes longer is not going to happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// An endpoint that comes and goes, in a namespace that is made for it each time.
#[derive(Debug)]
struct Guest {
    ns: NetNs,
    there: bool,
}

/// The hosts, their daemons and what these were told.
pub(super) struct World {
    /// Its cluster is what the hosts that follow a file are told.
    inner: world::World,
    guests: Vec<Option<Guest>>,
    by_command: Cluster,
    directory: PathBuf,
    pub(super) deadline: Duration,
}

impl Deref for World {
    type Target = world::World;

    fn deref(&self) -> &world::World {
        &self.inner
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut world::World {
        &mut self.inner
    }
}

impl World {
    /// Everything made, the daemons ready and the tables true.
    pub(super) fn start(overlay: &Path, deadline: Duration) -> Result<Self> {
        // Before any thread: they inherit the mounts.
        let pins = private_bpffs()?;
        let directory = private_directory()?;
        let lab = Lab::builder(HOSTS as u8).container(1, "beside1", [10, 0, 1, 50].into());
        let lab = lab.container(BY_COMMAND, "beside4", [10, 0, 1, 54].into()).build()?;
        without_checksum_offload(&lab)?;
        for host in lab.hosts() {
            // As hosts are set up whose addresses move: they announce a new MAC address.
            host.sysctl(&format!("net.ipv4.conf.{NIC}.arp_notify"), "1")?;
        }
        let (by_file, by_command) = (by_file(&lab), by_command(&lab));
        let mut inner = world::World::at(overlay, lab, directory.join("cluster.toml"), pins);
        inner.cluster = by_file;
        inner.deadline = Some(deadline.as_secs().try_into()?);
        let guests = (0..HOSTS).map(|_| None).collect();
        let mut world = Self { inner, guests, by_command, directory, deadline };
        world.write()?;
        for number in 1..=HOSTS {
            let name = world.lab.host(number).name().into();
            let source = if number == BY_COMMAND {
                ["--data-dir".into(), world.directory.join("data"), "--node-name".into(), name].to_vec()
            } else {
                ["--config".into(), world.file(number)].to_vec()
            };
            world.start_with(number, &source)?;
        }
        world.command(&["network", "create", NETWORK, "--vni", "5000", "--subnet", "10.0.1.0/24"])?;
        for endpoint in &world.by_command.endpoints {
            world.add_by_command(endpoint)?;
        }
        world.settle()?;
        Ok(world)
    }

    fn file(&self, host: usize) -> PathBuf {
        self.directory.join(format!("node{host:02}.toml"))
    }

    /// Tells the hosts that follow a file.
    fn write(&self) -> Result<()> {
        (1..=BY_FILE).try_for_each(|host| {
            let rx = if host == XDP { "xdp" } else { "tc" };
            Cluster { rx: Some(rx.to_owned()), ..self.cluster.clone() }.write(&self.file(host))
        })
    }

    fn command(&self, words: &[&str]) -> Result<()> {
        self.daemon(BY_COMMAND).overlay(&[words, &["--json"]].concat()).map(drop)
    }

    fn add_by_command(&self, endpoint: &Endpoint) -> Result<()> {
        let netns = endpoint.netns.as_ref().and_then(|path| path.to_str()).context("an endpoint has no namespace")?;
        let ip = endpoint.ip.to_string();
        self.command(&["endpoint", "add", NETWORK, &endpoint.name, "--netns", netns, "--ip", &ip])
    }

    /// The `number`th container of a host, from 1.
    pub(super) fn container(&self, host: usize, number: usize) -> &Container {
        &self.lab.host(host).containers()[number - 1]
    }

    fn cluster_mut(&mut self, host: usize) -> &mut Cluster {
        if host == BY_COMMAND { &mut self.by_command } else { &mut self.inner.cluster }
    }

    /// Whether the endpoint that comes and goes is there.
    pub(super) fn has_guest(&self, host: usize) -> bool {
        self.guests[host - 1].as_ref().is_some_and(|guest| guest.there)
    }

    /// Adds the endpoint that comes and goes, or removes it.
    pub(super) fn toggle_guest(&mut self, host: usize) -> Result<()> {
        let name = format!("guest{host}");
        if let Some(guest) = self.guests[host - 1].as_mut().filter(|guest| guest.there) {
            guest.there = false;
            self.cluster_mut(host).endpoints.retain(|endpoint| endpoint.name != name);
            return if host == BY_COMMAND { self.command(&["endpoint", "rm", NETWORK, &name]) } else { self.write() };
        }
        let ns = NetNs::anonymous(&name)?;
        let network = self.cluster_mut(host).networks[0].name.clone();
        let ip = [10, 0, 1, 100 + host as u8].into();
        let mut endpoint = Endpoint::new(&network, &name, ip, self.lab.host(host).name());
        endpoint.netns = Some(ns.path().to_owned());
        self.guests[host - 1] = Some(Guest { ns, there: true });
        self.cluster_mut(host).endpoints.push(endpoint.clone());
        if host == BY_COMMAND { self.add_by_command(&endpoint) } else { self.write() }
    }

    /// Sets the MTU of the network of the hosts that follow a file.
    pub(super) fn network_mtu(&mut self, mtu: Option<u16>) -> Result<()> {
        self.cluster.networks[0].mtu = mtu;
        self.write()
    }

    /// What a host was told.
    fn told(&self, host: usize) -> Told<'_> {
        let cluster = if host == BY_COMMAND { &self.by_command } else { &self.cluster };
        Told { lab: &self.lab, host: self.lab.host(host), pin_root: self.daemon(host).pin_root(), cluster }
    }

    /// Waits until the tables of all hosts are true, and returns how long that took.
    pub(super) fn settle(&mut self) -> Result<Duration> {
        let start = Instant::now();
        for host in 1..=HOSTS {
            loop {
                let wrong = self.told(host).differences()?;
                if wrong.is_empty() {
                    break;
                }
                ensure!(
                    start.elapsed() < PATIENCE,
                    "the tables are not true again after {PATIENCE:?}:\n{}\nlog of the daemon:\n{}",
                    wrong.join("\n"),
                    tail(&self.daemon(host).log())
                );
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        let took = start.elapsed();
        // Whose endpoint is in no table any more has no interface either, and its namespace may go.
        for guest in &mut self.guests {
            guest.take_if(|guest| !guest.there);
        }
        Ok(took)
    }

    /// A guest reaches a container, on another host where there is one.
    pub(super) fn guest_is_served(&self, host: usize) -> Result<()> {
        let Some(guest) = &self.guests[host - 1] else { return Ok(()) };
        guest.ns.settle()?;
        let to = if host == BY_COMMAND { host } else { host % BY_FILE + 1 };
        let replies = ping(&guest.ns, self.container(to, 1).ip().into(), Ping { count: 3, ..Ping::default() })?;
        ensure!(replies.all(), "guest{host} reaches {}: {replies:?}", self.container(to, 1).name());
        Ok(())
    }

    /// Everything as it was at the beginning, and true.
    pub(super) fn restore(&mut self) -> Result<()> {
        for host in 1..=HOSTS {
            if self.has_guest(host) {
                self.toggle_guest(host)?;
            }
            self.lab.host(host).try_run(&["ip", "link", "set", NIC, "mtu", "1500"])?;
        }
        self.network_mtu(None)?;
        self.settle().map(drop)
    }

    /// `overlay down` on all hosts.
    pub(super) fn down(self) -> Result<Lab> {
        self.inner.down()
    }
}

/// The last lines.
fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

fn by_file(lab: &Lab) -> Cluster {
    let mut cluster = Cluster::example(lab);
    let name = lab.host(BY_COMMAND).name();
    cluster.hosts.retain(|host| host.name != name);
    cluster.endpoints.retain(|endpoint| endpoint.host != name);
    cluster
}

fn by_command(lab: &Lab) -> Cluster {
    let host = lab.host(BY_COMMAND);
    let mut cluster = Cluster::example(lab);
    cluster.hosts = vec![ClusterHost { name: host.name().to_owned(), address: host.address() }];
    cluster.networks = vec![Network { name: NETWORK.to_owned(), vni: 5000, ..Network::example() }];
    cluster.endpoints.retain(|endpoint| endpoint.host == host.name());
    for endpoint in &mut cluster.endpoints {
        NETWORK.clone_into(&mut endpoint.network);
    }
    cluster
}
