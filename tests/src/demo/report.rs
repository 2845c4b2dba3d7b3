//! The table, and the JSON object.

use std::{collections::BTreeMap, fmt, fs};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    figures::Figures,
    paths::{Delivered, Direction, HostCount, Traffic},
};

/// All results of the demo. `Display` is the table, `Serialize` the JSON object.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    kernel: String,
    /// Packets on the fast path, by host.
    fast: BTreeMap<String, HostCount>,
    /// Packets on the kernel path (VXLAN devices), both directions.
    kernel_path_packets: u64,
    directions: Vec<Direction>,
    delivered: Delivered,
    attached: Figures,
    detached: Figures,
    /// Both directions used the fast path.
    pub(super) ok: bool,
}

impl Report {
    pub(super) fn new(traffic: Traffic, attached: Figures, detached: Figures) -> Result<Self> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel release")?;
        let Traffic { hosts, directions, delivered } = traffic;
        Ok(Self {
            kernel: release.trim().to_owned(),
            fast: hosts.into_iter().map(|count| (count.host.clone(), count)).collect(),
            kernel_path_packets: directions.iter().map(|direction| direction.kernel).sum(),
            ok: directions.iter().all(Direction::is_accelerated),
            directions,
            delivered,
            attached,
            detached,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Linux {}\n", self.kernel)?;
        writeln!(f, "{:<24}{:>12}{:>12}{:>12}{:>12}", "packets", "encap", "decap", "kernel path", "fast path")?;
        for direction in &self.directions {
            writeln!(
                f,
                "{:<24}{:>12}{:>12}{:>12}{:>10.2} %",
                format!("{} → {}", direction.from, direction.to),
                direction.encap,
                direction.decap,
                direction.kernel,
                direction.share() * 100.0
            )?;
        }
        let Delivered { pings, pings_answered, tcp_bytes, udp_datagrams, udp_received } = self.delivered;
        let mebibytes = tcp_bytes >> 20;
        writeln!(
            f,
            "delivered: {pings_answered} of {pings} pings, {mebibytes} MiB of TCP, {udp_received} of {udp_datagrams} \
             datagrams\n"
        )?;

        writeln!(f, "{:<36}{:>12}{:>12}{:>12}", "", "attached", "detached", "change")?;
        let (on, off) = (&self.attached, &self.detached);
        for (name, on, off) in [
            ("TCP, one stream (Gbit/s)", on.tcp_gbps, off.tcp_gbps),
            ("UDP 64 B, received (kpps)", on.udp_kpps, off.udp_kpps),
            ("UDP round trip, median (µs)", on.udp_rr_us, off.udp_rr_us),
            ("TCP round trip, median (µs)", on.tcp_rr_us, off.tcp_rr_us),
            ("ping round trip, median (µs)", on.ping_us, off.ping_us),
        ] {
            writeln!(f, "{name:<36}{on:>12.1}{off:>12.1}{:>+10.0} %", (on / off - 1.0) * 100.0)?;
        }
        let verdict = if self.ok { "Traffic in both directions used" } else { "Traffic did NOT use" };
        write!(f, "\n{verdict} the fast path.")
    }
}
