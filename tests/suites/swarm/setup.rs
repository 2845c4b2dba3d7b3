//! A Swarm with one network, and a container and a daemon on each node.

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
/// Docker's second VNI; the first one belongs to the ingress network.
pub(crate) const VNI: u64 = 4097;
pub(crate) const GINDEMO1: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
pub(crate) const GINDEMO2: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 6);

/// Maximum delay from a change of the kernel's tables to the maps.
pub(crate) const LAG: Duration = Duration::from_secs(1);

/// A Swarm, its daemons, and the namespaces of the first two containers.
pub(crate) struct Accelerated {
    // Dropped first: the daemons stop before their nodes are removed.
    daemons: Vec<(usize, Daemon)>,
    pub(crate) one: NetNs,
    pub(crate) two: NetNs,
    pub(crate) swarm: Swarm,
}

impl Accelerated {
    /// `my-overlay-network` with gindemo1 on node01 and gindemo2 on node02, and a daemon with converged maps on each
    /// node of `accelerated`.
    pub(crate) fn start(nodes: u8, accelerated: &[usize]) -> Self {
        let mut setup = Self::without_daemons(nodes);
        accelerated.iter().for_each(|node| setup.start_daemon(*node));
        setup.warm_up();
        setup
    }

    /// Without daemons.
    pub(crate) fn without_daemons(nodes: u8) -> Self {
        Self::on(Swarm::up(nodes).unwrap(), |_| ())
    }

    /// Without daemons on a Swarm; `prepare` is called between the creation of the network and its first container.
    pub(crate) fn on(swarm: Swarm, prepare: impl FnOnce(&Swarm)) -> Self {
        swarm.network(NETWORK, "10.0.1.0/24", &[]).unwrap();
        prepare(&swarm);
        swarm.container(1, "gindemo1", NETWORK, GINDEMO1).unwrap();
        swarm.container(2, "gindemo2", NETWORK, GINDEMO2).unwrap();
        let [one, two] = [1, 2].map(|node| swarm.node(node).container(&format!("gindemo{node}")).unwrap());
        let setup = Self { daemons: Vec::new(), one, two, swarm };
        setup.wait_for_kernel(1, GINDEMO2, 2);
        setup.wait_for_kernel(2, GINDEMO1, 1);
        setup
    }

    /// Starts `overlay run --discover` on a node with default options.
    pub(crate) fn start_daemon(&mut self, node: usize) {
        let arguments = ["--discover"];
        let pins = format!("{BPFFS}/overlay");
        let host = self.swarm.node(node);
        let daemon = Daemon::start_with(&overlay_binary().unwrap(), host, &arguments, pins.as_ref()).unwrap();
        self.daemons.push((node, daemon));
    }

    /// Waits until the maps have both containers, and pings both ways.
    pub(crate) fn warm_up(&self) {
        // The third node has no container, so no sandbox.
        let nodes: Vec<usize> = self.daemons.iter().map(|(node, _)| *node).filter(|node| *node <= 2).collect();
        // The bridge learns a container from its first frame.
        self.ping_both_ways();
        for node in nodes {
            for (ip, location) in [(GINDEMO1, 1), (GINDEMO2, 2)] {
                self.wait_for_map(node, VNI, ip, location);
            }
        }
        self.ping_both_ways();
    }

    pub(crate) fn ping_both_ways(&self) {
        for (from, to) in [(&self.one, GINDEMO2), (&self.two, GINDEMO1)] {
            assert!(ping(from, to.into(), Ping::default()).unwrap().all(), "{} to {to}", from.name());
        }
    }

    /// Waits until the kernel FDB of `node` has the endpoint behind `location`.
    #[track_caller]
    pub(crate) fn wait_for_kernel(&self, node: usize, ip: Ipv4Addr, location: usize) {
        let (mac, vtep) = (docker_mac(ip), Some(self.swarm.node(location).address()));
        until(&format!("node0{node}'s kernel has {ip} behind node0{location}"), || {
            self.sandbox(node).vtep_of(&mac).unwrap() == vtep
        });
    }

    /// Waits until the map of `node` has the endpoint behind `location`.
    #[track_caller]
    pub(crate) fn wait_for_map(&self, node: usize, vni: u64, ip: Ipv4Addr, location: usize) {
        let address = self.swarm.node(location).address().to_string();
        until(&format!("node0{node}'s map has {ip} behind node0{location}"), || {
            let row = self.fdb(node, vni).remove(&docker_mac(ip));
            row.is_some_and(|row| if location == node { row["device"].is_string() } else { row["vtep"] == address })
        });
    }

    /// Entries of one network in a node's `OVL_FDB`, by MAC address.
    pub(crate) fn fdb(&self, node: usize, vni: u64) -> BTreeMap<String, Value> {
        let report = self.daemon(node).overlay(&["fdb", "--json"]).unwrap();
        let rows = report["entries"].as_array().unwrap().iter().filter(|row| row["vni"] == vni);
        rows.map(|row| (row["mac"].as_str().unwrap().to_owned(), row.clone())).collect()
    }

    pub(crate) fn sandbox(&self, node: usize) -> Sandbox {
        self.swarm.node(node).sandbox(NETWORK).unwrap()
    }

    pub(crate) fn daemon(&self, node: usize) -> &Daemon {
        &self.daemons.iter().find(|(number, _)| *number == node).expect("the node has a daemon").1
    }

    pub(crate) fn daemon_mut(&mut self, node: usize) -> &mut Daemon {
        &mut self.daemons.iter_mut().find(|(number, _)| *number == node).expect("the node has a daemon").1
    }

    /// `overlay down` on a node.
    pub(crate) fn down(&mut self, node: usize) {
        let index = self.daemons.iter().position(|(number, _)| *number == node).expect("the node has a daemon");
        self.daemons.remove(index).1.down().unwrap();
    }

    /// Packet counts of the programs and of the kernel's VXLAN devices of a node.
    pub(crate) fn counts(&self, node: usize) -> Counts {
        let sandboxes = self.swarm.node(node).sandboxes().unwrap();
        let vxlan = sandboxes.iter().map(|sandbox| sandbox.vxlan_packets().unwrap()).sum();
        Counts::read(self.daemon(node), vxlan)
    }

    /// Calls `traffic`: at least 99.9 % of its packets must take the fast path of both nodes, `there` from node01 to
    /// node02 and `back` in the other direction.
    #[track_caller]
    pub(crate) fn by_fast_path<T>(&self, there: u64, back: u64, traffic: impl FnOnce() -> T) -> T {
        let before = [1, 2].map(|node| self.counts(node));
        let result = traffic();
        let [one, two] = [1, 2].map(|node| self.counts(node).since_ignoring_removed_devices(&before[node - 1]));
        let counted = format!("{there} there, {back} back\nnode01 {one:?}\nnode02 {two:?}");
        let most = |packets: u64| packets - packets / 1000;
        assert!(one.of("encap") >= most(there) && two.received() >= most(there), "{counted}");
        assert!(two.of("encap") >= most(back) && one.received() >= most(back), "{counted}");
        for counts in [one, two] {
            // ARP takes the kernel path and is repeated.
            let fast = counts.of("encap") + counts.received();
            assert!(counts.vxlan <= 8 + fast / 1000, "kernel path\n{counted}");
            assert_eq!(counts.of("unfinished"), 0, "{counted}");
        }
        result
    }
}

/// Waits until `condition` is true, at most 60 s, which suffices on an emulated machine.
#[track_caller]
pub(crate) fn until(what: &str, condition: impl FnMut() -> bool) {
    until_within(Duration::from_secs(60), what, condition);
}
