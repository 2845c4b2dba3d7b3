//! Traffic with verified results, from sockets in the lab's namespaces.
//!
//! Servers bind to port 0, so that concurrent tests do not conflict. The receiver recomputes every datagram and every
//! byte of a stream: contents are checked, not only counted.

mod connect;
mod flows;
mod http;
mod icmp;
mod iperf3;
mod load;
mod pattern;
mod round_trip;
mod tcp;
mod udp;
mod verify;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{NetNs, patient, sys};

pub use connect::connect_rate;
pub use flows::{Completed, Request, concurrent_requests, concurrent_round_trips};
pub use http::{HttpConnection, http_rate};
pub use icmp::{Ping, Replies, ping};
pub use iperf3::{Bulk, BulkReport, iperf3};
pub use load::{Load, PingReport, Pings};
pub use round_trip::{Protocol, round_trips};
pub use tcp::{TcpFlow, Transfer, tcp_transfer};
pub use udp::{Datagrams, UdpFlow, udp_rate, udp_transfer};
pub use verify::UdpReport;

/// Longest time without a reaction of the other side.
fn timeout() -> Duration {
    patient(Duration::from_secs(10))
}

/// Read timeout of sockets: the interval at which threads check whether to stop.
const TICK: Duration = Duration::from_millis(20);

/// The CPUs of the two sides of a measurement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpus {
    /// `None`: any.
    pub client: Option<usize>,
    /// `None`: any.
    pub server: Option<usize>,
}

impl Cpus {
    /// Client and server on the first two CPUs of this process's affinity; not pinned if there is only one.
    #[must_use]
    pub fn two() -> Self {
        match sys::allowed_cpus().as_deref() {
            Ok([client, server, ..]) => Self { client: Some(*client), server: Some(*server) },
            _ => Self::default(),
        }
    }

    /// Both on the first CPU of this process's affinity.
    ///
    /// For round trips: each is the processing of the packets and two context switches. With two CPUs in a virtual
    /// machine, it would be mostly the time that the hypervisor takes to wake the other CPU.
    #[must_use]
    pub fn one() -> Self {
        let Self { client, .. } = Self::two();
        Self { client, server: client }
    }
}

/// Pins the calling thread to `cpu`, if given. A CPU outside the affinity is ignored.
pub fn pin(cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        let _ = sys::pin_to_cpu(cpu);
    }
}

/// Pins the calling thread to the CPU that it runs on: frames that are sent from several CPUs can be reordered.
pub fn pin_here() {
    let _ = sys::pin_here();
}

/// Measured round-trip times, sorted.
#[derive(Clone, Debug, Default)]
pub struct Latency(Vec<Duration>);

impl Latency {
    /// From times in any order.
    #[must_use]
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// Number of round trips.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Percentile of the times, in µs; 0 if there are none.
    #[must_use]
    pub fn percentile_us(&self, percent: usize) -> f64 {
        let index = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    }
}

/// Calls one after another, and the time that they took.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    /// Successful calls.
    pub count: u64,
    /// Measuring time.
    pub elapsed: Duration,
}

impl Calls {
    /// Calls per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64()
    }

    /// Repeats `call` for `duration`, after `warm_up` calls that are not counted. The first error ends the measurement.
    fn measure(duration: Duration, warm_up: usize, mut call: impl FnMut() -> Result<()>) -> Result<Self> {
        for _ in 0..warm_up {
            call()?;
        }
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < duration {
            call()?;
            count += 1;
        }
        Ok(Self { count, elapsed: start.elapsed() })
    }
}

/// Receive buffer for several seconds of traffic: a stalled receiving thread does not cause losses.
const RECEIVE_BUFFER: libc::c_int = 512 << 20;

/// Like [`bind`], with a large receive buffer: only the network loses datagrams.
fn bind_lossless(ns: &NetNs, address: IpAddr) -> Result<UdpSocket> {
    let socket = bind(ns, address)?;
    sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)
        .context("cannot enlarge a receive buffer; run this as root")?;
    Ok(socket)
}

/// A socket in `ns` on `address` and an ephemeral port. Reads time out after [`TICK`].
fn bind(ns: &NetNs, address: IpAddr) -> Result<UdpSocket> {
    let bound = ns.enter(|| UdpSocket::bind((address, 0)));
    let socket = bound.with_context(|| format!("{}: cannot bind to {address}", ns.name()))?;
    socket.set_read_timeout(Some(TICK))?;
    Ok(socket)
}

/// The unspecified address of the same family.
fn any(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
