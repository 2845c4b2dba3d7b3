//! The Swarm with one network, a container of it on each node, and a daemon on each node.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use overlay_tests::{
    check::{Counts, until_within},
    lab::{
        BPFFS, Daemon, NetNs, docker_mac, overlay_binary,
        swarm::{Sandbox, Swarm},
        traffic::{Ping, ping},
    },
};
use serde_json::Value;

pub(crate) const NETWORK: &str = "my-overlay-network";
/// Docker gives its second network this; the first one is the ingress mesh's.
pub(crate) const VNI: u64 = 4097;
pub(crate) const GINDEMO1: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
pub(crate) const GINDEMO2: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 6);

/// How long the maps may differ from the kernel's tables after those have changed.
pub(crate) const LAG: Duration = Duration::from_secs(1);

/// A Swarm, its daemons, and the namespaces of the first two containers.
pub(crate) struct Accelerated {
    // First: the daemons end while their nodes are there.
    daemons: Vec<(usize, Daemon)>,
    pub(crate) one: NetNs,
    pub(crate) two: NetNs,
    pub(crate) swarm: Swarm,
}

impl Accelerated {
    /// `my-overlay-network` with gindemo1 on node01 and gindemo2 on node02, a daemon on each of `accelerated`, and
    /// everything known that there is to know.
    pub(crate) fn start(nodes: u8, accelerated: &[usize]) -> Self {
        let mut setup = Self::plain(nodes);
        accelerated.iter().for_each(|node| setup.start_daemon(*node));
        setup.warm_up();
        setup
    }

    /// Without daemons.
    pub(crate) fn plain(nodes: u8) -> Self {
        let swarm = Swarm::up(nodes).unwrap();
        swarm.network(NETWORK, "10.0.1.0/24", &[]).unwrap();
        swarm.container(1, "gindemo1", NETWORK, GINDEMO1).unwrap();
        swarm.container(2, "gindemo2", NETWORK, GINDEMO2).unwrap();
        let [one, two] = [1, 2].map(|node| swarm.node(node).container(&format!("gindemo{node}")).unwrap());
        let setup = Self { daemons: Vec::new(), one, two, swarm };
        setup.wait_for_kernel(1, GINDEMO2, 2);
        setup.wait_for_kernel(2, GINDEMO1, 1);
        setup
    }

    /// Starts `overlay run --discover` on a node as an operator would, with its defaults.
    pub(crate) fn start_daemon(&mut self, node: usize) {
        let arguments = ["--discover"];
        let pins = format!("{BPFFS}/overlay");
        let place = self.swarm.node(node);
        let daemon = Daemon::start_with(&overlay_binary().unwrap(), place, &arguments, pins.as_ref()).unwrap();
        self.daemons.push((node, daemon));
    }

    /// Waits until the daemons know both containers, and pings both ways.
    pub(crate) fn warm_up(&self) {
        // A third node has no container, and so no sandbox.
        let nodes: Vec<usize> = self.daemons.iter().map(|(node, _)| *node).filter(|node| *node <= 2).collect();
        // A silent container is learned from its first frame.
        self.ping_both_ways();
        for node in nodes {
            for (ip, home) in [(GINDEMO1, 1), (GINDEMO2, 2)] {
                self.wait_for_map(node, VNI, ip, home);
            }
        }
        self.ping_both_ways();
    }

    pub(crate) fn ping_both_ways(&self) {
        for (from, to) in [(&self.one, GINDEMO2), (&self.two, GINDEMO1)] {
            assert!(ping(from, to.into(), Ping::default()).unwrap().all(), "{} to {to}", from.name());
        }
    }

    /// Waits until the kernel of `node` knows that the endpoint is behind `home`.
    #[track_caller]
    pub(crate) fn wait_for_kernel(&self, node: usize, ip: Ipv4Addr, home: usize) {
        let (mac, there) = (docker_mac(ip), Some(self.swarm.node(home).address()));
        until(&format!("node0{node}'s kernel has {ip} behind node0{home}"), || {
            self.sandbox(node).vtep_of(&mac).unwrap() == there
        });
    }

