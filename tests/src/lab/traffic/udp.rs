//! Numbered datagrams from one namespace to another: the sender, the receiver, and the echo between them.

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

use super::{
    Cpus, PATIENCE, TICK,
    judge::{Judge, UdpReport},
    pattern,
};
use crate::lab::{NetNs, sys};

/// Most datagrams that the kernel takes in one GSO send (`UDP_MAX_SEGMENTS`, 64 in older kernels), and the most bytes.
const GSO_DATAGRAMS: u64 = 64;
const GSO_BYTES: usize = 65_000;
/// Datagrams that a sender that was held up sends at once, before it lets others run. Less than the queue of a veth that
/// runs XDP has room for (`VETH_RING_SIZE`, 256).
const BURST: u64 = 64;
/// A sender that is this early sleeps; the timer is too late for less.
const NAP: Duration = Duration::from_micros(50);
/// Nothing comes any more after this time without a datagram.
const QUIET: Duration = Duration::from_secs(1);

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams {
    /// Payload bytes of each. Below 8 there is no sequence number: such datagrams are counted and nothing else.
    pub size: usize,
    /// How many, unless sending is stopped before.
    pub count: u64,
    /// How many per second; a sender that was held up makes up for it. `None`: as fast as they go.
    pub per_second: Option<u32>,
    /// Hand them to the kernel in super-packets (`UDP_SEGMENT`).
    pub gso: bool,
    /// Number and check them, and keep those that the receiver has no time for. Otherwise they are counted only.
    pub checked: bool,
    /// Where sender and receiver run.
    pub cpus: Cpus,
}

impl Default for Datagrams {
    /// 100 datagrams of 64 bytes at a rate that loses none.
    fn default() -> Self {
        let cpus = Cpus::default();
        Self { size: 64, count: 100, per_second: Some(5_000), gso: false, checked: true, cpus }
    }
}

impl Datagrams {
    /// Datagrams of 64 bytes at a steady rate until they are stopped.
    #[must_use]
    pub fn steady(per_second: u32) -> Self {
        Self { count: u64::MAX, per_second: Some(per_second), ..Self::default() }
    }

    fn is_numbered(&self) -> bool {
        self.checked && self.size >= pattern::SEQUENCE
    }
}

/// Sends datagrams from `client` to `address` in `server`, and waits for them.
///
/// # Errors
/// When the server does not have the address, or when the client's kernel refuses a datagram, for instance because `gso`
/// is not possible on the way.
pub fn udp_transfer(client: &NetNs, server: &NetNs, address: IpAddr, plan: Datagrams) -> Result<UdpReport> {
    let report = UdpFlow::one_way(client, server, address, plan)?.finish();
    match report.refused {
        Some(error) => Err(anyhow::anyhow!("{}: cannot send to {address}: {error}", client.name())),
        None => Ok(report),
    }
}

/// Sends datagrams of `size` bytes from `client` to `address` in `server` as fast as one thread can.
///
/// # Errors
/// When the server does not have the address, or the client no route to it.
pub fn udp_rate(
    client: &NetNs,
    server: &NetNs,
    address: IpAddr,
    size: usize,
    duration: Duration,
    cpus: Cpus,
) -> Result<UdpReport> {
    let plan = Datagrams { size, count: u64::MAX, per_second: None, gso: false, checked: false, cpus };
    let flow = UdpFlow::one_way(client, server, address, plan)?;
    std::thread::sleep(duration);
    Ok(flow.stop())
}

/// Datagrams on their way. The sender does not wait for the receiver, so that an interruption of *n* milliseconds loses as
/// many as it should.
#[derive(Debug)]
pub struct UdpFlow {
    plan: Datagrams,
    shared: Arc<Shared>,
    sender: JoinHandle<Sent>,
    receiver: JoinHandle<Judge>,
    // Sends them back, if that is wanted, as long as it lives.
    _echo: Option<UdpEcho>,
}

