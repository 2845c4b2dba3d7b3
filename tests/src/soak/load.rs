//! Continuous traffic, and its losses with their times.

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

use super::testbed::{BY_COMMAND, Testbed};
use crate::lab::{
    Container,
    traffic::{Cpus, Datagrams, Load, Ping, Pings, Protocol, UdpFlow, connect_rate, ping, round_trips},
};

/// Source and destination: host number and container number of each.
type Route = [(usize, usize); 2];

const BETWEEN_HOSTS: [Route; 3] = [[(1, 1), (2, 1)], [(2, 1), (3, 1)], [(3, 1), (1, 1)]];
/// Within a host: `bpf_redirect_peer` alone.
const WITHIN: [Route; 2] = [[(1, 1), (1, 2)], [(BY_COMMAND, 1), (BY_COMMAND, 2)]];

/// Small datagrams per second.
const SMALL: u32 = 200;
/// Payload bytes of the large datagrams, and datagrams per second.
pub(super) const LARGE: (usize, u32) = (1000, 100);
/// Time between two pings of a route.
const PING_PAUSE: Duration = Duration::from_millis(250);
/// Time between two rounds of calls.
const CALL_PAUSE: Duration = Duration::from_millis(50);
/// Time per round for calls on one connection, and as much for new connections.
const CALLS: Duration = Duration::from_millis(40);

/// A request whose answer is lost or late.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    /// When it was sent.
    pub(super) at: Instant,
    /// Source and destination host.
    pub(super) hosts: [usize; 2],
}

/// Totals of one kind of traffic.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) name: &'static str,
    pub(super) sent: u64,
    /// Requests without an answer.
    pub(super) lost: Vec<Request>,
    /// `None`: not checked. One ping after another has no order, and a second reply is not awaited.
    pub(super) wrong: Option<Wrong>,
}

/// Answers other than one for each request, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Wrong {
    /// Requests that were answered after a later one.
    pub(super) reordered: Vec<Request>,
    /// Answers after the first.
    pub(super) duplicates: u64,
    /// Answers with wrong contents; their requests are lost.
    pub(super) corrupt: u64,
}

/// Totals of all traffic.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) tallies: Vec<Tally>,
    pub(super) tcp_bytes: u64,
    pub(super) calls: u64,
    pub(super) connections: u64,
    /// Failures that no event explains: a broken or refused connection, a wrong byte.
    pub(super) failures: Vec<String>,
}

/// Running traffic.
pub(super) struct Traffic {
    routes: Vec<Running>,
    stop: Arc<AtomicBool>,
    calls: JoinHandle<Outcome>,
}

/// Running traffic of one route.
struct Running {
    ends: Ends,
    load: Load,
    large: UdpFlow,
    pings: Pings,
}

impl Traffic {
    pub(super) fn start(testbed: &Testbed) -> Result<Self> {
        let routes: Vec<_> = BETWEEN_HOSTS.iter().chain(&WITHIN).map(|route| Ends::new(testbed, route)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let running = routes.iter().map(Running::start).collect::<Result<_>>()?;
        let calls = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || call(&routes, &stop))
        };
        Ok(Self { routes: running, stop, calls })
    }

    /// Waits until all datagram flows and streams have made progress.
    pub(super) fn wait_for_progress(&self) -> Result<()> {
        self.routes.iter().try_for_each(|Running { ends, load, large, .. }| {
            let moved = load.wait_for(5).and_then(|()| large.wait_for(5));
            moved.with_context(|| format!("{} → {}", ends.from.name(), ends.to.name()))
        })
    }

    /// Stops all traffic and waits for the outstanding answers.
    pub(super) fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut outcome = self.calls.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        let mut datagrams = Tally { name: "echoed datagrams", ..Tally::default() };
        let mut wrong = Wrong::default();
        let mut pinged = Tally { name: "pings", ..Tally::default() };
        for Running { ends, load, large, pings } in self.routes {
            let Load { datagrams: small, stream } = load;
            for report in [small.stop(), large.stop()] {
                datagrams.add(report.sent, report.lost_at, ends.hosts);
                wrong.reordered.extend(report.reordered_at.into_iter().map(|at| Request { at, hosts: ends.hosts }));
                wrong.duplicates += report.duplicates;
                wrong.corrupt += report.corrupt;
            }
            let route = format!("{} → {}", ends.from.name(), ends.to.name());
            match pings.stop() {
                Ok(report) => pinged.add(report.sent, report.lost_at, ends.hosts),
                Err(error) => outcome.failures.push(format!("pings {route}: {error:#}")),
            }
            match stream.stop() {
                Ok(transfer) => outcome.tcp_bytes += transfer.bytes,
                Err(error) => outcome.failures.push(format!("TCP stream {route}: {error:#}")),
            }
        }
        outcome.tallies.extend([Tally { wrong: Some(wrong), ..datagrams }, pinged]);
        outcome
    }
}

impl Running {
    fn start(ends: &Ends) -> Result<Self> {
        let (ends, to) = (ends.clone(), ends.address());
        // The first packets may be lost while neighbours are resolved.
        ping(&ends.from, to, Ping::default())?;
        let large = Datagrams { size: LARGE.0, cpus: Cpus::two(), ..Datagrams::steady(LARGE.1) };
        Ok(Self {
            load: Load::start(&ends.from, &ends.to, to, SMALL)?,
            large: UdpFlow::start(&ends.from, &ends.to, to, large)?,
            pings: Pings::start(&ends.from, to, 200, PING_PAUSE),
            ends,
        })
    }
}

impl Tally {
    fn add(&mut self, sent: u64, lost_at: Vec<Instant>, hosts: [usize; 2]) {
        self.sent += sent;
        self.lost.extend(lost_at.into_iter().map(|at| Request { at, hosts }));
    }
}

/// The containers of a route.
#[derive(Clone)]
struct Ends {
    hosts: [usize; 2],
    from: Container,
    to: Container,
}

impl Ends {
    fn new(testbed: &Testbed, route: &Route) -> Self {
        let [from, to] = route.map(|(host, number)| testbed.container(host, number).clone());
        Self { hosts: route.map(|(host, _)| host), from, to }
    }

    fn address(&self) -> IpAddr {
        self.to.ip().into()
    }
}

fn call(routes: &[Ends], stop: &AtomicBool) -> Outcome {
    let mut outcome = Outcome::default();
    for ends in routes.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match round_trips(Protocol::Tcp, &ends.from, &ends.to, ends.address(), CALLS, Cpus::default()) {
            Ok(times) => outcome.calls += times.count() as u64,
            Err(error) => outcome.failures.push(format!("{error:#}")),
        }
        match connect_rate(&ends.from, &ends.to, ends.address(), CALLS, Cpus::default()) {
            Ok(connections) => outcome.connections += connections.count,
            Err(error) => outcome.failures.push(format!("{error:#}")),
        }
        std::thread::sleep(CALL_PAUSE);
    }
    outcome
}
