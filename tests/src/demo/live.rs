//! After the table: live counters, and commands to inspect the hosts.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Console, pairs::FastPair, signals};
use crate::lab::traffic::{Ping, ping};

const PERIOD: Duration = Duration::from_secs(2);

/// Maps that are short enough to be read on a terminal, in the order of their lookups.
const MAPS: [&str; 5] = ["OVL_PORTS", "OVL_FDB", "OVL_PEERS", "OVL_NETWORKS", "OVL_REASONS"];

/// Sends pings both ways and prints the programs' counters until a signal arrives.
pub(super) fn show_until_stopped(pair: &FastPair, overlay: &Path, console: &Console) -> Result<()> {
    print_commands(pair, overlay, console)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for [(.., from), (.., to)] in pair.directions() {
            let done = &done;
            scope.spawn(move || {
                let plan = Ping { count: 5, interval: Duration::from_millis(100), ..Ping::default() };
                while !done.load(Ordering::Relaxed) {
                    if ping(from, to.ip().into(), plan).is_err() {
                        thread::sleep(Duration::from_millis(200));
                    }
                }
            });
        }
        let outcome = print_counters(pair, console);
        done.store(true, Ordering::Relaxed);
        outcome
    })
}

fn print_counters(pair: &FastPair, console: &Console) -> Result<()> {
    console.print("Counters, with the increase since the previous line (Ctrl-C ends the demo):")?;
    let mut before: Vec<Counts> = Vec::new();
    while !signals::stopped() {
        let mut now = Vec::new();
        for (host, daemon) in pair.hosts() {
            let counts = Counts::read(&daemon.overlay(&["counters", "--json"])?)?;
            let line = counts.line(before.get(now.len()));
            console.print(format_args!("{}  {line}", host.name()))?;
            now.push(counts);
        }
        before = now;
        signals::sleep(PERIOD);
    }
    Ok(())
}

fn print_commands(pair: &FastPair, overlay: &Path, console: &Console) -> Result<()> {
    console.print("\nThe hosts stay up. Commands to inspect them, as root in another terminal:\n")?;
    for (_, daemon) in pair.hosts() {
        for pin in MAPS.iter().filter_map(|map| find(daemon.pin_root(), map)) {
            console.print(format_args!("  bpftool map dump pinned {pin}"))?;
        }
    }
    console.print("")?;
    for (host, daemon) in pair.hosts() {
        let (net, overlay, pins) = (host.path().display(), overlay.display(), daemon.pin_root().display());
        console.print(format_args!("  nsenter --net={net} {overlay} status --pin-root {pins}"))?;
    }
    for (host, _) in pair.hosts().take(1) {
        let net = host.path().display();
        console.print(format_args!("  nsenter --net={net} tcpdump -ni enp0s3 udp port 4789"))?;
    }
    console.print(format_args!("\nThe daemons reload {} when it changes.", pair.config().display()))?;
    console.print("")
}

/// The pin called `name`, below `directory`.
fn find(directory: &Path, name: &str) -> Option<String> {
    let entries: Vec<_> = directory.read_dir().ok()?.flatten().map(|entry| entry.path()).collect();
    let here = entries.iter().find(|path| path.file_name().is_some_and(|file| file == name));
    let found = here.map(|path| path.display().to_string());
    found.or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| find(path, name)))
}

/// Packets by verdict; those of the fast path by reason.
struct Counts(Vec<(String, u64)>);

impl Counts {
    fn read(counters: &Value) -> Result<Self> {
        let reasons = counters["reasons"].as_array().context("`overlay counters --json` has no list `reasons`")?;
        let mut counts: Vec<(String, u64)> = Vec::new();
        for entry in reasons {
            let verdict = entry["verdict"].as_str().unwrap_or_default();
            let name = if verdict == "fast" { entry["reason"].as_str().unwrap_or_default() } else { verdict };
            let packets = entry["packets"].as_u64().unwrap_or_default();
            match counts.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += packets,
                None => counts.push((name.to_owned(), packets)),
            }
        }
        Ok(Self(counts))
    }

    fn line(&self, before: Option<&Self>) -> String {
        let words = self.0.iter().enumerate().map(|(index, (name, packets))| {
            let last = before.and_then(|before| before.0.get(index)).map_or(*packets, |(_, packets)| *packets);
            format!("{name} {packets} (+{})", packets - last)
        });
        words.collect::<Vec<_>>().join("  ")
    }
}
