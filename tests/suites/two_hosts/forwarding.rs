//! Traffic between containers takes the fast path in both directions.

use std::{
    net::{Ipv6Addr, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use overlay_tests::{
    check::{decapsulates_ipv6, until},
    frame::{Inner, Station},
    lab::{
        Cluster, Flavour, Lab, NIC, PacketSocket, kernel_vxlan, private_directory,
        traffic::{Datagrams, Ping, ping, tcp_transfer, udp_transfer},
    },
    testbed::{GINDEMO2, Testbed},
};

/// The largest payload of an unfragmented datagram: MTU 1450 less 28.
const UNFRAGMENTED: usize = 1422;

#[test]
fn pings_use_fast_path_both_ways() {
    let setup = Testbed::two_hosts();
    setup.ping_both_ways();
    // Fragmented and reassembled by the containers.
    setup.by_fast_path(10, 10, || {
        let plan = Ping { size: 4000, ..Ping::default() };
        assert!(ping(setup.first(1), setup.first(2).ip().into(), plan).unwrap().all());
    });
}

#[test]
fn tcp_bulk_traffic_uses_fast_path_both_ways() {
    Testbed::two_hosts().tcp_both_ways(200_000_001);
}

#[test]
fn datagrams_of_every_size_use_fast_path_both_ways() {
    let setup = Testbed::two_hosts();
    let sizes = [
        0,
        1,
        7,
        8,
        64,
        512,
        1400,
        1421,
        UNFRAGMENTED,
        UNFRAGMENTED + 1,
        1424,
        1472,
        2000,
        2847,
        2848,
        4000,
        9000,
        65_507,
    ];
    for (from, to) in [(1, 2), (2, 1)] {
        for size in sizes {
            let plan = Datagrams { size, count: 50, per_second: Some(2000), ..Datagrams::default() };
            let packets = plan.count * ((size + 8).div_ceil(1430) as u64);
            let (there, back) = if from == 1 { (packets, 0) } else { (0, packets) };
            let got = setup.by_fast_path(there, back, || {
                udp_transfer(setup.first(from), setup.first(to), setup.first(to).ip().into(), plan).unwrap()
            });
            assert_eq!((got.datagrams, got.bytes), (50, 50 * size as u64), "{size} from {from}: {got:?}");
            // Datagrams below eight bytes have neither a number nor content.
            assert_eq!(got.received, if size < 8 { 0 } else { 50 }, "{size} from {from}: {got:?}");
            assert_eq!(got.reordered(), 0, "{size} from {from}: {got:?}");
        }
    }
}

/// Sends a super-packet of 256 datagrams and checks its segments.
fn super_packets(setup: &Testbed, (from, to): (usize, usize), size: usize) {
    let plan = Datagrams { size, count: 256, per_second: Some(20_000), gso: true, ..Datagrams::default() };
    let got = udp_transfer(setup.first(from), setup.first(to), setup.first(to).ip().into(), plan).unwrap();
    assert_eq!((got.datagrams, got.bytes), (256, 256 * size as u64), "{size} from {from}: {got:?}");
    assert_eq!((got.received, got.reordered()), (256, 0), "{size} from {from}: {got:?}");
}

/// The lab's veths do not segment super-packets, and only the kernel path delivers those to a container.
#[test]
fn udp_super_packets_are_sent_by_fast_path_and_received_by_kernel() {
    let setup = Testbed::two_hosts();
    for (from, to) in [(1, 2), (2, 1)] {
        for size in [8, 100, 1000, UNFRAGMENTED] {
            let before = [setup.counts(from), setup.counts(to)];
            super_packets(&setup, (from, to), size);
            let counts = [setup.counts(from).since(&before[0]), setup.counts(to).since(&before[1])];
            assert!(counts[0].of("encap") >= 256 && counts[1].of("gso") >= 256, "{counts:?}");
        }
    }
}

#[test]
fn udp_super_packets_segmented_by_nic_use_fast_path() {
    let setup = Testbed::two_hosts();
    for host in setup.lab.hosts() {
        host.run(&["ethtool", "-K", NIC, "tx-udp-segmentation", "off"]);
    }
    for (from, to) in [(1, 2), (2, 1)] {
        for size in [8, 100, 1000, UNFRAGMENTED] {
            let (there, back) = if from == 1 { (256, 0) } else { (0, 256) };
            setup.by_fast_path(there, back, || super_packets(&setup, (from, to), size));
        }
    }
}

#[test]
fn short_last_datagram_of_super_packet_stays_short() {
    let setup = Testbed::two_hosts();
    setup.lab.host(1).run(&["ethtool", "-K", NIC, "tx-udp-segmentation", "off"]);
    let bind = |host: usize| setup.first(host).enter(|| UdpSocket::bind((setup.first(host).ip(), 0))).unwrap();
    let (sender, receiver) = (bind(1), bind(2));
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let size: libc::c_int = 1000;
    let length = size_of_val(&size) as libc::socklen_t;
    // SAFETY: the value outlives the call, and its length is right.
    let set = unsafe {
        libc::setsockopt(sender.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const size).cast(), length)
    };
    assert_eq!(set, 0);
    let payload: Vec<u8> = (0..3500).map(|index| (index / 14) as u8).collect();
    setup.by_fast_path(4, 0, || {
        assert_eq!(sender.send_to(&payload, receiver.local_addr().unwrap()).unwrap(), 3500);
        for chunk in payload.chunks(1000) {
            let mut buffer = [0; 2000];
            let length = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], chunk);
        }
    });
}

