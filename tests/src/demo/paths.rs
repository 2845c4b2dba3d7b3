//! Packets by path: fast path or kernel path.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{pairs::FastPair, signals};
use crate::lab::{
    Container, Daemon, Host,
    traffic::{Datagrams, Ping, ping, tcp_transfer, udp_transfer},
};

const PINGS: u16 = 200;
const TCP_BYTES: u64 = 64 << 20;
const DATAGRAMS: u64 = 20_000;

/// Smallest share of a direction's packets on the fast path, at both ends.
const ENOUGH: f64 = 0.99;

/// Packets that the two hosts counted for one direction.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Direction {
    pub(super) from: String,
    pub(super) to: String,
    /// Encapsulated by the programs of the sending host.
    pub(super) encap: u64,
    /// Decapsulated by the programs of the receiving host.
    pub(super) decap: u64,
    /// Sent through the VXLAN device of the sending host or received through that of the receiving host: the larger
    /// number.
    pub(super) kernel: u64,
}

impl Direction {
    pub(super) fn share(&self) -> f64 {
        let fast = self.encap.min(self.decap);
        if fast == 0 { 0.0 } else { fast as f64 / (fast + self.kernel) as f64 }
    }

    pub(super) fn is_accelerated(&self) -> bool {
        self.share() >= ENOUGH
    }
}

/// Traffic that arrived, both directions together.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Delivered {
    pub(super) pings: u64,
    pub(super) pings_answered: u64,
    pub(super) tcp_bytes: u64,
    pub(super) udp_datagrams: u64,
    pub(super) udp_received: u64,
}

/// Packets of one host, by path.
#[derive(Clone, Debug, Serialize)]
pub(super) struct HostCount {
    #[serde(skip)]
    pub(super) host: String,
    pub(super) encap: u64,
    pub(super) decap: u64,
    #[serde(skip)]
    kernel_tx: u64,
    #[serde(skip)]
    kernel_rx: u64,
}

/// The outcome of [`send_both_ways`].
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    pub(super) hosts: Vec<HostCount>,
    pub(super) directions: Vec<Direction>,
    pub(super) delivered: Delivered,
}

/// Sends ICMP, TCP and small UDP in both directions and reads the counters before and after.
pub(super) fn send_both_ways(pair: &FastPair) -> Result<Traffic> {
    let count = || pair.hosts().map(|(host, daemon)| HostCount::read(host, daemon)).collect::<Result<Vec<_>>>();
    let before = count()?;
    let mut delivered = Delivered::default();
    for [(.., from), (.., to)] in pair.directions() {
        send(from, to, &mut delivered)?;
        signals::check()?;
    }
    let hosts: Vec<_> = count()?.into_iter().zip(before).map(|(after, before)| after.since(&before)).collect();
    let of = |host: &Host| hosts.iter().find(|count| count.host == host.name()).context("every host was counted");
    let direction = |[from, to]: [(&Host, &Daemon, &Container); 2]| {
        let (sender, receiver) = (of(from.0)?, of(to.0)?);
        Ok(Direction {
            from: from.2.name().to_owned(),
            to: to.2.name().to_owned(),
            encap: sender.encap,
            decap: receiver.decap,
            kernel: sender.kernel_tx.max(receiver.kernel_rx),
        })
    };
    let directions = pair.directions().into_iter().map(direction).collect::<Result<_>>()?;
    Ok(Traffic { directions, delivered, hosts })
}

fn send(from: &Container, to: &Container, delivered: &mut Delivered) -> Result<()> {
    let address: IpAddr = to.ip().into();
    let plan = Ping { count: PINGS, interval: Duration::from_millis(1), ..Ping::default() };
    let replies = ping(from, address, plan)?;
    ensure!(replies.received > 0, "{} does not answer {}: all {PINGS} pings were lost", to.name(), from.name());
    delivered.pings += replies.sent;
    delivered.pings_answered += replies.received;
    signals::check()?;

    delivered.tcp_bytes += tcp_transfer(from, to, address, TCP_BYTES)?.bytes;
    signals::check()?;

    let plan = Datagrams { count: DATAGRAMS, per_second: Some(40_000), ..Datagrams::default() };
    delivered.udp_datagrams += DATAGRAMS;
    delivered.udp_received += udp_transfer(from, to, address, plan)?.received;
    Ok(())
}

impl HostCount {
    fn read(host: &Host, daemon: &Daemon) -> Result<Self> {
        let counters = daemon.overlay(&["counters", "--json"])?;
        let reasons = counters["reasons"].as_array().context("`overlay counters --json` has no list `reasons`")?;
        let packets = |names: &[&str]| {
            let selected = reasons.iter().filter(|entry| names.iter().any(|name| entry["reason"] == *name));
            selected.filter_map(|entry| entry["packets"].as_u64()).sum()
        };
        let [kernel_rx, kernel_tx] = kernel_packets(host)?;
        Ok(Self {
            host: host.name().to_owned(),
            encap: packets(&["encap"]),
            decap: packets(&["decap", "decap_xdp"]),
            kernel_tx,
            kernel_rx,
        })
    }

    fn since(self, before: &Self) -> Self {
        Self {
            encap: self.encap - before.encap,
            decap: self.decap - before.decap,
            kernel_tx: self.kernel_tx - before.kernel_tx,
            kernel_rx: self.kernel_rx - before.kernel_rx,
            host: self.host,
        }
    }
}

/// Packets that the VXLAN devices of a host received and sent: the kernel path. A super-packet, which the device counts
/// as one, counts as its segments.
fn kernel_packets(host: &Host) -> Result<[u64; 2]> {
    let links = host.try_run(&["ip", "-s", "-j", "link", "show", "type", "vxlan"])?;
    let links: Vec<serde_json::Value> = match links.trim() {
        "" => Vec::new(),
        text => serde_json::from_str(text).context("reading the output of `ip -s -j link`")?,
    };
    Ok(["rx", "tx"].map(|direction| {
        let packets = links.iter().map(|link| {
            let (counted, mtu) = (&link["stats64"][direction], link["mtu"].as_u64().unwrap_or(1450));
            let bytes = counted["bytes"].as_u64().unwrap_or_default();
            counted["packets"].as_u64().unwrap_or_default().max(bytes / (mtu + ETHERNET))
        });
        packets.sum()
    }))
}

const ETHERNET: u64 = 14;
