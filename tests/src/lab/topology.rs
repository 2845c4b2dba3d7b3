//! Hosts, their containers, and the wire between the hosts.

use std::{net::Ipv4Addr, ops::Deref, path::Path};

use anyhow::{Context, Result, ensure};

use super::{NetNs, Session};

/// The NIC of every host.
pub const NIC: &str = "enp0s3";

/// Hosts on one underlay, each with its containers.
///
/// Two hosts are joined by one veth, both ends of which are called [`NIC`]; more by a bridge in a namespace of its own.
/// Containers are empty namespaces: whoever carries their traffic gives them their interface.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    // Held only: the bridge between more than two hosts.
    _switch: Option<NetNs>,
    // Last: daemons and sockets first, then the names.
    _session: Option<Session>,
}

/// A host: a network namespace with a NIC.
#[derive(Clone, Debug)]
pub struct Host {
    ns: NetNs,
    address: Ipv4Addr,
    containers: Vec<Container>,
}

/// A container: a network namespace, and the address that it is to have.
#[derive(Clone, Debug)]
pub struct Container {
    ns: NetNs,
    ip: Ipv4Addr,
}

/// What a [`Lab`] will have.
#[derive(Debug)]
pub struct LabBuilder {
    /// Per host, its containers.
    hosts: Vec<Vec<(String, Ipv4Addr)>>,
    session: Option<Session>,
}

impl Lab {
    /// The running example: node01 (192.168.1.9) with gindemo1 (10.0.1.2), node02 (192.168.1.10) with gindemo2
    /// (10.0.1.6), in anonymous namespaces.
    ///
    /// # Panics
    /// Where [`LabBuilder::build`] returns an error.
    #[must_use]
    pub fn two_hosts() -> Self {
        Self::builder(2).build().unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// `count` hosts, node01 and on, with addresses from 192.168.1.9 up. The one called `node0N` has the container
    /// `gindemoN`, with addresses from 10.0.1.2 up in steps of 4.
    #[must_use]
    pub fn builder(count: u8) -> LabBuilder {
        let container = |index: u8| (format!("gindemo{}", index + 1), Ipv4Addr::new(10, 0, 1, 2 + 4 * index));
        LabBuilder { hosts: (0..count).map(|index| vec![container(index)]).collect(), session: None }
    }

    /// The `number`th host, from 1.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn host(&self, number: usize) -> &Host {
        number.checked_sub(1).and_then(|index| self.hosts.get(index)).expect("the lab has no host of that number")
    }

    /// All hosts, in the order of their numbers.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }
}

impl LabBuilder {
    /// One more container on the `number`th host, from 1. Its name has to be unique in the lab, its address not.
    ///
    /// # Panics
    /// When there is no such host.
    #[must_use]
    #[track_caller]
    pub fn container(mut self, number: usize, name: &str, ip: Ipv4Addr) -> Self {
        self.hosts[number - 1].push((name.to_owned(), ip));
        self
    }

    /// Namespaces with names below `/run/netns`, for people to look into, instead of anonymous ones.
    #[must_use]
    pub fn named(mut self, session: Session) -> Self {
        self.session = Some(session);
        self
    }

    /// Makes it all.
    ///
    /// # Errors
    /// When not run as root, when `ip` is missing, or when a name is in use. Nothing is left behind.
    pub fn build(self) -> Result<Lab> {
        let Self { hosts: plan, mut session } = self;
        let host_name = |index: usize| format!("node{:02}", index + 1);
        if let Some(session) = &session {
            let containers = plan.iter().flatten().map(|(name, _)| name.clone());
            session.ensure_free((0..plan.len()).map(host_name).chain(containers))?;
        }
        let mut make = |name: &str| match &mut session {
            Some(session) => session.create(name),
            None => NetNs::anonymous(name),
        };
        let mut hosts = Vec::new();
        for (index, containers) in plan.into_iter().enumerate() {
            let last = u8::try_from(9 + index).context("too many hosts")?;
            let ns = make(&host_name(index))?;
            let containers = containers
                .into_iter()
                .map(|(name, ip)| Ok(Container { ns: make(&name)?, ip }))
                .collect::<Result<_>>()?;
            hosts.push(Host { ns, address: Ipv4Addr::new(192, 168, 1, last), containers });
        }
        let switch = connect(&hosts)?;
        Ok(Lab { hosts, _switch: switch, _session: session })
    }
}

