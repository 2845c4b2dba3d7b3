//! `--cluster`: three hosts over a real etcd, configured by command; one host fails and recovers.
//!
//! A step that does not reach its expected state within [`TIMEOUT`] ends the demo. All objects are anonymous: the
//! kernel removes them when the process ends.

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
/// Seconds after which etcd removes a silent host; the default of `overlay run` is 15.
const LEASE: u64 = 5;
const TIMEOUT: Duration = Duration::from_secs(30);
const TCP_BYTES: u64 = 8 << 20;
/// Fewest packets of a transfer of [`TCP_BYTES`], in super-packets of at most 64 KiB.
const PACKETS: u64 = TCP_BYTES >> 16;

/// The measurements, for `--json`.
#[derive(Debug, Default, Serialize)]
struct Report {
    hosts: u8,
    etcd_members: u8,
    lease_s: u64,
    /// From the end of `endpoint add` until maps, FDB and neighbours of all hosts have the endpoint; the slowest.
    followed_ms: u128,
    /// Packets that the programs of the sending hosts encapsulated.
    encapsulated: u64,
    /// From the failure of a host until the others had withdrawn its endpoint.
    withdrawn_ms: u128,
    /// From the restart of its daemon until the others had its endpoint again.
    returned_ms: u128,
    /// Requests of a flow between the other two hosts during failure and recovery.
    flow_sent: u64,
    flow_lost: u64,
    /// All steps succeeded.
    ok: bool,
}

