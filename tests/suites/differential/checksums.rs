//! Invalid checksums. For the outer UDP checksum, RFC 7348 §5 lets a receiver choose; the container must verify the
//! inner one.

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

/// A numbered frame to gindemo2's [`PORT`]; `corrupt`: with one flipped bit in the payload.
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

/// Waits at most a second until the counter differs from `before`; returns its value.
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
        // The kernel accepts packets for the address after a delay (`addrconf_dad_work`).
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

/// Outer checksums: absent, correct (over the inner frame as it is), wrong.
const OUTER: [UdpChecksum; 3] = [UdpChecksum::Absent, UdpChecksum::Right, UdpChecksum::Value(0x1234)];

fn encapsulated(frame: &[u8], udp_checksum: UdpChecksum) -> Vec<u8> {
    Outer { udp_checksum, ..to_node2() }.encapsulate(frame)
}

/// The fast path ignores the outer checksum; the container verifies the inner one.
fn assert_corrupt_udp_is_rejected(rx: Rx) {
    let mut receiver = Receiver::start(rx);
    for (version, address, protocol) in [(v4(), "10.0.1.6", "Udp"), (v6(), "fd00::a00:106", "Udp6")] {
        let socket = socket(&receiver, address);
        for path in [Path::Fast, Path::Kernel] {
            for outer in OUTER {
                let is_dropped = path == Path::Kernel && matches!(outer, UdpChecksum::Value(_));
                let l4 = L4::Udp { src: 4000, dst: PORT };
                let case = format!("{protocol}, {rx:?}, {path:?}, outer checksum {outer:?}");

                let before = counter(receiver.container(), protocol, "InCsumErrors");
                let on_host = counter(receiver.host(), "Udp", "InCsumErrors");
                let corrupt = frame(version.clone(), l4, 1, true);
                let (arrived, _) = receiver.receive(path, &[encapsulated(&corrupt, outer)], usize::from(!is_dropped));
                if is_dropped {
                    // The kernel verifies a present outer checksum.
                    assert!(arrived.packets().is_empty(), "{case}");
                    assert_eq!(counter(receiver.host(), "Udp", "InCsumErrors"), on_host + 1, "{case}");
                    continue;
                }
                assert_eq!(arrived.packets().get(&1), Some(&&corrupt[..]), "{case}");
                assert!(is_empty(&socket), "{case}: a corrupt datagram was accepted");
                let after = changed(receiver.container(), protocol, "InCsumErrors", before);
                assert_eq!(after, before + 1, "{case}: InCsumErrors");
                assert_eq!(counter(receiver.host(), "Udp", "InCsumErrors"), on_host, "{case}");

                // The same datagram without corruption is accepted.
                let good = frame(version.clone(), l4, 2, false);
                receiver.receive(path, &[encapsulated(&good, outer)], 1);
                assert_eq!(socket.recv(&mut [0; 100]).unwrap(), 20, "{case}");
            }
        }
    }
}

/// A corrupt SYN is not answered.
fn assert_corrupt_tcp_is_rejected(rx: Rx) {
    let mut receiver = Receiver::start(rx);
    let address = Ipv4Addr::new(10, 0, 1, 6);
    let _listener = receiver.container().enter(|| TcpListener::bind((address, PORT))).unwrap();
    for path in [Path::Fast, Path::Kernel] {
        for (number, outer) in (1..).zip([UdpChecksum::Absent, UdpChecksum::Right]) {
            let case = format!("{rx:?}, {path:?}, outer checksum {outer:?}");
            let syn = |corrupt| {
                let src = 4000 + 2 * number + u16::from(corrupt) + 100 * u16::from(path == Path::Fast);
                frame(v4(), L4::Tcp { src, dst: PORT, flags: 2, options: 0 }, number, corrupt)
            };
            let errors = counter(receiver.container(), "Tcp", "InCsumErrors");
            let sent = counter(receiver.container(), "Tcp", "OutSegs");
            let (arrived, _) = receiver.receive(path, &[encapsulated(&syn(true), outer)], 1);
            assert_eq!(arrived.packets().get(&number), Some(&&syn(true)[..]), "{case}");
            assert_eq!(changed(receiver.container(), "Tcp", "InCsumErrors", errors), errors + 1, "{case}");
            assert_eq!(counter(receiver.container(), "Tcp", "OutSegs"), sent, "{case}: a corrupt SYN was answered");

            receiver.receive(path, &[encapsulated(&syn(false), outer)], 1);
            assert!(changed(receiver.container(), "Tcp", "OutSegs", sent) > sent, "{case}: no answer to a good SYN");
        }
    }
}

#[test]
fn corrupt_inner_datagram_is_rejected_by_container_with_tc() {
    assert_corrupt_udp_is_rejected(Rx::Tc);
}

#[test]
fn corrupt_inner_datagram_is_rejected_by_container_with_gro() {
    assert_corrupt_udp_is_rejected(Rx::Gro);
}

#[test]
fn corrupt_inner_datagram_is_rejected_by_container_with_xdp() {
    assert_corrupt_udp_is_rejected(Rx::Xdp);
}

#[test]
fn corrupt_inner_segment_is_rejected_by_container_with_tc() {
    assert_corrupt_tcp_is_rejected(Rx::Tc);
}

#[test]
fn corrupt_inner_segment_is_rejected_by_container_with_gro() {
    assert_corrupt_tcp_is_rejected(Rx::Gro);
}

#[test]
fn corrupt_inner_segment_is_rejected_by_container_with_xdp() {
    assert_corrupt_tcp_is_rejected(Rx::Xdp);
}
