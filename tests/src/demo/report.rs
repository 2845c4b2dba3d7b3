//! The table, and the JSON object.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{
    comparison::Comparison,
    figures::{Compared, Row},
    paths::{Delivered, Direction, HostCount, Traffic},
};
use crate::{
    bench::machine::{CpuUse, Machine},
    lab::traffic::Cpus,
};

/// A machine with this use of its CPUs, in percent, is busy.
const BUSY: f64 = 20.0;
const STEAL: f64 = 5.0;

/// The machine, and its load before the demo and during the comparison.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Load {
    #[serde(flatten)]
    pub(super) machine: Machine,
    /// Before the demo.
    #[serde(flatten)]
    pub(super) before: CpuUse,
    pub(super) steal_during_percent: f64,
}

impl Load {
    /// Whether other processes or virtual machines used a considerable part of the CPUs.
    fn is_busy(&self) -> bool {
        self.before.busy_percent >= BUSY || self.before.steal_percent.max(self.steal_during_percent) >= STEAL
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CpuUse { busy_percent, steal_percent } = self.before;
        write!(
            f,
            "load average {:.2}, CPUs {busy_percent:.0} % busy, {steal_percent:.0} % steal; during the comparison \
             {:.0} % steal",
            self.machine.load_before, self.steal_during_percent
        )
    }
}

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
    /// Medians, by name of the row.
    attached: BTreeMap<&'static str, f64>,
    detached: BTreeMap<&'static str, f64>,
    rows: Vec<Row>,
    /// Errors of measurements, which are missing in the rows.
    failed: Vec<String>,
    machine: Load,
    /// Both directions used the fast path.
    pub(super) ok: bool,
}

impl Report {
    pub(super) fn new(traffic: Traffic, Compared { rows, failed }: Compared, machine: Load) -> Self {
        let Traffic { hosts, directions, delivered } = traffic;
        Self {
            kernel: machine.machine.kernel.clone(),
            fast: hosts.into_iter().map(|count| (count.host.clone(), count)).collect(),
            kernel_path_packets: directions.iter().map(|direction| direction.kernel).sum(),
            ok: directions.iter().all(Direction::is_accelerated),
            directions,
            delivered,
            attached: rows.iter().map(|row| (row.name, row.attached.median)).collect(),
            detached: rows.iter().map(|row| (row.name, row.detached.median)).collect(),
            rows,
            failed,
            machine,
        }
    }

    /// The comparison: conditions, table, and a remark if rows are not comparable.
    fn fmt_comparison(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds = self.rows.first().map_or(0, |row| row.attached.count);
        let cpus = match (Cpus::two(), Cpus::one()) {
            (Cpus { client: Some(client), server: Some(server) }, Cpus { client: Some(both), .. }) => {
                format!("Throughput: client on CPU {client}, server on CPU {server}. Round trips and HTTP: CPU {both}.")
            }
            _ => "Client and server are not pinned: only one CPU is available.".to_owned(),
        };
        writeln!(f, "Load before the demo: {}.\n{cpus}\n", self.machine)?;
        writeln!(f, "{}", Row::line(&format!("medians of {rounds} rounds"), "attached", "detached", "change"))?;
        for row in &self.rows {
            writeln!(f, "{row}")?;
        }
        for failure in &self.failed {
            writeln!(f, "not measured: {failure}")?;
        }
        if self.machine.is_busy() {
            f.write_str("\nThe CPUs were in use before the demo: figures and changes are those of a busy machine.\n")?;
        }
        let compared = || self.rows.iter().filter_map(|row| row.comparison);
        let noisy = compared().filter(Comparison::is_too_noisy).count();
        if noisy > 0 {
            writeln!(
                f,
                "\nThe machine was too busy to compare {noisy} of {} figures. Repeat the demo on an idle machine.",
                compared().count()
            )?;
        }
        Ok(())
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

        self.fmt_comparison(f)?;
        let verdict = if self.ok { "Traffic in both directions used" } else { "Traffic did NOT use" };
        write!(f, "\n{verdict} the fast path.")
    }
}
