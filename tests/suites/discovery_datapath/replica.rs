//! Two nodes with networks like Docker's, and their daemons in this process.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use overlay_common::{MacAddr, Vni, VtepAddr};
use overlay_tests::{
    check::{Counts, device_packets, links, until},
    lab::{
        Cluster, Container, Host, Lab, NetNs, docker_mac, private_bpffs,
        traffic::{Ping, ping},
    },
    tables::{self, Expected},
    testbed::prepare_xdp,
};
use overlay_user::testing::{
    apply::TcFlavour,
    daemon::{AuditMode, Auditor, DEADLINE, Daemon, Missing, Options, down},
    model::{Admission, External, ExternalPort, Kind, NetnsRef, Network, Rx, Tunnel},
    observe::{AuditReport, Snapshot},
    sources::{Discovered, InitialState, Source, SourceResult, Update},
};
use tokio::{
    runtime,
    sync::{oneshot, watch},
};

pub(crate) const VNI: u32 = 4097;
const MTU: u16 = 1450;

/// Packets on the kernel path without traffic: neighbour discovery, MLD reports.
const STRAY: u64 = 20;

/// Location of the network 10.0.2.0/24.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Second {
    /// It does not exist.
    None,
    /// In the first network's sandbox.
    Together,
    /// In another sandbox.
    Apart,
}

/// Configuration of the nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The VXLAN device, the bridge and the ports are in a sandbox, not in the host's netns.
    pub(crate) sandboxed: bool,
    pub(crate) rx: Rx,
    pub(crate) flavour: Option<TcFlavour>,
    pub(crate) second: Second,
}

impl Default for Plan {
    fn default() -> Self {
        Self { sandboxed: true, rx: Rx::Tc, flavour: None, second: Second::None }
    }
}

/// Two connected nodes, private to the test.
pub(crate) struct Replica {
    // Dropped first: the daemons stop before their hosts are removed.
    pub(crate) nodes: Vec<Node>,
    pub(crate) lab: Lab,
}

/// One node.
pub(crate) struct Node {
    running: Option<Running>,
    pub(crate) host: Host,
    /// Netns of the bridge.
    pub(crate) sandbox: NetNs,
    /// Netns of the second network.
    second: Option<NetNs>,
    pins: PathBuf,
    plan: Plan,
    /// Discovery results for the daemon.
    pub(crate) updates: watch::Sender<Discovered>,
}

/// Source of the discovery results.
struct UpdateSource(watch::Receiver<Discovered>);

impl Source for UpdateSource {
    async fn next(&mut self) -> SourceResult {
        match self.0.changed().await {
            Ok(()) => Ok(Update::Discovered(self.0.borrow_and_update().clone())),
            Err(_) => std::future::pending().await,
        }
    }
}

