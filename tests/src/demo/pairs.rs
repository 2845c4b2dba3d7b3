//! The two pairs of hosts: one with the fast path, one with the kernel path alone.

use std::{net::IpAddr, path::Path};

use anyhow::{Context, Result};

use crate::{
    lab::{BPFFS, Cluster, Container, Daemon, Flavour, Host, Lab, NetNs, Session, ensure_bpffs, kernel_vxlan},
    testbed::Testbed,
};

/// Name of the session, of the directory with the cluster file, and of the pin roots' directory.
const NAME: &str = "overlay-demo";

/// Two containers that measure against each other.
pub(super) struct Ends<'a> {
    pub(super) client: &'a NetNs,
    pub(super) server: &'a NetNs,
    pub(super) address: IpAddr,
}

/// Two hosts with names and with a daemon each.
pub(super) struct FastPair(Testbed);

impl FastPair {
    pub(super) fn start(overlay: &Path) -> Result<Self> {
        let mut session = Session::open(NAME)?;
        ensure_bpffs()?;
        let (files, pins) = (Path::new("/run").join(NAME), Path::new(BPFFS).join(NAME));
        session.directory(&files)?;
        session.directory(&pins)?;
        let lab = Lab::builder(2).named(session).build()?;
        let mut testbed = Testbed::at(overlay, lab, files.join("cluster.toml"), pins);
        testbed.start(1)?;
        testbed.start(2)?;
        Ok(Self(testbed))
    }

    /// Each host with its daemon.
    pub(super) fn hosts(&self) -> impl Iterator<Item = (&Host, &Daemon)> {
        self.0.lab.hosts().iter().zip(self.0.daemons())
    }

    /// Both directions, as source and destination.
    pub(super) fn directions(&self) -> [[(&Host, &Daemon, &Container); 2]; 2] {
        let end = |host| (self.0.lab.host(host), self.0.daemon(host), self.0.first(host));
        [[end(1), end(2)], [end(2), end(1)]]
    }

    pub(super) fn ends(&self) -> Ends<'_> {
        ends(&self.0.lab)
    }

    /// Runs `overlay down` on both hosts.
    ///
    /// # Errors
    /// As [`Testbed::down`].
    pub(super) fn stop(self) -> Result<()> {
        self.0.down().map(drop)
    }

    /// The cluster file that the daemons watch.
    pub(super) fn config(&self) -> &Path {
        self.0.config()
    }
}

/// Two anonymous hosts without overlay.
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
