//! `--cluster`: three hosts over a real etcd, told what to do by command, and what becomes of a host that dies.
//!
//! Every step says what it expects and ends the demo when that does not come. Nothing of it has a name outside this
//! process: however it ends, nothing is left behind.

use std::{
    io::{self, Write},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{Console, signals};
use crate::lab::{
    NIC, StoreCluster, private_bpffs,
    traffic::{Datagrams, Ping, UdpFlow, tcp_transfer},
};

const NETWORK: &str = "my-overlay-network";
const HOSTS: u8 = 3;
/// Seconds that a host may be silent; `overlay run` itself takes 15.
const LEASE: u64 = 5;
/// What takes longer is not going to happen.
const PATIENCE: Duration = Duration::from_secs(30);
const TCP_BYTES: u64 = 8 << 20;
/// Full-size segments at least, of a transfer of [`TCP_BYTES`] in super-packets of at most 64 KiB.
const PACKETS: u64 = TCP_BYTES >> 16;

/// What was measured, for `--json`.
#[derive(Debug, Default, Serialize)]
struct Report {
    hosts: u8,
    etcd_members: u8,
    lease_s: u64,
    /// From the end of `endpoint add` until the endpoint was in the maps, FDB and neighbours of all hosts, the slowest.
    followed_ms: u128,
    /// Packets that the programs of the sending hosts encapsulated.
    encapsulated: u64,
    /// From a host's death until the others had withdrawn its endpoint.
    withdrawn_ms: u128,
    /// From the start of its daemon until the others had it again.
    returned_ms: u128,
    /// Of a flow between the other two, over all of that.
    flow_sent: u64,
    flow_lost: u64,
    /// All held.
    ok: bool,
}

/// Shows all of it. An error is what did not hold.
pub(super) fn show(overlay: &Path, json: bool, console: &Console) -> Result<()> {
    let pins = private_bpffs()?;
    console.say("Making three hosts with a container each, and an etcd of three members ...")?;
    let cluster = StoreCluster::start(overlay, &pins, HOSTS, LEASE)?;
    let mut show = Show { cluster, console, report: Report::default() };
    for host in show.cluster.lab.hosts() {
        console.say(format_args!("{}$ overlay run {}", host.name(), show.cluster.arguments(host, LEASE).join(" ")))?;
    }
    show.make()?;
    show.carry()?;
    let report = show.die_and_return()?;
    console.say(
        "\nAll of it held: networks and endpoints by command, traffic by the fast path, a host's death and return.",
    )?;
    if json {
        writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
    }
    Ok(())
}

struct Show<'a> {
    cluster: StoreCluster,
    console: &'a Console,
    report: Report,
}

