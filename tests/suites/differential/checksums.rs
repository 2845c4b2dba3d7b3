//! Checksums that do not hold. Outside, RFC 7348 §5 lets a receiver choose; inside, the container has to verify.

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    time::{Duration, Instant},
};

use overlay_tests::{
    frame::{Outer, UdpChecksum},
    lab::NetNs,
    program::to_node2,
};

use crate::{
    frames::{Frame, L4, Version},
    receiver::{Path, Receiver, Rx},
};

const PORT: u16 = 7777;

fn v4() -> Version {
    Version::V4 { dont_fragment: true, options: Vec::new() }
}

fn v6() -> Version {
    Version::V6 { extensions: Vec::new() }
}

/// A numbered frame to gindemo2's [`PORT`]; `corrupt`: with one bit of the payload turned.
fn frame(version: Version, l4: L4, number: u16, corrupt: bool) -> Vec<u8> {
    let mut bytes = Frame { l4, ..Frame::echo(version, 0) }.bytes(number);
    if corrupt {
        *bytes.last_mut().unwrap() ^= 0x10;
    }
    bytes
}

/// A counter of a namespace, from a line pair of `/proc/net/snmp` or a line of `/proc/net/snmp6`.
fn counter(ns: &NetNs, protocol: &str, name: &str) -> u64 {
    let read = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
    if protocol == "Udp6" {
        let text = ns.enter(|| read("snmp6"));
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{protocol}{name}")));
        return line.expect("the kernel has the counter").trim().parse().unwrap();
    }
    let text = ns.enter(|| read("snmp"));
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(&format!("{protocol}: ")));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(candidate, _)| *candidate == name).expect("the kernel has the counter");
    value.parse().unwrap()
}

/// The counter, once it is not `before` any more, or after a second.
fn changed(ns: &NetNs, protocol: &str, name: &str, before: u64) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        let now = counter(ns, protocol, name);
        if now != before || Instant::now() > deadline {
            return now;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn socket(receiver: &Receiver, address: &str) -> UdpSocket {
    let container = receiver.container();
    if address.contains(':') {
        container.run(&["ip", "addr", "add", &format!("{address}/64"), "dev", "eth0", "nodad"]);
        // The kernel takes packets for the address a moment later (`addrconf_dad_work`).
        let route = ["ip", "-6", "route", "show", "table", "local", address];
        for _ in 0..500 {
            if !container.run(&route).is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let socket = container.enter(|| UdpSocket::bind((address, PORT))).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}

fn is_empty(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let result = socket.recv(&mut [0; 100]);
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    result.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Every outer checksum: none, right (over whatever is inside), wrong.
const OUTER: [UdpChecksum; 3] = [UdpChecksum::Absent, UdpChecksum::Right, UdpChecksum::Value(0x1234)];

fn around(frame: &[u8], udp_checksum: UdpChecksum) -> Vec<u8> {
    Outer { udp_checksum, ..to_node2() }.around(frame)
}

/// On the fast path any outer checksum passes, and the inner one decides.
fn corrupt_udp_is_delivered_and_not_accepted(rx: Rx) {
    let mut receiver = Receiver::start(rx);
    for (version, address, protocol) in [(v4(), "10.0.1.6", "Udp"), (v6(), "fd00::a00:106", "Udp6")] {
        let socket = socket(&receiver, address);
        for path in [Path::Fast, Path::Kernel] {
            for outer in OUTER {
                let is_dropped = path == Path::Kernel && matches!(outer, UdpChecksum::Value(_));
                let l4 = L4::Udp { src: 4000, dst: PORT };
                let what = format!("{protocol}, {rx:?}, {path:?}, outer checksum {outer:?}");

                let before = counter(receiver.container(), protocol, "InCsumErrors");
                let on_host = counter(receiver.host(), "Udp", "InCsumErrors");
                let corrupt = frame(version.clone(), l4, 1, true);
                let (arrived, _) = receiver.receive(path, &[around(&corrupt, outer)], usize::from(!is_dropped));
                if is_dropped {
                    // The kernel verifies what it is given.
                    assert!(arrived.is_empty(), "{what}");
                    assert_eq!(counter(receiver.host(), "Udp", "InCsumErrors"), on_host + 1, "{what}");
                    continue;
                }
                assert_eq!(arrived.get(&1), Some(&corrupt), "{what}");
                assert!(is_empty(&socket), "{what}: a corrupt datagram came through");
                let after = changed(receiver.container(), protocol, "InCsumErrors", before);
                assert_eq!(after, before + 1, "{what}: InCsumErrors");
                assert_eq!(counter(receiver.host(), "Udp", "InCsumErrors"), on_host, "{what}");

                // The same without the damage is accepted.
                let good = frame(version.clone(), l4, 2, false);
                receiver.receive(path, &[around(&good, outer)], 1);
                assert_eq!(socket.recv(&mut [0; 100]).unwrap(), 20, "{what}");
            }
        }
    }
}

/// A SYN that was damaged is not answered.
fn corrupt_tcp_is_delivered_and_not_accepted(rx: Rx) {
    let mut receiver = Receiver::start(rx);
    let address = Ipv4Addr::new(10, 0, 1, 6);
    let _listener = receiver.container().enter(|| TcpListener::bind((address, PORT))).unwrap();
    for path in [Path::Fast, Path::Kernel] {
        for (number, outer) in (1..).zip([UdpChecksum::Absent, UdpChecksum::Right]) {
            let what = format!("{rx:?}, {path:?}, outer checksum {outer:?}");
            let syn = |corrupt| {
                let src = 4000 + 2 * number + u16::from(corrupt) + 100 * u16::from(path == Path::Fast);
                frame(v4(), L4::Tcp { src, dst: PORT, flags: 2 }, number, corrupt)
            };
            let errors = counter(receiver.container(), "Tcp", "InCsumErrors");
            let sent = counter(receiver.container(), "Tcp", "OutSegs");
            let (arrived, _) = receiver.receive(path, &[around(&syn(true), outer)], 1);
            assert_eq!(arrived.get(&number), Some(&syn(true)), "{what}");
            assert_eq!(changed(receiver.container(), "Tcp", "InCsumErrors", errors), errors + 1, "{what}");
            assert_eq!(counter(receiver.container(), "Tcp", "OutSegs"), sent, "{what}: a corrupt SYN was answered");

            receiver.receive(path, &[around(&syn(false), outer)], 1);
            assert!(changed(receiver.container(), "Tcp", "OutSegs", sent) > sent, "{what}: no answer to a good SYN");
        }
    }
}

#[test]
fn corrupt_inner_datagram_is_rejected_by_container_with_tc() {
    corrupt_udp_is_delivered_and_not_accepted(Rx::Tc);
}

#[test]
fn corrupt_inner_datagram_is_rejected_by_container_with_gro() {
    corrupt_udp_is_delivered_and_not_accepted(Rx::Gro);
}

#[test]
fn corrupt_inner_datagram_is_rejected_by_container_with_xdp() {
    corrupt_udp_is_delivered_and_not_accepted(Rx::Xdp);
}

#[test]
fn corrupt_inner_segment_is_rejected_by_container_with_tc() {
    corrupt_tcp_is_delivered_and_not_accepted(Rx::Tc);
}

#[test]
fn corrupt_inner_segment_is_rejected_by_container_with_gro() {
    corrupt_tcp_is_delivered_and_not_accepted(Rx::Gro);
}

#[test]
fn corrupt_inner_segment_is_rejected_by_container_with_xdp() {
    corrupt_tcp_is_delivered_and_not_accepted(Rx::Xdp);
}
