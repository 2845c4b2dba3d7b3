//! XDP receives everything but TCP, in order.

use std::time::Duration;

use aya::{
    EbpfLoader,
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use overlay_tests::{
    bench::OBJECT,
    check::{decapsulates_ipv6, interfaces, links, until},
    frame::{Inner, L4, Outer, Station, Version},
    lab::{
        Daemon, Lab, NIC, PacketSocket,
        traffic::{Datagrams, Ping, ping, tcp_transfer, udp_transfer},
    },
    program::from_node2,
    testbed::Testbed,
};

fn start() -> Testbed {
    let mut setup = Testbed::new(Lab::two_hosts());
    setup.receive_by("xdp").unwrap();
    setup.run()
}

#[test]
fn xdp_receives_pings_and_datagrams_in_order() {
    let setup = start();
    let status = setup.daemon(1).overlay(&["status", "--json"]).unwrap();
    assert_eq!(status["underlay"]["rx"], "xdp");
    setup.add_ipv6();
    for (from, to, v6) in [(1, 2, "fd00::6"), (2, 1, "fd00::2")] {
        for address in [setup.first(to).ip().into(), v6.parse().unwrap()] {
            assert!(ping(setup.first(from), address, Ping::default()).unwrap().all());
            let before = setup.counts(to);
            assert!(ping(setup.first(from), address, Ping::default()).unwrap().all());
            for (size, gso) in [(0, false), (8, false), (64, false), (1400, false), (1402, true), (4000, false)] {
                let plan = Datagrams { size, count: 200, per_second: Some(10_000), gso, ..Datagrams::default() };
                let got = udp_transfer(setup.first(from), setup.first(to), address, plan).unwrap();
                assert_eq!((got.datagrams, got.bytes), (200, 200 * size as u64), "{address} {size} {gso}: {got:?}");
                assert_eq!((got.reordered(), got.duplicates), (0, 0), "{address} {size} {gso}: {got:?}");
            }
            let counts = setup.counts(to).since(&before);
            // An IPv6 fragment may contain TCP: TC handles it.
            let by_xdp = if address.is_ipv4() { 5 + 7 * 200 } else { 5 + 5 * 200 };
            assert!(counts.of("decap_xdp") >= by_xdp, "{address}: {counts:?}");
            assert!(counts.vxlan <= 12 || address.is_ipv6() && !decapsulates_ipv6(), "{counts:?}");
        }
    }
}

#[test]
fn xdp_passes_tcp_traffic_to_tc() {
    let setup = start();
    setup.add_ipv6();
    for (from, to, v6) in [(1, 2, "fd00::6"), (2, 1, "fd00::2")] {
        for address in [setup.first(to).ip().into(), v6.parse().unwrap()] {
            assert!(ping(setup.first(from), address, Ping::default()).unwrap().all());
            let before = setup.counts(to);
            tcp_transfer(setup.first(from), setup.first(to), address, 20_000_001).unwrap();
            let counts = setup.counts(to).since(&before);
            assert!(counts.of("xdp_tcp") >= 13_000 && counts.of("decap") >= 13_000, "{address}: {counts:?}");
            assert!(counts.of("decap_xdp") <= 5 && counts.vxlan <= 12, "{address}: {counts:?}");
        }
    }
}

#[test]
fn xdp_with_checksum_offload_is_refused_and_changes_nothing() {
    let mut setup = Testbed::new(Lab::two_hosts());
    setup.cluster.rx = Some("xdp".to_owned());
    setup.cluster.write(setup.config()).unwrap();
    let before = interfaces(setup.lab.host(1));
    let (code, stderr) = Daemon::refused(setup.lab.host(1), setup.config(), &setup.pin_root(1)).unwrap();
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("ethtool -K enp0s3 tx off"), "{stderr}");
    assert_eq!(interfaces(setup.lab.host(1)), before);
    assert!(!setup.pin_root(1).exists());
    assert_eq!(interfaces(setup.first(1)), ["lo"]);
}

/// The kernel decapsulates no VXLAN packet in a VLAN that has no device. TC sees the tag, and XDP does not if the NIC
/// removes it. The NICs are veths: the tag is next to the frame, not in it, if the other end inserts tags.
#[test]
fn nic_that_removes_vlan_tags_receives_by_tc() {
    let mut setup = Testbed::new(Lab::two_hosts());
    setup.receive_by("xdp").unwrap();
    let set = |setup: &Testbed, host: usize, features: &str| {
        let command = format!("ethtool -K {NIC} {features}");
        setup.lab.host(host).run(&command.split(' ').collect::<Vec<_>>());
    };
    set(&setup, 1, "rx-vlan-hw-parse on");
    let setup = setup.run();
    let peer = setup.lab.host(2);
    // The packet's mark becomes a VLAN tag.
    let mut tags = EbpfLoader::new().load(OBJECT).unwrap();
    let program: &mut SchedClassifier = tags.program_mut("bench_tag").unwrap().try_into().unwrap();
    program.load().unwrap();
    let last = TcAttachOptions::TcxOrder(LinkOrder::last());
    peer.enter(|| program.attach_with_options(NIC, TcAttachType::Egress, last)).unwrap();
    let mac = |host: usize| {
        let nic = links(setup.lab.host(host)).into_iter().find(|link| link["ifname"] == NIC).unwrap();
        nic["address"].as_str().unwrap().parse().unwrap()
    };
    let [to, from] = [[10, 0, 1, 2], [10, 0, 1, 6]].map(Station::container);
    let inner = Inner::new(from, to, Version::V4, L4::Udp(5000, 5001)).bytes();
    let packet = Outer { eth_dst: mac(1), eth_src: mac(2), ..from_node2() }.encapsulate(&inner);
    let eth0 = PacketSocket::open(setup.first(1), "eth0").unwrap();
    let nic = PacketSocket::open(peer, NIC).unwrap();
    // The number of three packets that reach gindemo1: without a tag, with one of 802.1Q, and with one of 802.1ad.
    let received = || {
        [0, 0x8100, 0x88a8].map(|protocol| {
            nic.set_mark(protocol).unwrap();
            eth0.drain().unwrap();
            (0..3).for_each(|_| nic.send(&packet).unwrap());
            let mut count = 0;
            let is_last = |frame: Vec<u8>| {
                count += usize::from(frame == inner);
                count == 3
            };
            eth0.receive_until(Duration::from_millis(200), is_last).unwrap();
            count
        })
    };
    let status = || setup.daemon(1).overlay(&["status", "--json"]).unwrap();
    for feature in ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"] {
        set(&setup, 1, &format!("{feature} on"));
        set(&setup, 2, "tx-vlan-hw-insert on tx-vlan-stag-hw-insert on");
        until("packets are received by TC", || status()["underlay"]["rx"] == "tc");
        assert!(status().to_string().contains("enp0s3 removes VLAN tags"), "{}", status());
        let before = setup.counts(1);
        assert_eq!(received(), [3, 0, 0], "{feature}");
        let counts = setup.counts(1).since(&before);
        assert_eq!((counts.of("decap"), counts.of("decap_xdp")), (3, 0), "{feature}: {counts:?}");

        set(&setup, 2, "tx-vlan-hw-insert off tx-vlan-stag-hw-insert off");
        set(&setup, 1, &format!("{feature} off"));
        until("packets are received by XDP", || status()["underlay"]["rx"] == "xdp");
        let before = setup.counts(1);
        assert_eq!(received(), [3, 0, 0], "{feature}");
        let counts = setup.counts(1).since(&before);
        assert_eq!((counts.of("decap"), counts.of("decap_xdp")), (0, 3), "{feature}: {counts:?}");
    }
}
