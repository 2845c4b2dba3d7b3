//! Traffic of external networks by the fast path and the kernel path.

use std::{collections::BTreeSet, net::IpAddr};

use overlay_tests::lab::{
    Lab, NIC,
    traffic::{Datagrams, Ping, ping, tcp_transfer, udp_transfer},
};
use overlay_user::testing::{apply::TcFlavour, model::Rx};

use super::replica::{Node, Plan, Replica, Second};

const BYTES: u64 = 20_000_001;

fn v6(number: usize) -> IpAddr {
    if number == 1 { "fd00::2" } else { "fd00::6" }.parse().unwrap()
}

/// The VXLAN device sends no neighbour solicitations: adds the neighbours, as Docker does.
fn add_ipv6(replica: &Replica) {
    for (number, other_mac) in [(1, "02:42:0a:00:01:06"), (2, "02:42:0a:00:01:02")] {
        let (own, other) = (format!("{}/64", v6(number)), v6(3 - number).to_string());
        let container = replica.first(number);
        container.run(&["ip", "-6", "addr", "add", &own, "dev", "eth0", "nodad"]);
        container.run(&["ip", "neigh", "add", &other, "lladdr", other_mac, "dev", "eth0", "nud", "permanent"]);
    }
}

/// Datagrams of three fragments each arrive. The devices send UDP checksums, which fragments do not determine, so the
/// fragments leave by the kernel path of the sender if it is in `fast`.
fn assert_fragments(replica: &Replica, (from, to): (usize, usize), address: IpAddr, fast: &[usize]) {
    let sender = fast.contains(&from).then(|| replica.node(from));
    let before = sender.map(Node::counts);
    let plan = Datagrams { size: 4000, count: 64, per_second: Some(5000), ..Datagrams::default() };
    let got = udp_transfer(replica.first(from), replica.first(to), address, plan).unwrap();
    assert_eq!((got.datagrams, got.bytes), (64, 64 * 4000), "{from} to {address}: {got:?}");
    if let Some((sender, before)) = sender.zip(before) {
        let counts = sender.counts().since(&before);
        assert_eq!(counts.of("udp_checksum"), 3 * 64, "{from} to {address}: {counts:?}");
    }
}

/// Pings, streams and datagrams in both directions take the fast path of every node in `fast`.
fn assert_fast_path(replica: &Replica, fast: &[usize]) {
    add_ipv6(replica);
    for (from, to) in [(1, 2), (2, 1)] {
        for address in [replica.first(to).ip().into(), v6(to)] {
            let case = format!("{from} to {address}");
            let traffic = || {
                assert!(ping(replica.first(from), address, Ping::default()).unwrap().all(), "{case}");
                tcp_transfer(replica.first(from), replica.first(to), address, BYTES).expect(&case);
                for (size, gso) in [(0, false), (64, false), (1400, false), (1000, true)] {
                    let plan = Datagrams { size, count: 64, per_second: Some(5000), gso, ..Datagrams::default() };
                    let got = udp_transfer(replica.first(from), replica.first(to), address, plan).unwrap();
                    assert_eq!((got.datagrams, got.bytes), (64, 64 * size as u64), "{case}, {size} {gso}: {got:?}");
                }
            };
            let packets = BYTES / 1448;
            let expected = |number| if number == from { (packets, 5) } else { (5, packets) };
            match *fast {
                [one, two] => replica.node(one).by_fast_path(expected(one).0, expected(one).1, || {
                    replica.node(two).by_fast_path(expected(two).0, expected(two).1, traffic);
                }),
                [one] => replica.node(one).by_fast_path(expected(one).0, expected(one).1, traffic),
                _ => unreachable!("one or two"),
            }
            assert_fragments(replica, (from, to), address, fast);
        }
    }
}

#[test]
fn containers_in_sandboxes_use_fast_path() {
    assert_fast_path(&Replica::new(Plan::default()).run(), &[1, 2]);
}

#[test]
fn containers_in_sandboxes_use_fast_path_without_segmentation_offload() {
    let replica = Replica::new(Plan::default());
    for host in replica.lab.hosts() {
        // Segments arrive, which the NIC merges.
        host.run(&["ethtool", "-K", NIC, "gro", "on"]);
        host.run(&["ethtool", "-K", NIC, "tx-udp_tnl-segmentation", "off", "tx-udp_tnl-csum-segmentation", "off"]);
        host.run(&["ethtool", "-K", NIC, "tso", "off", "gso", "off"]);
    }
    let replica = replica.run();
    assert_fast_path(&replica, &[1, 2]);
}

#[test]
fn network_in_host_netns_uses_fast_path() {
    let replica = Replica::new(Plan { sandboxed: false, ..Plan::default() }).run();
    assert_fast_path(&replica, &[1, 2]);
    assert!(replica.node(1).hooks().iter().all(|hook| !hook.starts_with("shim")), "no shim is needed");
}

