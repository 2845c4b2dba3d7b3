//! Valid traffic in a strict network takes the fast path and is not dropped.

use overlay_tests::lab::traffic::{Ping, ping, tcp_transfer};

use crate::setup::{GINDEMO1, GINDEMO2, Setup};

fn valid_traffic(rx: &str) {
    let setup = Setup::start(true, rx);
    let [one, two] = [(1, "gindemo1"), (2, "gindemo2")].map(|(host, name)| setup.lab.host(host).container(name));
    let ends = [(one, two, GINDEMO2.ipv4), (two, one, GINDEMO1.ipv4)];
    // The first pings resolve neighbours.
    for (from, _, to) in ends {
        assert!(ping(from, to.into(), Ping::default()).unwrap().all());
    }
    let before = [setup.counts(1), setup.counts(2)];
    for (from, at, to) in ends {
        assert!(ping(from, to.into(), Ping::default()).unwrap().all());
        assert!(ping(from, to.into(), Ping { size: 4000, ..Ping::default() }).unwrap().all());
        tcp_transfer(from, at, to.into(), 10_000_001).unwrap();
    }
    let neighbour = setup.lab.host(1).container("neighbour");
    assert!(ping(neighbour, GINDEMO1.ipv4.into(), Ping::default()).unwrap().all());
    for (host, before) in [1, 2].into_iter().zip(&before) {
        let moved = setup.counts(host).since(before);
        assert!(moved.of("encap") > 5000 && moved.received() > 5000, "{moved:?}");
        assert!(moved.vxlan <= 12, "kernel path: {moved:?}");
        assert_eq!(setup.dropped(host), (0, 0));
    }
}

#[test]
fn tc_forwards_valid_traffic_in_strict_network() {
    valid_traffic("tc");
}

#[test]
fn xdp_forwards_valid_traffic_in_strict_network() {
    valid_traffic("xdp");
}
