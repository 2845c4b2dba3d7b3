//! The fast path on one host interoperates with the kernel's VXLAN device on the other.

use std::net::IpAddr;

use overlay_tests::lab::{
    Flavour, Lab, kernel_vxlan,
    traffic::{Datagrams, Ping, ping, tcp_transfer, udp_transfer},
};

use overlay_tests::check::{decapsulates_ipv6, device_packets, until};
use overlay_tests::testbed::Testbed;

fn assert_interoperates(fast: usize, flavour: Flavour, rx: &str) {
    let kernel_host = 3 - fast;
    let mut setup = Testbed::new(Lab::two_hosts());
    setup.receive_by(rx).unwrap();
    let kernel = kernel_vxlan(setup.lab.host(kernel_host), &setup.cluster, "my-overlay-network", flavour).unwrap();
    setup.start(fast).unwrap();
    setup.wait_until_resolved().unwrap();
    setup.add_ipv6();
    if flavour == Flavour::Docker {
        // With `proxy` the VXLAN device sends no neighbour solicitations: add the neighbours, as Docker does.
        for (host, address, mac) in [(1, "fd00::6", "02:42:0a:00:01:06"), (2, "fd00::2", "02:42:0a:00:01:02")] {
            setup.first(host).run(&["ip", "neigh", "add", address, "lladdr", mac, "dev", "eth0", "nud", "permanent"]);
        }
    }

    let v6 = |host: usize| -> IpAddr { if host == 1 { "fd00::2" } else { "fd00::6" }.parse().unwrap() };
    for host in [1, 2] {
        let other = 3 - host;
        until("neighbours are found", || {
            let reaches = |to| ping(setup.first(host), to, Ping { count: 1, ..Ping::default() }).unwrap().all();
            reaches(setup.first(other).ip().into()) && reaches(v6(other))
        });
    }
    let before = setup.counts(fast);
    let device_before = device_packets(setup.lab.host(kernel_host), &kernel.device());
    for (from, to) in [(1, 2), (2, 1)] {
        let addresses = [setup.first(to).ip().into(), v6(to)];
        for address in addresses.into_iter().filter(|address| address.is_ipv4() || decapsulates_ipv6()) {
            let case = format!("{from} to {address}");
            assert!(ping(setup.first(from), address, Ping::default()).unwrap().all(), "{case}");
            tcp_transfer(setup.first(from), setup.first(to), address, 20_000_001).expect(&case);
            for (size, gso) in [(0, false), (64, false), (1400, false), (4000, false), (1000, true)] {
                let plan = Datagrams { size, count: 64, per_second: Some(5000), gso, ..Datagrams::default() };
                let got = udp_transfer(setup.first(from), setup.first(to), address, plan).unwrap();
                assert_eq!((got.datagrams, got.bytes), (64, 64 * size as u64), "{case}, {size} {gso}: {got:?}");
            }
        }
    }
    let counts = setup.counts(fast).since(&before);
    let families = if decapsulates_ipv6() { 2 } else { 1 };
    let packets = families * (20_000_001 / 1448);
    assert!(counts.of("encap") >= packets && counts.received() >= packets, "{counts:?}");
    // Neighbour discovery and MLD reports take the kernel path.
    assert!(counts.vxlan <= 20, "{counts:?}");
    // The VXLAN device of the other host counts a super-packet once.
    assert!(device_packets(setup.lab.host(kernel_host), &kernel.device()) > device_before + 1000);
}

#[test]
fn node01_interoperates_with_static_kernel_vxlan() {
    assert_interoperates(1, Flavour::Static, "tc");
}

#[test]
fn node02_interoperates_with_static_kernel_vxlan() {
    assert_interoperates(2, Flavour::Static, "tc");
}

#[test]
fn node01_interoperates_with_docker_kernel_vxlan() {
    assert_interoperates(1, Flavour::Docker, "tc");
}

#[test]
fn node02_interoperates_with_docker_kernel_vxlan() {
    assert_interoperates(2, Flavour::Docker, "tc");
}

#[test]
fn xdp_receives_from_static_kernel_vxlan() {
    assert_interoperates(1, Flavour::Static, "xdp");
}

#[test]
fn xdp_receives_from_docker_kernel_vxlan() {
    assert_interoperates(2, Flavour::Docker, "xdp");
}
