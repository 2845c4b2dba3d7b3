//! The configuration changes under traffic.

use std::net::Ipv4Addr;

use overlay_tests::lab::{
    ClusterHost, Network, replace,
    traffic::{Ping, ping},
};
use serde_json::Value;

use overlay_tests::check::{end_lossless, interfaces, until};
use overlay_tests::testbed::{Testbed, endpoint};

fn report(setup: &Testbed, host: usize, what: &str) -> Value {
    setup.daemon(host).overlay(&[what, "--json"]).unwrap()
}

fn count(report: &Value, list: &str) -> usize {
    report[list].as_array().unwrap().len()
}

#[test]
fn endpoints_are_added_and_removed_under_traffic() {
    let setup = Testbed::with_spares().run();
    let load = setup.load(1000);
    let mut cluster = setup.cluster.clone();
    for (host, name) in [(1, "spare1"), (2, "spare2")] {
        let container = setup.lab.host(host).container(name);
        let mut entry = endpoint(name, container.ip(), setup.lab.host(host).name());
        entry.netns = Some(container.path().to_owned());
        cluster.endpoints.push(entry);
    }
    for _ in 0..3 {
        cluster.write(setup.config()).unwrap();
        for host in [1, 2] {
            until("both endpoints are added", || count(&report(&setup, host, "fdb"), "entries") == 4);
        }
        let (one, two) = (setup.lab.host(1).container("spare1"), setup.lab.host(2).container("spare2"));
        assert!(ping(one, two.ip().into(), Ping::default()).unwrap().all());
        load.wait_for(200).unwrap();
        setup.cluster.write(setup.config()).unwrap();
        for host in [1, 2] {
            until("both endpoints are removed", || count(&report(&setup, host, "fdb"), "entries") == 2);
        }
        until("the container's interface is removed", || interfaces(one) == ["lo"] && interfaces(two) == ["lo"]);
    }
    end_lossless(load);
}

#[test]
fn networks_are_added_and_removed_under_traffic() {
    let setup = Testbed::with_spares().run();
    let load = setup.load(1000);
    let mut cluster = setup.cluster.clone();
    cluster.networks.push(Network {
        name: "second".to_owned(),
        vni: 5000,
        subnet: "10.0.2.0/24".to_owned(),
        gateway: None,
        // Another UDP port changes the underlay's ports in the maps.
        port: Some(8472),
        ..Network::example()
    });
    let addresses = [Ipv4Addr::new(10, 0, 2, 3), Ipv4Addr::new(10, 0, 2, 7)];
    for (host, (name, ip)) in [(1, ("spare1", addresses[0])), (2, ("spare2", addresses[1]))] {
        let mut entry = endpoint(name, ip, setup.lab.host(host).name());
        entry.network = "second".to_owned();
        entry.netns = Some(setup.lab.host(host).container(name).path().to_owned());
        cluster.endpoints.push(entry);
    }
    for _ in 0..3 {
        cluster.write(setup.config()).unwrap();
        for host in [1, 2] {
            until("the network is added", || count(&report(&setup, host, "status"), "networks") == 2);
        }
        setup.wait_until_resolved().unwrap();
        let one = setup.lab.host(1).container("spare1");
        assert!(ping(one, addresses[1].into(), Ping::default()).unwrap().all());
        load.wait_for(200).unwrap();
        setup.cluster.write(setup.config()).unwrap();
        for host in [1, 2] {
            let host_interfaces = || interfaces(setup.lab.host(host));
            until("the network is removed", || host_interfaces().iter().all(|name| !name.contains("5000")));
        }
    }
    end_lossless(load);
}

#[test]
fn hosts_are_added_and_removed_under_traffic() {
    let setup = Testbed::two_hosts();
    let load = setup.load(1000);
    let mut cluster = setup.cluster.clone();
    // No host has this address.
    cluster.hosts.push(ClusterHost { name: "node03".to_owned(), address: [192, 168, 1, 77].into() });
    cluster.endpoints.push(endpoint("gindemo9", [10, 0, 1, 9].into(), "node03"));
    for _ in 0..3 {
        cluster.write(setup.config()).unwrap();
        until("the host is added", || count(&report(&setup, 1, "status"), "vteps") == 2);
        load.wait_for(200).unwrap();
        // Without a resolved next hop, packets take the kernel path.
        let before = setup.counts(1);
        let plan = Ping { count: 1, timeout: std::time::Duration::from_millis(50), ..Ping::default() };
        assert!(!ping(setup.first(1), [10, 0, 1, 9].into(), plan).unwrap().all());
        assert_eq!(setup.counts(1).since(&before).of("next_hop"), 1);
        setup.cluster.write(setup.config()).unwrap();
        until("the host is removed", || count(&report(&setup, 1, "status"), "vteps") == 1);
    }
    end_lossless(load);
}

#[test]
fn invalid_file_changes_nothing_and_next_valid_file_is_applied() {
    let setup = Testbed::two_hosts();
    let load = setup.load(1000);
    let good = setup.cluster.to_toml().unwrap();
    let tables = [report(&setup, 1, "fdb"), report(&setup, 1, "ports")];
    let links = interfaces(setup.lab.host(1));

    let mut overlapping = setup.cluster.clone();
    overlapping.networks.push(Network { name: "second".to_owned(), vni: 5000, ..Network::example() });
    let mut missing_netns = setup.cluster.clone();
    let mut lost = endpoint("lost", [10, 0, 1, 33].into(), "node01");
    lost.netns = Some("/run/netns/no-such-container".into());
    missing_netns.endpoints.push(lost);
    let bad =
        [good.replace("[[networks]]", "[[networks"), overlapping.to_toml().unwrap(), missing_netns.to_toml().unwrap()];
    for text in bad {
        replace(setup.config(), &text).unwrap();
        // The daemon reads the file within a second.
        std::thread::sleep(std::time::Duration::from_millis(1200));
        load.wait_for(200).unwrap();
        assert_eq!([report(&setup, 1, "fdb"), report(&setup, 1, "ports")], tables);
        assert_eq!(interfaces(setup.lab.host(1)), links);
    }

    let mut better = setup.cluster.clone();
    better.endpoints.push(endpoint("elsewhere", [10, 0, 1, 34].into(), "node02"));
    better.write(setup.config()).unwrap();
    until("the valid file is applied", || count(&report(&setup, 1, "fdb"), "entries") == 3);
    end_lossless(load);
}