    /// Waits until the map of `node` says that the endpoint is behind `home`.
    #[track_caller]
    pub(crate) fn wait_for_map(&self, node: usize, vni: u64, ip: Ipv4Addr, home: usize) {
        let address = self.swarm.node(home).address().to_string();
        until(&format!("node0{node}'s map has {ip} behind node0{home}"), || {
            let row = self.fdb(node, vni).remove(&docker_mac(ip));
            row.is_some_and(|row| if home == node { row["device"].is_string() } else { row["vtep"] == address })
        });
    }

    /// Rows of a node's map `OVL_FDB` of one network, by MAC address.
    pub(crate) fn fdb(&self, node: usize, vni: u64) -> BTreeMap<String, Value> {
        let report = self.daemon(node).overlay(&["fdb", "--json"]).unwrap();
        let rows = report["entries"].as_array().unwrap().iter().filter(|row| row["vni"] == vni);
        rows.map(|row| (row["mac"].as_str().unwrap().to_owned(), row.clone())).collect()
    }

    pub(crate) fn sandbox(&self, node: usize) -> Sandbox {
        self.swarm.node(node).sandbox(NETWORK).unwrap()
    }

    pub(crate) fn daemon(&self, node: usize) -> &Daemon {
        &self.daemons.iter().find(|(number, _)| *number == node).expect("its daemon was started").1
    }

    pub(crate) fn daemon_mut(&mut self, node: usize) -> &mut Daemon {
        &mut self.daemons.iter_mut().find(|(number, _)| *number == node).expect("its daemon was started").1
    }

    /// `overlay down` on a node.
    pub(crate) fn down(&mut self, node: usize) {
        let index = self.daemons.iter().position(|(number, _)| *number == node).expect("its daemon was started");
        self.daemons.remove(index).1.down().unwrap();
    }

    /// What the programs and the kernel's VXLAN devices of a node have carried so far.
    pub(crate) fn counts(&self, node: usize) -> Counts {
        let sandboxes = self.swarm.node(node).sandboxes().unwrap();
        let vxlan = sandboxes.iter().map(|sandbox| sandbox.vxlan_packets().unwrap()).sum();
        Counts::read(self.daemon(node), vxlan)
    }

    /// Calls `traffic`, of which at least 99.9 % has to go by the fast path of both nodes: at least `there` packets from
    /// node01 to node02 and `back` the other way, all but one in a thousand of all that the nodes carry.
    #[track_caller]
    pub(crate) fn by_fast_path<T>(&self, there: u64, back: u64, traffic: impl FnOnce() -> T) -> T {
        let before = [1, 2].map(|node| self.counts(node));
        let result = traffic();
        let [one, two] = [1, 2].map(|node| self.counts(node).since_perhaps_without_devices(&before[node - 1]));
        let said = format!("{there} there, {back} back\nnode01 {one:?}\nnode02 {two:?}");
        let most = |packets: u64| packets - packets / 1000;
        assert!(one.of("encap") >= most(there) && two.received() >= most(there), "{said}");
        assert!(two.of("encap") >= most(back) && one.received() >= most(back), "{said}");
        for counts in [one, two] {
            // ARP goes by the kernel, and is asked again every now and then.
            let fast = counts.of("encap") + counts.received();
            assert!(counts.vxlan <= 8 + fast / 1000, "by the kernel\n{said}");
            assert_eq!(counts.of("unfinished"), 0, "{said}");
        }
        result
    }
}

/// Waits until `condition` is true; what takes longer than 60 s is not going to happen, on an emulated machine neither.
#[track_caller]
pub(crate) fn until(what: &str, condition: impl FnMut() -> bool) {
    until_within(Duration::from_secs(60), what, condition);
}
