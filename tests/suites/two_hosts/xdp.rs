//! XDP receives everything but TCP, in order.

use overlay_tests::lab::{
    Daemon, Lab,
    traffic::{Datagrams, Ping, ping, tcp_transfer, udp_transfer},
};

use overlay_tests::check::{decapsulates_ipv6, interfaces};
use overlay_tests::testbed::Testbed;

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
