//! ICMP and ICMPv6 echo over a raw socket, without the `ping` program.

use std::{
    io::{self, ErrorKind, Read},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Latency, pattern};
use crate::lab::{NetNs, patient};

const HEADER: usize = 8;

/// Parameters of [`ping`].
#[derive(Clone, Copy, Debug)]
pub struct Ping {
    /// Number of echo requests.
    pub count: u16,
    /// Payload bytes after the ICMP header; the default of ping(8) is 56.
    pub size: usize,
    /// Shortest time between two requests.
    pub interval: Duration,
    /// Longest time to wait for a reply.
    pub timeout: Duration,
    /// CPU of the sender. `None`: any.
    pub cpu: Option<usize>,
}

impl Default for Ping {
    fn default() -> Self {
        let (interval, timeout) = (Duration::from_millis(2), patient(Duration::from_secs(1)));
        Self { count: 5, size: 56, interval, timeout, cpu: None }
    }
}

/// Result of [`ping`].
#[derive(Clone, Debug)]
pub struct Replies {
    /// Requests sent.
    pub sent: u64,
    /// Requests with a valid reply.
    pub received: u64,
    /// Times of the replies.
    pub latency: Latency,
}

impl Replies {
    /// Whether every request was answered.
    #[must_use]
    pub fn all(&self) -> bool {
        self.received == self.sent
    }
}

/// Sends echo requests one after another from `ns` to `to` and waits for each reply. An unreachable destination is
/// counted as loss.
///
/// # Errors
/// Without `CAP_NET_RAW`, or with no route to `to`.
pub fn ping(ns: &NetNs, to: IpAddr, plan: Ping) -> Result<Replies> {
    ns.enter(|| run(to, plan)).with_context(|| format!("{}: cannot ping {to}", ns.name()))
}

fn run(to: IpAddr, plan: Ping) -> Result<Replies> {
    super::pin(plan.cpu);
    let (domain, protocol) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let mut socket = Socket::new(domain, Type::from(libc::SOCK_RAW), Some(protocol))?;
    socket.connect(&SocketAddr::new(to, 0).into())?;
    // The socket also receives the replies to other pings of the same namespace.
    let identifier = identifier();
    let mut times = Vec::new();
    for sequence in 0..plan.count {
        let start = Instant::now();
        let request = request(to, identifier, sequence, plan.size);
        match socket.send(&request) {
            Ok(_) => {}
            Err(error) if is_loss(&error) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(time) = reply(&mut socket, &request, start, plan.timeout)? {
            times.push(time);
        }
        if sequence + 1 < plan.count {
            std::thread::sleep(plan.interval.saturating_sub(start.elapsed()));
        }
    }
    Ok(Replies { sent: plan.count.into(), received: times.len() as u64, latency: Latency::new(times) })
}

/// Waits for the reply to `request`; `None` after the timeout.
fn reply(socket: &mut Socket, request: &[u8], start: Instant, timeout: Duration) -> Result<Option<Duration>> {
    let mut buffer = [0; 65_536];
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut buffer) {
            Ok(length) if is_reply(&buffer[..length], request) => return Ok(Some(start.elapsed())),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) if is_loss(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether the error means a lost packet: an ICMP error about an earlier packet, or a full queue or neighbour table.
fn is_loss(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENOBUFS | libc::ECONNREFUSED | libc::EMSGSIZE)
    )
}

fn request(to: IpAddr, identifier: u16, sequence: u16, size: usize) -> Vec<u8> {
    let mut packet = vec![0; HEADER + size];
    packet[0] = if to.is_ipv4() { 8 } else { 128 };
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    pattern::fill(&mut packet[HEADER..], sequence.into());
    // The kernel computes the checksum of ICMPv6, which covers addresses (RFC 3542 §3.1).
    if to.is_ipv4() {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// Whether `received` is the reply to `request`. An IPv4 raw socket receives with the IP header, an IPv6 one without.
fn is_reply(received: &[u8], request: &[u8]) -> bool {
    let (message, kind) = if request[0] == 8 {
        let header = received.first().map_or(0, |first| usize::from(first & 0xf) * 4);
        (received.get(header..).unwrap_or_default(), 0)
    } else {
        (received, 129)
    };
    message.len() == request.len()
        && message[0] == kind
        && message[4..] == request[4..]
        // The kernel verifies the checksum of ICMPv6, but not that of ICMP for raw sockets.
        && (kind != 0 || checksum(message) == 0)
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Unique among the concurrent pings of this process, and probably among those of other processes.
fn identifier() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add((std::process::id() as u16).wrapping_mul(257))
}
