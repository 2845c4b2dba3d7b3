//! `--apps`: applications, and round trips on many flows at once, on three paths in turn.
//!
//! Every path has its own servers, all of which run for the whole time; only the measured one has clients.

mod busy;
mod clients;
mod outputs;
mod servers;

use std::{path::Path as FilePath, time::Duration};

use anyhow::{Context, Result, ensure};

use self::{
    busy::Busy,
    clients::Client,
    outputs::Measured,
    servers::{Memcached, Nginx, Postgres, Redis, Server},
};
use super::{
    cases::WARM_UP,
    paths::{Environment, Kind, Path},
    results::{CPU, P99, REQUESTS, Results},
    run::BASELINES,
};
use crate::lab::{
    private_bpffs, private_directory,
    traffic::{Cpus, Protocol, concurrent_round_trips},
};

/// The measured paths.
const PATHS: [Kind; 3] = [Kind::Kernel, Kind::Tc, Kind::BoundRedirect];

/// Numbers of flows at once.
const FLOWS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// An application with a kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum App {
    /// Before [`Self::RedisGet`], which reads the value.
    RedisSet,
    RedisGet,
    MemcachedGet,
    NginxKeepAlive,
    NginxConnect,
    PostgresSelect,
}

impl App {
    const ALL: [Self; 6] = [
        Self::RedisSet,
        Self::RedisGet,
        Self::MemcachedGet,
        Self::NginxKeepAlive,
        Self::NginxConnect,
        Self::PostgresSelect,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::RedisSet => "redis_set",
            Self::RedisGet => "redis_get",
            Self::MemcachedGet => "memcached_get",
            Self::NginxKeepAlive => "nginx_keepalive",
            Self::NginxConnect => "nginx_connect",
            Self::PostgresSelect => "postgres_select",
        }
    }
}

/// Length of the measurements.
#[derive(Clone, Copy, Debug)]
struct Length {
    /// Of an application whose client runs for whole seconds.
    seconds: u32,
    /// Requests in the time of `seconds`, about, of a client that counts: of a fast server, and with new connections.
    requests: [u32; 2],
    /// Of the round trips.
    flows: Duration,
}

impl Length {
    const FULL: Self = Self { seconds: 2, requests: [100_000, 15_000], flows: Duration::from_millis(500) };
    const SMOKE: Self = Self { seconds: 1, requests: [1_000, 500], flows: Duration::from_millis(20) };
}

/// Measures everything, `rounds` times. The calling thread gets a private mount namespace, with the servers' files.
pub(super) fn measure(rounds: usize, smoke: bool, overlay: &FilePath) -> Result<Results> {
    let environment = Environment { overlay: overlay.to_owned(), pins: private_bpffs()?, files: private_directory()? };
    let length = if smoke { Length::SMOKE } else { Length::FULL };
    let mut results = Results::default();
    describe(&mut results);
    let mut places = Vec::new();
    for kind in PATHS {
        eprintln!("servers of {}", kind.name());
        let path = Path::start(kind, kind.name(), &environment)?;
        places.push(Place { servers: Servers::start(&path, &environment.files, &mut results)?, path });
    }
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        // The order alternates, so that a drift affects all alike.
        if round > 0 {
            places.reverse();
        }
        for app in App::ALL {
            for place in &places {
                place.application(app, length, &environment.files, round, &mut results);
            }
        }
        for (protocol, cpus, flows) in flow_cases() {
            for place in &places {
                place.flows(protocol, cpus, flows, length.flows, round, &mut results);
            }
        }
    }
    Ok(results)
}

fn describe(results: &mut Results) {
    results.note(&format!(
        "Server and client of an application have one CPU each. Redis, memcached and nginx have {} connections, \
         PostgreSQL {}. `requests` and p99 are those that the client reports; `nginx_connect` opens a connection for \
         each request, and its p99 includes the connect.",
        clients::CONNECTIONS,
        clients::SESSIONS
    ));
    results.note(
        "`cpu` is the busy time of both CPUs (user, nice, system, irq and softirq of `/proc/stat`) from the start of \
         the client to its end, divided by the requests. It includes every other process on these CPUs.",
    );
    results.note(
        "`tcp_rr` and `udp_rr` are round trips of one byte, with the number of flows at once: all flows of one thread, \
         answered by one thread. `1cpu`: both threads share one CPU. `2cpu`: each has its own; with few flows, both \
         CPUs are idle between packets, and the time to wake them dominates in a virtual machine. Such ratios vary \
         between 0.8 and 1.1 from machine to machine, in both directions, and do not describe the path.",
    );
}

/// `udp_rr16_1cpu` and the like: protocol, CPUs, number of flows.
fn flow_cases() -> impl Iterator<Item = (Protocol, u8, usize)> {
    let of = |protocol| [1, 2].into_iter().flat_map(move |cpus| FLOWS.map(|flows| (protocol, cpus, flows)));
    [Protocol::Udp, Protocol::Tcp].into_iter().flat_map(of)
}

