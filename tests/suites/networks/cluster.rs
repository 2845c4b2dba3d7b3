//! Three hosts with an etcd cluster.

use std::{
    net::Ipv4Addr,
    ops::{Deref, DerefMut},
    thread,
    time::{Duration, Instant},
};

use overlay_tests::lab::{
    StoreCluster, overlay_binary, private_bpffs,
    traffic::{Datagrams, Ping, UdpFlow, ping, tcp_transfer},
};
use overlay_user::testing::{apply::Maps, plan::Tables};
use serde_json::Value;

use crate::setup::ok;
use overlay_tests::check::{assert_lossless, until};

/// Seconds of the nodes' leases in these tests.
const LEASE: u64 = 4;

/// Three hosts and an etcd cluster of three members.
struct Cluster(StoreCluster);

impl Deref for Cluster {
    type Target = StoreCluster;

    fn deref(&self) -> &StoreCluster {
        &self.0
    }
}

impl DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut StoreCluster {
        &mut self.0
    }
}

impl Cluster {
    fn start() -> Self {
        let pins = private_bpffs().unwrap();
        Self(StoreCluster::start(&overlay_binary().unwrap(), &pins, 3, LEASE).unwrap())
    }

    fn json(&self, host: usize, words: &[&str]) -> Value {
        self.0.query(host, words).unwrap()
    }

    /// Adds the endpoint `cN` of network `blue` on host N.
    fn add(&self, host: usize) {
        let path = self.container(host).path().to_str().unwrap().to_owned();
        let name = format!("c{host}");
        ok(&self.daemons[host - 1].output(&["endpoint", "add", "blue", &name, "--netns", &path, "--json"]).unwrap());
    }

    fn tables(&self, host: usize) -> Tables {
        Maps::open(self.daemons[host - 1].pin_root()).unwrap().read().unwrap()
    }

    /// Number of remote endpoints in the maps of a host.
    fn remote(&self, host: usize) -> usize {
        self.0.remote(host).unwrap()[0]
    }

    fn wait_for_remote(&self, what: &str, remote: usize) {
        for host in 1..=3 {
            until(&format!("{what}: node0{host}"), || self.0.remote(host).unwrap() == [remote; 3]);
        }
    }

    fn wait_until_resolved(&self) {
        for host in 1..=3 {
            until("next hops are resolved", || self.tables(host).vteps.values().all(|vtep| vtep.resolved != 0));
        }
    }

    /// A network `blue` with an endpoint on every host: 10.0.0.2, .3 and .4.
    fn with_endpoints() -> Self {
        let cluster = Self::start();
        cluster.json(1, &["network", "create", "blue"]);
        (1..=3).for_each(|host| {
            until("the network is listed", || cluster.json(host, &["network", "ls"])["networks"][0]["name"] == "blue");
            cluster.add(host);
        });
        cluster.wait_for_remote("all endpoints", 2);
        cluster.wait_until_resolved();
        cluster
    }

    fn flow(&self, from: usize, to: usize) -> UdpFlow {
        let last = u8::try_from(to + 1).unwrap();
        let address = Ipv4Addr::new(10, 0, 0, last);
        assert!(ping(self.container(from), address.into(), Ping::default()).unwrap().all());
        let flow =
            UdpFlow::start(self.container(from), self.container(to), address.into(), Datagrams::steady(500)).unwrap();
        flow.wait_for(100).unwrap();
        flow
    }
}

