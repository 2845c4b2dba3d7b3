//! Numbered datagrams at a high rate, one way, of which none may be missing or late.

use std::{
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

use super::{Cpus, PATIENCE, TICK};
use crate::lab::{NetNs, sys};

/// Room for some seconds without the receiving thread: what is lost is lost on the way.
const RECEIVE_BUFFER: libc::c_int = 512 << 20;
/// Datagrams that a sender that was held up sends at once, before it lets others run. Less than the queue of a veth that
/// runs XDP has room for (`VETH_RING_SIZE`, 256).
const BURST: u64 = 64;
/// Bytes of a datagram.
const SIZE: usize = 64;

/// What became of a [`UdpStream`].
#[derive(Clone, Copy, Debug)]
pub struct StreamReport {
    /// Datagrams that the sender's kernel took.
    pub sent: u64,
    /// Datagrams that came.
    pub received: u64,
    /// Datagrams that came after one with a higher number, or twice.
    pub late: u64,
    /// While sending.
    pub elapsed: Duration,
    /// The longest time between two datagrams that came.
    pub longest_gap: Duration,
}

impl StreamReport {
    /// Datagrams sent per second.
    #[must_use]
    pub fn per_second(&self) -> u64 {
        (self.sent as f64 / self.elapsed.as_secs_f64()) as u64
    }
}

/// Datagrams at a steady rate until it is stopped. A sender that was held up makes up for it.
#[derive(Debug)]
pub struct UdpStream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    sender: JoinHandle<Result<(u64, Duration)>>,
    receiver: JoinHandle<StreamReport>,
    ended: Arc<AtomicBool>,
}

impl UdpStream {
    /// `per_second` datagrams of 64 bytes from `client` to `address` in `server`. Each side stays on a CPU of its own:
    /// packets that change CPUs on the way may overtake each other, whatever the network does.
    ///
    /// # Errors
    /// When the server does not have the address, or the client no route to it.
    pub fn start(client: &NetNs, server: &NetNs, address: IpAddr, per_second: u32) -> Result<Self> {
        let Cpus { client: client_cpu, server: server_cpu } = Cpus::two();
        let sink = super::bind(server, address)?;
        sys::set_option(sink.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)
            .context("cannot enlarge a receive buffer; run this as root")?;
        let to = sink.local_addr()?;
        let source = super::bind(client, super::any(address))?;
        client.enter(|| source.connect(to)).with_context(|| format!("{}: no route to {to}", client.name()))?;
        let (stop, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (sent, received) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let receiver = {
            let (ended, received) = (Arc::clone(&ended), Arc::clone(&received));
            server.spawn(move || {
                super::pin(server_cpu);
                receive(&sink, &ended, &received)
            })
        };
        let sender = {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            client.spawn(move || {
                super::pin(client_cpu);
                send(&source, to, per_second, &stop, &sent)
            })
        };
        Ok(Self { stop, sent, received, sender, receiver, ended })
    }

    /// Waits until `count` more datagrams came.
    ///
    /// # Errors
    /// When that takes more than 10 s.
    pub fn wait_for(&self, count: u64) -> Result<()> {
        let (goal, start) = (self.received.load(Ordering::Relaxed) + count, Instant::now());
        while self.received.load(Ordering::Relaxed) < goal {
            let got = self.received.load(Ordering::Relaxed);
            ensure!(start.elapsed() < PATIENCE, "only {got} of {goal} datagrams came");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Stops sending, waits for what is under way, and reports.
    ///
    /// # Errors
    /// When a datagram could not be sent.
    ///
    /// # Panics
    /// Never; a thread of this would have.
    pub fn stop(self) -> Result<StreamReport> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sending thread does not panic");
        let (mut last, mut since) = (0, Instant::now());
        while self.received.load(Ordering::Relaxed) < self.sent.load(Ordering::Relaxed)
            && since.elapsed() < Duration::from_secs(1)
        {
            let received = self.received.load(Ordering::Relaxed);
            if received != last {
                (last, since) = (received, Instant::now());
            }
            std::thread::sleep(TICK);
        }
        self.ended.store(true, Ordering::Relaxed);
        let report = self.receiver.join().expect("the receiving thread does not panic");
        let (sent, elapsed) = sent?;
        Ok(StreamReport { sent, elapsed, ..report })
    }
}

fn send(
    socket: &UdpSocket,
    to: SocketAddr,
    per_second: u32,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> Result<(u64, Duration)> {
    let (start, mut number) = (Instant::now(), 0_u64);
    let mut datagram = [0; SIZE];
    while !stop.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
        // Not asleep between two: the timer would be late by more than their distance.
        let end = due.min(number + BURST);
        while number < end {
            datagram[..8].copy_from_slice(&number.to_be_bytes());
            socket.send(&datagram).with_context(|| format!("cannot send number {number} to {to}"))?;
            number += 1;
        }
        sent.store(number, Ordering::Relaxed);
        std::thread::yield_now();
    }
    Ok((number, start.elapsed()))
}

fn receive(socket: &UdpSocket, ended: &AtomicBool, received: &AtomicU64) -> StreamReport {
    let nothing = Duration::ZERO;
    let mut report = StreamReport { sent: 0, received: 0, late: 0, elapsed: nothing, longest_gap: nothing };
    let (mut next, mut last) = (0, None::<Instant>);
    let mut buffer = [0; 2 * SIZE];
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                let number = u64::from_be_bytes(buffer[..8].try_into().unwrap_or_default());
                report.received += 1;
                report.late += u64::from(number < next);
                next = next.max(number + 1);
                let now = Instant::now();
                report.longest_gap = report.longest_gap.max(last.map_or(nothing, |last| now - last));
                last = Some(now);
                received.store(report.received, Ordering::Relaxed);
            }
            Err(_) if ended.load(Ordering::Relaxed) => return report,
            Err(_) => {}
        }
    }
}
