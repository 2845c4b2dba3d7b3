//! The result, as Markdown.

use std::{collections::BTreeMap, fmt::Write as _, fs, process::Command, time::Duration};

use anyhow::{Context, Result};

use super::{
    Counted, DEADLINE, Injected, Plan,
    leaks::{GROWTH_KIB, Held, Leaks},
    load::Outcome,
    world::STEADY,
};

/// All that is reported.
pub(super) struct Report<'a> {
    pub(super) plan: &'a Plan,
    pub(super) lasted: Duration,
    pub(super) injected: &'a [Injected],
    pub(super) outcome: &'a Outcome,
    /// Of each kind of traffic in [`Outcome::tallies`], what a fault explains.
    pub(super) explained: Vec<usize>,
    pub(super) counted: Vec<Counted>,
    pub(super) leaks: &'a Leaks,
}

impl Report<'_> {
    pub(super) fn markdown(&self, failures: &[String]) -> Result<String> {
        let mut text = String::from("# Soak\n\n");
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        writeln!(
            text,
            "`cargo xtask soak`: four hosts (network namespaces) with a daemon each, mixed traffic, endpoints that come and go, \
             daemons that are killed and hang, a wire that fails. Three hosts follow a file, node02 receives by XDP; \
             node04 keeps the embedded store and is told by command. The daemons' deadline is {} s. Events are drawn from \
             the seed one after another; before the next one the tables of all hosts have to be true: intent, kernel and \
             maps are compared.\n",
            DEADLINE.as_secs()
        )?;
        let verdict = if failures.is_empty() { "passed" } else { "**not passed**" };
        for (name, value) in [
            ("verdict", verdict.to_owned()),
            ("date", date()?),
            ("kernel", kernel.trim().to_owned()),
            ("build", build.to_owned()),
            ("duration", format!("{} s", self.lasted.as_secs())),
            ("seed", format!("{} (`cargo xtask soak --seed {0}`)", self.plan.seed)),
            ("events", self.injected.len().to_string()),
        ] {
            // A table without a heading row is none in Markdown.
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
             Time: from the event until the tables of all hosts were true again, the longest; with the time that the fault \
             itself lasts.\n\n\
             | event | times | may cost | longest, s |\n|---|---:|---|---:|\n",
        );
        let mut kinds = BTreeMap::<&str, (usize, bool, Duration)>::new();
        for injected in self.injected {
            let row = kinds.entry(injected.event.kind(DEADLINE)).or_default();
            row.0 += 1;
            row.1 = injected.event.breaks().is_some();
            row.2 = row.2.max(injected.to - injected.from);
        }
        for (kind, (times, breaks, longest)) in kinds {
            let cost = if breaks { "packets from and to that host, for that time" } else { "no packet" };
            writeln!(text, "| {kind} | {times} | {cost} | {:.1} |", longest.as_secs_f64())?;
        }
        Ok(())
    }

    fn traffic(&self, text: &mut String) -> Result<()> {
        text.push_str("\n## Traffic\n\n| traffic | sent | lost, explained | lost, not explained | wrong |\n|---|---:|---:|---:|---:|\n");
        for (tally, explained) in self.outcome.tallies.iter().zip(&self.explained) {
            let other = tally.lost.len() - explained;
            writeln!(text, "| {} | {} | {explained} | {other} | {} |", tally.name, tally.sent, tally.wrong)?;
        }
        let Outcome { tcp_bytes, calls, connections, failures, .. } = self.outcome;
        writeln!(
            text,
            "\nTCP: {} MiB in streams that were open all the time, every byte compared; {calls} calls (request, response) and \
             {connections} connections for one call each. Broken or refused: {}.\n",
            tcp_bytes >> 20,
            failures.len()
        )?;
        text.push_str(
            "What the programs counted, in packets:\n\n| host | encap | decap | decap_xdp | local | stale | unfinished |\n\
             |---|---:|---:|---:|---:|---:|---:|\n",
        );
        for Counted { host, encapsulated, decapsulated, by_xdp, local, stale, unfinished } in &self.counted {
            writeln!(
                text,
                "| node0{host} | {encapsulated} | {decapsulated} | {by_xdp} | {local} | {stale} | {unfinished} |"
            )?;
        }
        text.push_str(
            "\n`stale` is what the kernel carried while a daemon was dead or hung for longer than the deadline.\n",
        );
        Ok(())
    }

    fn leaks(&self, text: &mut String) -> Result<()> {
        writeln!(
            text,
            "\n## Leaks\n\n\
             What a daemon holds with everything as it was at the beginning: at the beginning, at the end, and the most in \
             between. The daemon of node0{STEADY} is never ended; its memory may have grown by {} MiB. The others are each the last \
             of many. Objects are the maps, programs and links that a daemon and its pin root hold; after every event all \
             those that were given up have to be gone.\n\n\
             | host | descriptors | namespaces | objects | resident, KiB | threads |\n|---|---|---|---|---|---|",
            GROWTH_KIB >> 10
        )?;
        for (index, held) in self.leaks.held.iter().enumerate() {
            let row = |get: fn(&Held) -> u64| held.each_ref().map(|held| get(held).to_string()).join(" / ");
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
            "\nAfter `overlay down` on all hosts there have to be: none of the last {} objects, no interface but those of the hosts \
             themselves, no permanent neighbour, no FDB entry, no filter, and no namespace more than before.",
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
