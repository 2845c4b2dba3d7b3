//! Hosts, their containers, and the wire between the hosts.

use std::{env, net::Ipv4Addr, ops::Deref, path::Path};

use anyhow::{Context, Result, bail, ensure};

use super::{NetNs, Session};

/// The NIC of every host.
pub const NIC: &str = "enp0s3";

/// Environment variable: the number of queues of every NIC, each way. Received packets are distributed to all CPUs.
const QUEUES: &str = "OVERLAY_LAB_QUEUES";

/// Environment variable: the kind of the NICs instead of a veth, `vlan`, `bond` or `vrf`.
const KIND: &str = "OVERLAY_LAB_NIC";

/// Hosts on one underlay, each with its containers.
///
/// Two hosts are connected by one veth, both ends of which are called [`NIC`]; more hosts by a bridge in a separate
/// namespace, as are two hosts [`with_switch`](LabBuilder::with_switch). Containers are empty namespaces: the daemon or the test creates their interfaces.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    // The bridge between more than two hosts.
    switch: Option<NetNs>,
    // Last field: names are removed after daemons and sockets.
    _session: Option<Session>,
}

/// A host: a network namespace with a NIC.
#[derive(Clone, Debug)]
pub struct Host {
    ns: NetNs,
    address: Ipv4Addr,
    containers: Vec<Container>,
}

/// A container: a network namespace and its planned address.
#[derive(Clone, Debug)]
pub struct Container {
    ns: NetNs,
    ip: Ipv4Addr,
}

/// The kind of the NICs of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nic {
    /// A veth.
    Veth,
    /// A VLAN on a veth.
    Vlan,
    /// A bond of two veths, one of which is active. Their names are `wire1` and `wire2`.
    Bond,
    /// A veth in a VRF, whose name is `vrf7`.
    Vrf,
}

impl Nic {
    /// The kind that the environment sets.
    fn of_environment() -> Result<Self> {
        match env::var(KIND).as_deref() {
            Err(_) => Ok(Self::Veth),
            Ok("vlan") => Ok(Self::Vlan),
            Ok("bond") => Ok(Self::Bond),
            Ok("vrf") => Ok(Self::Vrf),
            Ok(other) => bail!("{KIND}: unknown kind {other}"),
        }
    }

    /// The veths of a host.
    fn wires(self) -> &'static [&'static str] {
        match self {
            Self::Veth | Self::Vrf => &[NIC],
            Self::Vlan => &["wire1"],
            Self::Bond => &["wire1", "wire2"],
        }
    }

    /// Commands that create the NIC.
    fn script(self) -> &'static str {
        match self {
            Self::Veth => "",
            Self::Vlan => {
                "ip link set wire1 up
                ip link add link wire1 name enp0s3 mtu 1500 type vlan id 7"
            }
            Self::Bond => {
                "ip link add enp0s3 mtu 1500 type bond mode active-backup miimon 10
                ip link set wire1 master enp0s3
                ip link set wire2 master enp0s3"
            }
            Self::Vrf => {
                "ip link add vrf7 type vrf table 7
                ip link set vrf7 up
                ip link set enp0s3 master vrf7"
            }
        }
    }
}

/// Plan of a [`Lab`].
#[derive(Debug)]
pub struct LabBuilder {
    /// Containers of each host.
    hosts: Vec<Vec<(String, Ipv4Addr)>>,
    session: Option<Session>,
    with_switch: bool,
    /// `None`: as the environment sets.
    nic: Option<Nic>,
}

impl Lab {
    /// The running example: node01 (192.168.1.9) with gindemo1 (10.0.1.2), node02 (192.168.1.10) with gindemo2
    /// (10.0.1.6), in anonymous namespaces.
    ///
    /// # Panics
    /// When [`LabBuilder::build`] returns an error.
    #[must_use]
    pub fn two_hosts() -> Self {
        Self::builder(2).build().unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// `count` hosts from node01, with addresses from 192.168.1.9. Host `node0N` has the container `gindemoN`, with
    /// addresses from 10.0.1.2 in steps of 4.
    #[must_use]
    pub fn builder(count: u8) -> LabBuilder {
        let container = |index: u8| (format!("gindemo{}", index + 1), Ipv4Addr::new(10, 0, 1, 2 + 4 * index));
        LabBuilder {
            hosts: (0..count).map(|index| vec![container(index)]).collect(),
            session: None,
            with_switch: false,
            nic: None,
        }
    }

    /// The `number`th host, from 1.
    ///
    /// # Panics
    /// When there is no such host.
    #[must_use]
    #[track_caller]
    pub fn host(&self, number: usize) -> &Host {
        number.checked_sub(1).and_then(|index| self.hosts.get(index)).expect("the lab has this host")
    }

    /// All hosts, in the order of their numbers.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The namespace of the bridge `br0`, whose ports have the names of the hosts; `None`: a veth connects two hosts.
    pub(super) fn switch(&self) -> Option<&NetNs> {
        self.switch.as_ref()
    }
}

impl LabBuilder {
    /// Adds a container to the `number`th host, from 1. Its name must be unique in the lab, its address need not.
    ///
    /// # Panics
    /// When there is no such host.
    #[must_use]
    #[track_caller]
    pub fn container(mut self, number: usize, name: &str, ip: Ipv4Addr) -> Self {
        self.hosts[number - 1].push((name.to_owned(), ip));
        self
    }

    /// Creates namespaces with names below `/run/netns` instead of anonymous ones.
    #[must_use]
    pub fn named(mut self, session: Session) -> Self {
        self.session = Some(session);
        self
    }

    /// Connects two hosts by a bridge, too.
    #[must_use]
    pub fn with_switch(mut self) -> Self {
        self.with_switch = true;
        self
    }