#[test]
fn endpoints_of_three_hosts_use_fast_path() {
    let cluster = Cluster::with_endpoints();
    for (from, to) in [(1, 2), (2, 3), (3, 1)] {
        let address = Ipv4Addr::new(10, 0, 0, u8::try_from(to + 1).unwrap());
        assert!(ping(cluster.container(from), address.into(), Ping::default()).unwrap().all());
        let before = cluster.daemons[from - 1].packets("encap").unwrap();
        tcp_transfer(cluster.container(from), cluster.container(to), address.into(), 1_000_001).unwrap();
        assert!(cluster.daemons[from - 1].packets("encap").unwrap() >= before + 600);
    }
    let network = cluster.json(2, &["network", "inspect", "blue"]);
    assert_eq!((network["containers"].as_array().unwrap().len(), network["peers"].as_array().unwrap().len()), (3, 3));

    // Time from the end of a command on one host to the update of another host's maps.
    let mut times = Vec::new();
    for _ in 0..10 {
        for (present, words) in [(false, &["endpoint", "rm", "blue", "c2"][..]), (true, &[])] {
            if present {
                cluster.add(2);
            } else {
                cluster.json(2, words);
            }
            let start = Instant::now();
            until("the other host follows", || (cluster.remote(1) == 2) == present);
            times.push(start.elapsed());
        }
    }
    times.sort();
    println!("from command to another host's maps: median {:?}, slowest {:?}", times[10], times[19]);
    // The target is 100 ms; a busy machine takes longer.
    assert!(times[10] < Duration::from_secs(1), "{times:?}");
    cluster.json(3, &["network", "rm", "blue", "--force"]);
    cluster.wait_for_remote("nothing", 0);
    for host in 1..=3 {
        until("the endpoints are removed", || cluster.tables(host).ports.is_empty());
    }
}

#[test]
fn crashed_node_is_withdrawn_after_its_lease_and_returns() {
    let mut cluster = Cluster::with_endpoints();
    // A restart within the lease changes nothing.
    let flow = cluster.flow(1, 2);
    cluster.daemons[1].kill9().unwrap();
    cluster.daemons[1].restart().unwrap();
    let end = Instant::now() + Duration::from_secs(LEASE + 2);
    while Instant::now() < end {
        assert_eq!(cluster.remote(1), 2, "no entry is removed");
        thread::sleep(Duration::from_millis(20));
    }
    assert_lossless(&flow.stop());

    cluster.daemons[1].kill9().unwrap();
    until("node02 is withdrawn", || cluster.0.remote(1).unwrap() == [1; 3]);
    let nodes = cluster.json(1, &["node", "ls"]);
    let two = nodes["nodes"].as_array().unwrap().iter().find(|node| node["name"] == "node02").unwrap().clone();
    assert_eq!((&two["alive"], &two["endpoints"]), (&false.into(), &1.into()), "the store keeps the endpoint");
    cluster.daemons[1].restart().unwrap();
    until("node02 is back", || cluster.0.remote(1).unwrap() == [2; 3]);
    let log = cluster.daemons[0].log();
    let count = |line: &str| log.matches(line).count();
    assert_eq!(
        (count("node node02 is gone: "), count("node node02 has rejoined"), count("is rejected")),
        (1, 1, 0),
        "{log}"
    );
}

/// Two hosts without etcd for longer than the lease keep forwarding.
#[test]
fn etcd_outage_keeps_traffic_fails_writes_and_marks_reads_stale() {
    let cluster = Cluster::with_endpoints();
    let flow = cluster.flow(1, 2);
    for client in &cluster.clients[..2] {
        cluster.etcd.connect(client, false).unwrap();
    }
    until("the third host withdraws both", || cluster.remote(3) == 0);
    thread::sleep(Duration::from_secs(LEASE));
    assert_eq!((cluster.remote(1), cluster.remote(2)), (2, 2), "the known entries stay");
    let output = cluster.daemons[0].output(&["network", "create", "red"]).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cannot be reached"), "{stderr}");
    let list = cluster.json(1, &["endpoint", "ls"]);
    assert_eq!(list["endpoints"].as_array().unwrap().len(), 3);
    assert_eq!(list["store"]["reachable"], false, "{list}");
    assert!(list["store"]["age_ms"].as_u64().unwrap() >= 1000, "{list}");
    assert!(cluster.json(1, &["status"])["control"]["problems"][0]["problem"].is_string());

    for client in &cluster.clients[..2] {
        cluster.etcd.connect(client, true).unwrap();
    }
    cluster.wait_for_remote("all endpoints", 2);
    until("etcd is reachable again", || cluster.json(1, &["network", "ls"])["store"]["reachable"] == true);
    let log = cluster.daemons[0].log();
    let count = |line: &str| log.matches(line).count();
    assert_eq!(
        (count("the running state is unchanged"), count("the store is reachable again"), count("is rejected")),
        (1, 1, 0),
        "{log}"
    );
    assert_lossless(&flow.stop());
    assert_eq!(cluster.json(3, &["network", "ls"])["networks"].as_array().unwrap().len(), 1, "`red` was not created");
}

