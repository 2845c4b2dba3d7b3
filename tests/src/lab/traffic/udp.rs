//! Numbered datagrams between two namespaces: sender, receiver and echo.

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
    Cpus, TICK, pattern, timeout,
    verify::{UdpReport, Verifier},
};
use crate::lab::{NetNs, patient, sys};

/// Limits of one GSO send: datagrams (`UDP_MAX_SEGMENTS`, 64 in older kernels) and bytes.
const GSO_DATAGRAMS: u64 = 64;
const GSO_BYTES: usize = 65_000;
/// Datagrams that a delayed sender sends before it yields. Fits into the queue of a veth that runs XDP
/// (`VETH_RING_SIZE`, 256).
const BURST: u64 = 64;
/// Shortest sleep of the sender; shorter sleeps would last too long.
const MIN_SLEEP: Duration = Duration::from_micros(50);
/// The receiver stops after this time without a datagram.
const QUIET: Duration = Duration::from_secs(1);

/// Parameters of a flow of datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams {
    /// Payload bytes of each. Datagrams below 8 bytes have no sequence number and are only counted.
    pub size: usize,
    /// Number of datagrams, unless sending is stopped before.
    pub count: u64,
    /// Rate; a delayed sender catches up. `None`: as fast as possible.
    pub per_second: Option<u32>,
    /// Send super-packets (`UDP_SEGMENT`).
    pub gso: bool,
    /// With `gso`: super-packets of ten datagrams, and a single one after each.
    pub mixed: bool,
    /// Number and check the datagrams, with a large receive buffer. Otherwise the datagrams are only counted.
    pub checked: bool,
    /// CPUs of sender and receiver.
    pub cpus: Cpus,
}

impl Default for Datagrams {
    /// 100 datagrams of 64 bytes at a rate without losses.
    fn default() -> Self {
        let cpus = Cpus::default();
        Self { size: 64, count: 100, per_second: Some(5_000), gso: false, mixed: false, checked: true, cpus }
    }
}

impl Datagrams {
    /// Datagrams of 64 bytes at a steady rate, without end.
    #[must_use]
    pub fn steady(per_second: u32) -> Self {
        Self { count: u64::MAX, per_second: Some(per_second), ..Self::default() }
    }

    fn is_numbered(&self) -> bool {
        self.checked && self.size >= pattern::SEQUENCE
    }
}

/// Sends datagrams from `client` to `address` in `server`, and waits for their arrival.
///
/// # Errors
/// When the server does not have the address, or when the client's kernel refuses a datagram, for instance because
/// `gso` is not possible on the way.
pub fn udp_transfer(client: &NetNs, server: &NetNs, address: IpAddr, plan: Datagrams) -> Result<UdpReport> {
    let report = UdpFlow::one_way(client, server, address, plan)?.finish();
    match report.refused {
        Some(error) => Err(anyhow::anyhow!("{}: cannot send to {address}: {error}", client.name())),
        None => Ok(report),
    }
}

/// Sends datagrams of `size` bytes from `client` to `address` in `server` as fast as one thread can send.
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
    let plan = Datagrams { size, count: u64::MAX, per_second: None, checked: false, cpus, ..Datagrams::default() };
    let flow = UdpFlow::one_way(client, server, address, plan)?;
    std::thread::sleep(duration);
    Ok(flow.stop())
}

/// A running flow of datagrams. The sender does not wait for the receiver, so that the number of losses corresponds to
/// the duration of an interruption.
#[derive(Debug)]
pub struct UdpFlow {
    plan: Datagrams,
    shared: Arc<Shared>,
    sender: JoinHandle<Sent>,
    receiver: JoinHandle<Verifier>,
    // The echo of requests.
    _echo: Option<UdpEcho>,
}

/// State shared by the threads of a [`UdpFlow`].
#[derive(Debug, Default)]
struct Shared {
    /// The sender stops.
    stop: AtomicBool,
    /// The receiver stops.
    end: AtomicBool,
    /// Numbers below this are sent, or about to be sent.
    sent: AtomicU64,
    /// All received datagrams, and those with valid content.
    arrived: AtomicU64,
    valid: AtomicU64,
}

impl UdpFlow {
    /// Starts requests from `client` to an echo on `address` in `server`; every datagram is expected back.
    ///
    /// # Errors
    /// When the server does not have the address, or the client no route to it.
    pub fn start(client: &NetNs, server: &NetNs, address: IpAddr, plan: Datagrams) -> Result<Self> {
        let echo = UdpEcho::start(server, address, plan.cpus.server)?;
        let flow = Self::requests(client, echo.address(), plan)?;
        Ok(Self { _echo: Some(echo), ..flow })
    }

    /// Starts requests to `to`, without an echo of this flow.
    ///
    /// # Errors
    /// When there is no route to `to`.
    pub fn requests(client: &NetNs, to: SocketAddr, plan: Datagrams) -> Result<Self> {
        let socket = connected(client, to, plan)?;
        let replies = socket.try_clone()?;
        Ok(Self::between((client, socket), (client, replies), plan))
    }