    /// Sets the kind of the NICs.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nic = Some(nic);
        self
    }

    /// Creates the lab.
    ///
    /// # Errors
    /// Without root, when `ip` is missing, or when a name is in use. Created objects are removed.
    pub fn build(self) -> Result<Lab> {
        let Self { hosts: plan, mut session, with_switch, nic } = self;
        let host_name = |index: usize| format!("node{:02}", index + 1);
        if let Some(session) = &session {
            let containers = plan.iter().flatten().map(|(name, _)| name.clone());
            session.ensure_free((0..plan.len()).map(host_name).chain(containers))?;
        }
        let mut create = |name: &str| match &mut session {
            Some(session) => session.create(name),
            None => NetNs::anonymous(name),
        };
        let mut hosts = Vec::new();
        for (index, containers) in plan.into_iter().enumerate() {
            let last = u8::try_from(9 + index).context("too many hosts")?;
            let ns = create(&host_name(index))?;
            let containers = containers
                .into_iter()
                .map(|(name, ip)| Ok(Container { ns: create(&name)?, ip }))
                .collect::<Result<_>>()?;
            hosts.push(Host { ns, address: Ipv4Addr::new(192, 168, 1, last), containers });
        }
        let switch = connect(&hosts, nic.map_or_else(Nic::of_environment, Ok)?, with_switch)?;
        Ok(Lab { hosts, switch, _session: session })
    }
}

/// Connects the hosts and sets their addresses.
fn connect(hosts: &[Host], nic: Nic, with_switch: bool) -> Result<Option<NetNs>> {
    let queues = match env::var(QUEUES) {
        Ok(count) => format!("numtxqueues {count} numrxqueues {count}"),
        Err(_) => String::new(),
    };
    let switch = if let [first, second] = hosts
        && !with_switch
    {
        let peer = second.path().display();
        for wire in nic.wires() {
            first.try_script(&format!(
                "ip link add {wire} mtu 1500 {queues} type veth peer name {wire} mtu 1500 {queues} netns {peer}"
            ))?;
        }
        None
    } else {
        let switch = NetNs::anonymous("switch")?;
        switch.try_script("ip link add br0 mtu 1500 type bridge\nip link set br0 up")?;
        // Otherwise the bridge validates IP headers and trims padding.
        if Path::new("/proc/sys/net/bridge").exists() {
            switch.sysctl("net.bridge.bridge-nf-call-iptables", "0")?;
        }
        for host in hosts {
            let (port, nic_ns) = (host.name(), host.path().display());
            for (index, wire) in nic.wires().iter().enumerate() {
                switch.try_script(&format!(
                    "ip link add {port}-{index} mtu 1500 type veth peer name {wire} mtu 1500 {queues} netns {nic_ns}
                    ip link set {port}-{index} master br0 up"
                ))?;
            }
        }
        Some(switch)
    };
    for host in hosts {
        let address = host.address;
        host.try_script(nic.script())?;
        host.try_script(&format!("ip addr add {address}/24 dev {NIC}\nip link set {NIC} up"))?;
        if !queues.is_empty() {
            spread_over_cpus(host, nic.wires())?;
        }
    }
    for ns in hosts.iter().map(|host| &host.ns).chain(&switch) {
        ns.wait_for_devices()?;
    }
    Ok(switch)
}

/// Distributes the packets that each queue receives to all CPUs, by flow (RPS).
fn spread_over_cpus(host: &Host, devices: &[&str]) -> Result<()> {
    let cpus = std::thread::available_parallelism()?.get();
    let mask = format!("{:x}", (1_u128 << cpus) - 1);
    for device in devices {
        // A new sysfs has the devices of the network namespace.
        let script = format!(
            "mount -t sysfs sysfs /sys && for file in /sys/class/net/{device}/queues/rx-*/rps_cpus; do \
             echo {mask} >$file || exit; done"
        );
        host.try_run(&["unshare", "--mount", "sh", "-c", &script])?;
    }
    Ok(())
}

impl Host {
    /// Address of the NIC.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The container called `name`.
    ///
    /// # Panics
    /// When the container is not on this host.
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

    /// [`NetNs::wait_for_devices`] for the host and its containers.
    ///
    /// # Errors
    /// The first error.
    pub fn wait_for_all_devices(&self) -> Result<()> {
        self.containers.iter().map(|container| &container.ns).chain([&self.ns]).try_for_each(NetNs::wait_for_devices)
    }

    /// Connects a container to this host with a veth: `port` on the host, `eth0` in the container, with `address`,
    /// `mac` and `mtu`. For endpoints with `port` in the cluster file, and for [`KernelVxlan`](super::KernelVxlan).
    ///
    /// # Errors
    /// When one of the names is in use, and as [`NetNs::wait_for_devices`].
    pub fn plug(&self, port: &str, container: &NetNs, address: &str, mac: &str, mtu: u16) -> Result<()> {
        ensure!(port.len() < libc::IFNAMSIZ, "interface name {port} is too long");
        let path = container.path().display();
        self.try_script(&format!(
            "ip link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} address {mac} netns {path}
            ip link set {port} up"
        ))?;
        container.try_script(&format!("ip addr add {address} dev eth0\nip link set eth0 up"))?;
        container.wait_for_devices()?;
        self.wait_for_devices()
    }
}

impl Container {
    /// Planned address in the overlay network.
    #[must_use]
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }
}

/// A host dereferences to its namespace.
impl Deref for Host {
    type Target = NetNs;

    fn deref(&self) -> &NetNs {
        &self.ns
    }
}

/// A container dereferences to its namespace.
impl Deref for Container {
    type Target = NetNs;

    fn deref(&self) -> &NetNs {
        &self.ns
    }
}
