//! Numbered datagrams, one way.

use std::{
    collections::HashSet,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{PATIENCE, TICK, pattern};
use crate::lab::{NetNs, sys};

/// Most datagrams that the kernel takes in one GSO send (`UDP_MAX_SEGMENTS`, 64 in older kernels), and the most bytes.
const GSO_DATAGRAMS: u64 = 64;
const GSO_BYTES: usize = 65_000;

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams {
    /// Payload bytes of each. Below 8 there is no sequence number: such datagrams are counted and nothing else.
    pub size: usize,
    /// How many.
    pub count: u64,
    /// How many per second; `None`: as fast as they go.
    pub per_second: Option<u32>,
    /// Hand them to the kernel in super-packets (`UDP_SEGMENT`).
    pub gso: bool,
}

impl Default for Datagrams {
    /// 100 datagrams of 64 bytes at a rate that loses none.
    fn default() -> Self {
        Self { size: 64, count: 100, per_second: Some(5_000), gso: false }
    }
}

/// Sends datagrams from `ns`, numbered from 0.
///
/// # Errors
/// When the kernel refuses one, for instance because `gso` is not possible on the way.
pub fn send_udp(ns: &NetNs, to: SocketAddr, plan: Datagrams) -> Result<()> {
    ns.enter(|| send(to, plan)).with_context(|| format!("{}: cannot send to {to}", ns.name()))
}

fn send(to: SocketAddr, plan: Datagrams) -> Result<()> {
    let socket = UdpSocket::bind(SocketAddr::new(super::any(to.ip()), 0))?;
    socket.connect(to)?;
    let batch = if plan.gso {
        ensure!(plan.size > 0, "UDP GSO needs datagrams that are not empty");
        // The kernel cuts every send into datagrams of this size.
        sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, libc::c_int::try_from(plan.size)?)
            .context("the kernel refuses UDP_SEGMENT")?;
        GSO_DATAGRAMS.min((GSO_BYTES / plan.size) as u64).max(1)
    } else {
        1
    };
    let mut buffer = vec![0; plan.size * batch as usize];
    let start = Instant::now();
    let mut next = 0;
    while next < plan.count {
        let now = batch.min(plan.count - next);
        if plan.size > 0 {
            for (datagram, sequence) in buffer.chunks_mut(plan.size).zip(next..next + now) {
                pattern::datagram(datagram, sequence);
            }
        }
        let length = plan.size * now as usize;
        let sent = socket.send(&buffer[..length])?;
        ensure!(sent == length, "sent {sent} bytes of {length}");
        next += now;
        if let Some(rate) = plan.per_second {
            let due = start + Duration::from_secs_f64(next as f64 / f64::from(rate));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    Ok(())
}

/// What a [`UdpSink`] got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// All.
    pub datagrams: u64,
    /// Payload of all.
    pub bytes: u64,
    /// Different sequence numbers.
    pub distinct: u64,
    /// Datagrams whose number had come before.
    pub duplicates: u64,
    /// Datagrams whose number is lower than one that came before.
    pub reordered: u64,
    /// Datagrams whose content is not what was sent, or too small for a number.
    pub unnumbered: u64,
}

/// A receiver of numbered datagrams.
#[derive(Debug)]
pub struct UdpSink {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    seen: Arc<AtomicU64>,
    thread: JoinHandle<Received>,
}

impl UdpSink {
    /// Receives on `address` in `ns`, on a port of its own.
    ///
    /// # Errors
    /// When the namespace does not have the address.
    pub fn start(ns: &NetNs, address: IpAddr) -> Result<Self> {
        let socket = super::bind_lossless(ns, address)?;
        let address = socket.local_addr()?;
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            ns.spawn(move || receive(&socket, &stop, &seen))
        };
        Ok(Self { address, stop, seen, thread })
    }

    /// Where to send to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops as soon as `expected` datagrams came, or when nothing came for a second; says what came.
    #[must_use]
    pub fn finish(self, expected: u64) -> Received {
        let start = Instant::now();
        let (mut last, mut since) = (0, Instant::now());
        while start.elapsed() < PATIENCE && since.elapsed() < Duration::from_secs(1) {
            let seen = self.seen.load(Ordering::Relaxed);
            if seen >= expected {
                break;
            }
            if seen != last {
                (last, since) = (seen, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // Too many is a finding, too: whatever else comes at once is counted.
        std::thread::sleep(TICK);
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the receiving thread does not panic")
    }
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, seen: &AtomicU64) -> Received {
    let mut got = Received::default();
    let (mut numbers, mut highest) = (HashSet::new(), None);
    let mut buffer = [0; 65_536];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                got.datagrams += 1;
                got.bytes += length as u64;
                match pattern::sequence(&buffer[..length]) {
                    None => got.unnumbered += 1,
                    Some(number) if !numbers.insert(number) => got.duplicates += 1,
                    Some(number) => {
                        got.distinct += 1;
                        got.reordered += u64::from(highest.is_some_and(|highest| number < highest));
                        highest = highest.max(Some(number));
                    }
                }
                seen.store(got.datagrams, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && stop.load(Ordering::Relaxed) => return got,
            // An ICMP error is not ours to report: what is missing shows in the count.
            Err(_) if stop.load(Ordering::Relaxed) => return got,
            Err(_) => {}
        }
    }
}
