//! Two hosts with networks of all kinds, without daemons.
//!
//! ```text
//!           node01, 192.168.1.9                      node02, 192.168.1.10
//!  4097     gindemo1, managed                        gindemo2, external
//!  4098     strict1, managed, strict                 strict2, external
//!  4099     swarm1, external, in a sandbox           swarm2, external, in a sandbox
//!  4100     external; its TTL is refused             external; its TTL is refused
//!  4101     external; on the deny list
//!  4102     later1, added to the configuration       -
//! ```
//!
//! No host sends packets by itself: IPv6 is off, and neighbours are permanent. So counters are deterministic.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use overlay_tests::{
    lab::{Cluster, Container, Host, Lab, NIC, NetNs, Network, docker_mac, private_bpffs, private_directory},
    testbed::prepare_xdp,
};

use crate::normaliser::Normaliser;

pub(crate) const MANAGED: u32 = 4097;
pub(crate) const STRICT: u32 = 4098;
pub(crate) const DISCOVERED: u32 = 4099;
pub(crate) const REFUSED: u32 = 4100;
pub(crate) const DENIED: u32 = 4101;

/// File name of a sandbox in the directory of network namespaces, like Docker's.
const SANDBOX: &str = "1-sandbox000";
const MTU: u16 = 1450;

pub(crate) struct Testbed {
    pub(crate) lab: Lab,
    /// Netns of the VXLAN device of [`DISCOVERED`] on node01 and node02.
    pub(crate) sandboxes: Vec<NetNs>,
    /// The BPF filesystem.
    pub(crate) pins: PathBuf,
    /// A private directory of the test, `/mnt`.
    pub(crate) files: PathBuf,
    pub(crate) normaliser: Normaliser,
}

impl Testbed {
    pub(crate) fn new() -> Self {
        // Threads inherit the mounts, so this comes first.
        let pins = private_bpffs().unwrap();
        let files = private_directory().unwrap();
        let lab = Lab::builder(2)
            .container(1, "strict1", [10, 0, 2, 2].into())
            .container(2, "strict2", [10, 0, 2, 6].into())
            .container(1, "swarm1", [10, 0, 3, 2].into())
            .container(2, "swarm2", [10, 0, 3, 6].into())
            .container(1, "later1", [10, 0, 4, 2].into())
            .build()
            .unwrap();
        let sandboxes =
            lab.hosts().iter().map(|host| NetNs::anonymous(&format!("sandbox of {}", host.name())).unwrap());
        let sandboxes = sandboxes.collect();
        let mut testbed = Self { lab, sandboxes, pins, files, normaliser: Normaliser::default() };
        testbed.disable_background_traffic();
        testbed.name_namespaces();
        testbed.make_networks();
        testbed
    }

    pub(crate) fn sandbox(&self, number: usize) -> &NetNs {
        &self.sandboxes[number - 1]
    }

    /// Directory of a host's network namespaces.
    pub(crate) fn netns_dir(&self, number: usize) -> PathBuf {
        self.files.join(format!("node0{number}/netns"))
    }

    /// Disables all packets that the scenario does not send.
    fn disable_background_traffic(&self) {
        let hosts = self.lab.hosts();
        let containers = hosts.iter().flat_map(|host| host.containers().iter().map(|container| &**container));
        for ns in hosts.iter().map(|host| &**host).chain(containers).chain(&self.sandboxes) {
            for which in ["all", "default"] {
                ns.sysctl(&format!("net.ipv6.conf.{which}.disable_ipv6"), "1").unwrap();
            }
        }
        for host in hosts {
            let mac = docker_mac(host.address());
            prepare_xdp(host).unwrap();
            host.run(&["ip", "link", "set", NIC, "address", &mac]);
        }
        for (host, other) in hosts.iter().zip(hosts.iter().rev()) {
            neighbour(host, NIC, other.address());
        }
    }

    /// Gives every netns a path that is the same in every run.
    fn name_namespaces(&mut self) {
        for (number, host) in (1..).zip(self.lab.hosts()) {
            let directory = self.netns_dir(number);
            fs::create_dir_all(&directory).unwrap();
            let containers = host.containers().iter().map(|container| (container.name(), &**container));
            for (name, ns) in containers.chain([(SANDBOX, &self.sandboxes[number - 1])]) {
                symlink(ns.path(), directory.join(name)).unwrap();
            }
            // The sandboxes are older than the daemon.
            let hour_ago = SystemTime::now() - Duration::from_secs(3600);
            File::open(&directory).unwrap().set_modified(hour_ago).unwrap();
            self.normaliser.add(host.inode().unwrap().to_string(), format!("<INODE {}>", host.name()));
            let inode = self.sandboxes[number - 1].inode().unwrap();
            self.normaliser.add(inode.to_string(), format!("<INODE sandbox of {}>", host.name()));
        }
        self.normaliser.add(kernel_release(), "<KERNEL>");
    }