/// Lays the wire, and gives every host its address.
fn connect(hosts: &[Host]) -> Result<Option<NetNs>> {
    let switch = if let [first, second] = hosts {
        let peer = second.path().display();
        first.try_script(&format!("ip link add {NIC} mtu 1500 type veth peer name {NIC} mtu 1500 netns {peer}"))?;
        None
    } else {
        let switch = NetNs::anonymous("switch")?;
        switch.try_script("ip link add br0 mtu 1500 type bridge\nip link set br0 up")?;
        // A switch does not look at IP, and cuts off no padding.
        if Path::new("/proc/sys/net/bridge").exists() {
            switch.sysctl("net.bridge.bridge-nf-call-iptables", "0")?;
        }
        for host in hosts {
            let (port, nic_ns) = (host.name(), host.path().display());
            switch.try_script(&format!(
                "ip link add {port} mtu 1500 type veth peer name {NIC} mtu 1500 netns {nic_ns}
                ip link set {port} master br0 up"
            ))?;
        }
        Some(switch)
    };
    for host in hosts {
        let address = host.address;
        host.try_script(&format!("ip addr add {address}/24 dev {NIC}\nip link set {NIC} up"))?;
    }
    for ns in hosts.iter().map(|host| &host.ns).chain(&switch) {
        ns.settle()?;
    }
    Ok(switch)
}

impl Host {
    /// Of the NIC.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The container called `name`.
    ///
    /// # Panics
    /// When it is not on this host.
    #[must_use]
    #[track_caller]
    pub fn container(&self, name: &str) -> &Container {
        let found = self.containers.iter().find(|container| container.name() == name);
        found.unwrap_or_else(|| panic!("{} has no container {name}", self.name()))
    }

    /// All containers of this host.
    #[must_use]
    pub fn containers(&self) -> &[Container] {
        &self.containers
    }

    /// [`NetNs::settle`] for the host and its containers.
    ///
    /// # Errors
    /// The first's.
    pub fn settle_all(&self) -> Result<()> {
        self.containers.iter().map(|container| &container.ns).chain([&self.ns]).try_for_each(NetNs::settle)
    }

    /// Joins a container to this host by a veth, `port` here and `eth0` there, with the container's address, `mac`
    /// and `mtu`. For endpoints that the cluster file gives by `port`, and for [`KernelVxlan`](super::KernelVxlan).
    ///
    /// # Errors
    /// When either name is taken, or [`NetNs::settle`]'s.
    pub fn plug(&self, port: &str, container: &NetNs, address: &str, mac: &str, mtu: u16) -> Result<()> {
        ensure!(port.len() < libc::IFNAMSIZ, "{port} is too long for the name of an interface");
        let path = container.path().display();
        self.try_script(&format!(
            "ip link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} address {mac} netns {path}
            ip link set {port} up"
        ))?;
        container.try_script(&format!("ip addr add {address} dev eth0\nip link set eth0 up"))?;
        container.settle()?;
        self.settle()
    }
}

impl Container {
    /// The address that it is to have in its network.
    #[must_use]
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }
}

/// A host is its namespace.
impl Deref for Host {
    type Target = NetNs;

    fn deref(&self) -> &NetNs {
        &self.ns
    }
}

/// A container is its namespace.
impl Deref for Container {
    type Target = NetNs;

    fn deref(&self) -> &NetNs {
        &self.ns
    }
}
