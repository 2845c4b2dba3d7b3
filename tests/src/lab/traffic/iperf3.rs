//! TCP throughput by iperf3.

use std::{
    io::{BufRead, BufReader},
    net::IpAddr,
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Cpus;
use crate::lab::NetNs;

/// Parameters of [`iperf3`].
#[derive(Clone, Copy, Debug)]
pub struct Bulk {
    /// Parallel connections.
    pub streams: u32,
    /// Duration in seconds.
    pub seconds: u32,
    /// Warm-up at the beginning, in tenths of a second.
    pub warm_up: usize,
}

/// Result of [`iperf3`].
#[derive(Clone, Copy, Debug)]
pub struct BulkReport {
    /// Throughput after the warm-up, Gbit/s.
    pub gbps: f64,
    /// Segments that the client sent again, in the whole run.
    pub retransmits: u64,
}

/// Measures TCP streams from `client` to `address` in `server` by iperf3.
///
/// # Errors
/// When iperf3 (Debian package `iperf3`) is missing, or fails twice: on a busy machine, its control connection
/// sometimes breaks, independently of the network.
pub fn iperf3(client: &NetNs, server: &NetNs, address: IpAddr, bulk: Bulk, cpus: Cpus) -> Result<BulkReport> {
    iperf3_once(client, server, address, bulk, cpus)
        .or_else(|_| iperf3_once(client, server, address, bulk, cpus))
        .with_context(|| format!("iperf3 from {} to {address} in {}", client.name(), server.name()))
}

fn iperf3_once(client: &NetNs, server: &NetNs, address: IpAddr, bulk: Bulk, cpus: Cpus) -> Result<BulkReport> {
    let affinity = |cpu: Option<usize>| cpu.map(|cpu| format!("--affinity={cpu}"));
    let address = address.to_string();
    let mut listening = server
        .command("iperf3")
        .args(["--server", "--one-off", "--forceflush", "--bind", &address])
        .args(affinity(cpus.server))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start iperf3 (Debian package iperf3)")?;
    let outcome = (|| {
        let mut lines = BufReader::new(listening.stdout.take().context("iperf3 has no output pipe")?).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.contains("listening")));
        ensure!(ready, "the iperf3 server does not listen");
        let (time, streams) = (bulk.seconds.to_string(), bulk.streams.to_string());
        let output = client
            .command("iperf3")
            .args(["--json", "--connect-timeout", "5000", "--interval", "0.1"])
            .args(["--time", &time, "--parallel", &streams, "--client", &address])
            .args(affinity(cpus.client))
            .output()?;
        let report: Value = serde_json::from_slice(&output.stdout).context("the iperf3 client printed no JSON")?;
        // Errors are also in the JSON.
        ensure!(report["error"].is_null(), "iperf3: {}", report["error"]);
        let retransmits = report["end"]["sum_sent"]["retransmits"].as_u64();
        Ok(BulkReport {
            gbps: throughput(&report, bulk.warm_up)?,
            retransmits: retransmits.context("iperf3 reports no retransmissions")?,
        })
    })();
    // With --one-off the server exits after one client; this covers the case without a client.
    let _ = listening.kill();
    let _ = listening.wait();
    outcome
}

/// Throughput of the sender after the warm-up. The receiver has received all but the last few MB.
fn throughput(report: &Value, warm_up: usize) -> Result<f64> {
    let intervals = report["intervals"].as_array().context("iperf3 reports no intervals")?;
    let sum = |field: &str, skipped: usize| -> f64 {
        intervals.iter().skip(skipped).filter_map(|interval| interval["sum"][field].as_f64()).sum()
    };
    // A stream that stops after the warm-up has a throughput of 0.
    ensure!(sum("bytes", 0) > 0.0, "iperf3 sent nothing");
    let (bytes, seconds) = (sum("bytes", warm_up), sum("seconds", warm_up));
    ensure!(seconds > 0.0, "iperf3 sent for less than the warm-up");
    Ok(bytes * 8.0 / seconds / 1e9)
}