    fn make_networks(&self) {
        let [one, two] = self.lab.hosts() else { unreachable!("two hosts") };
        Bridged { vni: MANAGED, index: 100, port: Some(two.container("gindemo2")), ..Bridged::at(two) }.create();
        Bridged { vni: STRICT, index: 110, port: Some(two.container("strict2")), ..Bridged::at(two) }.create();
        for (number, host, container) in [(1, one, "swarm1"), (2, two, "swarm2")] {
            let (sandbox, port) = (self.sandbox(number), Some(host.container(container)));
            Bridged { vni: DISCOVERED, index: 120, sandbox, port, ..Bridged::at(host) }.create();
            Bridged { vni: REFUSED, index: 130, options: "df set", ..Bridged::at(host) }.create();
        }
        Bridged { vni: DENIED, index: 140, ..Bridged::at(one) }.create();
        for (host, device, mac, vtep) in [
            (&**two, MANAGED, "02:42:0a:00:01:02", one),
            (&**two, STRICT, "02:42:0a:00:02:02", one),
            (self.sandbox(1), DISCOVERED, "02:42:0a:00:03:06", two),
            (self.sandbox(2), DISCOVERED, "02:42:0a:00:03:02", one),
            (&**one, REFUSED, "02:42:0a:00:05:06", two),
            (&**two, REFUSED, "02:42:0a:00:05:02", one),
        ] {
            let vtep = vtep.address();
            host.try_script(&format!("bridge fdb add {mac} dev vx{device} dst {vtep} self permanent")).unwrap();
        }
        neighbour(two.container("gindemo2"), "eth0", [10, 0, 1, 2].into());
        neighbour(two.container("strict2"), "eth0", [10, 0, 2, 2].into());
        neighbour(two.container("swarm2"), "eth0", [10, 0, 3, 2].into());
        neighbour(one.container("swarm1"), "eth0", [10, 0, 3, 6].into());
        self.lab.hosts().iter().for_each(|host| host.wait_for_all_devices().unwrap());
    }

    /// The configuration of node01.
    pub(crate) fn cluster(&self) -> Cluster {
        let mut cluster = Cluster { rx: Some("xdp".into()), ..Cluster::example(&self.lab) };
        let base = Network { gateway: None, ..Network::example() };
        let strict = Network { name: "strict-network".into(), vni: STRICT, subnet: "10.0.2.0/24".into(), ..base };
        cluster.networks.push(Network { strict: true, mtu: Some(1400), ..strict });
        let managed = [("gindemo", "my-overlay-network"), ("strict", "strict-network"), ("later", "later-network")];
        cluster.endpoints.retain_mut(|endpoint| {
            let network = managed.iter().find(|(prefix, _)| endpoint.name.starts_with(prefix));
            endpoint.netns = (endpoint.host == "node01").then(|| self.netns_dir(1).join(&endpoint.name));
            network.is_some_and(|(_, name)| {
                (*name).clone_into(&mut endpoint.network);
                true
            })
        });
        cluster.endpoints.retain(|endpoint| endpoint.network != "later-network");
        cluster
    }
}

/// An external network: a bridge with a VXLAN device and at most one port.
struct Bridged<'a> {
    vni: u32,
    /// Interface index of the bridge; the indices of the others follow.
    index: u32,
    host: &'a Host,
    /// Netns of the devices; the VXLAN device is created on the host.
    sandbox: &'a NetNs,
    port: Option<&'a Container>,
    /// Options of the VXLAN device.
    options: &'a str,
}

impl<'a> Bridged<'a> {
    fn at(host: &'a Host) -> Self {
        Self { vni: 0, index: 0, host, sandbox: host, port: None, options: "" }
    }

    fn create(&self) {
        let Self { vni, index, host, sandbox, options, .. } = self;
        let (device_index, port_index) = (index + 1, index + 2);
        let (local, netns) = (host.address(), sandbox.path().display());
        // Created on the host and moved: its packets must leave through the host's netns.
        host.try_script(&format!(
            "ip link add vx{vni} index {device_index} mtu {MTU} address 02:00:00:00:10:{device_index:02x} type vxlan \
             id {vni} local {local} dev {NIC} dstport 4789 nolearning {options}"
        ))
        .unwrap();
        if !std::ptr::eq(*sandbox, &**self.host) {
            host.try_script(&format!("ip link set vx{vni} netns {netns}")).unwrap();
        }
        sandbox
            .try_script(&format!(
                "ip link add br{vni} index {index} mtu {MTU} address 02:00:00:00:10:{index:02x} type bridge
                 ip link set vx{vni} master br{vni} up
                 ip link set br{vni} up"
            ))
            .unwrap();
        let Some(container) = self.port else { return };
        let (inside, mac, ip) = (container.path().display(), docker_mac(container.ip()), container.ip());
        sandbox
            .try_script(&format!(
                "ip link add p{vni} index {port_index} mtu {MTU} address 02:00:00:00:10:{port_index:02x} type veth \
                 peer name eth0 index 2 mtu {MTU} address {mac} netns {inside}
                 ip link set p{vni} master br{vni} up"
            ))
            .unwrap();
        container.try_script(&format!("ip addr add {ip}/24 dev eth0\nip link set eth0 up")).unwrap();
        // XDP delivers to a veth whose other end has GRO enabled.
        container.run(&["ethtool", "-K", "eth0", "gro", "on"]);
        container.wait_for_devices().unwrap();
        sandbox.wait_for_devices().unwrap();
    }
}

/// Adds a permanent neighbour for a container or a host.
pub(crate) fn neighbour(ns: &NetNs, device: &str, ip: Ipv4Addr) {
    let (ip, mac) = (ip.to_string(), docker_mac(ip));
    ns.run(&["ip", "neigh", "replace", &ip, "lladdr", &mac, "dev", device, "nud", "permanent"]);
}

pub(crate) fn kernel_release() -> String {
    fs::read_to_string(Path::new("/proc/sys/kernel/osrelease")).unwrap().trim().to_owned()
}
