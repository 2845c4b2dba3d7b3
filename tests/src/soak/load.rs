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
    traffic::{Cpus, Datagrams, Load, Ping, Pings, Protocol, UdpFlow, connect_rate, ping, round_trips},
};

/// From where to where: hosts, and the container's number on each.
type Way = [(usize, usize); 2];

const BETWEEN_HOSTS: [Way; 3] = [[(1, 1), (2, 1)], [(2, 1), (3, 1)], [(3, 1), (1, 1)]];
/// Within a host: `bpf_redirect_peer` alone.
const WITHIN: [Way; 2] = [[(1, 1), (1, 2)], [(BY_COMMAND, 1), (BY_COMMAND, 2)]];

/// Small datagrams a second.
const SMALL: u32 = 200;
/// Bytes of the large datagrams, and how many a second.
const LARGE: (usize, u32) = (1000, 100);
/// From one ping of a way to the next.
const PING_PAUSE: Duration = Duration::from_millis(250);
/// From one round of calls to the next.
const CALL_PAUSE: Duration = Duration::from_millis(50);
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
pub(super) struct Traffic {
    ways: Vec<Running>,
    stop: Arc<AtomicBool>,
    calls: JoinHandle<Outcome>,
}

/// What runs on one way.
struct Running {
    way: Ends,
    load: Load,
    large: UdpFlow,
    pings: Pings,
}

impl Traffic {
    pub(super) fn start(world: &World) -> Result<Self> {
        let ways: Vec<_> = BETWEEN_HOSTS.iter().chain(&WITHIN).map(|way| Ends::new(world, way)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let running = ways.iter().map(Running::start).collect::<Result<_>>()?;
        let calls = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || call(&ways, &stop))
        };
        Ok(Self { ways: running, stop, calls })
    }

    /// Waits until all datagrams and streams have moved on: none is stuck.
    pub(super) fn goes_on(&self) -> Result<()> {
        self.ways.iter().try_for_each(|Running { way, load, large, .. }| {
            let moved = load.wait_for(5).and_then(|()| large.wait_for(5));
            moved.with_context(|| format!("from {} to {}", way.from.name(), way.to.name()))
        })
    }

    /// Stops everything and waits for what is under way.
    pub(super) fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut outcome = self.calls.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        let mut datagrams = Tally { name: "datagrams, each sent back", ..Tally::default() };
        let mut pinged = Tally { name: "pings", ..Tally::default() };
        for Running { way, load, large, pings } in self.ways {
            let Load { datagrams: small, stream } = load;
            for report in [small.stop(), large.stop()] {
                datagrams.add(report.sent, report.lost_at, way.hosts);
                datagrams.wrong += report.duplicates + report.corrupt;
            }
            let said = format!("from {} to {}", way.from.name(), way.to.name());
            match pings.stop() {
                Ok(report) => pinged.add(report.sent, report.lost_at, way.hosts),
                Err(error) => outcome.failures.push(format!("pings {said}: {error:#}")),
            }
            match stream.stop() {
                Ok(transfer) => outcome.tcp_bytes += transfer.bytes,
                Err(error) => outcome.failures.push(format!("the stream {said}: {error:#}")),
            }
        }
        outcome.tallies.extend([datagrams, pinged]);
        outcome
    }
}

impl Running {
    fn start(way: &Ends) -> Result<Self> {
        let (way, to) = (way.clone(), way.address());
        // The first packets of all meet neighbours that are not known yet.
        ping(&way.from, to, Ping::default())?;
        let large = Datagrams { size: LARGE.0, ..Datagrams::steady(LARGE.1) };
        Ok(Self {
            load: Load::start(&way.from, &way.to, to, SMALL)?,
            large: UdpFlow::start(&way.from, &way.to, to, large)?,
            pings: Pings::start(&way.from, to, 200, PING_PAUSE),
            way,
        })
    }
}

impl Tally {
    fn add(&mut self, sent: u64, lost_at: Vec<Instant>, hosts: [usize; 2]) {
        self.sent += sent;
        self.lost.extend(lost_at.into_iter().map(|at| Loss { at, hosts }));
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
        std::thread::sleep(CALL_PAUSE);
    }
    outcome
}
