//! The fast path switches frames between containers of one host.

use overlay_tests::lab::{
    Lab, NetNs, docker_mac,
    traffic::{Datagrams, Ping, ping, tcp_transfer, udp_transfer},
};

use overlay_tests::testbed::{GINDEMO1, Testbed, endpoint};

/// Pings, streams and datagrams in both directions, which node01 counts as `reason`.
fn exchange(setup: &Testbed, (from, to): (&NetNs, &NetNs), addresses: [std::net::Ipv4Addr; 2], reason: &str) {
    // The first ping resolves ARP by the kernel path.
    assert!(ping(from, addresses[1].into(), Ping::default()).unwrap().all());
    let before = setup.counts(1);
    for (from, to, address) in [(from, to, addresses[1]), (to, from, addresses[0])] {
        assert!(ping(from, address.into(), Ping::default()).unwrap().all());
        tcp_transfer(from, to, address.into(), 20_000_001).unwrap();
        for (size, gso) in [(0, false), (64, false), (1422, false), (4000, false), (1000, true)] {
            let plan = Datagrams { size, count: 64, per_second: Some(5000), gso, ..Datagrams::default() };
            let got = udp_transfer(from, to, address.into(), plan).unwrap();
            assert_eq!((got.datagrams, got.bytes), (64, 64 * size as u64), "{size} {gso}: {got:?}");
        }
    }
    let counts = setup.counts(1).since(&before);
    assert!(counts.of(reason) > 2 * (20_000_001 / 1448), "{counts:?}");
    assert_eq!(counts.of("unknown_mac"), 0, "{counts:?}");
    assert!(counts.vxlan <= 12, "{counts:?}");
}

/// node01 with gindemo1 and gindemo3, 10.0.1.3.
fn lab() -> Lab {
    Lab::builder(2).container(1, "gindemo3", [10, 0, 1, 3].into()).build().unwrap()
}

#[test]
fn containers_of_one_host_exchange_traffic_locally() {
    let setup = Testbed::new(lab()).run();
    let (one, three) = (setup.lab.host(1).container("gindemo1"), setup.lab.host(1).container("gindemo3"));
    exchange(&setup, (one, three), [GINDEMO1, three.ip()], "local");
    setup.ping_both_ways();
}

#[test]
fn existing_container_veth_forwards_local_and_remote_traffic() {
    let mut setup = Testbed::new(lab());
    let three = setup.lab.host(1).container("gindemo3").ip();
    let entry = setup.cluster.endpoints.iter_mut().find(|endpoint| endpoint.name == "gindemo3").unwrap();
    (entry.netns, entry.port) = (None, Some("veth3".to_owned()));
    let (host, container) = (setup.lab.host(1), setup.lab.host(1).container("gindemo3"));
    host.plug("veth3", container, "10.0.1.3/24", &docker_mac(three), 1450).unwrap();

    let setup = setup.run();
    let (one, container) = (setup.lab.host(1).container("gindemo1"), setup.lab.host(1).container("gindemo3"));
    exchange(&setup, (one, container), [GINDEMO1, three], "local");
    exchange_with_gindemo2(&setup, container, three);

    // `down` leaves an existing veth in place.
    let port = "veth3";
    assert!(setup.daemon(1).output(&["down"]).unwrap().status.success());
    let link = setup.lab.host(1).run(&["ip", "-j", "link", "show", "dev", port]);
    let link: serde_json::Value = serde_json::from_str(&link).unwrap();
    assert!(link[0]["master"].is_null(), "{link}");
    assert_eq!(container.run(&["ip", "-br", "addr", "show", "dev", "eth0"]).matches("10.0.1.3/24").count(), 1);
}

/// A port whose other end is in the host's netns, in another bridge:
/// `lp0` (the port) – `lp1` – `br-x` – `v3` – eth0 of the container.
#[test]
fn veth_with_peer_on_host_forwards_local_and_remote_traffic() {
    let mut setup = Testbed::new(lab());
    let three = setup.lab.host(1).container("gindemo3").ip();
    setup.cluster.endpoints.retain(|endpoint| endpoint.name != "gindemo3");
    let mut entry = endpoint("gindemo3", three, "node01");
    entry.port = Some("lp0".to_owned());
    setup.cluster.endpoints.push(entry);
    let (host, container) = (setup.lab.host(1), setup.lab.host(1).container("gindemo3"));
    host.plug("v3", container, "10.0.1.3/24", &docker_mac(three), 1450).unwrap();
    host.try_script(
        "ip link add lp0 mtu 1450 type veth peer name lp1 mtu 1450
        ip link add br-x mtu 1450 type bridge
        ip link set lp1 master br-x up
        ip link set v3 master br-x
        ip link set br-x up
        ip link set lp0 up",
    )
    .unwrap();

    let setup = setup.run();
    let (one, container) = (setup.lab.host(1).container("gindemo1"), setup.lab.host(1).container("gindemo3"));
    exchange(&setup, (one, container), [GINDEMO1, three], "local");
    exchange_with_gindemo2(&setup, container, three);
}

/// Traffic between the container of node01 at `address` and gindemo2 takes the fast path.
fn exchange_with_gindemo2(setup: &Testbed, container: &NetNs, address: std::net::Ipv4Addr) {
    let two = setup.first(2);
    assert!(ping(container, two.ip().into(), Ping::default()).unwrap().all());
    setup.by_fast_path(14_000, 14_000, || {
        assert!(ping(container, two.ip().into(), Ping::default()).unwrap().all());
        tcp_transfer(container, two, two.ip().into(), 20_000_001).unwrap();
        tcp_transfer(two, container, address.into(), 20_000_001).unwrap();
        for (from, to, address) in [(container, &**two, two.ip()), (two, container, address)] {
            let plan = Datagrams { gso: true, size: 1000, ..Datagrams::default() };
            assert_eq!(udp_transfer(from, to, address.into(), plan).unwrap().received, 100);
        }
    });
}