#[test]
fn ipv6_traffic_uses_fast_path_after_neighbour_discovery() {
    let setup = Testbed::two_hosts();
    setup.add_ipv6();
    for host in setup.lab.hosts() {
        // Segment in software, as a NIC does in hardware.
        host.run(&["ethtool", "-K", NIC, "tx-udp-segmentation", "off"]);
    }
    let address = |host: usize| if host == 1 { "fd00::2" } else { "fd00::6" }.parse().unwrap();

    // Neighbour solicitations are multicast and take the kernel path.
    let before = setup.counts(1);
    assert!(ping(setup.first(1), address(2), Ping::default()).unwrap().all());
    assert!(setup.counts(1).since(&before).of("group_address") > 0);
    if !decapsulates_ipv6() {
        // The programs send, and the kernel receives.
        let before = [setup.counts(1), setup.counts(2)];
        assert!(ping(setup.first(1), address(2), Ping::default()).unwrap().all());
        tcp_transfer(setup.first(1), setup.first(2), address(2), 40_000_001).unwrap();
        let [one, two] = [setup.counts(1).since(&before[0]), setup.counts(2).since(&before[1])];
        assert!(one.of("encap") >= 20_000 && two.of("inner_ipv6") >= 20_000, "{one:?} {two:?}");
        return;
    }

    for (from, to) in [(1, 2), (2, 1)] {
        setup.by_fast_path(5, 5, || {
            assert!(ping(setup.first(from), address(to), Ping::default()).unwrap().all());
        });
        let (there, back) = if from == 1 { (20_000, 0) } else { (0, 20_000) };
        setup.by_fast_path(there, back, || {
            tcp_transfer(setup.first(from), setup.first(to), address(to), 40_000_001).unwrap();
        });
        // 1402 bytes is the largest payload without fragmentation.
        for (size, gso) in [(0, false), (64, false), (1402, false), (1403, false), (4000, false), (1402, true)] {
            let plan = Datagrams { size, count: 64, per_second: Some(2000), gso, ..Datagrams::default() };
            let (there, back) = if from == 1 { (64, 0) } else { (0, 64) };
            let got = setup.by_fast_path(there, back, || {
                udp_transfer(setup.first(from), setup.first(to), address(to), plan).unwrap()
            });
            assert_eq!((got.datagrams, got.bytes), (64, 64 * size as u64), "{size} {gso} from {from}: {got:?}");
            assert!(size == 0 || got.received == 64, "{size} {gso} from {from}: {got:?}");
        }
    }
}

