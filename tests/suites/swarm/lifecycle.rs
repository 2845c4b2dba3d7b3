//! Daemons and dockerd stop and restart without effect on traffic.

use std::time::Duration;

use overlay_tests::lab::{
    snapshot::{assert_same, network, tree},
    traffic::{Datagrams, Load, Ping, Pings, UdpFlow, ping, tcp_transfer},
};

use super::setup::{Accelerated, GINDEMO1, GINDEMO2, VNI, until};
use overlay_tests::check::assert_lossless;

/// A stream, requests and pings from gindemo1 to gindemo2 without loss.
struct Traffic {
    load: Load,
    pings: Pings,
}

impl Traffic {
    fn start(setup: &Accelerated) -> Self {
        let load = Load::start(&setup.one, &setup.two, GINDEMO2.into(), 1000).unwrap();
        Self { load, pings: Pings::start(&setup.one, GINDEMO2.into(), 56, Duration::from_millis(5)) }
    }

    /// Waits for progress of all traffic.
    fn wait_for_progress(&self) {
        self.load.wait_for(300).unwrap();
    }

    #[track_caller]
    fn finish(self) {
        let pings = self.pings.stop().unwrap();
        assert!(pings.sent > 0 && pings.lost_at.is_empty(), "pings were lost: {pings:?}");
        assert_lossless(&self.load.stop().unwrap());
    }
}

/// State of a node that a daemon can change: its netns, Docker's namespaces, and the BPF filesystem.
fn snapshot(setup: &Accelerated, number: usize) -> String {
    let node = setup.swarm.node(number);
    let namespaces = node.namespaces().unwrap();
    let all = std::iter::once(&**node.host()).chain(&namespaces);
    let mut text = tree(&node.path("/sys/fs/bpf"));
    for ns in all {
        text += &network(ns);
        text += &ns.run(&["iptables-nft-save"]);
    }
    // Without the TCX revision, which increases with attachments, and the timestamps and counters of iptables.
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.contains(": TCX revision"));
    let without_counters = lines.map(|line| match line.split_once(" [") {
        Some((chain, _)) if chain.starts_with(':') => chain,
        _ => line,
    });
    without_counters.map(|line| format!("{line}\n")).collect()
}

#[test]
fn daemon_lifecycle_on_swarm_loses_no_packet_and_leaves_nothing() {
    let mut setup = Accelerated::without_daemons(2);
    setup.ping_both_ways();
    let traffic = Traffic::start(&setup);
    let before = [1, 2].map(|node| snapshot(&setup, node));
    for node in [1, 2] {
        setup.start_daemon(node);
    }
    setup.warm_up();
    setup.by_fast_path(300, 300, || traffic.wait_for_progress());

    for node in [1, 2] {
        setup.daemon_mut(node).kill9().unwrap();
    }
    setup.by_fast_path(300, 300, || traffic.wait_for_progress());
    for node in [1, 2] {
        setup.daemon_mut(node).restart().unwrap();
    }
    setup.by_fast_path(300, 300, || traffic.wait_for_progress());

    for node in [1, 2] {
        setup.down(node);
    }
    let before_kernel = setup.sandbox(1).vxlan_packets().unwrap();
    traffic.wait_for_progress();
    assert!(setup.sandbox(1).vxlan_packets().unwrap() > before_kernel + 300, "packets take the kernel path again");
    for node in [1, 2] {
        assert_same(&before[node - 1], &snapshot(&setup, node));
    }
    traffic.finish();
}

#[test]
fn node_without_daemon_interoperates_with_accelerated_node() {
    let setup = Accelerated::start(2, &[1]);
    let before = setup.counts(1);
    let traffic = Traffic::start(&setup);
    let bytes = 20_000_001;
    for (from, to, ip) in [(&setup.one, &setup.two, GINDEMO2), (&setup.two, &setup.one, GINDEMO1)] {
        tcp_transfer(from, to, ip.into(), bytes).unwrap();
    }
    traffic.finish();
    let counts = setup.counts(1).since(&before);
    let packets = bytes / 1450;
    assert!(counts.of("encap") > packets && counts.received() > packets, "{counts:?}");
    assert!(counts.vxlan <= 8 + counts.of("encap") / 1000, "{counts:?}");
}

#[test]
fn removed_network_and_killed_dockerd_interrupt_no_connection() {
    let setup = Accelerated::start(2, &[1, 2]);
    let swarm = &setup.swarm;
    let traffic = Traffic::start(&setup);

    swarm.network("second", "10.0.2.0/24", &[]).unwrap();
    let ips = [[10, 0, 2, 2].into(), [10, 0, 2, 6].into()];
    for node in [1, 2] {
        swarm.container(node, &format!("second{node}"), "second", ips[node - 1]).unwrap();
    }
    let from = swarm.node(1).container("second1").unwrap();
    until("second2 answers", || ping(&from, ips[1].into(), Ping::default()).unwrap().received > 0);
    setup.wait_for_map(1, VNI + 1, ips[1], 2);
    let flow = UdpFlow::requests(&from, (ips[1], 9).into(), Datagrams::steady(500)).unwrap();
    for node in [1, 2] {
        swarm.node(node).docker(&["rm", "--force", &format!("second{node}")]).unwrap();
    }
    swarm.remove_network("second").unwrap();
    let _ = flow.stop();
    drop(from);
    for node in [1, 2] {
        until("the network is removed", || {
            let status = setup.daemon(node).overlay(&["status", "--json"]).unwrap();
            let networks = status["networks"].as_array().unwrap();
            setup.fdb(node, VNI + 1).is_empty() && !networks.iter().any(|row| row["vni"] == VNI + 1)
        });
    }

    swarm.node(2).kill_dockerd().unwrap();
    setup.by_fast_path(600, 600, || (0..2).for_each(|_| traffic.wait_for_progress()));
    traffic.finish();
    for node in [1, 2] {
        let status = setup.daemon(node).overlay(&["status", "--json"]).unwrap();
        assert_eq!((&status["ready"], status["daemon"].is_null()), (&true.into(), false), "{status}");
    }
}
