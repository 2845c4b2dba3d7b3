//! `overlay status`.

use std::time::Duration;

use clap::Args;
use overlay_user::{
    api::{self, CallError, DaemonReport, Request},
    observe::{self, StatusReport},
};
use serde::Serialize;

use super::{output, remote::SocketArgs};

/// How long a daemon that runs may take to answer; the tables say the most without it.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

/// What is loaded, and the daemon's own word where one answers.
#[derive(Serialize)]
struct Status {
    #[serde(flatten)]
    loaded: StatusReport,
    control: Option<DaemonReport>,
}

pub(super) async fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let report = observe::status(&args.socket.pins.pin_root).await?;
    let word = match report.daemon {
        Some(_) => api::call_within(&args.socket.path(), &Request::Status, PATIENCE).await,
        None => Err(CallError::NoDaemon(args.socket.path())),
    };
    let control: Result<DaemonReport, String> = word
        .map_err(|error| error.to_string())
        .and_then(|answer| serde_json::from_value(answer).map_err(|error| error.to_string()));
    if args.json {
        return output::json(&Status { loaded: report, control: control.ok() });
    }
    let daemon = match (report.daemon, report.ready) {
        (Some(pid), true) => format!("running (pid {pid})"),
        (Some(pid), false) => format!("starting (pid {pid})"),
        (None, _) => "not running; the data path goes on as it is".to_owned(),
    };
    println!("daemon   {daemon}");
    println!("kernel   {}", report.kernel);
    println!("pins     {}", report.pin_root.display());
    match &report.underlay {
        Some(nic) => println!(
            "underlay {} {} {}, UDP {}, receive by {}",
            nic.device,
            nic.address,
            nic.mac,
            nic.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", "),
            nic.rx
        ),
        None => println!("underlay not in use: this host takes part in no network"),
    }
    match &control {
        Ok(control) => print_control(control),
        Err(reason) if report.ready => println!("control  {reason}"),
        Err(_) => {}
    }
    println!();
    let networks = report.networks.iter().map(|row| {
        [
            row.name.clone().unwrap_or_else(|| "-".to_owned()),
            row.vni.to_string(),
            row.mtu.to_string(),
            row.local.to_string(),
            row.remote.to_string(),
            row.tx.packets.to_string(),
            row.rx.packets.to_string(),
        ]
    });
    output::table(["NETWORK", ">VNI", ">MTU", ">LOCAL", ">REMOTE", ">FAST TX", ">FAST RX"], networks);
    println!();
    let vteps = report.vteps.iter().map(|row| {
        [
            row.address.to_string(),
            row.port.to_string(),
            row.device.clone().unwrap_or_else(|| "-".to_owned()),
            row.next_hop.clone().unwrap_or_else(|| "not resolved: left to the kernel".to_owned()),
            row.mtu.to_string(),
        ]
    });
    output::table(["VTEP", ">PORT", "DEVICE", "NEXT HOP", ">INNER MTU"], vteps);
    Ok(())
}

fn print_control(control: &DaemonReport) {
    let store = match &control.store {
        None => String::new(),
        Some(store) if store.reachable => format!(", {} store at revision {}", store.kind, store.revision),
        Some(store) => {
            let why = store.error.as_deref().unwrap_or("no reason is known");
            format!(", {} store not reached for {} s ({why})", store.kind, store.age_ms / 1000)
        }
    };
    println!("control  {}, node {}{store}", control.source, control.node);
    for problem in &control.problems {
        println!("problem  {problem}");
    }
    if !control.mirrored.is_empty() {
        println!();
        let rows = control.mirrored.iter().map(|row| {
            [
                row.name.clone().unwrap_or_else(|| row.device.clone()),
                row.vni.to_string(),
                row.netns.as_ref().map_or_else(|| "this one".to_owned(), |path| path.display().to_string()),
                row.local.to_string(),
                row.remote.to_string(),
                row.refused.clone().unwrap_or_else(|| "accelerated".to_owned()),
            ]
        });
        output::table(["FOREIGN NETWORK", ">VNI", "NAMESPACE", ">LOCAL", ">REMOTE", "STATE"], rows);
    }
}
