//! A request a moment, all the time, for tests that change something under traffic.

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

use anyhow::{Context, Result};

use super::{TICK, pattern};
use crate::lab::{NetNs, sys};

/// Sends every datagram back to where it came from.
#[derive(Debug)]
pub struct UdpEcho {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    /// Echoes on `address` in `ns`, on a port of its own, until it is dropped.
    ///
    /// # Errors
    /// When the namespace does not have the address.
    pub fn start(ns: &NetNs, address: IpAddr) -> Result<Self> {
        Self::pinned(ns, address, None)
    }

    pub(super) fn pinned(ns: &NetNs, address: IpAddr, cpu: Option<usize>) -> Result<Self> {
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
    #[must_use]
    pub fn address(&self) -> SocketAddr {
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

/// What became of a [`UdpFlow`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowReport {
    /// Requests.
    pub sent: u64,
    /// Right replies, each counted once.
    pub received: u64,
    /// Replies that had come before.
    pub duplicates: u64,
    /// Replies whose content is not what was sent.
    pub corrupt: u64,
    /// The longest time without a reply.
    pub longest_gap: Duration,
}

impl FlowReport {
    /// Requests without a reply.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }
}

/// What became of a [`UdpFlow`], and when the requests were sent that got no reply.
#[derive(Clone, Debug, Default)]
pub struct FlowLog {
    /// In numbers.
    pub report: FlowReport,
    /// When each lost request was sent, in order.
    pub lost: Vec<Instant>,
}

/// Requests at a steady rate to a [`UdpEcho`], until it is stopped. The requests do not wait for replies, so that an
/// interruption of *n* milliseconds loses as many as it should.
#[derive(Debug)]
pub struct UdpFlow {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: JoinHandle<FlowLog>,
}

impl UdpFlow {
    /// Requests of `size` bytes (at least 8), `per_second` of them (at most 10,000), from `ns` to `to`.
    ///
    /// # Errors
    /// With no route to `to`.
    pub fn start(ns: &NetNs, to: SocketAddr, size: usize, per_second: u32) -> Result<Self> {
        let socket = super::bind_lossless(ns, super::any(to.ip()))?;
        ns.enter(|| socket.connect(to)).with_context(|| format!("{}: no route to {to}", ns.name()))?;
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            ns.spawn(move || exchange(&socket, size.max(pattern::SEQUENCE), per_second, &stop, &answered))
        };
        Ok(Self { stop, answered, thread })
    }

    /// Right replies so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until `count` more requests were answered.
    ///
    /// # Errors
    /// When that takes more than 10 s.
    pub fn wait_for(&self, count: u64) -> Result<()> {
        let goal = self.answered() + count;
        let start = Instant::now();
        while self.answered() < goal {
            anyhow::ensure!(start.elapsed() < super::PATIENCE, "only {} of {goal} replies came", self.answered());
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Stops sending, waits for what is under way, and reports.
    #[must_use]
    pub fn stop(self) -> FlowReport {
        self.stop_and_list().report
    }

    /// The same, with the time of every loss.
    #[must_use]
    pub fn stop_and_list(self) -> FlowLog {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the sending thread does not panic")
    }
}

fn exchange(socket: &UdpSocket, size: usize, rate: u32, stop: &AtomicBool, answered: &AtomicU64) -> FlowLog {
    let period = Duration::from_secs(1) / rate.max(1);
    let mut report = FlowReport::default();
    let (mut request, mut reply) = (vec![0; size], vec![0; 65_536]);
    let start = Instant::now();
    // Of each request: whether it was answered, and when it was sent, in ms since the start.
    let (mut seen, mut sent_ms, mut last_reply) = (Vec::new(), Vec::<u32>::new(), start);
    let mut due = start;
    let mut end = None;
    loop {
        let now = Instant::now();
        if end.is_none() && stop.load(Ordering::Relaxed) {
            end = Some(now + Duration::from_millis(500));
        }
        if end.is_none() && now >= due {
            pattern::datagram(&mut request, report.sent);
            // A request that cannot be sent, because a route or a device is gone, is a lost one.
            let _ = socket.send(&request);
            report.sent += 1;
            seen.push(false);
            sent_ms.push(u32::try_from(start.elapsed().as_millis()).unwrap_or(u32::MAX));
            due += period;
            continue;
        }
        if end.is_some_and(|end| now >= end || report.received == report.sent) {
            let unanswered = seen.iter().zip(&sent_ms).filter(|(seen, _)| !**seen);
            let lost = unanswered.map(|(_, ms)| start + Duration::from_millis(u64::from(*ms))).collect();
            return FlowLog { report, lost };
        }
        let wait = if end.is_some() { TICK } else { due - now };
        match receive(socket, &mut reply, wait) {
            None => {}
            Some(length) => match pattern::sequence(&reply[..length]).map(|number| seen.get_mut(number as usize)) {
                Some(Some(seen)) if !*seen => {
                    *seen = true;
                    report.received += 1;
                    answered.store(report.received, Ordering::Relaxed);
                    report.longest_gap = report.longest_gap.max(last_reply.elapsed());
                    last_reply = Instant::now();
                }
                Some(Some(_)) => report.duplicates += 1,
                Some(None) | None => report.corrupt += 1,
            },
        }
    }
}

/// One datagram, if one comes in time. Not by the socket's read timeout, which counts in the kernel's ticks.
fn receive(socket: &UdpSocket, buffer: &mut [u8], wait: Duration) -> Option<usize> {
    if !sys::wait_readable(socket.as_fd(), wait).unwrap_or(false) {
        return None;
    }
    // An error is an ICMP error about an earlier request: that one is lost.
    socket.recv(buffer).ok()
}
