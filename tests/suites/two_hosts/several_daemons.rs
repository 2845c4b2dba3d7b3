//! Several daemons on one machine: separate ones work, conflicting ones are refused.

use overlay_tests::lab::{Cluster, Daemon, Endpoint, Lab, Network};

use overlay_tests::check::interfaces;
use overlay_tests::testbed::Testbed;

#[test]
fn second_daemon_at_same_pin_root_is_refused() {
    let setup = Testbed::two_hosts();
    let status = || {
        let mut status = setup.daemon(1).overlay(&["status", "--json"]).unwrap();
        // Packet counters and the deadline change by themselves.
        for part in ["networks", "heartbeat"] {
            status[part].take();
        }
        status
    };
    let before = status();
    let (code, stderr) = Daemon::refused(setup.lab.host(1), setup.config(), &setup.pin_root(1)).unwrap();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&format!("(pid {})", before["daemon"])), "{stderr}");
    assert_eq!(status(), before);
    setup.ping_both_ways();
}

#[test]
fn pin_root_of_another_host_is_refused() {
    let mut setup = Testbed::new(Lab::two_hosts());
    setup.start(1).unwrap();
    let before = interfaces(setup.lab.host(2));
    let (code, stderr) = Daemon::refused(setup.lab.host(2), setup.config(), &setup.pin_root(1)).unwrap();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("belongs to another network namespace"), "{stderr}");
    assert_eq!(interfaces(setup.lab.host(2)), before);
    let setup = setup.run();
    setup.ping_both_ways();
}

#[test]
fn second_daemon_with_same_networks_is_refused() {
    let setup = Testbed::two_hosts();
    let before = interfaces(setup.lab.host(1));
    let other = setup.pin_root(3);
    let (code, stderr) = Daemon::refused(setup.lab.host(1), setup.config(), &other).unwrap();
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("ovlbr4097 belongs to another overlay daemon"), "{stderr}");
    assert!(!other.exists());
    assert_eq!(interfaces(setup.lab.host(1)), before);
    setup.ping_both_ways();
}

/// A cluster of the same two hosts with another network, which contains `spare1` and `spare2`.
fn second_cluster(setup: &Testbed, vni: u32) -> Cluster {
    let network = Network {
        name: "second".to_owned(),
        vni,
        subnet: "10.0.2.0/24".to_owned(),
        gateway: None,
        ..Network::example()
    };
    let endpoints = [(1, "spare1", [10, 0, 2, 3]), (2, "spare2", [10, 0, 2, 7])].map(|(host, name, ip)| Endpoint {
        netns: Some(setup.lab.host(host).container(name).path().to_owned()),
        ..Endpoint::new("second", name, ip.into(), setup.lab.host(host).name())
    });
    Cluster { networks: vec![network], endpoints: endpoints.into(), ..setup.cluster.clone() }
}

#[test]
fn second_cluster_with_same_vni_is_refused() {
    let setup = Testbed::with_spares().run();
    let config = setup.config().with_file_name("second.toml");
    second_cluster(&setup, 4097).write(&config).unwrap();
    let (code, stderr) = Daemon::refused(setup.lab.host(1), &config, &setup.pin_root(3)).unwrap();
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("ovlbr4097 belongs to another overlay daemon"), "{stderr}");
    setup.ping_both_ways();
}

#[test]
fn two_daemons_on_one_host_serve_separate_networks() {
    use overlay_tests::lab::traffic::{Ping, ping};
    let setup = Testbed::with_spares().run();
    let config = setup.config().with_file_name("second.toml");
    second_cluster(&setup, 5000).write(&config).unwrap();
    let other_daemons =
        [1, 2].map(|host| Daemon::start(setup.lab.host(host), &config, &setup.pin_root(host + 2)).unwrap());
    let spare = [1, 2].map(|host| setup.lab.host(host).container(&format!("spare{host}")));
    let to = [10, 0, 2, 7].into();
    overlay_tests::check::until("the other network takes the fast path of its daemon", || {
        let before = other_daemons[0].packets("encap").unwrap();
        ping(spare[0], to, Ping::default()).unwrap().all() && other_daemons[0].packets("encap").unwrap() >= before + 5
    });
    assert!(other_daemons[1].packets("decap").unwrap() >= 5);
    setup.ping_both_ways();
    drop(other_daemons);
    assert_eq!(interfaces(spare[1]), ["lo"]);
    setup.ping_both_ways();
}