/// What the threads of a [`UdpFlow`] tell each other.
#[derive(Debug, Default)]
struct Shared {
    /// No more is to be sent.
    stop: AtomicBool,
    /// No more is to be received.
    end: AtomicBool,
    /// Numbers below it are sent, or about to be.
    sent: AtomicU64,
    /// All datagrams that came, and those of them that were right.
    came: AtomicU64,
    right: AtomicU64,
}

impl UdpFlow {
    /// Requests from `client` to an echo on `address` in `server`: datagrams of which each has to come back.
    ///
    /// # Errors
    /// When the server does not have the address, or the client no route to it.
    pub fn start(client: &NetNs, server: &NetNs, address: IpAddr, plan: Datagrams) -> Result<Self> {
        let echo = UdpEcho::start(server, address, plan.cpus.server)?;
        let flow = Self::requests(client, echo.address(), plan)?;
        Ok(Self { _echo: Some(echo), ..flow })
    }

    /// The same to whatever is at `to`, even if nothing is.
    ///
    /// # Errors
    /// When there is no route to `to`.
    pub fn requests(client: &NetNs, to: SocketAddr, plan: Datagrams) -> Result<Self> {
        let socket = connected(client, to, plan)?;
        let replies = socket.try_clone()?;
        Ok(Self::between((client, socket), (client, replies), plan))
    }

    /// Datagrams from `client` to `address` in `server`, and none back.
    ///
    /// # Errors
    /// When the server does not have the address, or the client no route to it.
    pub fn one_way(client: &NetNs, server: &NetNs, address: IpAddr, plan: Datagrams) -> Result<Self> {
        // What is sent as fast as possible is more than a receiver takes: what it has no time for is lost.
        let bind = if plan.checked { super::bind_lossless } else { super::bind };
        let sink = bind(server, address)?;
        let source = connected(client, sink.local_addr()?, plan)?;
        Ok(Self::between((client, source), (server, sink), plan))
    }

    fn between(from: (&NetNs, UdpSocket), to: (&NetNs, UdpSocket), plan: Datagrams) -> Self {
        let shared = Arc::new(Shared::default());
        let receiver = {
            let (socket, shared) = (to.1, Arc::clone(&shared));
            to.0.spawn(move || receive(&socket, plan, &shared))
        };
        let sender = {
            let (socket, shared) = (from.1, Arc::clone(&shared));
            from.0.spawn(move || send(&socket, plan, &shared))
        };
        Self { plan, shared, sender, receiver, _echo: None }
    }

