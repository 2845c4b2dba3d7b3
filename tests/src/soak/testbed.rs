//! The hosts of the soak: four on one wire, with a daemon and a guest endpoint each.

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
    tables::Expected,
    testbed::{self, prepare_xdp},
};

/// Hosts 1 to 3 read a cluster file, one file each.
pub(super) const BY_FILE: usize = 3;
/// The host whose daemon has the embedded store and is configured by command. It is a separate cluster.
pub(super) const BY_COMMAND: usize = 4;
/// The host whose daemon is never stopped: its resources at the end are compared with those at the beginning.
pub(super) const STEADY: usize = 3;
/// Number of hosts.
pub(super) const HOSTS: usize = 4;
/// The host with `rx = "xdp"`.
pub(super) const XDP: usize = 2;
/// The network of [`BY_COMMAND`].
const NETWORK: &str = "by-command";
const TIMEOUT: Duration = Duration::from_secs(20);

/// An endpoint that events add and remove, each time in a new namespace.
#[derive(Debug)]
struct Guest {
    ns: NetNs,
    is_added: bool,
}

/// The hosts, their daemons and the configuration of these.
pub(super) struct Testbed {
    /// Its cluster is the configuration of the hosts that read a file.
    inner: testbed::Testbed,
    guests: Vec<Option<Guest>>,
    by_command: Cluster,
    directory: PathBuf,
    pub(super) deadline: Duration,
}

impl Deref for Testbed {
    type Target = testbed::Testbed;

    fn deref(&self) -> &testbed::Testbed {
        &self.inner
    }
}

impl DerefMut for Testbed {
    fn deref_mut(&mut self) -> &mut testbed::Testbed {
        &mut self.inner
    }
}

impl Testbed {
    /// Creates the hosts, starts the daemons and waits until all hosts have converged.
    pub(super) fn start(overlay: &Path, deadline: Duration) -> Result<Self> {
        // Before any thread: they inherit the mounts.
        let pins = private_bpffs()?;
        let directory = private_directory()?;
        let lab = Lab::builder(HOSTS as u8).container(1, "beside1", [10, 0, 1, 50].into());
        let lab = lab.container(BY_COMMAND, "beside4", [10, 0, 1, 54].into()).build()?;
        for host in lab.hosts() {
            prepare_xdp(host)?;
            // The host announces a changed MAC address.
            host.sysctl(&format!("net.ipv4.conf.{NIC}.arp_notify"), "1")?;
        }
        let (by_file, by_command) = (by_file(&lab), by_command(&lab));
        let mut inner = testbed::Testbed::at(overlay, lab, directory.join("cluster.toml"), pins);
        inner.cluster = by_file;
        inner.deadline = Some(deadline.as_secs().try_into()?);
        let guests = (0..HOSTS).map(|_| None).collect();
        let mut testbed = Self { inner, guests, by_command, directory, deadline };
        testbed.write()?;
        for number in 1..=HOSTS {
            let name = testbed.lab.host(number).name().into();
            let source = if number == BY_COMMAND {
                ["--data-dir".into(), testbed.directory.join("data"), "--node-name".into(), name].to_vec()
            } else {
                ["--config".into(), testbed.file(number)].to_vec()
            };
            testbed.start_with(number, &source)?;
        }
        testbed.command(&["network", "create", NETWORK, "--vni", "5000", "--subnet", "10.0.1.0/24"])?;
        for endpoint in &testbed.by_command.endpoints {
            testbed.add_by_command(endpoint)?;
        }
        testbed.wait_until_converged()?;
        Ok(testbed)
    }

    fn file(&self, host: usize) -> PathBuf {
        self.directory.join(format!("node{host:02}.toml"))
    }

    /// Writes the cluster files.
    fn write(&self) -> Result<()> {
        (1..=BY_FILE).try_for_each(|host| self.configuration(host).write(&self.file(host)))
    }

    fn command(&self, words: &[&str]) -> Result<()> {
        self.daemon(BY_COMMAND).overlay(&[words, &["--json"]].concat()).map(drop)
    }

