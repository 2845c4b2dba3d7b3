//! Traffic recovers after underlay failures.

use std::time::Duration;

use overlay_tests::lab::{
    Lab, NIC,
    traffic::{Ping, ping},
};

use overlay_tests::check::until;
use overlay_tests::testbed::Testbed;

/// MAC address of the next hop from `host` to the other host; `None`: not resolved.
fn next_hop(setup: &Testbed, host: usize) -> Option<String> {
    let status = setup.daemon(host).overlay(&["status", "--json"]).unwrap();
    status["vteps"][0]["next_hop"].as_str().map(str::to_owned)
}

/// Runs `disturb` under load; afterwards all traffic takes the fast path again.
fn assert_recovers(setup: &Testbed, disturb: impl FnOnce()) {
    let load = setup.load(500);
    disturb();
    load.wait_for(100).unwrap();
    let report = load.stop().unwrap();
    assert_eq!((report.duplicates, report.corrupt), (0, 0), "{report:?}");
    setup.wait_until_resolved().unwrap();
    setup.ping_both_ways();
}

#[test]
fn traffic_recovers_after_nic_was_down() {
    let setup = Testbed::two_hosts();
    for host in [1, 2] {
        assert_recovers(&setup, || {
            let nic = setup.lab.host(host);
            nic.run(&["ip", "link", "set", NIC, "down"]);
            until("the next hop is not resolved", || next_hop(&setup, host).is_none());
            let quick = Ping { count: 2, timeout: Duration::from_millis(50), ..Ping::default() };
            assert_eq!(ping(setup.first(1), setup.first(2).ip().into(), quick).unwrap().received, 0);
            nic.run(&["ip", "link", "set", NIC, "up"]);
        });
    }
}

#[test]
fn traffic_recovers_after_peer_mac_change() {
    let setup = Testbed::two_hosts();
    for (host, mac) in [(2, "02:00:00:00:00:22"), (1, "02:00:00:00:00:11")] {
        assert_recovers(&setup, || {
            setup.lab.host(host).run(&["ip", "link", "set", NIC, "address", mac]);
            let learnt = || next_hop(&setup, 3 - host).as_deref() == Some(mac);
            until("the other host's daemon has the new address", learnt);
        });
        let status = setup.daemon(host).overlay(&["status", "--json"]).unwrap();
        assert_eq!(status["underlay"]["mac"], mac);
    }
}

/// The oracle compares the TTL of `OVL_VTEPS` with that of the VXLAN device, which is the host's default TTL if it has
/// none.
#[test]
fn both_paths_send_with_the_same_ttl() {
    let setup = Testbed::new(Lab::two_hosts());
    setup.lab.hosts().iter().for_each(|host| host.sysctl("net.ipv4.ip_default_ttl", "128").unwrap());
    let setup = setup.run();
    setup.wait_until_converged();
    setup.lab.host(1).run(&["ip", "link", "set", "ovlvx4097", "type", "vxlan", "ttl", "5"]);
    setup.wait_until_converged();
}

#[test]
fn traffic_recovers_after_underlay_address_was_removed() {
    let setup = Testbed::two_hosts();
    assert_recovers(&setup, || {
        let address = format!("{}/24", setup.lab.host(1).address());
        setup.lab.host(1).run(&["ip", "addr", "del", &address, "dev", NIC]);
        until("the next hop is not resolved", || next_hop(&setup, 1).is_none());
        setup.lab.host(1).run(&["ip", "addr", "add", &address, "dev", NIC]);
    });
}

#[test]
fn vtep_mtu_follows_route_mtu() {
    let setup = Testbed::two_hosts();
    let address = setup.lab.host(2).address().to_string();
    setup.lab.host(1).run(&["ip", "route", "add", &address, "dev", NIC, "mtu", "1300"]);
    until("the VTEP's MTU follows the route", || {
        setup.daemon(1).overlay(&["status", "--json"]).unwrap()["vteps"][0]["mtu"] == 1250
    });
    let before = setup.counts(1);
    let largest = Ping { size: 1250 - 28, ..Ping::default() };
    assert!(ping(setup.first(1), setup.first(2).ip().into(), largest).unwrap().all());
    let counts = setup.counts(1).since(&before);
    assert_eq!((counts.of("encap"), counts.of("oversize")), (5, 0), "{counts:?}");
    // The kernel sends an ICMP error to the container, which then sends two fragments per packet.
    let before = setup.counts(1);
    let larger = Ping { size: 1251 - 28, timeout: Duration::from_millis(300), ..Ping::default() };
    let replies = ping(setup.first(1), setup.first(2).ip().into(), larger).unwrap();
    let counts = setup.counts(1).since(&before);
    assert_eq!((replies.received, counts.of("encap"), counts.of("oversize")), (4, 8, 1), "{counts:?}");
}

