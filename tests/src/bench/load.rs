//! `load`: time to fill the tables, and memory of the maps and of the daemon.

use std::{
    fs,
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use overlay_common::maps::{self, FdbEntry, FdbKey};
use overlay_user::testing::{
    apply::{Datapath, Ledger, PinRoot},
    plan::{Changes, Tables},
};

use super::{
    paths::{Environment, VNI},
    results::{DURATION, MEMORY, Results},
    scale::mac,
};
use crate::lab::{Cluster, ClusterHost, Daemon, Endpoint, Lab, NetNs, docker_mac};

/// The case's name.
pub(super) const NAME: &str = "load";

/// Number of ports of [`ports`].
const PORTS: u32 = 50;

/// Number of VTEPs of the endpoints.
const HOSTS: u32 = 4_000;

/// Fills new tables with `entries` endpoints, and empties them.
pub(super) fn tables(entries: u32, environment: &Environment, round: usize, results: &mut Results) -> Result<()> {
    let ns = NetNs::anonymous("load")?;
    let pins = environment.pins.join("load");
    ns.enter(|| {
        let ledger = Ledger::create(&pins)?;
        let mut datapath = Datapath::load(&ledger, None, None)?;
        let key = |number| FdbKey::new(VNI, mac(number));
        let full = (0..entries).map(|number| (key(number), FdbEntry::remote(number % HOSTS)));
        let full = Tables { fdb: full.collect(), ..Tables::default() };
        let empty = Tables::default();
        for (action, changes) in [("fill", Changes::between(&empty, &full)), ("empty", Changes::between(&full, &empty))]
        {
            let start = Instant::now();
            datapath.maps.write(&ledger, &changes)?;
            let milliseconds = start.elapsed().as_secs_f64() * 1e3;
            results.add("load_tables", DURATION, &format!("{action} {entries} FDB entries"), &[], round, milliseconds);
        }
        let mut sum = 0.0;
        for map in maps::MAPS.map(|map| map.name) {
            let locked = locked_mib(ledger.root(), map)?;
            sum += locked;
            results.add("locked_memory", MEMORY, map, &[], round, locked);
        }
        results.add("locked_memory", MEMORY, "all maps", &[], round, sum);
        drop(datapath);
        ledger.remove()?;
        anyhow::Ok(())
    })?;
    results.note("`load_tables` writes the maps in batches, like the daemon.");
    Ok(())
}

/// Memory of a pinned map, as the kernel reports it, in MiB.
fn locked_mib(root: &PinRoot, map: &str) -> Result<f64> {
    let data = MapData::from_pin(root.map(map))?;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:")).context("no memlock in fdinfo")?;
    Ok(line.trim().parse::<f64>()? / f64::from(1 << 20))
}

/// Starts a daemon with `entries` endpoints in its cluster file: time until it is ready, and its memory then.
pub(super) fn daemon(entries: u32, environment: &Environment, round: usize, results: &mut Results) -> Result<()> {
    let lab = Lab::builder(2).build()?;
    let mut cluster = Cluster::example(&lab);
    let network = cluster.networks.first_mut().context("the example has a network")?;
    network.subnet = "10.0.0.0/14".to_owned();
    let network = network.name.clone();
    let hosts = HOSTS.min(entries);
    let at = |base: [u8; 4], number: u32| Ipv4Addr::from(u32::from(Ipv4Addr::from(base)) + number);
    let host_name = |number: u32| format!("far{number}");
    cluster
        .hosts
        .extend((0..hosts).map(|number| ClusterHost { name: host_name(number), address: at([172, 16, 0, 1], number) }));
    cluster.endpoints.extend((0..entries).map(|number| {
        Endpoint::new(&network, &format!("far{number}"), at([10, 1, 0, 1], number), &host_name(number % hosts))
    }));
    let config = environment.files.join("load.toml");
    cluster.write(&config)?;

    let path = format!("daemon, {entries} endpoints");
    let start = Instant::now();
    let daemon =
        Daemon::start_binary(&environment.overlay, lab.host(1), &config, &environment.pins.join("load-daemon"))?;
    results.add("load_daemon", DURATION, &path, &[], round, start.elapsed().as_secs_f64() * 1e3);
    results.add("resident_memory", MEMORY, &path, &[], round, resident_mib(&daemon)?);
    results.note(
        "`load_daemon` is the time from the start of the process until `overlay status` reports it as ready: cluster \
         file read, kernel path and maps written.",
    );
    daemon.down()
}

/// Starts a daemon without ports and with [`PORTS`], on interfaces that exist: time per port. Most of it is the
/// attachment of the programs: one for each port, two in a strict network.
pub(super) fn ports(environment: &Environment, round: usize, results: &mut Results) -> Result<()> {
    for (is_strict, path) in [(false, "tc"), (true, "strict")] {
        let without = with_ports(0, is_strict, environment)?;
        let time = with_ports(PORTS, is_strict, environment)?.saturating_sub(without) / PORTS;
        results.add("load_ports", DURATION, path, &[], round, time.as_secs_f64() * 1e3);
    }
    results.note("`load_ports` is the time per port until a daemon that starts with 50 of them is ready.");
    Ok(())
}

fn with_ports(count: u32, is_strict: bool, environment: &Environment) -> Result<Duration> {
    let lab = Lab::builder(1).build()?;
    let mut cluster = Cluster::example(&lab);
    let network = cluster.networks.first_mut().context("the example has a network")?;
    network.strict = is_strict;
    let (network, host) = (network.name.clone(), lab.host(1));
    cluster.endpoints = Vec::new();
    let container = host.containers().first().context("the host has no container")?;
    for number in 0..count {
        let port = format!("port{number}");
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 1, 10)) + number);
        let (mac, netns) = (docker_mac(ip), container.path().display());
        host.try_script(&format!(
            "ip link add {port} mtu 1450 up type veth peer name far{number} address {mac} mtu 1450 netns {netns}"
        ))?;
        container.try_script(&format!("ip link set far{number} up"))?;
        let endpoint = Endpoint::new(&network, &port, ip, host.name());
        cluster.endpoints.push(Endpoint { port: Some(port), ..endpoint });
    }
    let config = environment.files.join("ports.toml");
    cluster.write(&config)?;
    let start = Instant::now();
    let daemon = Daemon::start_binary(&environment.overlay, host, &config, &environment.pins.join("load-ports"))?;
    let time = start.elapsed();
    let status = daemon.overlay(&["ports", "--json"])?;
    let ports = status["ports"].as_array().map_or(0, Vec::len);
    ensure!(ports == count as usize, "{ports} of {count} ports");
    daemon.down()?;
    Ok(time)
}

/// Resident memory of a daemon, in MiB.
pub(super) fn resident_mib(daemon: &Daemon) -> Result<f64> {
    let status = daemon.overlay(&["status", "--json"])?;
    let pid = status["daemon"].as_i64().context("`overlay status --json` has no number `daemon`")?;
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}
