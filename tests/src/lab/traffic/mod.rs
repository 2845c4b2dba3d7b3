//! Traffic with counted results, from sockets in the lab's namespaces.
//!
//! Servers bind to port 0 and clients ask them where they are, so that tests do not meet on a port. Every datagram and
//! every byte of a stream can be recomputed by the receiver: what arrives is checked, not only counted.

mod connect;
mod icmp;
mod iperf3;
mod judge;
mod load;
mod pattern;
mod round_trip;
mod tcp;
mod udp;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{NetNs, sys};

pub use connect::{Connections, connect_rate};
pub use icmp::{Ping, Replies, ping};
pub use iperf3::{Bulk, iperf3};
pub use judge::UdpReport;
pub use load::{Load, PingReport, Pings};
pub use round_trip::{Protocol, round_trips};
pub use tcp::{TcpFlow, Transfer, tcp_transfer};
pub use udp::{Datagrams, UdpFlow, udp_rate, udp_transfer};

/// How long anything here waits for the other side before it gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a thread sleeps in a socket before it looks whether it is to stop.
const TICK: Duration = Duration::from_millis(20);

/// The CPUs that the two sides of a measurement run on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpus {
    /// `None`: any.
    pub client: Option<usize>,
    /// `None`: any.
    pub server: Option<usize>,
}

impl Cpus {
    /// Client and server each on one of the first two CPUs that this process may use; unpinned where there is one only.
    #[must_use]
    pub fn two() -> Self {
        match sys::allowed_cpus().as_deref() {
            Ok([client, server, ..]) => Self { client: Some(*client), server: Some(*server) },
            _ => Self::default(),
        }
    }

    /// Both on the first CPU that this process may use.
    ///
    /// For round trips: each is then the packets' whole way and two context switches. With two CPUs it is, in a virtual
    /// machine, mostly the hypervisor's time to wake the other one.
    #[must_use]
    pub fn one() -> Self {
        let Self { client, .. } = Self::two();
        Self { client, server: client }
    }
}

/// Pins the calling thread, if it is to be pinned. Where that CPU is not allowed, the thread stays where it is.
pub fn pin(cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        let _ = sys::pin_to_cpu(cpu);
    }
}

/// Measured times, each a whole round trip.
#[derive(Clone, Debug, Default)]
pub struct Latency(Vec<Duration>);

impl Latency {
    /// From times in any order.
    #[must_use]
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// How many round trips there were.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time, in µs, that `percent` of the round trips did not exceed; 0 for none at all.
    #[must_use]
    pub fn percentile_us(&self, percent: usize) -> f64 {
        let index = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    }
}

/// Room for some seconds without the receiving thread: what is lost is lost on the way.
const RECEIVE_BUFFER: libc::c_int = 512 << 20;

/// A socket as [`bind`] makes it whose losses are the network's: its receive buffer is large.
fn bind_lossless(ns: &NetNs, address: IpAddr) -> Result<UdpSocket> {
    let socket = bind(ns, address)?;
    sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)
        .context("cannot enlarge a receive buffer; run this as root")?;
    Ok(socket)
}

/// A socket in `ns` on `address` and a port of its own. Its reads end after [`TICK`].
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
