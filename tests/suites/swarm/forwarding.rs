//! Traffic between containers of a Swarm takes the fast path.

use std::{net::Ipv4Addr, time::Duration};

use overlay_tests::lab::{
    docker_mac,
    traffic::{Datagrams, Ping, ping, tcp_transfer, udp_transfer},
};

use super::setup::{Accelerated, GINDEMO1, GINDEMO2, NETWORK, VNI, until};

#[test]
fn traffic_of_two_swarm_networks_uses_fast_path() {
    let setup = Accelerated::start(2, &[1, 2]);
    let ends = [(&setup.one, &setup.two, GINDEMO2), (&setup.two, &setup.one, GINDEMO1)];
    setup.by_fast_path(2000, 2000, || {
        for (from, _, to) in ends {
            let plan = Ping { count: 1000, interval: Duration::from_millis(1), ..Ping::default() };
            assert!(ping(from, to.into(), plan).unwrap().all());
        }
    });
    let bytes = 100_000_001;
    setup.by_fast_path(bytes / 1450, bytes / 1450, || {
        for (from, to, ip) in ends {
            tcp_transfer(from, to, ip.into(), bytes).unwrap();
        }
    });
    let plan = Datagrams { count: 20_000, per_second: Some(20_000), ..Datagrams::default() };
    setup.by_fast_path(plan.count, plan.count, || {
        for (from, to, ip) in ends {
            let got = udp_transfer(from, to, ip.into(), plan).unwrap();
            assert_eq!((got.datagrams, got.received, got.reordered()), (plan.count, plan.count, 0), "{got:?}");
        }
    });

    second_network(&setup);
    status_names_the_networks(&setup);
}

/// A second network has another VNI, and cannot reach the first one.
fn second_network(setup: &Accelerated) {
    let swarm = &setup.swarm;
    swarm.network("second", "10.0.2.0/24", &[]).unwrap();
    let ips: [Ipv4Addr; 2] = [[10, 0, 2, 2].into(), [10, 0, 2, 6].into()];
    swarm.container(1, "second1", "second", ips[0]).unwrap();
    swarm.container(2, "second2", "second", ips[1]).unwrap();
    let vni = u64::from(swarm.node(1).sandbox("second").unwrap().fdb().unwrap().unwrap().vni);
    assert_eq!(vni, VNI + 1);
    let [one, two] = [1, 2].map(|node| swarm.node(node).container(&format!("second{node}")).unwrap());
    until("second2 answers", || ping(&one, ips[1].into(), Ping::default()).unwrap().received > 0);
    for node in [1, 2] {
        setup.wait_for_map(node, vni, ips[0], 1);
        setup.wait_for_map(node, vni, ips[1], 2);
    }
    let networks = |node| {
        let report = setup.daemon(node).overlay(&["counters", "--json"]).unwrap();
        let row = report["networks"].as_array().unwrap().iter().find(|row| row["vni"] == vni).unwrap().clone();
        ["tx", "rx"].map(|direction| row[direction]["packets"].as_u64().unwrap())
    };
    let before = [1, 2].map(networks);
    let bytes = 20_000_001;
    setup.by_fast_path(bytes / 1450, 0, || tcp_transfer(&one, &two, ips[1].into(), bytes).unwrap());
    let after = [1, 2].map(networks);
    assert!(after[0][0] - before[0][0] >= bytes / 1450, "{before:?} {after:?}");
    assert!(after[1][1] - before[1][1] >= bytes / 1450, "{before:?} {after:?}");
    assert!(!ping(&one, GINDEMO2.into(), Ping::default()).is_ok_and(|replies| replies.received > 0));
}

fn status_names_the_networks(setup: &Accelerated) {
    let status = setup.daemon(1).overlay(&["status", "--json"]).unwrap();
    let rows = status["networks"].as_array().unwrap();
    for (name, vni) in [(NETWORK, VNI), ("second", VNI + 1)] {
        let row = rows.iter().find(|row| row["vni"] == vni).unwrap_or_else(|| panic!("no {vni} in {status}"));
        assert_eq!(row["name"], name, "{status}");
    }
}

#[test]
fn tasks_of_scaled_service_use_fast_path() {
    let setup = Accelerated::start(2, &[1, 2]);
    let swarm = &setup.swarm;
    swarm.service("demo", NETWORK, 1).unwrap();
    swarm.wait_for_tasks("demo", 1).unwrap();
    for replicas in [5, 1] {
        swarm.scale("demo", replicas).unwrap();
        let tasks = swarm.tasks("demo").unwrap();
        let tasks = tasks.iter().map(|(node, task)| (*node, swarm.node(*node).container_ip(task, NETWORK).unwrap()));
        let tasks: Vec<_> = tasks.collect();
        for (location, ip) in &tasks {
            until("the task answers", || ping(&setup.one, (*ip).into(), Ping::default()).unwrap().received > 0);
            setup.wait_for_map(1, VNI, *ip, *location);
            setup.wait_for_map(2, VNI, *ip, *location);
        }
        let pings = 200;
        let remote = tasks.iter().filter(|(location, _)| *location == 2).count() as u64;
        let plan = Ping { count: pings, interval: Duration::from_millis(1), ..Ping::default() };
        setup.by_fast_path(remote * u64::from(pings), remote * u64::from(pings), || {
            for (_, ip) in &tasks {
                assert!(ping(&setup.one, (*ip).into(), plan).unwrap().all(), "{ip}");
            }
        });
        // The maps contain only the MACs of running tasks.
        let present = setup.fdb(1, VNI).into_keys().filter(|mac| tasks.iter().any(|(_, ip)| docker_mac(*ip) == *mac));
        assert_eq!(present.count(), tasks.len());
    }
    until("the entries of removed tasks are gone", || {
        let kernel = setup.sandbox(1).fdb().unwrap().unwrap();
        let map = setup.fdb(1, VNI);
        let remote: Vec<_> = map.iter().filter(|(_, row)| row["vtep"].is_string()).map(|(mac, _)| mac).collect();
        kernel.remote.keys().collect::<Vec<_>>() == remote
    });
}
