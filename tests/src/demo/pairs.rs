//! The two pairs of hosts: one with the fast path, one carried by the kernel alone.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::lab::{BPFFS, Cluster, Container, Daemon, Flavour, Host, Lab, NetNs, Session, ensure_bpffs, kernel_vxlan};

/// Name of the session, of the directory with the cluster file, and of the pin roots' directory.
const NAME: &str = "overlay-demo";

/// Two containers that measure against each other.
pub(super) struct Ends<'a> {
    pub(super) client: &'a NetNs,
    pub(super) server: &'a NetNs,
    pub(super) address: IpAddr,
}

/// Two hosts with names and with a daemon each.
pub(super) struct FastPair {
    // Before the lab: the daemons take back what they made in it.
    daemons: Vec<Daemon>,
    lab: Lab,
}

impl FastPair {
    pub(super) fn start(overlay: &Path) -> Result<Self> {
        let mut session = Session::open(NAME)?;
        ensure_bpffs()?;
        let (files, pins) = (Path::new("/run").join(NAME), Path::new(BPFFS).join(NAME));
        session.directory(&files)?;
        session.directory(&pins)?;
        let lab = Lab::builder(2).named(session).build()?;
        let config = files.join("cluster.toml");
        Cluster::example(&lab).write(&config)?;
        let mut pair = Self { daemons: Vec::new(), lab };
        for host in pair.lab.hosts() {
            pair.daemons.push(Daemon::start_binary(overlay, host, &config, &pins.join(host.name()))?);
        }
        Ok(pair)
    }

    /// Each host with its daemon.
    pub(super) fn hosts(&self) -> impl Iterator<Item = (&Host, &Daemon)> {
        self.lab.hosts().iter().zip(&self.daemons)
    }

    /// Both directions: where from, where to.
    pub(super) fn directions(&self) -> [[(&Host, &Daemon, &Container); 2]; 2] {
        let end = |index: usize| {
            let host = &self.lab.hosts()[index];
            (host, &self.daemons[index], &host.containers()[0])
        };
        [[end(0), end(1)], [end(1), end(0)]]
    }

    pub(super) fn ends(&self) -> Ends<'_> {
        ends(&self.lab)
    }

    /// Ends the daemons; an error when they do not take back what they made.
    pub(super) fn stop(self) -> Result<()> {
        let Self { daemons, lab } = self;
        let results: Vec<_> = daemons.into_iter().map(Daemon::down).collect();
        drop(lab);
        results.into_iter().collect()
    }

    /// The cluster file that the daemons watch.
    pub(super) fn config(&self) -> Option<PathBuf> {
        self.daemons.first().and_then(Daemon::config).map(Path::to_owned)
    }
}

/// Two hosts without names and without overlay.
pub(super) struct KernelPair {
    lab: Lab,
}

impl KernelPair {
    pub(super) fn start() -> Result<Self> {
        let lab = Lab::builder(2).build()?;
        let cluster = Cluster::example(&lab);
        let network = &cluster.networks.first().context("the example has a network")?.name;
        for host in lab.hosts() {
            kernel_vxlan(host, &cluster, network, Flavour::Static)?;
        }
        Ok(Self { lab })
    }

    pub(super) fn ends(&self) -> Ends<'_> {
        ends(&self.lab)
    }
}

fn ends(lab: &Lab) -> Ends<'_> {
    let [client, server] = [lab.host(1), lab.host(2)].map(|host| &host.containers()[0]);
    Ends { client, server, address: server.ip().into() }
}
