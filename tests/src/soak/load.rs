//! The traffic, all the time, and what was lost of it when.

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

use super::world::{BY_COMMAND, World};
use crate::lab::{
    Container,
    traffic::{Cpus, Datagrams, Ping, Protocol, TcpFlow, UdpFlow, connect_rate, ping, round_trips},
};

/// From where to where: hosts, and the container's number on each.
type Way = [(usize, usize); 2];

const BETWEEN_HOSTS: [Way; 3] = [[(1, 1), (2, 1)], [(2, 1), (3, 1)], [(3, 1), (1, 1)]];
/// Within a host: `bpf_redirect_peer` alone.
const WITHIN: [Way; 2] = [[(1, 1), (1, 2)], [(BY_COMMAND, 1), (BY_COMMAND, 2)]];

/// Bytes of the datagrams, and how many a second.
const UDP: [(usize, u32); 2] = [(64, 200), (1000, 100)];
/// Of each stream, in bytes per second.
const TCP: u32 = 3_000_000;
/// From one ping to the next.
const PING_PAUSE: Duration = Duration::from_millis(50);
/// Of calls on one connection, and of new connections, per round.
const CALLS: Duration = Duration::from_millis(40);

/// Something that got no answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
    /// When it was sent.
    pub(super) at: Instant,
    /// The hosts on its way.
    pub(super) hosts: [usize; 2],
}

/// What one kind of traffic came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) name: &'static str,
    pub(super) sent: u64,
    pub(super) lost: Vec<Loss>,
    /// Duplicates and wrong contents.
    pub(super) wrong: u64,
}

/// What all of it came to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) tallies: Vec<Tally>,
    pub(super) tcp_bytes: u64,
    pub(super) calls: u64,
    pub(super) connections: u64,
    /// What must not happen, whatever is injected: a connection broken or refused, a wrong byte.
    pub(super) failures: Vec<String>,
}

/// Traffic that runs.
pub(super) struct Load {
    flows: Vec<([usize; 2], UdpFlow)>,
    streams: Vec<(String, TcpFlow)>,
    stop: Arc<AtomicBool>,
    pings: JoinHandle<Result<Tally>>,
    calls: JoinHandle<Outcome>,
}

impl Load {
    pub(super) fn start(world: &World) -> Result<Self> {
        let (mut flows, mut streams) = (Vec::new(), Vec::new());
        let stop = Arc::new(AtomicBool::new(false));
        for way in BETWEEN_HOSTS.iter().chain(&WITHIN) {
            let [from, to] = way.map(|(host, number)| world.container(host, number));
            // The first packets of all meet neighbours that are not known yet.
            ping(from, to.ip().into(), Ping::default())?;
            for (size, rate) in UDP {
                let plan = Datagrams { size, ..Datagrams::steady(rate) };
                flows.push((way.map(|(host, _)| host), UdpFlow::start(from, to, to.ip().into(), plan)?));
            }
            // Against the datagrams' direction.
            let name = format!("the stream from {} to {}", to.name(), from.name());
            streams.push((name, TcpFlow::start(to, from, from.ip().into(), Some(TCP))?));
        }
        let ways: Vec<_> = BETWEEN_HOSTS.iter().chain(&WITHIN).map(|way| Ends::new(world, way)).collect();
        let pings = {
            let (ways, stop) = (ways.clone(), Arc::clone(&stop));
            std::thread::spawn(move || send_pings(&ways, &stop))
        };
        let calls = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || call(&ways, &stop))
        };
        Ok(Self { flows, streams, stop, pings, calls })
    }

    /// Waits until every flow and stream has moved on: none is stuck.
    pub(super) fn goes_on(&self) -> Result<()> {
        for (hosts, flow) in &self.flows {
            flow.wait_for(5).with_context(|| format!("datagrams between node0{} and node0{}", hosts[0], hosts[1]))?;
        }
        self.streams.iter().try_for_each(|(name, stream)| stream.wait_for(1000).with_context(|| name.clone()))
    }

    /// Stops everything and waits for what is under way.
    pub(super) fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut outcome = self.calls.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        let mut datagrams = Tally { name: "datagrams, each sent back", ..Tally::default() };
        for (hosts, flow) in self.flows {
            let report = flow.stop();
            datagrams.sent += report.sent;
            datagrams.wrong += report.duplicates + report.corrupt;
            datagrams.lost.extend(report.lost_at.into_iter().map(|at| Loss { at, hosts }));
        }
        outcome.tallies.push(datagrams);
        match self.pings.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload)) {
            Ok(pings) => outcome.tallies.push(pings),
            Err(error) => outcome.failures.push(format!("{error:#}")),
        }
        for (name, stream) in self.streams {
            match stream.stop() {
                Ok(transfer) => outcome.tcp_bytes += transfer.bytes,
                Err(error) => outcome.failures.push(format!("{name}: {error:#}")),
            }
        }
        outcome
    }
}

/// The containers of a way.
#[derive(Clone)]
struct Ends {
    hosts: [usize; 2],
    from: Container,
    to: Container,
}

impl Ends {
    fn new(world: &World, way: &Way) -> Self {
        let [from, to] = way.map(|(host, number)| world.container(host, number).clone());
        Self { hosts: way.map(|(host, _)| host), from, to }
    }

    fn address(&self) -> IpAddr {
        self.to.ip().into()
    }
}

fn send_pings(ways: &[Ends], stop: &AtomicBool) -> Result<Tally> {
    let mut tally = Tally { name: "pings", ..Tally::default() };
    for way in ways.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let at = Instant::now();
        let replies = ping(&way.from, way.address(), Ping { count: 1, size: 200, ..Ping::default() })?;
        tally.sent += 1;
        if !replies.all() {
            tally.lost.push(Loss { at, hosts: way.hosts });
        }
        std::thread::sleep(PING_PAUSE);
    }
    Ok(tally)
}

fn call(ways: &[Ends], stop: &AtomicBool) -> Outcome {
    let mut outcome = Outcome::default();
    for way in ways.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match round_trips(Protocol::Tcp, &way.from, &way.to, way.address(), CALLS, Cpus::default()) {
            Ok(times) => outcome.calls += times.count() as u64,
            Err(error) => outcome.failures.push(format!("{error:#}")),
        }
        match connect_rate(&way.from, &way.to, way.address(), CALLS, Cpus::default()) {
            Ok(connections) => outcome.connections += connections.count,
            Err(error) => outcome.failures.push(format!("{error:#}")),
        }
        std::thread::sleep(PING_PAUSE);
    }
    outcome
}