    /// Starts datagrams from `client` to `address` in `server`, without an echo.
    ///
    /// # Errors
    /// When the server does not have the address, or the client no route to it.
    pub fn one_way(client: &NetNs, server: &NetNs, address: IpAddr, plan: Datagrams) -> Result<Self> {
        // Unchecked datagrams are sent at full speed: those that exceed the receiver's rate are lost.
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

    /// Waits until `count` more datagrams are received and valid.
    ///
    /// # Errors
    /// After 10 s.
    pub fn wait_for(&self, count: u64) -> Result<()> {
        let valid = || self.shared.valid.load(Ordering::Relaxed);
        let (goal, start) = (valid() + count, Instant::now());
        while valid() < goal {
            ensure!(start.elapsed() < timeout(), "datagrams received after {:?}: {} of {goal}", timeout(), valid());
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Stops sending, waits for outstanding datagrams, and returns the report.
    #[must_use]
    pub fn stop(self) -> UdpReport {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits until all datagrams are sent and received, or none arrives for [`QUIET`], and returns the report.
    fn finish(self) -> UdpReport {
        let Sent { start, elapsed, count, times, refused } =
            self.sender.join().expect("the sending thread does not panic");
        let arrived = || self.shared.arrived.load(Ordering::Relaxed);
        let (start_waiting, mut last, mut since) = (Instant::now(), arrived(), Instant::now());
        // Unchecked datagrams need no wait: only those in the receive queue are outstanding.
        while self.plan.checked
            && arrived() < count
            && since.elapsed() < patient(QUIET)
            && start_waiting.elapsed() < timeout()
        {
            if arrived() != last {
                (last, since) = (arrived(), Instant::now());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // Duplicates that arrive immediately are counted.
        std::thread::sleep(TICK);
        self.shared.end.store(true, Ordering::Relaxed);
        let verifier = self.receiver.join().expect("the receiving thread does not panic");
        let times = times.into_iter().map(|ms| start + Duration::from_millis(ms.into()));
        UdpReport { sent: count, elapsed, refused, ..verifier.finish(times) }
    }
}

/// A socket in `client` that sends to `to`.
fn connected(client: &NetNs, to: SocketAddr, plan: Datagrams) -> Result<UdpSocket> {
    let socket = super::bind_lossless(client, super::any(to.ip()))?;
    client.enter(|| socket.connect(to)).with_context(|| format!("{}: no route to {to}", client.name()))?;
    if plan.gso {
        ensure!(plan.size > 0, "UDP GSO needs datagrams that are not empty");
        // The kernel splits every send into datagrams of this size.
        sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, libc::c_int::try_from(plan.size)?)
            .context("cannot set UDP_SEGMENT")?;
    }
    Ok(socket)
}

/// Result of a sender.
#[derive(Debug)]
struct Sent {
    start: Instant,
    elapsed: Duration,
    count: u64,
    /// Send times of the numbered datagrams, in ms since the start.
    times: Vec<u32>,
    refused: Option<String>,
}

fn send(socket: &UdpSocket, plan: Datagrams, shared: &Shared) -> Sent {
    // A veth puts packets into the queue of the CPU that sends them (`enqueue_to_backlog` in `net/core/dev.c`): packets
    // of a sender that moves to another CPU can be reordered.
    match plan.cpus.client {
        None => super::pin_here(),
        cpu => super::pin(cpu),
    }
    let batch = match (plan.gso, plan.mixed) {
        (false, _) => 1,
        (true, true) => 10,
        (true, false) => GSO_DATAGRAMS.min((GSO_BYTES / plan.size) as u64).max(1),
    };
    let mut buffer = vec![0; plan.size * batch as usize];
    let start = Instant::now();
    let (mut next, mut times, mut refused, mut is_single) = (0, Vec::new(), None, false);
    while next < plan.count && !shared.stop.load(Ordering::Relaxed) {
        let elapsed = start.elapsed();
        let due = plan.per_second.map_or(u64::MAX, |rate| (elapsed.as_secs_f64() * f64::from(rate)) as u64 + 1);
        // A burst ends with a full super-packet.
        let end = due.min(next + BURST).max(next).next_multiple_of(batch).min(plan.count);
        shared.sent.store(end, Ordering::Release);
        while next < end {
            let count = if is_single { 1 } else { batch.min(end - next) };
            is_single = plan.mixed && !is_single;
            let length = plan.size * count as usize;
            if plan.is_numbered() {
                for (datagram, number) in buffer.chunks_mut(plan.size).zip(next..next + count) {
                    pattern::datagram(datagram, number);
                    times.push(u32::try_from(elapsed.as_millis()).unwrap_or(u32::MAX));
                }
            }
            // For instance without a route or a device.
            if let Err(error) = socket.send(&buffer[..length]) {
                refused.get_or_insert_with(|| error.to_string());
            }
            next += count;
        }
        if let Some(rate) = plan.per_second {
            let due = Duration::from_secs_f64(next as f64 / f64::from(rate));
            let early = due.saturating_sub(start.elapsed());
            if early > MIN_SLEEP { std::thread::sleep(early.min(TICK)) } else { std::thread::yield_now() }
        }
    }
    Sent { start, elapsed: start.elapsed(), count: next, times, refused }
}

fn receive(socket: &UdpSocket, plan: Datagrams, shared: &Shared) -> Verifier {
    super::pin(plan.cpus.server);
    let (mut verifier, mut buffer) = (Verifier::new(), [0; 65_536]);
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let datagram = &buffer[..length];
                let report = if plan.is_numbered() {
                    verifier.take(datagram, shared.sent.load(Ordering::Acquire))
                } else {
                    verifier.count(datagram)
                };
                shared.arrived.store(report.datagrams, Ordering::Relaxed);
                shared.valid.store(report.received, Ordering::Relaxed);
            }
            Err(_) if shared.end.load(Ordering::Relaxed) => return verifier,
            // An ICMP error reports a lost datagram, which is counted as lost.
            Err(_) => {}
        }
    }
}

/// Sends every datagram back to its source.
#[derive(Debug)]
pub(super) struct UdpEcho {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    /// Starts an echo on `address` in `ns`, on an ephemeral port. Dropping it stops the echo.
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
                    // The receiver counts a reply that cannot be sent as lost.
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Address of the echo.
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