/// A permanently lost host is removed, and its node registers again without endpoints.
#[test]
fn node_rm_removes_failed_node() {
    let mut cluster = Cluster::with_endpoints();
    let refused = |cluster: &Cluster, words: &[&str], part: &str| {
        let output = cluster.daemons[0].output(words).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(part), "{stderr}");
    };
    refused(&cluster, &["node", "rm", "node02"], "is alive");
    refused(&cluster, &["node", "rm", "node01"], "is the node of this daemon");
    refused(&cluster, &["node", "rm", "node09"], "node09");
    cluster.daemons[1].kill9().unwrap();
    until("node02 is withdrawn", || cluster.0.remote(1).unwrap() == [1; 3]);
    refused(&cluster, &["node", "rm", "node02"], "1 endpoint");
    let removed = cluster.json(1, &["node", "rm", "node02", "--force"]);
    assert_eq!((&removed["removed"], &removed["endpoints"]), (&"node02".into(), &1.into()));
    assert_eq!(cluster.json(1, &["node", "ls"])["nodes"].as_array().unwrap().len(), 2);
    assert_eq!(cluster.json(1, &["endpoint", "ls"])["endpoints"].as_array().unwrap().len(), 2);
    let keys = cluster.etcd.ctl(&["get", "--prefix", "--keys-only", "/overlay"]).unwrap();
    assert!(!keys.contains("node02") && !keys.contains("192.168.1.10") && !keys.contains("/c2"), "{keys}");
    // Its daemon registers the node again, without endpoints.
    cluster.daemons[1].restart().unwrap();
    until("node02 is back", || cluster.json(1, &["node", "ls"])["nodes"].as_array().unwrap().len() == 3);
}

/// A command during a crash of the etcd leader succeeds, or fails and leaves nothing.
#[test]
fn commands_survive_crash_of_etcd_leader() {
    let mut cluster = Cluster::start();
    cluster.json(1, &["network", "create", "first"]);
    let leader = cluster.etcd.leader().unwrap();
    let mut done = vec!["first".to_owned()];
    for number in 0..12 {
        if number == 2 {
            cluster.etcd.kill(leader).unwrap();
        }
        let name = format!("n{number:02}");
        let output = cluster.daemons[number % 3].output(&["network", "create", &name, "--json"]).unwrap();
        match output.status.code() {
            Some(0) => done.push(name),
            code => {
                let stderr = String::from_utf8(output.stderr).unwrap();
                assert_eq!(code, Some(1), "{stderr}");
                assert!(stderr.contains("cannot be reached"), "{stderr}");
            }
        }
    }
    assert!(done.len() > 8, "two members serve: {done:?}");
    for host in 1..=3 {
        until("all hosts list the networks", || {
            let list = cluster.json(host, &["network", "ls"]);
            let names: Vec<_> =
                list["networks"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap().to_owned()).collect();
            done.iter().all(|name| names.contains(name))
        });
    }
    let list = cluster.json(1, &["network", "ls"]);
    let vnis: std::collections::BTreeSet<_> =
        list["networks"].as_array().unwrap().iter().map(|network| network["vni"].as_u64()).collect();
    assert_eq!(vnis.len(), list["networks"].as_array().unwrap().len(), "the VNIs are distinct");
}
