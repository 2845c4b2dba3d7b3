//! `overlay audit`.

use std::time::Duration;

use clap::Args;

use super::{
    output,
    remote::{self, Remote},
};
use crate::{
    api::{CallError, types::Request},
    model::Finding,
    observe::audit::{AuditReport, Difference, Owner},
};

pub(super) const HELP: &str = "\
Compare what should be with what is, and list each difference with the object and the likely cause.

What should be is what the running daemon has from its configuration, its store, and the tables of networks that others \
made. What is: the BPF maps, the programs at their hooks, and the kernel's devices, FDB entries and neighbours, in every \
network namespace that the daemon serves. Everything is read anew; nothing is changed without --repair.

Of networks that others made (Docker's) the kernel's tables are reported where they do not agree with each other. They \
are never changed.";

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  nothing differs; with --repair: nothing differs any more
  1  there are differences, or the report cannot be written
  2  it could not be compared, or the command line is wrong; the message says what and what mends it
  3  no daemon runs";

/// How long the daemon may take: it may have several hundred thousand entries to look at, three times, and to mend.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Args, Debug)]
pub(super) struct AuditArgs {
    /// Mend what is ours: the maps, the programs at their hooks, and the devices and entries that the daemon has made.
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    remote: Remote,
}

/// There is no report.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub(super) struct Failed(anyhow::Error);

/// The report has differences.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Differences(String);

pub(super) async fn audit(args: &AuditArgs) -> anyhow::Result<()> {
    let request = Request::Audit { repair: args.repair };
    let answer = args.remote.ask_patiently(&request, PATIENCE).await.map_err(|error| match error {
        error @ CallError::NoDaemon(_) => anyhow::Error::new(error),
        error => Failed(error.into()).into(),
    })?;
    let report: AuditReport = remote::read(answer.clone()).map_err(Failed)?;
    if args.remote.json {
        output::json(&answer)?;
    } else {
        output::print(&render(&report))?;
    }
    if report.clean { Ok(()) } else { Err(Differences(left(&report)).into()) }
}

fn render(report: &AuditReport) -> String {
    let mut text = String::new();
    for difference in &report.differences {
        text += &format!("{}\n", line(difference));
        for (word, value) in [("wanted", &difference.wanted), ("found", &difference.found)] {
            text += &format!("  {word:<7} {}\n", value.as_deref().unwrap_or("nothing"));
        }
        text += &format!("  cause   {}\n", difference.finding.reason());
    }
    let compared = report.compared;
    text += &format!(
        "compared {} map entries, {} kernel objects, {} hooks and {} external networks in {} network namespaces: {}\n",
        compared.map_entries,
        compared.kernel_objects,
        compared.hooks,
        compared.external_networks,
        compared.namespaces,
        match report.differences.len() {
            0 => "nothing differs".to_owned(),
            1 => "1 difference".to_owned(),
            count => format!("{count} differences"),
        }
    );
    text
}

/// Which object it is, and what has become of it.
fn line(difference: &Difference) -> String {
    let Difference { kind, table, finding: Finding { object, .. }, netns, .. } = difference;
    let place = netns.as_ref().map_or_else(String::new, |path| format!(" in {}", path.display()));
    let fate = match (difference.owner, difference.repaired) {
        (Owner::External, _) => " (not ours: reported only)",
        (Owner::Overlay, Some(true)) => " (repaired)",
        (Owner::Overlay, Some(false)) => " (could not be repaired)",
        (Owner::Overlay, None) => "",
    };
    format!("{kind:<7} {table} {object}{place}{fate}")
}

/// What is left of the differences, and what mends that.
fn left(report: &AuditReport) -> String {
    let left = || report.differences.iter().filter(|difference| difference.repaired != Some(true));
    let external = left().filter(|difference| difference.owner == Owner::External).count();
    let tried = left().filter(|difference| difference.repaired == Some(false)).count();
    let ours = left().count() - external - tried;
    let mut parts = Vec::new();
    if ours > 0 {
        parts.push(format!("{ours} of our objects differ; `overlay audit --repair` mends them"));
    }
    if tried > 0 {
        parts.push(format!("{tried} of our objects could not be repaired; the daemon's log says why"));
    }
    if external > 0 {
        parts.push(format!(
            "{external} objects of networks that others made differ; whoever made them (Docker) has to mend them"
        ));
    }
    parts.join(". ")
}
