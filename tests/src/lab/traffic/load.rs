//! Background traffic for tests that make changes under traffic.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{Cpus, Datagrams, Ping, TcpFlow, UdpFlow, UdpReport, ping};
use crate::lab::NetNs;

/// Rate of the stream, in bytes per second.
const STREAM: u32 = 2_000_000;

/// Datagrams at a steady rate and a stream, from one container to another.
#[derive(Debug)]
pub struct Load {
    /// Datagrams that are echoed, or one-way datagrams.
    pub datagrams: UdpFlow,
    /// Stream of 2 MB/s.
    pub stream: TcpFlow,
}

impl Load {
    /// Starts `per_second` requests per second and a stream from `from` to `address` in `to`; returns when both make
    /// progress. Each side of the requests is pinned to its own CPU, because packets of a thread that moves to another
    /// CPU can be reordered.
    ///
    /// # Errors
    /// When `to` does not have the address, or it is unreachable from `from`.
    pub fn start(from: &NetNs, to: &NetNs, address: IpAddr, per_second: u32) -> Result<Self> {
        let plan = Datagrams { cpus: Cpus::two(), ..Datagrams::steady(per_second) };
        let datagrams = UdpFlow::start(from, to, address, plan)?;
        let load = Self { datagrams, stream: TcpFlow::start(from, to, address, Some(STREAM))? };
        load.wait_for(u64::from(per_second / 5))?;
        Ok(load)
    }

    /// Like [`Self::start`] with one-way datagrams, for high rates.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn one_way(from: &NetNs, to: &NetNs, address: IpAddr, per_second: u32) -> Result<Self> {
        let plan = Datagrams { cpus: Cpus::two(), ..Datagrams::steady(per_second) };
        let datagrams = UdpFlow::one_way(from, to, address, plan)?;
        let load = Self { datagrams, stream: TcpFlow::start(from, to, address, Some(STREAM))? };
        load.datagrams.wait_for(u64::from(per_second / 5))?;
        load.stream.wait_for(200_000)?;
        Ok(load)
    }

    /// Waits until `count` more datagrams and as many kilobytes of the stream are received.
    ///
    /// # Errors
    /// After 10 s.
    pub fn wait_for(&self, count: u64) -> Result<()> {
        self.datagrams.wait_for(count)?;
        self.stream.wait_for(1000 * count)
    }

    /// Stops both and waits for outstanding data.
    ///
    /// # Errors
    /// When the stream broke, or a byte was lost or changed. The caller checks the report on the datagrams.
    pub fn stop(self) -> Result<UdpReport> {
        self.stream.stop()?;
        Ok(self.datagrams.stop())
    }
}

/// Continuous echo requests, one after another.
#[derive(Debug)]
pub struct Pings {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<PingReport>>,
}

/// Report of [`Pings`].
#[derive(Clone, Debug, Default)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u64,
    /// Send times of the requests without a reply.
    pub lost_at: Vec<Instant>,
}

impl Pings {
    /// Starts requests of `size` bytes from `from` to `to`, with a `pause` after each reply.
    #[must_use]
    pub fn start(from: &NetNs, to: IpAddr, size: usize, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, from) = (Arc::clone(&stop), from.clone());
        let thread = std::thread::spawn(move || {
            let mut report = PingReport::default();
            while !stopped.load(Ordering::Relaxed) {
                let at = Instant::now();
                let replies = ping(&from, to, Ping { count: 1, size, ..Ping::default() })?;
                report.sent += 1;
                if !replies.all() {
                    report.lost_at.push(at);
                }
                std::thread::sleep(pause);
            }
            Ok(report)
        });
        Self { stop, thread }
    }

    /// Stops the requests.
    ///
    /// # Errors
    /// When a request could not be sent.
    ///
    /// # Panics
    /// When the sending thread panicked.
    pub fn stop(self) -> Result<PingReport> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload)).context("cannot send pings")
    }
}