impl Show<'_> {
    /// Runs a subcommand on a host as a user would, and shows what it says.
    fn command(&self, host: usize, words: &[&str]) -> Result<()> {
        let name = self.cluster.lab.host(host).name();
        let output = self.cluster.daemon(host)?.output(words)?;
        let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        self.console.say(format_args!(
            "\n{name}$ overlay {}\n{}{}",
            words.join(" "),
            said.trim_end(),
            wrong.trim_end()
        ))?;
        ensure!(output.status.success(), "{name}: `overlay {}`: {}", words.join(" "), output.status);
        Ok(())
    }

    /// Waits until these hosts have so many endpoints of others, in the maps and in both of the kernel's tables.
    fn wait(&self, hosts: &[usize], remote: usize) -> Result<Duration> {
        let start = Instant::now();
        for &host in hosts {
            loop {
                signals::check()?;
                let found = self.cluster.remote(host)?;
                if found == [remote; 3] {
                    break;
                }
                let name = self.cluster.lab.host(host).name();
                ensure!(
                    start.elapsed() < PATIENCE,
                    "{name} has {found:?} endpoints of other hosts in maps, FDB and neighbours, and not {remote}"
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(start.elapsed())
    }

    fn make(&mut self) -> Result<()> {
        self.command(1, &["network", "create", NETWORK])?;
        let mut slowest = Duration::ZERO;
        for host in 1..=HOSTS.into() {
            let container = self.cluster.container(host);
            let path = container.path().display().to_string();
            // Another host's daemon knows the network as soon as etcd has told it.
            let start = Instant::now();
            while self.cluster.ask(host, &["network", "inspect", NETWORK]).is_err() && start.elapsed() < PATIENCE {
                signals::check()?;
            }
            self.command(host, &["endpoint", "add", NETWORK, container.name(), "--netns", &path])?;
            // Who has no endpoint in the network knows nothing of it.
            let taking_part: Vec<_> = (1..=host).collect();
            slowest = slowest.max(self.wait(&taking_part, host - 1)?);
        }
        self.console.say(format_args!(
            "\nEach was in the maps, the FDB and the neighbour table of all other hosts within {} ms.",
            slowest.as_millis()
        ))?;
        self.report = Report {
            hosts: HOSTS,
            etcd_members: HOSTS,
            lease_s: LEASE,
            followed_ms: slowest.as_millis(),
            ..Report::default()
        };
        self.command(2, &["network", "inspect", NETWORK])
    }

    /// Traffic between all.
    fn carry(&mut self) -> Result<()> {
        self.console.say("\nSending ICMP and TCP between all ...")?;
        for (from, to) in [(1, 2), (2, 3), (3, 1)] {
            signals::check()?;
            self.reaches(from, to)?;
            let address = self.cluster.address(NETWORK, to)?;
            let before = self.cluster.daemon(from)?.packets("encap")?;
            let (client, server) = (self.cluster.container(from), self.cluster.container(to));
            tcp_transfer(client, server, address.into(), TCP_BYTES)?;
            let fast = self.cluster.daemon(from)?.packets("encap")? - before;
            let [client, server] = [client.name(), server.name()];
            ensure!(fast >= PACKETS, "{client} → {server}: only {fast} packets went by the fast path");
            self.console.say(format_args!(
                "{client} → {server} ({address}): pings answered, {} MiB of TCP, {fast} packets by the fast path",
                TCP_BYTES >> 20
            ))?;
            self.report.encapsulated += fast;
        }
        Ok(())
    }

    /// All pings are answered. The first may find a next hop unknown; the kernel carries it.
    fn reaches(&self, from: usize, to: usize) -> Result<()> {
        let replies = self.cluster.ping(NETWORK, from, to, Ping::default())?;
        ensure!(
            replies.all(),
            "host {from} → host {to}: only {} of {} pings came back",
            replies.received,
            replies.sent
        );
        Ok(())
    }

    /// The second host loses its daemon and its wire.
    fn die_and_return(mut self) -> Result<Report> {
        let address = self.cluster.address(NETWORK, 3)?;
        let flow = UdpFlow::start(
            self.cluster.container(1),
            self.cluster.container(3),
            address.into(),
            Datagrams::steady(500),
        )?;
        flow.wait_for(100)?;

        self.console.say(format_args!(
            "\nnode02 dies: its daemon is killed, its NIC goes down. Its lease is {LEASE} s. node01 and node03 go on ..."
        ))?;
        self.cluster.daemons.get_mut(1).context("there is a second daemon")?.kill9()?;
        self.cluster.lab.host(2).try_run(&["ip", "link", "set", NIC, "down"])?;
        let withdrawn = self.wait(&[1, 3], 1)?;
        self.console
            .say(format_args!("node01 and node03 withdrew its endpoint after {:.1} s.", withdrawn.as_secs_f64()))?;
        self.command(1, &["node", "ls"])?;
        self.command(1, &["endpoint", "ls", NETWORK])?;

        self.console.say("\nnode02 comes back ...")?;
        let start = Instant::now();
        self.cluster.lab.host(2).try_run(&["ip", "link", "set", NIC, "up"])?;
        self.cluster.daemons.get_mut(1).context("there is a second daemon")?.restart()?;
        self.wait(&[1, 2, 3], 2)?;
        let returned = start.elapsed();
        self.console.say(format_args!("All have each other again after {:.1} s.", returned.as_secs_f64()))?;
        self.command(3, &["node", "ls"])?;
        for (from, to) in [(1, 2), (2, 3), (3, 2)] {
            self.reaches(from, to)?;
        }
        let flow = flow.stop();
        let (sent, lost) = (flow.sent, flow.lost());
        self.console.say(format_args!(
            "\nAll three talk again. Between node01 and node03 {lost} of {sent} requests were lost."
        ))?;
        ensure!(lost == 0 && sent > 0, "traffic between the hosts that lived was disturbed: {lost} of {sent} lost");

        let StoreCluster { daemons, .. } = self.cluster;
        daemons.into_iter().try_for_each(crate::lab::Daemon::down)?;
        Ok(Report {
            withdrawn_ms: withdrawn.as_millis(),
            returned_ms: returned.as_millis(),
            flow_sent: sent,
            flow_lost: lost,
            ok: true,
            ..self.report
        })
    }
}
