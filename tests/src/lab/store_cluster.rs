//! Hosts with a daemon each and a real etcd.

use std::path::Path;

use anyhow::{Context, Result};
use overlay_user::testing::apply::Maps;
use serde_json::Value;

use super::{Container, Daemon, Etcd, EtcdClient, Host, Lab};
use crate::lab::traffic::{Ping, Replies, ping};

/// Hosts on one underlay, with a container each, and a separate network to the members of etcd.
#[derive(Debug)]
pub struct StoreCluster {
    // In drop order: daemons before their hosts, hosts before etcd.
    /// The daemons, in the order of the hosts.
    pub daemons: Vec<Daemon>,
    /// The hosts.
    pub lab: Lab,
    /// The interfaces of the hosts in the network of etcd.
    pub clients: Vec<EtcdClient>,
    /// The etcd cluster.
    pub etcd: Etcd,
}

impl StoreCluster {
    /// Starts `hosts` hosts and as many etcd members; the daemons have pins below `pins` and leases of `lease` seconds.
    ///
    /// # Errors
    /// Without root or a required program, or when a daemon is not ready in time.
    pub fn start(overlay: &Path, pins: &Path, hosts: u8, lease: u64) -> Result<Self> {
        let lab = Lab::builder(hosts).build()?;
        let etcd = Etcd::start(hosts)?;
        let mut cluster = Self { daemons: Vec::new(), lab, clients: Vec::new(), etcd };
        for number in 1..=hosts {
            let host = cluster.lab.host(number.into());
            cluster.clients.push(cluster.etcd.join(host, number)?);
        }
        for host in cluster.lab.hosts() {
            let arguments = cluster.arguments(host, lease);
            cluster.daemons.push(Daemon::start_with(overlay, host, &arguments, &pins.join(host.name()))?);
        }
        Ok(cluster)
    }

    /// Arguments of `overlay run` on a host.
    #[must_use]
    pub fn arguments(&self, host: &Host, lease: u64) -> Vec<String> {
        let urls = self.etcd.urls().join(",");
        let (address, lease) = (host.address().to_string(), lease.to_string());
        ["--store", "etcd", "--etcd", &urls, "--node", &address, "--node-name", host.name(), "--lease", &lease]
            .map(ToOwned::to_owned)
            .into()
    }

    /// Runs a subcommand with `--json` for the daemon of the `host`th host, from 1.
    ///
    /// # Errors
    /// When the subcommand fails.
    pub fn query(&self, host: usize, words: &[&str]) -> Result<Value> {
        self.daemon(host)?.overlay(&[words, &["--json"]].concat())
    }

    /// The container of the `host`th host, from 1.
    ///
    /// # Panics
    /// When there is no such host.
    #[must_use]
    #[track_caller]
    pub fn container(&self, host: usize) -> &Container {
        &self.lab.host(host).containers()[0]
    }

    /// The daemon of the `host`th host, from 1.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn daemon(&self, host: usize) -> Result<&Daemon> {
        self.daemons.get(host - 1).with_context(|| format!("the cluster has no host {host}"))
    }

    /// Number of remote endpoints in the maps, the FDB and the neighbour table of a host.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn remote(&self, host: usize) -> Result<[usize; 3]> {
        let maps = Maps::open(self.daemon(host)?.pin_root())?.read()?;
        let host = self.lab.host(host);
        let kernel = host.try_run(&["bridge", "fdb", "show"])?;
        let neighbours = host.try_run(&["ip", "neigh", "show", "nud", "permanent"])?;
        let is_unicast = |line: &&str| line.contains(" dst 192.168.1.") && !line.starts_with("00:00:00:00:00:00");
        Ok([
            maps.fdb.values().filter(|entry| !entry.is_local()).count(),
            kernel.lines().filter(is_unicast).count(),
            neighbours.lines().filter(|line| line.contains("ovlbr")).count(),
        ])
    }

    /// Pings the container of host `to` from that of host `from`, by its address in `network`.
    ///
    /// # Errors
    /// When the endpoint is unknown or the requests cannot be sent.
    pub fn ping(&self, network: &str, from: usize, to: usize, plan: Ping) -> Result<Replies> {
        let address = self.address(network, to)?;
        ping(self.container(from), address.into(), plan)
    }

    /// Address of a host's container in a network. The endpoint has the name of the container.
    ///
    /// # Errors
    /// When the endpoint is unknown.
    pub fn address(&self, network: &str, host: usize) -> Result<std::net::Ipv4Addr> {
        let endpoint = self.query(host, &["endpoint", "inspect", network, self.container(host).name()])?;
        let ip = endpoint["ip"].as_str().context("the endpoint has no address")?;
        Ok(ip.split('/').next().unwrap_or_default().parse()?)
    }
}
