//! Port entries are rewritten under traffic: no packet sees a mix of two entries, and a strict port is always checked.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use overlay_common::maps::{Port, PortKey};
use overlay_tests::maps::WritableMaps;
use overlay_tests::testbed::{GINDEMO1, GINDEMO2, Testbed};
use overlay_tests::{
    frame::{Inner, L4, Station, Version},
    lab::{
        NetNs, PacketSocket,
        traffic::{Cpus, pin},
    },
};
use overlay_user::testing::plan::{Change, Changes};

use super::overlap::overlapping;

const PORT: u16 = 9000;
const TIME: Duration = Duration::from_secs(3);
const COLOURS: [&str; 2] = ["red", "blue"];

fn container<'a>(setup: &'a Testbed, colour: &str, host: usize) -> &'a NetNs {
    &setup.lab.host(host).containers()[usize::from(colour == "blue")]
}

/// Rewrites the port entries of node01, singly and in a batch, until `done`; returns the number of rounds.
fn rewrite(setup: &Testbed, done: &AtomicBool) -> u32 {
    pin(Cpus::two().server);
    let mut maps = WritableMaps::open(&setup.pin_root(1)).unwrap();
    let mut tables = maps.read().unwrap();
    let ports = tables.ports.clone();
    assert_eq!(ports.len(), 2);
    let mut count = 0;
    let mut set = |which: &[PortKey], reduction: u16| {
        let change = |key: &PortKey| {
            let old = tables.ports[key];
            Change { key: *key, old: Some(old), new: Some(Port { mtu: ports[key].mtu - reduction, ..old }) }
        };
        let changes = Changes { ports: which.iter().map(change).collect(), ..Changes::default() };
        let outcome = maps.apply(&changes, &mut tables);
        assert!(outcome.failed.is_empty() && !outcome.is_stale, "{:?}", outcome.failed);
    };
    let keys: Vec<PortKey> = ports.keys().copied().collect();
    while !done.load(Ordering::Relaxed) {
        keys.iter().for_each(|key| set(&[*key], 1));
        // An element that one update frees may be reused by the other.
        set(&keys, 0);
        count += 1;
    }
    count
}

/// Stops the rewriting on drop, also when the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Datagrams that a container has received.
fn received(receiver: &UdpSocket) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        let mut buffer = [0; 2048];
        match receiver.recv(&mut buffer) {
            Ok(length) => texts.push(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return texts,
            Err(error) => panic!("{error}"),
        }
    }
}

fn receivers(setup: &Testbed) -> [UdpSocket; 2] {
    COLOURS.map(|colour| {
        container(setup, colour, 2).enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
    })
}

fn strict(setup: &mut Testbed) {
    setup.cluster.networks.iter_mut().for_each(|network| network.strict = true);
    setup.cluster.write(setup.config()).unwrap();
    overlay_tests::check::until("the networks are strict", || {
        let status = setup.daemon(1).overlay(&["status", "--json"]).unwrap();
        status["networks"].as_array().unwrap().iter().all(|network| network["strict"] == true)
    });
}

/// Two networks with the same addresses: a frame with the wrong VNI would reach the other network's container.
fn assert_isolated(setup: &Testbed) {
    let receivers = receivers(setup);
    let before = setup.counts(1);
    let done = AtomicBool::new(false);
    let senders = COLOURS.map(|colour| {
        container(setup, colour, 1).enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.connect((GINDEMO2, PORT)).unwrap();
            (socket, colour)
        })
    });
    let mut counts = [0_u32; 2];
    let rewritten = std::thread::scope(|scope| {
        let rewriting = scope.spawn(|| rewrite(setup, &done));
        let stop = StopOnDrop(&done);
        pin(Cpus::two().client);
        let start = Instant::now();
        while start.elapsed() < TIME {
            for (socket, colour) in &senders {
                // The loop below empties a full queue.
                (0..16).for_each(|_| _ = socket.send(colour.as_bytes()));
            }
            for (index, receiver) in receivers.iter().enumerate() {
                let texts = received(receiver);
                assert!(texts.iter().all(|text| text == COLOURS[index]), "{} received {texts:?}", COLOURS[index]);
                counts[index] += texts.len() as u32;
            }
        }
        drop(stop);
        rewriting.join().unwrap()
    });
    let fast = setup.counts(1).since(&before).of("encap");
    assert!(rewritten >= 10 && counts.iter().all(|count| *count > 1_000), "{rewritten}, {counts:?}");
    assert!(fast > 1_000, "{fast} by the fast path");
}

#[test]
fn rewritten_port_entries_never_mix() {
    assert_isolated(&overlapping([4789, 4789]));
}

#[test]
fn rewritten_strict_port_entries_never_mix() {
    let mut setup = overlapping([4789, 4789]);
    strict(&mut setup);
    assert_isolated(&setup);
}

/// Frames with a spoofed source are dropped while the port entry is replaced.
#[test]
fn strict_port_is_checked_while_its_entry_is_rewritten() {
    let mut setup = overlapping([4789, 4789]);
    strict(&mut setup);
    let receivers = receivers(&setup);
    let before = setup.counts(1);
    let done = AtomicBool::new(false);
    let from = Station { ipv4: [10, 0, 1, 99], ..Station::container(GINDEMO1.octets()) };
    let to = Station::container(GINDEMO2.octets());
    let spoofed = Inner::new(from, to, Version::V4, L4::Udp(40_000, PORT)).payload(b"spoofed").bytes();
    let wire = PacketSocket::open(container(&setup, "red", 1), "eth0").unwrap();
    let rewritten = std::thread::scope(|scope| {
        let rewriting = scope.spawn(|| rewrite(&setup, &done));
        let stop = StopOnDrop(&done);
        pin(Cpus::two().client);
        let start = Instant::now();
        while start.elapsed() < TIME {
            (0..16).for_each(|_| wire.send(&spoofed).unwrap());
            for receiver in &receivers {
                assert_eq!(received(receiver), Vec::<String>::new());
            }
        }
        drop(stop);
        rewriting.join().unwrap()
    });
    let counts = setup.counts(1).since(&before);
    assert!(rewritten >= 10 && counts.of("strict_ip") > 1_000, "{rewritten}, {counts:?}");
    assert_eq!(counts.of("not_a_port"), 0, "{counts:?}");
}
