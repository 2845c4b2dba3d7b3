//! Negative controls: what the other tests of this suite assert to be absent is noticed when it is present.

use overlay_common::MacAddr;
use overlay_tests::{
    check::until,
    frame::{Station, arp_request},
    lab::NIC,
};

use crate::setup::{BLUE1, BLUE2, GINDEMO1, GINDEMO2, NEIGHBOUR, RED3, Setup, frame, outer};

fn watch_notices_one_packet(rx: &str) {
    let setup = Setup::start(true, rx);
    // The sender's host and container, and the victim.
    for ((host, name, from), (victim, to)) in [
        ((2, "gindemo2", GINDEMO2), ((1, "gindemo1"), GINDEMO1)),
        ((1, "gindemo1", GINDEMO1), ((1, "neighbour"), NEIGHBOUR)),
        ((1, "gindemo1", GINDEMO1), ((2, "gindemo2"), GINDEMO2)),
        ((2, "blue2", BLUE2), ((1, "blue1"), BLUE1)),
        ((1, "blue1", BLUE1), ((2, "blue2"), BLUE2)),
    ] {
        let watch = setup.watch(victim);
        let packet = frame(from, to).bytes();
        setup.socket(host, name).send(&packet).unwrap();
        assert_eq!(watch.seen(), [packet], "{name} to {victim:?}");
        assert_eq!(setup.watch(victim).seen(), Vec::<Vec<u8>>::new());
    }
    let watch = setup.watch((1, "gindemo1"));
    let packet = frame(RED3, GINDEMO1).bytes();
    setup.socket(3, NIC).send(&outer(3, 1).encapsulate(&packet)).unwrap();
    assert_eq!(watch.seen(), [packet], "node03 to gindemo1");
}

#[test]
fn watch_notices_one_packet_that_passes_tc() {
    watch_notices_one_packet("tc");
}

#[test]
fn watch_notices_one_packet_that_passes_xdp() {
    watch_notices_one_packet("xdp");
}

#[test]
fn one_dropped_packet_is_noticed_in_strict_network() {
    let setup = Setup::start(true, "tc");
    assert_eq!(setup.dropped(1), (0, 0));
    let spoofed = Station { mac: MacAddr([2, 0, 0, 0, 0, 7]), ..GINDEMO1 };
    setup.socket(1, "gindemo1").send(&frame(spoofed, GINDEMO2).bytes()).unwrap();
    until("the packet is dropped, with an event", || setup.dropped(1) == (1, 1));
}

#[test]
fn learned_addresses_are_noticed_in_permissive_network() {
    let setup = Setup::start(false, "tc");
    let spoofed = Station { ipv4: [10, 0, 1, 77], ..GINDEMO1 };
    let container = setup.socket(1, "gindemo1");
    for to in [NEIGHBOUR, Station { mac: MacAddr([0xff; 6]), ..NEIGHBOUR }] {
        setup.lab.host(1).container("neighbour").run(&["ip", "neighbour", "flush", "all"]);
        container.send(&arp_request(spoofed, to)).unwrap();
        until("the neighbour has learned 10.0.1.77", || {
            setup.neighbours((1, "neighbour"), "10.0.1.77").contains("02:42:0a:00:01:02")
        });
    }
    let wire = setup.socket(3, NIC);
    let spoofed = Station { ipv4: GINDEMO2.ipv4, ..RED3 };
    wire.send(&outer(3, 1).encapsulate(&arp_request(spoofed, GINDEMO1))).unwrap();
    until("gindemo1 has learned 10.0.1.6", || {
        setup.neighbours((1, "gindemo1"), "10.0.1.6").contains("02:42:0a:00:01:0a")
    });
    let unknown = Station::container([10, 0, 1, 99]);
    until("the bridge has learned an unknown MAC", || {
        setup.enable_learning();
        wire.send(&outer(3, 1).encapsulate(&arp_request(unknown, GINDEMO1)[..14])).unwrap();
        setup.has_learned(unknown.mac)
    });
}