#[test]
fn fast_path_on_node01_interoperates_with_kernel_on_node02() {
    let mut replica = Replica::new(Plan::default());
    replica.start(1);
    replica.wait_until_fast();
    assert_fast_path(&replica, &[1]);
}

#[test]
fn fast_path_on_node02_interoperates_with_kernel_on_node01() {
    let mut replica = Replica::new(Plan::default());
    replica.start(2);
    replica.wait_until_fast();
    assert_fast_path(&replica, &[2]);
}

#[test]
fn clsact_filters_forward_between_sandboxes() {
    assert_fast_path(&Replica::new(Plan { flavour: Some(TcFlavour::Clsact), ..Plan::default() }).run(), &[1, 2]);
}

#[test]
fn xdp_delivers_into_sandbox() {
    for sandboxed in [true, false] {
        let replica = Replica::new(Plan { sandboxed, rx: Rx::Xdp, ..Plan::default() }).run();
        let before = replica.node(2).counts();
        assert_fast_path(&replica, &[1, 2]);
        let counts = replica.node(2).counts().since(&before);
        assert!(counts.of("decap_xdp") >= 5 * 64 && counts.of("xdp_tcp") >= BYTES / 1448, "{counts:?}");
        assert!(counts.of("xdp_port") <= 5, "{counts:?}");
    }
}

#[test]
fn containers_of_one_sandbox_bypass_bridge() {
    let lab = Lab::builder(2).container(1, "gindemo3", [10, 0, 1, 3].into()).build().unwrap();
    let replica = Replica::with(lab, Plan::default()).run();
    let [one, three] = replica.lab.host(1).containers() else { unreachable!("two containers") };
    assert!(ping(one, three.ip().into(), Ping::default()).unwrap().all());
    let before = replica.node(1).counts();
    tcp_transfer(one, three, three.ip().into(), BYTES).unwrap();
    let counts = replica.node(1).counts().since(&before);
    assert!(counts.of("local") >= BYTES / 1448 && counts.of("encap") == 0, "{counts:?}");
}

#[test]
fn oversize_packet_falls_back_to_kernel() {
    let replica = Replica::new(Plan::default()).run();
    let (one, two) = (replica.first(1), replica.first(2));
    one.run(&["ip", "link", "set", "eth0", "mtu", "1500"]);
    replica.node(1).sandbox.run(&["ip", "link", "set", "veth0", "mtu", "1500"]);
    let large = Ping { size: 1450 - 28 + 1, count: 3, ..Ping::default() };
    let before = replica.node(1).counts();
    // The kernel's bridge drops it.
    assert_eq!(ping(one, two.ip().into(), large).unwrap().received, 0);
    let counts = replica.node(1).counts().since(&before);
    assert_eq!((counts.of("oversize"), counts.of("encap")), (3, 0), "{counts:?}");
    replica.node(1).by_fast_path(3, 3, || {
        assert!(ping(one, two.ip().into(), Ping { size: 1450 - 28, ..large }).unwrap().all());
    });
}

/// Both sandboxes have the same interface indices, and both networks the same VTEPs and UDP port.
#[test]
fn two_discovered_networks_are_isolated() {
    for (second, rx) in [(Second::Together, Rx::Tc), (Second::Apart, Rx::Tc), (Second::Apart, Rx::Xdp)] {
        let replica = Replica::two_networks(Plan { second, rx, ..Plan::default() }).run();
        let [one, two] = [1, 2].map(|number| &replica.lab.host(number).containers()[1]);
        assert!(ping(one, two.ip().into(), Ping::default()).unwrap().all());
        for number in [1, 2] {
            let hooks = replica.node(number).hooks();
            assert_eq!(hooks.iter().filter(|hook| hook.starts_with("shimin-")).count(), 2, "{hooks:?}");
            let ports = hooks.iter().filter_map(|hook| hook.strip_prefix("port-")?.split_once('-'));
            let (namespaces, indices): (BTreeSet<_>, BTreeSet<_>) = ports.unzip();
            match second {
                Second::Apart => assert_eq!((namespaces.len(), indices.len()), (2, 1), "{hooks:?}"),
                _ => assert_eq!((namespaces.len(), indices.len()), (1, 2), "{hooks:?}"),
            }
        }
        replica.node(1).by_fast_path(BYTES / 1448 + 10, 20, || {
            replica.node(2).by_fast_path(20, BYTES / 1448 + 10, || {
                tcp_transfer(one, two, two.ip().into(), BYTES).unwrap();
                replica.ping_both_ways();
                assert!(ping(two, one.ip().into(), Ping { count: 10, ..Ping::default() }).unwrap().all());
            });
        });
    }
}
