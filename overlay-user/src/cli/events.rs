//! `overlay events`.

use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use super::{output, remote::SocketArgs};
use crate::{
    api::{self, types::Request},
    observe::{EventRow, EventsReport},
};

/// Interval between requests with `--follow`.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Args, Debug)]
pub(super) struct EventsArgs {
    /// Print one JSON document instead of text; with --follow, one per line and event.
    #[arg(long)]
    json: bool,
    /// Keep printing new events until Ctrl-C.
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

pub(super) async fn events(args: &EventsArgs) -> anyhow::Result<()> {
    let mut report = read_events(args, 0).await?;
    if args.json && !args.follow {
        return output::json(&report);
    }
    loop {
        output::print(&render(&report, args)?)?;
        if !args.follow {
            return Ok(());
        }
        sleep(PAUSE).await;
        let last = report.last;
        report = read_events(args, last).await?;
        if report.last < last {
            // A restarted daemon counts from 0.
            report = read_events(args, 0).await?;
        }
    }
}

async fn read_events(args: &EventsArgs, after: u64) -> anyhow::Result<EventsReport> {
    let answer = api::call(&args.socket.path(), &Request::Events { after }).await?;
    serde_json::from_value(answer).map_err(|error| {
        anyhow::anyhow!("the daemon's answer cannot be read ({error}); use the `overlay` of the daemon's version")
    })
}

fn render(report: &EventsReport, args: &EventsArgs) -> anyhow::Result<String> {
    let line = |row: &EventRow| anyhow::Ok(if args.json { serde_json::to_string(row)? } else { row.line() } + "\n");
    report.events.iter().map(line).collect()
}
