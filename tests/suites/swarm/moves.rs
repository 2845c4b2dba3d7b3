//! A container moves between nodes with its address: no packet goes to the old node.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use overlay_tests::lab::{
    Host, NIC, PacketSocket, docker_mac,
    traffic::{Datagrams, Ping, UdpFlow, ping},
};

use super::setup::{Accelerated, LAG, NETWORK, VNI, until};

const MOVES: usize = 20;
const MOVING_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 20);

/// Delay from the kernel's change to the map's, and of packets in flight: events are collected for about 20 ms.
const GRACE: Duration = Duration::from_millis(250);

/// Offset of the inner Ethernet header in a VXLAN packet.
const INNER: usize = 14 + 20 + 8 + 8;

/// Records the arrival times of VXLAN packets for the moving container at a host.
struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Instant>>,
}

impl Capture {
    fn start(host: &Host) -> Self {
        let socket = PacketSocket::open(host, NIC).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                if let Some(frame) = socket.receive(Instant::now() + Duration::from_millis(20)).unwrap()
                    && is_for_moving_container(&frame)
                {
                    seen.push(Instant::now());
                }
            }
            seen
        });
        Self { stop, thread }
    }

    fn finish(self) -> Vec<Instant> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn is_for_moving_container(frame: &[u8]) -> bool {
    let to_vxlan = frame.get(12..14) == Some(&[0x08, 0x00]) && frame.get(36..38) == Some(&4789_u16.to_be_bytes());
    let inner_ipv4 = frame.get(INNER + 12..INNER + 14) == Some(&[0x08, 0x00]);
    to_vxlan && inner_ipv4 && frame.get(INNER + 14 + 16..INNER + 14 + 20) == Some(&MOVING_IP.octets())
}

/// A move from `old` to `new`: node01's kernel FDB has changed at `changed`, and the next move starts at `ended`.
struct Move {
    old: usize,
    new: usize,
    changed: Instant,
    ended: Instant,
}

#[test]
fn no_packet_goes_to_old_node_after_kernel_fdb_changed() {
    let setup = Accelerated::start(3, &[1, 2, 3]);
    let sandbox = setup.sandbox(1);
    let mac = docker_mac(MOVING_IP);
    let captures = [2, 3].map(|node| Capture::start(setup.swarm.node(node).host()));
    setup.swarm.container(2, "moving", NETWORK, MOVING_IP).unwrap();
    setup.wait_for_kernel(1, MOVING_IP, 2);
    // The container does not answer; only requests are captured.
    let flow = UdpFlow::requests(&setup.one, SocketAddr::from((MOVING_IP, 9)), Datagrams::steady(500)).unwrap();

    let mut moves = Vec::new();
    for number in 0..MOVES {
        let [old, new] = if number % 2 == 0 { [2, 3] } else { [3, 2] };
        setup.swarm.node(old).docker(&["rm", "--force", "moving"]).unwrap();
        until("node01's kernel FDB has no entry", || sandbox.vtep_of(&mac).unwrap().is_none());
        wait_within_lag(|| !setup.fdb(1, VNI).contains_key(&mac));
        setup.swarm.container(new, "moving", NETWORK, MOVING_IP).unwrap();
        setup.wait_for_kernel(1, MOVING_IP, new);
        let changed = Instant::now();
        let address = setup.swarm.node(new).address().to_string();
        wait_within_lag(|| setup.fdb(1, VNI).get(&mac).is_some_and(|row| row["vtep"] == address));
        assert!(ping(&setup.one, MOVING_IP.into(), Ping::default()).unwrap().all(), "move {number}");
        // Capture packets to either node.
        thread::sleep(2 * GRACE - changed.elapsed().min(2 * GRACE));
        moves.push(Move { old, new, changed, ended: Instant::now() });
    }
    let _ = flow.stop();
    let [second, third] = captures.map(Capture::finish);
    for (number, one) in moves.iter().enumerate() {
        let seen = |node: usize| {
            let times = if node == 2 { &second } else { &third };
            times.iter().filter(|time| **time > one.changed + GRACE && **time < one.ended).count()
        };
        assert_eq!(seen(one.old), 0, "move {number}: packets went to node0{}, the old node", one.old);
        assert!(seen(one.new) > 0, "move {number}: no packet went to node0{}, the new node", one.new);
    }
}

#[track_caller]
fn wait_within_lag(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LAG, "the map does not match the kernel's FDB");
        thread::sleep(Duration::from_millis(10));
    }
}
