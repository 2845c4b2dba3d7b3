//! `overlay audit`.

use std::time::Duration;

use clap::Args;

use super::{
    output,
    remote::{self, Remote},
};
use crate::{
    api::{CallError, types::Request},
    model::{Finding, counted},
    observe::audit::{AuditReport, Difference, Owner},
};

pub(super) const HELP: &str = "\
Compare the actual state with the desired state, and list each difference with its object and its likely cause.

The desired state follows from the daemon's configuration or store and from the tables of external networks. The \
actual state is the BPF maps, the attached programs, and the kernel's devices, FDB entries and neighbours, in every \
network namespace that the daemon serves. The daemon reads all of them again. Without --repair nothing is changed.

Tables of external networks (made by Docker, flannel or by hand) are reported where they contradict each other, and \
are never changed.";

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  no differences, or --repair has repaired all of them
  1  differences remain, or the report cannot be written
  2  the comparison failed, or the command line is invalid
  3  no daemon is running";

/// Timeout of an audit: the daemon may read several hundred thousand entries three times, and repair them.
const TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Args, Debug)]
pub(super) struct AuditArgs {
    /// Repair the objects of overlay: the maps, the attached programs, and the devices and entries that the daemon
    /// created.
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    remote: Remote,
}

/// The comparison failed, and there is no report.
#[derive(Debug, thiserror::Error)]
#[error("{}", output::message(_0))]
pub(super) struct Failed(anyhow::Error);

/// The report has differences.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Differences(String);

pub(super) async fn audit(args: &AuditArgs) -> anyhow::Result<()> {
    let request = Request::Audit { repair: args.repair };
    let answer = args.remote.call_within(TIMEOUT, &request).await.map_err(|error| match error {
        error @ CallError::NoDaemon(_) => anyhow::Error::new(error),
        error => Failed(error.into()).into(),
    })?;
    let report: AuditReport = remote::read(answer.clone()).map_err(Failed)?;
    if args.remote.json {
        output::json(&answer)?;
    } else {
        output::print(&render(&report))?;
    }
    if report.clean { Ok(()) } else { Err(Differences(remaining(&report)).into()) }
}

fn render(report: &AuditReport) -> String {
    let mut text = String::new();
    for difference in &report.differences {
        text += &format!("{}\n", line(difference));
        for (word, value) in [("wanted", &difference.wanted), ("found", &difference.found)] {
            text += &format!("  {word:<7} {}\n", value.as_deref().unwrap_or("none"));
        }
        text += &format!("  cause   {}\n", difference.finding.reason());
    }
    for finding in &report.refused {
        text += &format!("kernel path: {finding}\n");
    }
    let compared = report.compared;
    text += &format!(
        "compared {}, {}, {} and {} in {}: {}\n",
        counted(compared.map_entries, "map entry"),
        counted(compared.kernel_objects, "kernel object"),
        counted(compared.hooks, "hook"),
        counted(compared.external_networks, "external network"),
        counted(compared.namespaces, "network namespace"),
        match report.differences.len() {
            0 => "no differences".to_owned(),
            count => counted(count, "difference"),
        }
    );
    text
}

/// The object of a difference, and the result of its repair.
fn line(difference: &Difference) -> String {
    let Difference { kind, table, finding: Finding { object, .. }, netns, .. } = difference;
    let netns = netns.as_ref().map_or_else(String::new, |path| format!(" in {}", path.display()));
    let result = match (difference.owner, difference.repaired) {
        (Owner::External, _) => " (external: not repaired)",
        (Owner::Overlay, Some(true)) => " (repaired)",
        (Owner::Overlay, Some(false)) => " (repair failed)",
        (Owner::Overlay, None) => "",
    };
    format!("{kind:<7} {table} {object}{netns}{result}")
}

/// The differences that remain, with the remedy of each kind.
fn remaining(report: &AuditReport) -> String {
    let remaining = || report.differences.iter().filter(|difference| difference.repaired != Some(true));
    let external = remaining().filter(|difference| difference.owner == Owner::External).count();
    let failed = remaining().filter(|difference| difference.repaired == Some(false)).count();
    let owned = remaining().count() - external - failed;
    let mut parts = Vec::new();
    if owned > 0 {
        parts.push(format!("{}; repair with `overlay audit --repair`", counted(owned, "difference")));
    }
    if failed > 0 {
        parts.push(format!("{} not repaired; the daemon's log has the cause", counted(failed, "difference")));
    }
    if external > 0 {
        parts.push(format!(
            "{} in external networks; repair with the tool that manages them, for example Docker",
            counted(external, "difference")
        ));
    }
    parts.join(". ")
}