    /// Waits until `count` more came, and were right.
    ///
    /// # Errors
    /// When that takes more than 10 s.
    pub fn wait_for(&self, count: u64) -> Result<()> {
        let right = || self.shared.right.load(Ordering::Relaxed);
        let (goal, start) = (right() + count, Instant::now());
        while right() < goal {
            ensure!(start.elapsed() < PATIENCE, "only {} of {goal} datagrams came", right());
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Stops sending, waits for what is under way, and reports.
    #[must_use]
    pub fn stop(self) -> UdpReport {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits until all are sent and have come, or until nothing comes any more; says what came.
    fn finish(self) -> UdpReport {
        let Sent { start, elapsed, count, times, refused } =
            self.sender.join().expect("the sending thread does not panic");
        let came = || self.shared.came.load(Ordering::Relaxed);
        let (start_waiting, mut last, mut since) = (Instant::now(), came(), Instant::now());
        // What is sent as fast as possible is received meanwhile, but for what is in the receiver's queue.
        while self.plan.checked && came() < count && since.elapsed() < QUIET && start_waiting.elapsed() < PATIENCE {
            if came() != last {
                (last, since) = (came(), Instant::now());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // Too many is a finding, too: whatever else comes at once is counted.
        std::thread::sleep(TICK);
        self.shared.end.store(true, Ordering::Relaxed);
        let judge = self.receiver.join().expect("the receiving thread does not panic");
        let times = times.into_iter().map(|ms| start + Duration::from_millis(ms.into()));
        UdpReport { sent: count, elapsed, refused, ..judge.finish(times) }
    }
}

/// A socket in `client` that sends to `to`.
fn connected(client: &NetNs, to: SocketAddr, plan: Datagrams) -> Result<UdpSocket> {
    let socket = super::bind_lossless(client, super::any(to.ip()))?;
    client.enter(|| socket.connect(to)).with_context(|| format!("{}: no route to {to}", client.name()))?;
    if plan.gso {
        ensure!(plan.size > 0, "UDP GSO needs datagrams that are not empty");
        // The kernel cuts every send into datagrams of this size.
        sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, libc::c_int::try_from(plan.size)?)
            .context("the kernel refuses UDP_SEGMENT")?;
    }
    Ok(socket)
}

/// What a sender did.
#[derive(Debug)]
struct Sent {
    start: Instant,
    elapsed: Duration,
    count: u64,
    /// When each numbered datagram was sent, in ms since the start.
    times: Vec<u32>,
    refused: Option<String>,
}

fn send(socket: &UdpSocket, plan: Datagrams, shared: &Shared) -> Sent {
    super::pin(plan.cpus.client);
    let batch = if plan.gso { GSO_DATAGRAMS.min((GSO_BYTES / plan.size) as u64).max(1) } else { 1 };
    let mut buffer = vec![0; plan.size * batch as usize];
    let start = Instant::now();
    let (mut next, mut times, mut refused) = (0, Vec::new(), None);
    while next < plan.count && !shared.stop.load(Ordering::Relaxed) {
        let elapsed = start.elapsed();
        let due = plan.per_second.map_or(u64::MAX, |rate| (elapsed.as_secs_f64() * f64::from(rate)) as u64 + 1);
        // The last super-packet of a burst is a whole one.
        let end = due.min(next + BURST).max(next).next_multiple_of(batch).min(plan.count);
        shared.sent.store(end, Ordering::Release);
        while next < end {
            let count = batch.min(end - next);
            let length = plan.size * count as usize;
            if plan.is_numbered() {
                for (datagram, number) in buffer.chunks_mut(plan.size).zip(next..next + count) {
                    pattern::datagram(datagram, number);
                    times.push(u32::try_from(elapsed.as_millis()).unwrap_or(u32::MAX));
                }
            }
            // For instance because a route or a device is gone.
            if let Err(error) = socket.send(&buffer[..length]) {
                refused.get_or_insert_with(|| error.to_string());
            }
            next += count;
        }
        if let Some(rate) = plan.per_second {
            let due = Duration::from_secs_f64(next as f64 / f64::from(rate));
            let early = due.saturating_sub(start.elapsed());
            if early > NAP { std::thread::sleep(early.min(TICK)) } else { std::thread::yield_now() }
        }
    }
    Sent { start, elapsed: start.elapsed(), count: next, times, refused }
}

fn receive(socket: &UdpSocket, plan: Datagrams, shared: &Shared) -> Judge {
    super::pin(plan.cpus.server);
    let (mut judge, mut buffer) = (Judge::new(), [0; 65_536]);
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let datagram = &buffer[..length];
                let report = if plan.is_numbered() {
                    judge.take(datagram, shared.sent.load(Ordering::Acquire))
                } else {
                    judge.count(datagram)
                };
                shared.came.store(report.datagrams, Ordering::Relaxed);
                shared.right.store(report.received, Ordering::Relaxed);
            }
            Err(_) if shared.end.load(Ordering::Relaxed) => return judge,
            // An ICMP error is about a datagram that is missing: it shows in the count.
            Err(_) => {}
        }
    }
}

/// Sends every datagram back to where it came from.
#[derive(Debug)]
pub(super) struct UdpEcho {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    /// Echoes on `address` in `ns`, on a port of its own, until it is dropped.
    pub(super) fn start(ns: &NetNs, address: IpAddr, cpu: Option<usize>) -> Result<Self> {
        let socket = super::bind_lossless(ns, address)?;
        let address = socket.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = ns.spawn(move || {
            super::pin(cpu);
            let mut buffer = [0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    // A reply that cannot be sent is a reply that is missing: the other side counts.
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where to send to.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
