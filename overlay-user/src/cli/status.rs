//! `overlay status`.

use std::{
    fmt::{self, Write as _},
    path::Path,
    time::Duration,
};

use clap::Args;
use overlay_user::{
    api::{self, CallError, DaemonReport, Request},
    control::mirror::NetworkReport,
    observe::{self, DeviceCount, LeaseRow, StatusReport},
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
    foreign: Vec<ForeignNetwork>,
}

pub(super) async fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let mut report = observe::status(&args.socket.pins.pin_root).await?;
    let word = match report.daemon {
        Some(_) => api::call_within(&args.socket.path(), &Request::Status, PATIENCE).await,
        None => Err(CallError::NoDaemon(args.socket.path())),
    };
    let control: Result<DaemonReport, String> = word
        .map_err(|error| error.to_string())
        .and_then(|answer| serde_json::from_value(answer).map_err(|error| error.to_string()));
    let networks = control.iter().flat_map(|control| &control.mirror.networks);
    // The daemon's own networks have their names on their bridges; of the others only the daemon knows.
    for network in networks.clone().filter(|network| network.refused.is_none()) {
        let unnamed = report.networks.iter_mut().filter(|row| row.vni == network.vni && row.name.is_none());
        unnamed.for_each(|row| row.name.clone_from(&network.name));
    }
    let foreign: Vec<_> = networks.map(|network| ForeignNetwork::new(network, &report)).collect();
    if args.json {
        return output::json(&Status { loaded: report, control: control.ok(), foreign });
    }
    let mut out = String::new();
    writeln!(out, "daemon   {}", daemon_line(&report))?;
    if report.lease.expired {
        writeln!(out, "lease    expired: no daemon has extended the deadline, and packets are left to the kernel")?;
    }
    writeln!(out, "kernel   {}", report.kernel)?;
    writeln!(out, "pins     {}", report.pin_root.display())?;
    match &report.underlay {
        Some(nic) => writeln!(
            out,
            "underlay {} {} {}, UDP {}, receive by {}",
            nic.device,
            nic.address,
            nic.mac,
            nic.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", "),
            nic.rx
        )?,
        None => writeln!(out, "underlay not in use: this host takes part in no network")?,
    }
    match &control {
        Ok(control) => control_lines(&mut out, control)?,
        Err(reason) if report.ready => writeln!(out, "control  {reason}")?,
        Err(_) => {}
    }
    writeln!(out)?;
    if !foreign.is_empty() {
        foreign_lines(&mut out, &foreign)?;
        writeln!(out)?;
    }
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
    out += &output::table(["NETWORK", ">VNI", ">MTU", ">LOCAL", ">REMOTE", ">FAST TX", ">FAST RX"], networks);
    writeln!(out)?;
    let vteps = report.vteps.iter().map(|row| {
        [
            row.address.to_string(),
            row.port.to_string(),
            row.device.clone().unwrap_or_else(|| "-".to_owned()),
            row.next_hop.clone().unwrap_or_else(|| "not resolved: left to the kernel".to_owned()),
            row.mtu.to_string(),
        ]
    });
    out += &output::table(["VTEP", ">PORT", "DEVICE", "NEXT HOP", ">INNER MTU"], vteps);
    Ok(output::print(&out)?)
}

fn daemon_line(report: &StatusReport) -> String {
    match (report.daemon, report.ready, report.lease) {
        (Some(pid), true, _) => format!("running (pid {pid})"),
        (Some(pid), false, _) => format!("starting (pid {pid})"),
        (None, _, LeaseRow { expired: true, .. }) => "not running; start it".to_owned(),
        (None, _, LeaseRow { left_s: Some(seconds), .. }) => {
            format!("not running; the data path goes on as it is for {seconds} s more")
        }
        (None, _, LeaseRow { left_s: None, .. }) => "not running; the data path goes on as it is".to_owned(),
    }
}

fn control_lines(out: &mut String, control: &DaemonReport) -> fmt::Result {
    let store = match &control.store {
        None => String::new(),
        Some(store) if store.reachable => format!(", {} store at revision {}", store.kind, store.revision),
        Some(store) => {
            let why = store.error.as_deref().unwrap_or("no reason is known");
            format!(", {} store not reached for {} s ({why})", store.kind, store.age_ms / 1000)
        }
    };
    writeln!(out, "control  {}, node {}{store}", control.source, control.node)?;
    for problem in &control.problems {
        writeln!(out, "problem  {problem}")?;
    }
    if let Some(docker) = &control.mirror.docker
        && let Some(error) = &docker.error
    {
        writeln!(out, "docker   {error}")?;
    }
    Ok(())
}

/// A network that others made, with what went which way.
#[derive(Serialize)]
struct ForeignNetwork {
    #[serde(flatten)]
    network: NetworkReport,
    /// Inner frames that the programs sent and delivered; `None`: the network is not in the maps.
    fast_tx: Option<u64>,
    fast_rx: Option<u64>,
    /// Packets through the VXLAN device; `None`: it is gone.
    kernel: Option<DeviceCount>,
}

impl ForeignNetwork {
    fn new(network: &NetworkReport, loaded: &StatusReport) -> Self {
        let fast = loaded.networks.iter().find(|row| network.refused.is_none() && row.vni == network.vni);
        Self {
            fast_tx: fast.map(|row| row.tx.packets),
            fast_rx: fast.map(|row| row.rx.packets),
            kernel: observe::device_count(network.sandbox.as_deref(), &network.device),
            network: network.clone(),
        }
    }
}

fn foreign_lines(out: &mut String, networks: &[ForeignNetwork]) -> fmt::Result {
    let both = |tx: Option<u64>, rx: Option<u64>| match (tx, rx) {
        (Some(tx), Some(rx)) => format!("{tx}/{rx}"),
        _ => "-".to_owned(),
    };
    writeln!(out)?;
    let rows = networks.iter().map(|foreign| {
        let network = &foreign.network;
        let sandbox = network.sandbox.as_deref().and_then(Path::file_name);
        let vteps: Vec<_> = network.vteps.iter().map(ToString::to_string).collect();
        [
            network.name.clone().unwrap_or_else(|| network.device.clone()),
            network.vni.to_string(),
            sandbox.map_or_else(|| "this host".to_owned(), |name| name.to_string_lossy().into_owned()),
            network.local.iter().map(|port| port.name.as_str()).collect::<Vec<_>>().join(" "),
            vteps.join(" "),
            both(foreign.fast_tx, foreign.fast_rx),
            both(foreign.kernel.map(|count| count.tx), foreign.kernel.map(|count| count.rx)),
        ]
    });
    let columns = ["FOREIGN NETWORK", ">VNI", "SANDBOX", "PORTS", "VTEPS", ">FAST TX/RX", ">KERNEL TX/RX"];
    *out += &output::table(columns, rows);
    for foreign in networks {
        let network = &foreign.network;
        if let Some(reason) = &network.refused {
            writeln!(out, "VNI {} is left to the kernel: {reason}", network.vni)?;
        }
        for port in &network.local {
            match (&port.left_out, &port.mac) {
                (Some(reason), _) => {
                    writeln!(out, "VNI {} port {} is left to the kernel: {reason}", network.vni, port.name)?;
                }
                (None, None) => writeln!(
                    out,
                    "VNI {} port {} is left to the kernel until the MAC address behind it is known",
                    network.vni, port.name
                )?,
                (None, Some(_)) => {}
            }
        }
    }
    Ok(())
}