    fn add_by_command(&self, endpoint: &Endpoint) -> Result<()> {
        let netns = endpoint.netns.as_ref().and_then(|path| path.to_str()).context("the endpoint has no netns")?;
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

    /// Whether the guest endpoint is added.
    pub(super) fn has_guest(&self, host: usize) -> bool {
        self.guests[host - 1].as_ref().is_some_and(|guest| guest.is_added)
    }

    /// Adds the guest endpoint, or removes it.
    pub(super) fn toggle_guest(&mut self, host: usize) -> Result<()> {
        let name = format!("guest{host}");
        if let Some(guest) = self.guests[host - 1].as_mut().filter(|guest| guest.is_added) {
            guest.is_added = false;
            self.cluster_mut(host).endpoints.retain(|endpoint| endpoint.name != name);
            return if host == BY_COMMAND { self.command(&["endpoint", "rm", NETWORK, &name]) } else { self.write() };
        }
        let ns = NetNs::anonymous(&name)?;
        let network = self.cluster_mut(host).networks[0].name.clone();
        let ip = [10, 0, 1, 100 + host as u8].into();
        let mut endpoint = Endpoint::new(&network, &name, ip, self.lab.host(host).name());
        endpoint.netns = Some(ns.path().to_owned());
        self.guests[host - 1] = Some(Guest { ns, is_added: true });
        self.cluster_mut(host).endpoints.push(endpoint.clone());
        if host == BY_COMMAND { self.add_by_command(&endpoint) } else { self.write() }
    }

    /// Sets the MTU of the network in the cluster files.
    pub(super) fn network_mtu(&mut self, mtu: Option<u16>) -> Result<()> {
        self.cluster.networks[0].mtu = mtu;
        self.write()
    }

    /// The configuration of a host.
    fn configuration(&self, host: usize) -> Cluster {
        if host == BY_COMMAND {
            return self.by_command.clone();
        }
        let rx = if host == XDP { "xdp" } else { "tc" };
        Cluster { rx: Some(rx.to_owned()), ..self.cluster.clone() }
    }

    /// Waits until all hosts have converged, and returns how long that took.
    pub(super) fn wait_until_converged(&mut self) -> Result<Duration> {
        self.converge(TIMEOUT)
    }

    fn converge(&mut self, limit: Duration) -> Result<Duration> {
        let start = Instant::now();
        for host in 1..=HOSTS {
            let cluster = self.configuration(host);
            let expected = Expected { cluster: &cluster, ..self.inner.expected(host) };
            let log = || format!("log of the daemon:\n{}", tail(&self.daemon(host).log()));
            expected.wait(limit).with_context(log)?;
        }
        let took = start.elapsed();
        // The daemon has detached removed guests, so their namespaces can be deleted.
        for guest in &mut self.guests {
            guest.take_if(|guest| !guest.is_added);
        }
        Ok(took)
    }

    /// Pings a container from the guest; on another host if the guest's network has one.
    pub(super) fn ping_from_guest(&self, host: usize) -> Result<()> {
        let Some(guest) = &self.guests[host - 1] else { return Ok(()) };
        guest.ns.wait_for_devices()?;
        let to = if host == BY_COMMAND { host } else { host % BY_FILE + 1 };
        let replies = ping(&guest.ns, self.container(to, 1).ip().into(), Ping { count: 3, ..Ping::default() })?;
        ensure!(replies.all(), "guest{host} → {}: pings lost: {replies:?}", self.container(to, 1).name());
        Ok(())
    }

    /// Restores the initial configuration and waits until all hosts have converged.
    pub(super) fn restore(&mut self) -> Result<()> {
        for host in 1..=HOSTS {
            if self.has_guest(host) {
                self.toggle_guest(host)?;
            }
            self.lab.host(host).try_run(&["ip", "link", "set", NIC, "mtu", "1500"])?;
        }
        self.network_mtu(None)?;
        self.wait_until_converged().map(drop)
    }

    /// `overlay down` on all hosts.
    pub(super) fn down(self) -> Result<Lab> {
        self.inner.down()
    }
}

/// The last 15 lines.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "all of this is tests")]

    use overlay_common::maps;

    use super::*;
    use crate::{lab::overlay_binary, tables::TABLES};

    /// The daemons keep their own copy of the maps, so none repairs the entry.
    #[test]
    fn hosts_with_stale_mtu_in_any_map_have_not_converged() {
        let mut testbed = Testbed::start(&overlay_binary().unwrap(), Duration::from_secs(30)).unwrap();
        for map in [maps::PORTS, maps::NETWORKS, maps::VTEPS] {
            let table = TABLES.into_iter().find(|table| table.map == map).unwrap();
            let pins = testbed.daemon(1).pin_root().to_owned();
            let (key, value) = table.read(&pins).unwrap().pop_first().unwrap();
            let field = (table.value)(&value).into_iter().find(|field| field.name == "mtu").unwrap();
            let mut stale = value.clone();
            stale[field.bytes].copy_from_slice(&1370_u16.to_ne_bytes());
            table.write(&pins, &key, Some(&stale)).unwrap();
            let error = format!("{:#}", testbed.converge(Duration::from_millis(500)).unwrap_err());
            assert!(error.contains(&format!("{}: mtu: expected 1450, found 1370", table.object(&key))), "{error}");
            table.write(&pins, &key, Some(&value)).unwrap();
        }
        testbed.wait_until_converged().unwrap();

        // An event while the daemon hangs.
        testbed.daemon_mut(1).hang().unwrap();
        testbed.network_mtu(Some(1370)).unwrap();
        let error = format!("{:#}", testbed.converge(Duration::from_secs(1)).unwrap_err());
        for object in ["OVL_NETWORKS key 4097", "device ovlbr4097", "device ovlvx4097"] {
            assert!(error.contains(&format!("{object}: mtu: expected 1370, found 1450")), "{error}");
        }
        testbed.daemon_mut(1).resume().unwrap();
        testbed.wait_until_converged().unwrap();
    }
}