/// A VXLAN device with `proxy`, as Docker makes it, answers neighbour solicitations that are unicast too. None may reach
/// the other host.
#[test]
fn vxlan_device_with_proxy_answers_unicast_solicitations() {
    let mut setup = Testbed::new(Lab::two_hosts());
    let network = setup.cluster.networks[0].name.clone();
    for host in [1, 2] {
        kernel_vxlan(setup.lab.host(host), &setup.cluster, &network, Flavour::Docker).unwrap();
    }
    let [one, two] = [[10, 0, 1, 2], [10, 0, 1, 6]].map(Station::container);
    let (target, mac) = (Ipv6Addr::from(two.ipv6).to_string(), two.mac.to_string());
    let neighbour = ["ip", "neigh", "add", &target, "lladdr", &mac, "dev", "vx-4097", "nud", "permanent"];
    setup.lab.host(1).run(&neighbour);
    let eth0 = PacketSocket::open(setup.first(1), "eth0").unwrap();
    let wire = PacketSocket::open(setup.lab.host(2), NIC).unwrap();
    let solicitation = Inner::solicitation(one, two).bytes();
    // The answers to three solicitations, and those that reach the other host.
    let answers = || {
        [&eth0, &wire].into_iter().for_each(|socket| socket.drain().unwrap());
        (0..3).for_each(|_| eth0.send(&solicitation).unwrap());
        let mut answers = 0;
        let is_answer = |frame: &[u8]| frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(54) == Some(&136);
        let is_last = |frame: Vec<u8>| {
            answers += usize::from(is_answer(&frame));
            answers == 3
        };
        eth0.receive_until(Duration::from_millis(500), is_last).unwrap();
        let mut sent = 0;
        let is_last = |frame: Vec<u8>| {
            sent += usize::from(frame.ends_with(&solicitation));
            false
        };
        wire.receive_until(Duration::from_millis(50), is_last).unwrap();
        (answers, sent)
    };
    assert_eq!(answers(), (3, 0), "the kernel alone");
    let empty = private_directory().unwrap();
    let discover = ["--discover", "--docker-socket", "/nowhere.sock", "--netns-dir", empty.to_str().unwrap()];
    setup.start_with(1, &discover).unwrap();
    until("the network is accelerated", || {
        let before = setup.counts(1);
        let replies = ping(setup.first(1), setup.first(2).ip().into(), Ping::default()).unwrap();
        replies.all() && setup.counts(1).since(&before).of("encap") >= 5
    });
    let before = setup.counts(1);
    assert_eq!(answers(), (3, 0));
    assert_eq!(setup.counts(1).since(&before).of("solicitation"), 3);
}

#[test]
fn packets_over_mtu_fall_back_to_kernel() {
    let mut setup = Testbed::two_hosts();
    // A veth passes its MTU plus the length of a VLAN tag: 1454.
    setup.first(1).run(&["ip", "link", "set", "eth0", "mtu", "1454"]);
    let before = setup.counts(1);
    let plan = Ping { size: 1454 - 28, ..Ping::default() };
    let replies = ping(setup.first(1), setup.first(2).ip().into(), plan).unwrap();
    let counts = setup.counts(1).since(&before);
    assert_eq!((counts.of("oversize"), counts.of("encap")), (5, 0), "{counts:?}");
    // The result must be the same as without the programs.
    let plain = Lab::two_hosts();
    for host in plain.hosts() {
        kernel_vxlan(host, &Cluster::example(&plain), "my-overlay-network", Flavour::Static).unwrap();
    }
    let container = plain.host(1).container("gindemo1");
    container.run(&["ip", "link", "set", "eth0", "mtu", "1454"]);
    assert_eq!(replies.received, ping(container, GINDEMO2.into(), plan).unwrap().received);

    // The daemon would repair the port's MTU, so it is stopped first.
    setup.daemon_mut(1).sigterm().unwrap();
    let ports = setup.daemon(1).overlay(&["ports", "--json"]).unwrap();
    let port = ports["ports"][0]["device"].as_str().unwrap().to_owned();
    setup.lab.host(1).run(&["ip", "link", "set", &port, "mtu", "9000"]);
    setup.first(1).run(&["ip", "link", "set", "eth0", "mtu", "9000"]);
    let before = setup.counts(1);
    let plan = Ping { count: 3, size: 4000, timeout: Duration::from_millis(200), ..Ping::default() };
    let replies = ping(setup.first(1), setup.first(2).ip().into(), plan).unwrap();
    let counts = setup.counts(1).since(&before);
    // The kernel's bridge does not forward packets over the MTU of the VXLAN device.
    assert_eq!((counts.of("oversize"), counts.of("encap"), replies.received), (3, 0, 0), "{counts:?}");

    // Packets within the MTU still take the fast path.
    setup.by_fast_path(5, 5, || {
        assert!(ping(setup.first(1), setup.first(2).ip().into(), Ping::default()).unwrap().all());
    });
}
