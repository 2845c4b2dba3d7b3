//! The report, as Markdown.

use std::{collections::BTreeMap, fmt::Write as _, fs, process::Command, time::Duration};

use anyhow::{Context, Result};

use super::{
    Counted, DEADLINE, Explained, Injected, Plan,
    leaks::{GROWTH_KIB, Leaks, Resources},
    load::{Outcome, Tally, Wrong},
    testbed::STEADY,
};

/// Contents of the report.
pub(super) struct Report<'a> {
    pub(super) plan: &'a Plan,
    pub(super) lasted: Duration,
    pub(super) injected: &'a [Injected],
    pub(super) outcome: &'a Outcome,
    /// For each kind of traffic in [`Outcome::tallies`].
    pub(super) explained: Vec<Explained>,
    pub(super) counted: Vec<Counted>,
    pub(super) leaks: &'a Leaks,
}

impl Report<'_> {
    pub(super) fn markdown(&self, failures: &[String]) -> Result<String> {
        let mut text = String::from("# Soak\n\n");
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel release")?;
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        writeln!(
            text,
            "`cargo xtask soak` runs four hosts (network namespaces) with a daemon each, sends mixed traffic, adds and \
             removes endpoints, crashes and hangs daemons, and fails NICs. node01 to node03 read a cluster file, \
             node02 receives by XDP; node04 has the embedded store and is configured by command. The heartbeat \
             deadline is {} s. Events are drawn from the seed, one after another. Before the next event all hosts have \
             to converge: every field of the maps and every property of the kernel's objects is compared with the \
             configuration ([oracle](testing.md#oracles)).\n",
            DEADLINE.as_secs()
        )?;
        let verdict = if failures.is_empty() { "passed" } else { "**failed**" };
        for (name, value) in [
            ("verdict", verdict.to_owned()),
            ("date", date()?),
            ("kernel", kernel.trim().to_owned()),
            ("build", build.to_owned()),
            ("duration", format!("{} s", self.lasted.as_secs())),
            ("seed", format!("{} (`cargo xtask soak --seed {0}`)", self.plan.seed)),
            ("events", self.injected.len().to_string()),
        ] {
            writeln!(text, "- {name}: {value}")?;
        }
        for failure in failures {
            writeln!(text, "\n- **{}**", failure.replace('\n', "\n  "))?;
        }
        self.events(&mut text)?;
        self.traffic(&mut text)?;
        self.leaks(&mut text)?;
        Ok(text)
    }

    fn events(&self, text: &mut String) -> Result<()> {
        text.push_str(
            "\n## Events\n\n\
             `longest` is the longest time from the event until all hosts had converged, including the duration of the \
             event. After a change of an MTU, the MTUs of `OVL_PORTS`, `OVL_NETWORKS` and `OVL_VTEPS` and of all devices \
             have to be those of the new configuration.\n\n\
             | event | times | allowed loss | longest, s |\n|---|---:|---|---:|\n",
        );
        let mut kinds = BTreeMap::<&str, (usize, bool, Duration)>::new();
        for injected in self.injected {
            let row = kinds.entry(injected.event.kind(DEADLINE)).or_default();
            row.0 += 1;
            row.1 = injected.event.lossy_host().is_some();
            row.2 = row.2.max(injected.to - injected.from);
        }
        for (kind, (times, is_lossy, longest)) in kinds {
            let loss = if is_lossy { "packets from and to that host" } else { "none" };
            writeln!(text, "| {kind} | {times} | {loss} | {:.1} |", longest.as_secs_f64())?;
        }
        Ok(())
    }

    fn traffic(&self, text: &mut String) -> Result<()> {
        text.push_str(
            "\n## Traffic\n\n\
             | traffic | sent | lost, explained | lost, unexplained | reordered, explained | reordered, unexplained | \
             duplicates | wrong contents |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for (Tally { name, sent, lost, wrong }, explained) in self.outcome.tallies.iter().zip(&self.explained) {
            let unexplained = lost.len() - explained.lost;
            let wrong = match wrong {
                Some(Wrong { reordered, duplicates, corrupt }) => {
                    let unexplained = reordered.len() - explained.reordered;
                    format!("{} | {unexplained} | {duplicates} | {corrupt}", explained.reordered)
                }
                None => "not checked | not checked | not checked | as loss".to_owned(),
            };
            writeln!(text, "| {name} | {sent} | {} | {unexplained} | {wrong} |", explained.lost)?;
        }
        text.push_str(
            "\nPackets of the host that receives by XDP may be reordered while its heartbeat deadline has expired.\n",
        );
        let Outcome { tcp_bytes, calls, connections, failures, .. } = self.outcome;
        writeln!(
            text,
            "\nTCP: {} MiB in long-lived streams, every byte compared; {calls} requests with a response on long-lived \
             connections; {connections} connections with one request each. Broken or refused: {}.\n",
            tcp_bytes >> 20,
            failures.len()
        )?;
        text.push_str(
            "Packets by reason (`overlay counters`):\n\n| host | encap | decap | decap_xdp | local | stale | \
             unfinished |\n\
             |---|---:|---:|---:|---:|---:|---:|\n",
        );
        for Counted { host, encapsulated, decapsulated, by_xdp, local, stale, unfinished } in &self.counted {
            writeln!(
                text,
                "| node0{host} | {encapsulated} | {decapsulated} | {by_xdp} | {local} | {stale} | {unfinished} |"
            )?;
        }
        text.push_str(
            "\n`stale` counts packets that were passed to the kernel because the heartbeat deadline had expired.\n",
        );
        Ok(())
    }

    fn leaks(&self, text: &mut String) -> Result<()> {
        writeln!(
            text,
            "\n## Leaks\n\n\
             Resources of a daemon: at the beginning / at the end (with the initial configuration restored) / maximum. \
             The daemon of node0{STEADY} is never stopped; its memory may grow by {} MiB. The other hosts show \
             their last daemon. Objects are the maps, programs and links of a daemon and its pin root; after every \
             event, released objects must no longer exist.\n\n\
             | host | descriptors | namespaces | objects | resident, KiB | threads |\n|---|---|---|---|---|---|",
            GROWTH_KIB >> 10
        )?;
        for (index, held) in self.leaks.held.iter().enumerate() {
            let row = |get: fn(&Resources) -> u64| held.each_ref().map(|held| get(held).to_string()).join(" / ");
            writeln!(
                text,
                "| node0{} | {} | {} | {} | {} | {} |",
                index + 1,
                row(|held| held.descriptors as u64),
                row(|held| held.namespaces as u64),
                row(|held| held.objects as u64),
                row(|held| held.resident),
                row(|held| held.threads)
            )?;
        }
        writeln!(
            text,
            "\nAfter `overlay down` on all hosts, the check covers: the last {} objects, interfaces, permanent \
             neighbours, FDB entries, TC filters, and netns ids.",
            self.leaks.objects()
        )?;
        Ok(())
    }
}

/// Today, in UTC.
fn date() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output().context("cannot start date")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
