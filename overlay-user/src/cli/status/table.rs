//! `overlay status` as text: the host, and one line for each network.

use std::collections::BTreeMap;

use crate::{
    api::types::{DaemonReport, HeartbeatRow, NetworkState, NetworkStatus, StatusReport, VtepRow},
    model::Finding,
};

use super::{output, problems, state};

/// Findings are listed while they and the networks are no more lines than this.
const LISTED: usize = 30;

/// The whole output. With [`LISTED`] networks it has 40 lines.
pub(super) fn text(report: &StatusReport, silence: Option<&str>) -> String {
    let mut networks: Vec<_> = report.networks.iter().collect();
    networks.sort_by_key(|network| (network.name.is_none(), &network.name, network.vni));
    let of_daemon = problems::of_daemon(report);
    let of_networks = problems::of_networks(networks.iter().copied());
    let problems = of_daemon.len() + of_networks.len();
    let is_listed = networks.len() + problems <= LISTED;

    let mut lines = header(report, silence);
    if is_listed {
        lines.extend(of_daemon.iter().map(|finding| format!("problem  {finding}")));
    }
    lines.extend(summary(&networks));
    lines.extend(vteps(&report.vteps));
    let mut text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
    if !networks.is_empty() {
        text += "\n";
        text += &table(&networks);
    }
    if is_listed {
        let line = |finding: &&Finding| match &finding.object {
            // Nobody carries what has no interface.
            object if object.contains(" endpoint ") => format!("{finding}\n"),
            object => format!("{object} is left to the kernel: {}\n", finding.reason()),
        };
        text.extend(of_networks.iter().map(line));
    } else if problems > 0 {
        text += &format!("{problems} problems are not listed here; `overlay status --problems` lists them\n");
    }
    text
}

fn header(report: &StatusReport, silence: Option<&str>) -> Vec<String> {
    let mut lines = vec![format!("daemon   {}", daemon(report))];
    if report.heartbeat.expired {
        lines.push("deadline expired: the daemon's heartbeat is too old; packets fall back to the kernel path".into());
    }
    lines.push(format!("kernel   {}", report.kernel));
    lines.push(format!("pins     {}", report.pin_root.display()));
    lines.push(match &report.underlay {
        Some(nic) => {
            let ports: Vec<_> = nic.ports.iter().map(u16::to_string).collect();
            let ports = ports.join(", ");
            format!("underlay {} {} {}, UDP {ports}, receive by {}", nic.device, nic.address, nic.mac, nic.rx)
        }
        None => "underlay not in use: this host takes part in no network".to_owned(),
    });
    match (&report.control, silence) {
        (Some(control), _) => lines.push(control_line(control)),
        (None, Some(reason)) if report.ready => lines.push(format!("control  {reason}")),
        (None, _) => {}
    }
    lines
}

fn daemon(report: &StatusReport) -> String {
    match (report.daemon, report.ready, report.heartbeat) {
        (Some(pid), true, _) => format!("running (pid {pid})"),
        (Some(pid), false, _) => format!("starting (pid {pid})"),
        (None, _, HeartbeatRow { expired: true, .. }) => "not running; start it".to_owned(),
        (None, _, HeartbeatRow { left_s: Some(seconds), .. }) => {
            format!("not running; the data path goes on as it is for {seconds} s more")
        }
        (None, _, HeartbeatRow { left_s: None, .. }) => "not running; the data path goes on as it is".to_owned(),
    }
}

fn control_line(control: &DaemonReport) -> String {
    let store = match &control.store {
        None => String::new(),
        Some(store) if store.reachable => format!(", {} store at revision {}", store.kind, store.revision),
        Some(store) => {
            let why = store.error.as_deref().unwrap_or("no reason is known");
            format!(", {} store not reached for {} s ({why})", store.kind, store.age_ms / 1000)
        }
    };
    format!("control  {}, node {}{store}", control.source, control.node)
}

/// How many networks are accelerated, and why the others are not.
fn summary(networks: &[&NetworkStatus]) -> Option<String> {
    let accelerated = networks.iter().filter(|network| network.state == NetworkState::Accelerated).count();
    let mut causes = BTreeMap::<&str, usize>::new();
    for network in networks.iter().filter(|network| network.state == NetworkState::Kernel) {
        *causes.entry(network.cause.as_deref().unwrap_or("no reason is known")).or_default() += 1;
    }
    // The most frequent first.
    let mut causes: Vec<_> = causes.into_iter().collect();
    causes.sort_by_key(|(cause, count)| (std::cmp::Reverse(*count), *cause));
    let by_kernel = match causes.as_slice() {
        [] => String::new(),
        [(cause, count)] => format!(", {count} by the kernel: {cause}"),
        causes => {
            let total: usize = causes.iter().map(|(_, count)| count).sum();
            let list: Vec<_> = causes.iter().map(|(cause, count)| format!("{count} {cause}")).collect();
            format!(", {total} by the kernel: {}", list.join(", "))
        }
    };
    (!networks.is_empty()).then(|| format!("networks {accelerated} accelerated{by_kernel}"))
}

fn vteps(vteps: &[VtepRow]) -> Option<String> {
    let unresolved = vteps.iter().filter(|vtep| !vtep.resolved).count();
    let rest = if unresolved == 0 { String::new() } else { format!(", {unresolved} not resolved: left to the kernel") };
    (!vteps.is_empty()).then(|| format!("VTEPs    {}{rest}", vteps.len()))
}

fn table(networks: &[&NetworkStatus]) -> String {
    let both = |counts: Option<(u64, u64)>| counts.map_or_else(|| "-".to_owned(), |(tx, rx)| format!("{tx}/{rx}"));
    let rows = networks.iter().map(|network| {
        let fast = network.tx.zip(network.rx).map(|(tx, rx)| (tx.packets, rx.packets));
        [
            network.name.as_ref().unwrap_or(&network.device).clone(),
            network.vni.to_string(),
            state(network),
            network.local.to_string(),
            network.remote.to_string(),
            both(fast),
            both(network.kernel.map(|count| (count.tx, count.rx))),
        ]
    });
    output::table(["NETWORK", ">VNI", "STATE", ">LOCAL", ">REMOTE", ">FAST TX/RX", ">KERNEL TX/RX"], rows)
}
