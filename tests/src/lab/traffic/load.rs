//! Traffic in the background, for tests that change something under it.

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

/// Of the stream, in bytes per second.
const STREAM: u32 = 2_000_000;

/// Datagrams at a steady rate and a stream, from one container to another.
#[derive(Debug)]
pub struct Load {
    /// Each comes back, unless they go one way.
    pub datagrams: UdpFlow,
    /// Of 2 MB/s.
    pub stream: TcpFlow,
}

impl Load {
    /// `per_second` requests, and a stream, from `from` to `address` in `to`; returns when both have begun.
    ///
    /// # Errors
    /// When `to` does not have the address, or `from` does not reach it.
    pub fn start(from: &NetNs, to: &NetNs, address: IpAddr, per_second: u32) -> Result<Self> {
        let datagrams = UdpFlow::start(from, to, address, Datagrams::steady(per_second))?;
        let load = Self { datagrams, stream: TcpFlow::start(from, to, address, Some(STREAM))? };
        load.wait_for(u64::from(per_second / 5))?;
        Ok(load)
    }

    /// The same with datagrams that do not come back, for high rates. Each side stays on a CPU of its own: packets that
    /// change CPUs on the way may overtake each other, whatever the network does.
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

    /// Waits until `count` more datagrams and as many kilobytes of the stream came through.
    ///
    /// # Errors
    /// When that takes more than 10 s.
    pub fn wait_for(&self, count: u64) -> Result<()> {
        self.datagrams.wait_for(count)?;
        self.stream.wait_for(1000 * count)
    }

    /// Stops both and waits for what is under way.
    ///
    /// # Errors
    /// When the stream broke, or lost or changed a byte. What became of the datagrams is for the caller to judge.
    pub fn stop(self) -> Result<UdpReport> {
        self.stream.stop()?;
        Ok(self.datagrams.stop())
    }
}

/// Echo requests, one after another, until they are stopped.
#[derive(Debug)]
pub struct Pings {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<PingReport>>,
}

/// What became of [`Pings`].
#[derive(Clone, Debug, Default)]
pub struct PingReport {
    /// Requests.
    pub sent: u64,
    /// When each request was sent that got no reply.
    pub lost_at: Vec<Instant>,
}

impl Pings {
    /// Requests of `size` bytes from `from` to `to`, with a `pause` after each reply.
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

    /// Stops them.
    ///
    /// # Errors
    /// When one could not be sent.
    ///
    /// # Panics
    /// When their thread did.
    pub fn stop(self) -> Result<PingReport> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload)).context("sending pings")
    }
}