fn flow_case(protocol: Protocol, cpus: u8, flows: usize) -> String {
    let protocol = if protocol == Protocol::Udp { "udp" } else { "tcp" };
    format!("{protocol}_rr{flows}_{cpus}cpu")
}

/// The servers of a path. One that cannot be started is missing in the results.
struct Servers {
    redis: Option<Server>,
    memcached: Option<Server>,
    nginx: Option<Server>,
    postgres: Option<Server>,
}

impl Servers {
    fn start(path: &Path, files: &FilePath, results: &mut Results) -> Result<Self> {
        let (ns, address, cpu) = (path.server(), path.address(), Cpus::two().server);
        let directory = files.join(format!("{}-servers", path.kind.name()));
        std::fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        // Clients of `nginx_connect` have a connection per request.
        path.client().sysctl("net.ipv4.tcp_tw_reuse", "1")?;
        path.client().sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
        let start = servers::Start { ns, address, cpu, directory: &directory };
        let mut optional = |server: Result<Server>| {
            server.map_err(|error| results.add_missing(format!("{}: {error:#}", path.kind.name()))).ok()
        };
        Ok(Self {
            redis: optional(start.server(&Redis)),
            memcached: optional(start.server(&Memcached)),
            nginx: optional(start.server(&Nginx)),
            postgres: optional(start.server(&Postgres)),
        })
    }

    fn of(&self, app: App) -> Option<&Server> {
        match app {
            App::RedisSet | App::RedisGet => &self.redis,
            App::MemcachedGet => &self.memcached,
            App::NginxKeepAlive | App::NginxConnect => &self.nginx,
            App::PostgresSelect => &self.postgres,
        }
        .as_ref()
    }
}

/// A path with its servers, which end before their namespaces are removed.
struct Place {
    servers: Servers,
    path: Path,
}

impl Place {
    fn application(&self, app: App, length: Length, files: &FilePath, round: usize, results: &mut Results) {
        let Some(server) = self.servers.of(app) else { return };
        match self.measure(app, server, length, files) {
            Ok((measured, cpu)) => {
                for (metric, value) in [(REQUESTS, measured.per_second), (P99, measured.p99_us), (CPU, cpu)] {
                    results.add(app.name(), metric, self.path.kind.name(), &BASELINES, round, value);
                }
            }
            Err(error) => results.add_missing(format!("{} over {}: {error:#}", app.name(), self.path.kind.name())),
        }
    }

    /// The client's figures, and the CPU time per request in µs.
    fn measure(&self, app: App, server: &Server, length: Length, files: &FilePath) -> Result<(Measured, f64)> {
        let cpus = Cpus::two();
        let client = Client { ns: self.path.client(), server: server.address, cpu: cpus.client, files };
        self.path.warm_up()?;
        let before = self.encapsulated()?;
        let busy = Busy::start([cpus.client, cpus.server])?;
        let [fast, connects] = length.requests;
        let measured = match app {
            App::RedisSet => client.redis("set", fast),
            App::RedisGet => client.redis("get", fast),
            App::MemcachedGet => client.memcached(length.seconds),
            App::NginxKeepAlive => client.keep_alive(length.seconds),
            App::NginxConnect => client.connect(connects),
            App::PostgresSelect => client.postgres(length.seconds),
        }?;
        let busy = busy.microseconds()?;
        ensure!(measured.requests > 0, "no request was answered");
        ensure!(
            self.path.kind != Kind::Tc || self.encapsulated()? >= before + measured.requests / 2,
            "the packets did not use the fast path"
        );
        Ok((measured, busy / measured.requests as f64))
    }

    fn flows(
        &self,
        protocol: Protocol,
        cpus: u8,
        flows: usize,
        duration: Duration,
        round: usize,
        results: &mut Results,
    ) {
        let (path, case) = (&self.path, flow_case(protocol, cpus, flows));
        let cpus = if cpus == 1 { Cpus::one() } else { Cpus::two() };
        let run = |duration| {
            concurrent_round_trips(protocol, flows, path.client(), path.server(), path.address(), duration, cpus)
        };
        match path.warm_up().and_then(|()| run(duration / WARM_UP)).and_then(|_| run(duration)) {
            Ok(completed) => {
                results.add(&case, REQUESTS, path.kind.name(), &BASELINES, round, completed.per_second());
            }
            Err(error) => results.add_missing(format!("{case} over {}: {error:#}", path.kind.name())),
        }
    }

    /// Packets that the programs of overlay have encapsulated, on both hosts.
    fn encapsulated(&self) -> Result<u64> {
        self.path.testbed.daemons().map(|daemon| daemon.packets("encap")).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_flows_is_a_case_for_each_protocol_and_number_of_cpus() {
        let cases: Vec<String> = flow_cases().map(|(protocol, cpus, flows)| flow_case(protocol, cpus, flows)).collect();
        assert_eq!(cases.len(), 2 * 2 * FLOWS.len());
        assert_eq!((cases[0].as_str(), cases[23].as_str()), ("udp_rr1_1cpu", "tcp_rr32_2cpu"));
    }
}