/// Replaces the NIC by an `ifb`, whose MTU is unlimited, in front of the veth.
fn unlimited_nic(setup: &Testbed, mtu: u32) {
    for host in setup.lab.hosts() {
        let address = host.address();
        let mac = format!("02:00:00:00:01:{:02x}", address.octets()[3]);
        host.run(&["ip", "addr", "flush", "dev", NIC]);
        host.try_script(&format!(
            "ip link set {NIC} down
            ip link set {NIC} name wire mtu 65535 address {mac}
            ip link add {NIC} mtu {mtu} address {mac} type ifb
            ip link set {NIC} arp on
            tc qdisc add dev {NIC} clsact
            tc qdisc add dev wire clsact
            tc filter add dev {NIC} egress protocol all u32 match u32 0 0 action mirred egress redirect dev wire
            tc filter add dev wire ingress protocol all u32 match u32 0 0 action mirred ingress redirect dev {NIC}
            ip link set wire up
            ip link set {NIC} up
            ip addr add {address}/24 dev {NIC}"
        ))
        .unwrap();
    }
}

/// The outer IPv4 total length has 16 bits, independent of the underlay's MTU.
#[test]
fn largest_vxlan_packet_over_ipv4_is_delivered() {
    const MTU: usize = 65_535 - 50;
    for underlay in [65_535, 65_536, 70_000] {
        let setup = Testbed::new(Lab::two_hosts());
        unlimited_nic(&setup, underlay);
        let setup = setup.run();
        for host in [1, 2] {
            let daemon = setup.daemon(host);
            let status = daemon.overlay(&["status", "--json"]).unwrap();
            let port = &daemon.overlay(&["ports", "--json"]).unwrap()["ports"][0];
            for mtu in [&status["networks"][0]["mtu"], &status["vteps"][0]["mtu"], &port["mtu"]] {
                assert_eq!(mtu, MTU, "underlay {underlay}: {status} {port}");
            }
            for device in ["ovlbr4097", "ovlvx4097", port["device"].as_str().unwrap()] {
                let link = setup.lab.host(host).run(&["ip", "link", "show", "dev", device]);
                assert!(link.contains(&format!("mtu {MTU} ")), "underlay {underlay}: {link}");
            }
        }
        let ping_both_ways = |size| {
            for (from, to) in [(1, 2), (2, 1)] {
                let replies = ping(setup.first(from), setup.first(to).ip().into(), Ping { size, ..Ping::default() });
                assert!(replies.unwrap().all(), "{size} of underlay {underlay}");
            }
        };
        setup.by_fast_path(10, 10, || ping_both_ways(9000));
        // The kernel's helper cannot resize a single packet of more than 16 KiB, which takes the kernel path.
        ping_both_ways(MTU - 28);
        // The same by the kernel path.
        for host in [1, 2] {
            let policy = ["ip", "xfrm", "policy", "add", "dst", "192.168.2.1/32", "dir", "out", "action", "allow"];
            setup.lab.host(host).run(&policy);
            until("the fast path is not used", || next_hop(&setup, host).is_none());
        }
        let before = setup.vxlan(1);
        ping_both_ways(MTU - 28);
        assert!(setup.vxlan(1) - before >= 20, "underlay {underlay}");
    }
}

#[test]
fn ipsec_policies_disable_fast_path_until_removed() {
    let mut setup = Testbed::two_hosts();
    // Any policy disables the fast path: the programs cannot evaluate its selector.
    let host = setup.lab.host(1);
    host.run(&["ip", "xfrm", "policy", "add", "dst", "192.168.1.10/32", "dir", "out", "action", "allow"]);
    until("the fast path is not used", || next_hop(&setup, 1).is_none());
    // A restarted daemon disables the fast path too.
    setup.daemon_mut(1).kill9().unwrap();
    setup.daemon_mut(1).restart().unwrap();
    assert_eq!(next_hop(&setup, 1), None);
    let before = setup.counts(1);
    assert!(ping(setup.first(1), setup.first(2).ip().into(), Ping::default()).unwrap().all());
    let counts = setup.counts(1).since(&before);
    assert_eq!((counts.of("encap"), counts.of("decap")), (0, 0), "{counts:?}");
    assert!(counts.of("next_hop") >= 5 && counts.of("unknown_peer") >= 5, "{counts:?}");

    setup.lab.host(1).run(&["ip", "xfrm", "policy", "flush"]);
    setup.wait_until_resolved().unwrap();
    setup.ping_both_ways();
}

#[test]
fn fast_path_sends_nothing_while_default_xfrm_policy_blocks() {
    let setup = Testbed::two_hosts();
    for direction in ["out", "in"] {
        let set_default = |action| setup.lab.host(1).run(&["ip", "xfrm", "policy", "setdefault", direction, action]);
        set_default("block");
        until("the fast path is not used", || next_hop(&setup, 1).is_none());
        let before = setup.counts(1);
        let replies = ping(setup.first(1), setup.first(2).ip().into(), Ping::default()).unwrap();
        assert_eq!(replies.received, 0, "the kernel drops what {direction} does not allow");
        let counts = setup.counts(1).since(&before);
        assert_eq!((counts.of("encap"), counts.of("decap")), (0, 0), "{counts:?}");
        set_default("accept");
        setup.wait_until_resolved().unwrap();
        setup.ping_both_ways();
    }
}
