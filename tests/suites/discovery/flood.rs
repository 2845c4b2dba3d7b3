//! A container sends with any number of source addresses, which its bridge learns.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use overlay_tests::{
    check::until,
    lab::{NetNs, PacketSocket},
};

use crate::{
    host::Host,
    node::{GINDEMO1, GINDEMO2, Node, VNI, mac},
};

/// Source addresses of a flood before anything is checked.
const FLOOD: u64 = 20_000;
/// Memory that a flood may cost, in KiB. Its addresses alone would take several times as much.
const MEMORY: u64 = 8 << 10;
/// Reads of the tables that a flood may cause, besides the periodic ones.
const READS: u64 = 12;
/// Interval of the periodic reads.
const REFRESH: u64 = 5;

/// Destination of the frames, which has no entry.
const UNKNOWN: &str = "02:42:0a:00:01:63";

/// A container that sends frames until it is dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// The n-th frame has the source address `source(n)`.
    fn start(container: &NetNs, source: impl Fn(u64) -> [u8; 6] + Send + 'static) -> Self {
        let socket = PacketSocket::open(container, "eth0").unwrap();
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let flags = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let (stop, sent) = flags;
            while !stop.load(Ordering::Relaxed) {
                let number = sent.load(Ordering::Relaxed);
                let header = [&mac(UNKNOWN).0[..], &source(number), &[0x88, 0xb5]].concat();
                socket.send(&[&header[..], &[0; 46]].concat()).unwrap();
                sent.store(number + 1, Ordering::Relaxed);
                if number % 50 == 0 {
                    thread::sleep(Duration::from_millis(2));
                }
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until so many more frames are sent.
    fn wait(&self, frames: u64) {
        let before = self.sent();
        until("the frames are sent", || self.sent() >= before + frames);
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking(), "the frames cannot be sent");
    }
}

fn any_source(number: u64) -> [u8; 6] {
    let bytes = number.to_be_bytes();
    [6, 0, bytes[4], bytes[5], bytes[6], bytes[7]]
}

/// Checks that a flood has not caused more reads than its changes and the time need.
fn assert_few_reads(host: &Host, before: u64, begin: Instant) {
    let (reads, periodic) = (host.reads() - before, begin.elapsed().as_secs() / REFRESH + 1);
    assert!(reads <= READS + periodic, "{reads} reads in {:?}", begin.elapsed());
}

#[test]
fn flood_of_source_addresses_delays_no_change() {
    let host = Host::start(&[]);
    let (memory, reads, begin) = (host.memory(), host.reads(), Instant::now());
    let flood = Flood::start(&host.sandboxes[0].container, any_source);
    flood.wait(FLOOD);
    assert_few_reads(&host, reads, begin);
    let before = flood.sent();
    host.add(1, "02:42:0a:00:01:07");
    host.add(0, "02:42:0a:00:01:07");
    assert!(flood.sent() > before, "the flood goes on");
    let grown = host.memory().saturating_sub(memory);
    assert!(grown < MEMORY, "{grown} KiB");
    assert_few_reads(&host, reads, begin);
    let learned = host.sandboxes[0].netns.run(&["bridge", "fdb", "show", "brport", "veth0"]).lines().count();
    assert!(learned as u64 >= FLOOD, "{learned} entries");
}

/// One of 20,000 source addresses is that of a container on another host: the kernel would send its frames to this one.
#[test]
fn spoofed_address_in_a_flood_has_no_entry() {
    let (node, sandbox) = Node::with_sandbox();
    let watched = node.watch();
    let remote = || watched.network(VNI).unwrap().remote.contains_key(&mac(GINDEMO2));
    assert!(remote());
    let flood =
        Flood::start(&sandbox.container, |number| if number == FLOOD { mac(GINDEMO2).0 } else { any_source(number) });
    flood.wait(FLOOD + 1);
    watched.until("ambiguous", || !remote());
    watched.always("ambiguous", || !remote());
    // The first read finds it, too.
    let second = node.watch();
    assert!(second.network(VNI).unwrap().remote.is_empty());
    drop(flood);
    sandbox.fdb(&format!("del {GINDEMO2} dev veth0 master"));
    watched.within(Duration::from_secs(10), "at its place again", remote);
}

/// Two containers send with one source address, so that its entry moves between their ports.
#[test]
fn moving_address_is_read_seldom_and_has_no_entry() {
    let host = Host::start(&[]);
    let second = NetNs::anonymous("second").unwrap();
    host.sandboxes[0].plug("veth1", "02:42:0a:00:01:03", &second);
    until("the second container is discovered", || host.has_entry(VNI, "02:42:0a:00:01:03"));
    let (reads, begin) = (host.reads(), Instant::now());
    let source = |_| mac(GINDEMO1).0;
    let floods = [&host.sandboxes[0].container, &second].map(|container| Flood::start(container, source));
    floods.iter().for_each(|flood| flood.wait(FLOOD));
    assert_few_reads(&host, reads, begin);
    host.add(0, "02:42:0a:00:01:07");
    host.add(1, "02:42:0a:00:01:07");
    until("the address has no entry", || !host.has_entry(VNI, GINDEMO1));
    assert!(host.has_entry(VNI, "02:42:0a:00:01:03") && host.has_entry(VNI, GINDEMO2));
    assert_few_reads(&host, reads, begin);
    drop(floods);
    host.sandboxes[0].netns.run(&["ip", "link", "delete", "veth1"]);
    until("the address is at its place again", || host.has_entry(VNI, GINDEMO1));
}
