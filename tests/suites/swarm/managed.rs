//! A managed network between containers of Docker, on hosts whose FORWARD policy is to drop.

use overlay_tests::{
    check::{Counts, assert_lossless, device_packets},
    lab::{
        BPFFS, Cluster, ClusterHost, Daemon, Endpoint, Network, firewall, overlay_binary,
        swarm::{IMAGE, Node, Swarm},
        traffic::Load,
    },
};
use serde_json::Value;

use super::setup::{GINDEMO1, GINDEMO2, until};

/// Seconds: long enough for a daemon on a busy machine to extend the deadline in time.
const DEADLINE: &str = "5";

/// Why the network takes the kernel path.
fn finding(daemon: &Daemon) -> Option<Value> {
    let report = daemon.overlay(&["status", "--json"]).unwrap();
    Some(report["networks"][0]["finding"].clone()).filter(|finding| !finding.is_null())
}

fn counts(node: &Node, daemon: &Daemon) -> Counts {
    Counts::read(daemon, device_packets(node.host(), "ovlvx"))
}

#[test]
fn managed_network_beside_docker_keeps_connections_past_deadline_with_printed_rules() {
    let swarm = Swarm::up(2).unwrap();
    let network = Network::example();
    let mut cluster = Cluster { networks: vec![network.clone()], ..Cluster::default() };
    for (node, ip) in swarm.nodes().iter().zip([GINDEMO1, GINDEMO2]) {
        // As dockerd does on a host where it enables forwarding; the lab has enabled it before.
        for command in ["iptables", "ip6tables"] {
            node.run(&[command, "-P", "FORWARD", "DROP"]).unwrap();
        }
        node.docker(&["run", "--detach", "--name", "demo", "--network", "none", IMAGE, "sleep", "1000000"]).unwrap();
        let container = node.query("/containers/demo/json").unwrap();
        let netns = container["NetworkSettings"]["SandboxKey"].as_str().unwrap().into();
        let endpoint = Endpoint::new(&network.name, "demo", ip, node.name());
        cluster.hosts.push(ClusterHost { name: node.name().to_owned(), address: node.address() });
        cluster.endpoints.push(Endpoint { name: node.name().to_owned(), netns: Some(netns), ..endpoint });
    }
    let start = |node: &Node| {
        cluster.write(&node.path("/run/cluster.toml")).unwrap();
        let arguments = ["--config", "/run/cluster.toml", "--deadline", DEADLINE];
        Daemon::start_with(&overlay_binary().unwrap(), node, &arguments, format!("{BPFFS}/overlay").as_ref()).unwrap()
    };
    let mut daemons: Vec<Daemon> = swarm.nodes().iter().map(start).collect();

    for (node, daemon) in swarm.nodes().iter().zip(&daemons) {
        let commands = firewall::commands(&finding(daemon).expect("the network is accelerated"));
        let docker_user = "iptables -I DOCKER-USER -i ovlbr4097 -o ovlbr4097 -j ACCEPT";
        assert!(commands.iter().any(|command| command == docker_user), "{commands:?}");
        for command in &commands {
            node.run(&command.split(' ').collect::<Vec<_>>()).unwrap();
        }
        until("the network is accelerated", || finding(daemon).is_none());
    }

    let [one, two] = [1, 2].map(|node| swarm.node(node).container("demo").unwrap());
    let load = Load::start(&one, &two, GINDEMO2.into(), 500).unwrap();
    let before = counts(swarm.node(1), &daemons[0]);
    load.wait_for(300).unwrap();
    let fast = counts(swarm.node(1), &daemons[0]).since(&before);
    assert!(fast.of("encap") >= 300 && fast.received() >= 300, "{fast:?}");

    daemons.iter_mut().for_each(|daemon| daemon.kill9().unwrap());
    for daemon in &daemons {
        until("the deadline has expired", || {
            daemon.overlay(&["status", "--json"]).unwrap()["heartbeat"]["expired"] == true
        });
    }
    let before = counts(swarm.node(1), &daemons[0]);
    load.wait_for(300).unwrap();
    let slow = counts(swarm.node(1), &daemons[0]).since(&before);
    assert!(slow.of("encap") == 0 && slow.vxlan >= 600, "{slow:?}");
    assert_lossless(&load.stop().unwrap());
}