/// Runs all steps. The error names the first step that failed.
pub(super) fn show(overlay: &Path, json: bool, console: &Console) -> Result<()> {
    let pins = private_bpffs()?;
    console.print("Creating three hosts with one container each and an etcd cluster of three members ...")?;
    let cluster = StoreCluster::start(overlay, &pins, HOSTS, LEASE)?;
    let mut show = Show { cluster, console, report: Report::default() };
    for host in show.cluster.lab.hosts() {
        console.print(format_args!(
            "{}$ overlay run {}",
            host.name(),
            show.cluster.arguments(host, LEASE).join(" ")
        ))?;
    }
    show.create_network()?;
    show.send_traffic()?;
    let report = show.fail_and_recover()?;
    console.print(
        "\nAll steps passed: network and endpoints by command, traffic on the fast path, host failure and recovery.",
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
    /// Runs a subcommand on a host and prints its output.
    fn command(&self, host: usize, words: &[&str]) -> Result<()> {
        let name = self.cluster.lab.host(host).name();
        let output = self.cluster.daemon(host)?.output(words)?;
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        self.console.print(format_args!(
            "\n{name}$ overlay {}\n{}{}",
            words.join(" "),
            stdout.trim_end(),
            stderr.trim_end()
        ))?;
        ensure!(output.status.success(), "{name}: `overlay {}`: {}", words.join(" "), output.status);
        Ok(())
    }

    /// Waits until `hosts` have `remote` endpoints of other hosts in the maps, the FDB and the neighbour table.
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
                    start.elapsed() < TIMEOUT,
                    "{name}: remote endpoints in maps, FDB and neighbours: {found:?}, expected {remote}"
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(start.elapsed())
    }

    fn create_network(&mut self) -> Result<()> {
        self.command(1, &["network", "create", NETWORK])?;
        let mut slowest = Duration::ZERO;
        for host in 1..=HOSTS.into() {
            let container = self.cluster.container(host);
            let path = container.path().display().to_string();
            // The other daemons receive the network from etcd asynchronously.
            let start = Instant::now();
            while self.cluster.query(host, &["network", "inspect", NETWORK]).is_err() && start.elapsed() < TIMEOUT {
                signals::check()?;
            }
            self.command(host, &["endpoint", "add", NETWORK, container.name(), "--netns", &path])?;
            // A host without an endpoint in the network has no tables for it.
            let members: Vec<_> = (1..=host).collect();
            slowest = slowest.max(self.wait(&members, host - 1)?);
        }
        self.console.print(format_args!(
            "\nEach endpoint reached the maps, FDB and neighbour table of all other hosts within {} ms.",
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

    /// Sends ICMP and TCP between all containers.
    fn send_traffic(&mut self) -> Result<()> {
        self.console.print("\nSending ICMP and TCP between all containers ...")?;
        for (from, to) in [(1, 2), (2, 3), (3, 1)] {
            signals::check()?;
            self.check_ping(from, to)?;
            let address = self.cluster.address(NETWORK, to)?;
            let before = self.cluster.daemon(from)?.packets("encap")?;
            let (client, server) = (self.cluster.container(from), self.cluster.container(to));
            tcp_transfer(client, server, address.into(), TCP_BYTES)?;
            let fast = self.cluster.daemon(from)?.packets("encap")? - before;
            let [client, server] = [client.name(), server.name()];
            ensure!(fast >= PACKETS, "{client} → {server}: fast path packets: {fast}, expected at least {PACKETS}");
            self.console.print(format_args!(
                "{client} → {server} ({address}): all pings answered, {} MiB of TCP, {fast} packets on the fast path",
                TCP_BYTES >> 20
            ))?;
            self.report.encapsulated += fast;
        }
        Ok(())
    }

    /// Fails unless all pings are answered. The first may take the kernel path, until the next hop is resolved.
    fn check_ping(&self, from: usize, to: usize) -> Result<()> {
        let replies = self.cluster.ping(NETWORK, from, to, Ping::default())?;
        ensure!(replies.all(), "node0{from} → node0{to}: {} of {} pings answered", replies.received, replies.sent);
        Ok(())
    }

    /// Kills the daemon of node02 and sets its NIC down, then restores both.
    fn fail_and_recover(mut self) -> Result<Report> {
        let address = self.cluster.address(NETWORK, 3)?;
        let flow = UdpFlow::start(
            self.cluster.container(1),
            self.cluster.container(3),
            address.into(),
            Datagrams::steady(500),
        )?;
        flow.wait_for(100)?;

        self.console.print(format_args!(
            "\nnode02 fails: daemon killed, NIC down. Its etcd lease expires after {LEASE} s ..."
        ))?;
        self.cluster.daemons.get_mut(1).context("there is a second daemon")?.kill9()?;
        self.cluster.lab.host(2).try_run(&["ip", "link", "set", NIC, "down"])?;
        let withdrawn = self.wait(&[1, 3], 1)?;
        self.console.print(format_args!(
            "node01 and node03 withdrew the endpoint of node02 after {:.1} s.",
            withdrawn.as_secs_f64()
        ))?;
        self.command(1, &["node", "ls"])?;
        self.command(1, &["endpoint", "ls", NETWORK])?;

        self.console.print("\nnode02 recovers: NIC up, daemon restarted ...")?;
        let start = Instant::now();
        self.cluster.lab.host(2).try_run(&["ip", "link", "set", NIC, "up"])?;
        self.cluster.daemons.get_mut(1).context("there is a second daemon")?.restart()?;
        self.wait(&[1, 2, 3], 2)?;
        let returned = start.elapsed();
        self.console.print(format_args!(
            "All three hosts have all remote endpoints again after {:.1} s.",
            returned.as_secs_f64()
        ))?;
        self.command(3, &["node", "ls"])?;
        for (from, to) in [(1, 2), (2, 3), (3, 2)] {
            self.check_ping(from, to)?;
        }
        let flow = flow.stop();
        let (sent, lost) = (flow.sent, flow.lost());
        self.console.print(format_args!(
            "\nAll three hosts reach each other again. Lost between node01 and node03: {lost} of {sent} requests."
        ))?;
        ensure!(
            lost == 0 && sent > 0,
            "traffic between node01 and node03 was disturbed: {lost} of {sent} requests lost"
        );

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