struct Running {
    auditor: Auditor,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// The VXLAN device of a discovered network.
pub(crate) fn device(network: &mut Network) -> &mut External {
    match &mut network.kind {
        Kind::Bridged(external) => Arc::make_mut(external),
        kind => panic!("{kind:?}"),
    }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

impl Replica {
    /// The running example on two nodes, without daemons.
    pub(crate) fn new(plan: Plan) -> Self {
        Self::with(Lab::two_hosts(), plan)
    }

    /// Two networks, with a container on each node.
    pub(crate) fn two_networks(plan: Plan) -> Self {
        let lab = Lab::builder(2).container(1, "gindemo3", [10, 0, 2, 2].into());
        Self::with(lab.container(2, "gindemo4", [10, 0, 2, 6].into()).build().unwrap(), plan)
    }

    pub(crate) fn with(lab: Lab, plan: Plan) -> Self {
        // Threads inherit the mounts, so this comes first.
        let pins = private_bpffs().unwrap();
        if plan.rx == Rx::Xdp {
            lab.hosts().iter().for_each(|host| prepare_xdp(host).unwrap());
        }
        let mut nodes = Vec::new();
        for host in lab.hosts() {
            let sandbox = if plan.sandboxed { NetNs::anonymous("sandbox").unwrap() } else { (**host).clone() };
            let updates = watch::channel(Discovered::default()).0;
            let pins = pins.join(host.name());
            let second = match plan.second {
                Second::None => None,
                Second::Together => Some(sandbox.clone()),
                Second::Apart => Some(NetNs::anonymous("second sandbox").unwrap()),
            };
            nodes.push(Node { running: None, host: host.clone(), sandbox, second, pins, plan, updates });
        }
        let replica = Self { nodes, lab };
        for node in &replica.nodes {
            node.make_network(replica.lab.hosts());
        }
        replica.ping_both_ways();
        replica
    }

    /// Starts the daemons of both nodes, and waits until traffic takes the fast path.
    pub(crate) fn run(mut self) -> Self {
        for number in [1, 2] {
            self.start(number);
        }
        self.wait_until_fast();
        self
    }

    /// Starts the daemon of one node with the discovered networks.
    pub(crate) fn start(&mut self, number: usize) {
        let found = self.found(number);
        let node = &mut self.nodes[number - 1];
        node.updates.send_replace(found);
        node.start();
    }

    /// Waits until both directions take the fast path of every node with a daemon.
    pub(crate) fn wait_until_fast(&self) {
        for (number, node) in (1..).zip(&self.nodes).filter(|(_, node)| node.running.is_some()) {
            until("both directions take the fast path", || {
                let before = node.counts();
                let replies = ping(self.first(number), self.first(3 - number).ip().into(), Ping::default()).unwrap();
                let counts = node.counts().since(&before);
                replies.all() && counts.of("encap") >= 5 && counts.received() >= 5
            });
        }
    }

    /// Waits until the kernel's objects and the maps of every node with a daemon are as expected.
    #[track_caller]
    pub(crate) fn wait_until_converged(&self) {
        for (number, _) in (1..).zip(&self.nodes).filter(|(_, node)| node.running.is_some()) {
            self.expected(number, &self.cluster(number)).wait(Duration::from_secs(20)).unwrap();
        }
    }

    /// The configuration of a node: no managed network.
    pub(crate) fn cluster(&self, number: usize) -> Cluster {
        let rx = if self.node(number).plan.rx == Rx::Xdp { "xdp" } else { "tc" };
        Cluster { rx: Some(rx.to_owned()), networks: Vec::new(), endpoints: Vec::new(), ..Cluster::example(&self.lab) }
    }

    /// The expected state of a node.
    pub(crate) fn expected<'a>(&'a self, number: usize, cluster: &'a Cluster) -> Expected<'a> {
        let node = self.node(number);
        Expected {
            lab: &self.lab,
            host: self.lab.host(number),
            pin_root: node.pins.clone(),
            cluster,
            external: node.networks().map(|(number, sandbox)| node.external(number, sandbox)).collect(),
            deadline: Some(DEADLINE),
            clsact: node.plan.flavour == Some(TcFlavour::Clsact),
        }
    }

    /// Discovery result of a node.
    pub(crate) fn found(&self, number: usize) -> Discovered {
        self.nodes[number - 1].found(self.lab.hosts())
    }

    pub(crate) fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// The first container of a node.
    pub(crate) fn first(&self, number: usize) -> &Container {
        &self.lab.host(number).containers()[0]
    }

    #[track_caller]
    pub(crate) fn ping_both_ways(&self) {
        for (from, to) in [(1, 2), (2, 1)] {
            let replies = ping(self.first(from), self.first(to).ip().into(), Ping::default()).unwrap();
            assert!(replies.all(), "{from} to {to}: {replies:?}");
        }
    }
}

impl Node {
    fn address(&self) -> Ipv4Addr {
        self.host.address()
    }

    /// Creates the networks as Docker does: the VXLAN device is created in the host's netns and moved.
    pub(crate) fn make_network(&self, hosts: &[Host]) {
        for (number, sandbox) in self.networks() {
            self.make_devices(number, sandbox);
            for (mac, ip, vtep) in others(hosts, self.address(), number) {
                sandbox
                    .try_script(&format!(
                        "bridge fdb replace {mac} dev vxlan{number} dst {vtep} self permanent
                        ip neigh replace {ip} lladdr {mac} dev vxlan{number} nud permanent"
                    ))
                    .unwrap();
            }
            sandbox.wait_for_devices().unwrap();
        }
    }

    /// Number and netns of the networks: 10.0.1.0/24 is number 0.
    fn networks(&self) -> impl Iterator<Item = (u8, &NetNs)> {
        std::iter::once((0, &self.sandbox)).chain(self.second.iter().map(|second| (1, second)))
    }

    fn make_devices(&self, number: u8, sandbox: &NetNs) {
        let (vni, path) = (VNI + u32::from(number), sandbox.path().display());
        self.host
            .try_script(&format!(
                "ip link add vxlan{number} mtu {MTU} type vxlan id {vni} dstport 4789 \
                 learning proxy l2miss l3miss udpcsum"
            ))
            .unwrap();
        if self.plan.sandboxed {
            self.host.try_script(&format!("ip link set vxlan{number} netns {path}")).unwrap();
        }
        sandbox
            .try_script(&format!(
                "ip link add br{number} mtu {MTU} type bridge
                ip link set vxlan{number} master br{number} up
                ip link set br{number} up"
            ))
            .unwrap();
        let containers = self.host.containers().iter().enumerate();
        let containers = containers.filter(|(_, container)| network_of(container.ip()) == number);
        for (position, (index, container)) in containers.enumerate() {
            // Ports in different sandboxes have the same interface indices.
            let ifindex = 100 + if self.plan.second == Second::Apart { position } else { index };
            let (inside, mac, ip) = (container.path().display(), docker_mac(container.ip()), container.ip());
            sandbox
                .try_script(&format!(
                    "ip link add veth{index} index {ifindex} mtu {MTU} type veth peer name eth0 mtu {MTU} address {mac} netns {inside}
                    ip link set veth{index} master br{number} up"
                ))
                .unwrap();
            container.try_script(&format!("ip addr add {ip}/24 dev eth0\nip link set eth0 up")).unwrap();
            if self.plan.rx == Rx::Xdp {
                container.run(&["ethtool", "-K", "eth0", "gro", "on"]);
            }
            container.wait_for_devices().unwrap();
        }
    }

    /// A network, for the oracle.
    fn external(&self, number: u8, sandbox: &NetNs) -> tables::External {
        let containers = self.host.containers().iter().enumerate();
        let containers = containers.filter(|(_, container)| network_of(container.ip()) == number);
        let ports = containers
            .map(|(index, container)| (format!("veth{index}"), MacAddr::from_ipv4(container.ip().octets())))
            .collect();
        tables::External { netns: sandbox.clone(), device: format!("vxlan{number}"), ports }
    }

    fn found(&self, hosts: &[Host]) -> Discovered {
        let networks = self.networks().map(|(number, sandbox)| Network {
            vni: Vni::new(VNI + u32::from(number)).ok(),
            name: None,
            port: 4789,
            underlay: Some(self.address().into()),
            kind: Kind::Bridged(Arc::new(self.found_device(number, sandbox, hosts))),
            admission: Admission::Accelerated,
        });
        Discovered { networks: Arc::new(networks.collect()), ..Discovered::default() }
    }

    fn found_device(&self, number: u8, sandbox: &NetNs, hosts: &[Host]) -> External {
        let mut ports = BTreeMap::new();
        for link in links(sandbox) {
            let Some(index) = link["ifname"].as_str().and_then(|name| name.strip_prefix("veth")) else { continue };
            let container = &self.host.containers()[index.parse::<usize>().unwrap()];
            if network_of(container.ip()) != number {
                continue;
            }
            let port = ExternalPort {
                name: format!("veth{index}"),
                mac: Some(MacAddr::from_ipv4(container.ip().octets())),
                container: None,
                redirect_peer: true,
                xdp: self.plan.rx == Rx::Xdp,
                finding: None,
            };
            ports.insert(u32::try_from(link["ifindex"].as_u64().unwrap()).unwrap(), port);
        }
        let netns = if self.plan.sandboxed {
            NetnsRef::Other { path: sandbox.path().into(), inode: sandbox.inode().unwrap() }
        } else {
            NetnsRef::Own
        };
        let remote: BTreeMap<_, _> =
            others(hosts, self.address(), number).map(|(mac, _, vtep)| (mac, VtepAddr::from(vtep))).collect();
        let device = format!("vxlan{number}");
        let link = links(sandbox).into_iter().find(|link| link["ifname"] == *device).unwrap();
        let mac = link["address"].as_str().unwrap().parse().unwrap();
        External {
            mtu: MTU,
            // As of the device, whose namespace has the default `ip_local_port_range`.
            tunnel: Tunnel {
                source_ports: (32_768, 60_999),
                udp_checksum: true,
                learns: true,
                mac,
                ..Tunnel::default()
            },
            netns,
            device,
            ports,
            peers: remote.values().copied().collect::<BTreeSet<_>>(),
            remote,
            refusal: None,
        }
    }

    /// Starts the daemon with the last discovery result.
    pub(crate) fn start(&mut self) {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let options = Options {
            pin_root: self.pins.clone(),
            flavour: self.plan.flavour,
            missing: Missing::Refused,
            rx: self.plan.rx,
            deadline: Some(DEADLINE),
        };
        let mut source = UpdateSource(self.updates.subscribe());
        let thread = self.host.spawn(move || {
            block_on(async move {
                let first = InitialState { cluster: None, found: source.0.borrow_and_update().clone() };
                let mut daemon = Daemon::start(&options, first).await.unwrap();
                ready.send(daemon.auditor()).unwrap();
                daemon.run(&mut source, async { drop(stopped.await) }).await.unwrap();
            });
        });
        let auditor = is_ready.blocking_recv().expect("the daemon starts");
        self.running = Some(Running { auditor, stop, thread });
    }

    /// `overlay audit`.
    pub(crate) fn audit(&self, mode: AuditMode) -> AuditReport {
        let Running { auditor, .. } = self.running.as_ref().expect("the daemon runs");
        block_on(auditor.audit(mode)).unwrap()
    }

    /// Stops the daemon; the data path stays.
    pub(crate) fn end(&mut self) {
        let Running { stop, thread, .. } = self.running.take().expect("the daemon runs");
        stop.send(()).unwrap();
        thread.join().unwrap();
    }

    /// `overlay down`.
    pub(crate) fn down(&mut self) {
        // The daemon ends first: `down` sends SIGTERM to the daemon's process, which is this one.
        self.end();
        self.host.enter(|| block_on(down(&self.pins)).unwrap());
        assert!(!self.pins.exists());
    }

    pub(crate) fn pins(&self) -> &Path {
        &self.pins
    }

    /// Names of the pinned links.
    pub(crate) fn hooks(&self) -> Vec<String> {
        let links = self.host.enter(|| std::fs::read_dir(self.pins.join("links")).unwrap().collect::<Vec<_>>());
        let mut names: Vec<_> =
            links.into_iter().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The loaded data path.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.host.enter(|| block_on(Snapshot::read(&self.pins))).unwrap()
    }

    pub(crate) fn counts(&self) -> Counts {
        let report = self.snapshot().counters();
        let reasons = report.reasons.iter().map(|row| (row.reason.to_owned(), row.amount.packets));
        Counts::new(reasons, device_packets(&self.sandbox, "vxlan0"))
    }

    /// Calls `traffic`: at least `sent` packets out and `received` packets in must take the fast path, at most
    /// [`STRAY`] the kernel path, and none is dropped.
    #[track_caller]
    pub(crate) fn by_fast_path<T>(&self, sent: u64, received: u64, traffic: impl FnOnce() -> T) -> T {
        let before = self.counts();
        let result = traffic();
        let counts = self.counts().since(&before);
        assert!(counts.of("encap") >= sent && counts.received() >= received, "{sent} and {received}: {counts:?}");
        assert!(counts.vxlan <= STRAY, "kernel path: {counts:?}");
        for reason in ["unfinished", "shim_in"] {
            assert_eq!(counts.of(reason), 0, "{counts:?}");
        }
        result
    }
}

/// MAC address, IP address and VTEP of a network's containers on other nodes.
fn others(hosts: &[Host], local: Ipv4Addr, network: u8) -> impl Iterator<Item = (MacAddr, Ipv4Addr, Ipv4Addr)> {
    let hosts = hosts.iter().filter(move |host| host.address() != local);
    let containers = hosts.flat_map(|host| host.containers().iter().map(|container| (host.address(), container.ip())));
    containers
        .filter(move |(_, ip)| network_of(*ip) == network)
        .map(|(vtep, ip)| (MacAddr::from_ipv4(ip.octets()), ip, vtep))
}

/// The number of the network that a container is in.
fn network_of(ip: Ipv4Addr) -> u8 {
    ip.octets()[2] - 1
}
