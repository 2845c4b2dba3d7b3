//! `overlay status` as text: the host, and one line per network.

use std::collections::BTreeMap;

use crate::{
    api::types::{DaemonReport, HeartbeatRow, NetworkState, NetworkStatus, StatusReport, VtepRow},
    model::{Finding, counted},
};

use super::{output, problems, state};

/// Findings are listed only if they and the networks take at most this number of lines.
const LISTED: usize = 30;

/// The whole output, 40 lines with [`LISTED`] networks.
pub(super) fn text(report: &StatusReport, daemon_error: Option<&str>) -> String {
    let mut networks: Vec<_> = report.networks.iter().collect();
    networks.sort_by_key(|network| (network.name.is_none(), &network.name, network.vni));
    let of_daemon = problems::of_daemon(report);
    let of_networks = problems::of_networks(networks.iter().copied());
    let of_vteps = problems::of_vteps(report);
    let problems = of_daemon.len() + of_networks.len();
    let is_listed = networks.len() + problems <= LISTED;
    // VTEPs may be many: they are listed only if there is room after the other findings.
    let has_room = is_listed && networks.len() + problems + of_vteps.len() <= LISTED;
    let hidden = if is_listed { 0 } else { problems } + if has_room { 0 } else { of_vteps.len() };

    let mut lines = header(report, daemon_error);
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
            // An endpoint without an interface has no packets.
            object if object.contains(" endpoint ") => format!("{finding}\n"),
            _ => problems::on_kernel_path(finding),
        };
        text.extend(of_networks.iter().map(line));
    }
    if has_room {
        text.extend(of_vteps.iter().map(|vtep| problems::on_kernel_path(&vtep.finding)));
    }
    if hidden > 0 {
        text += &format!("{} not shown; list with `overlay status --problems`\n", counted(hidden, "problem"));
    }
    text
}

fn header(report: &StatusReport, daemon_error: Option<&str>) -> Vec<String> {
    let mut lines = vec![format!("daemon   {}", daemon(report))];
    if report.heartbeat.expired {
        lines.push("deadline expired: the daemon's heartbeat is too old, packets fall back to the kernel path".into());
    }
    lines.push(format!("kernel   {}", report.kernel));
    lines.push(format!("pins     {}", report.pin_root.display()));
    lines.push(match &report.underlay {
        Some(nic) => {
            let ports: Vec<_> = nic.ports.iter().map(u16::to_string).collect();
            let ports = ports.join(", ");
            format!("underlay {} {} {}, UDP {ports}, receive by {}", nic.device, nic.address, nic.mac, nic.rx)
        }
        None => "underlay none: no program is attached to it".to_owned(),
    });
    match (&report.control, daemon_error) {
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
        (None, _, HeartbeatRow { expired: true, .. }) => "not running; start it with `overlay run`".to_owned(),
        (None, _, HeartbeatRow { left_s: Some(seconds), .. }) => {
            format!("not running; heartbeat deadline in {seconds} s")
        }
        (None, _, HeartbeatRow { left_s: None, .. }) => "not running; no heartbeat deadline".to_owned(),
    }
}

fn control_line(control: &DaemonReport) -> String {
    let store = match &control.store {
        None => String::new(),
        Some(store) if store.reachable => format!(", {} store at revision {}", store.kind, store.revision),
        Some(store) => {
            let error = store.error.as_deref().unwrap_or("unknown error");
            format!(", {} store unreachable for {} s ({error})", store.kind, store.age_ms / 1000)
        }
    };
    let polls = match control.poll_interval_ms {
        // An earlier version.
        0 => String::new(),
        interval => format!(", polls every {interval} ms"),
    };
    format!("control  {}, node {}{store}{polls}", control.source, control.node)
}

/// The number of accelerated networks, and the causes of the others.
fn summary(networks: &[&NetworkStatus]) -> Option<String> {
    let accelerated = networks.iter().filter(|network| network.state == NetworkState::Accelerated).count();
    let mut causes = BTreeMap::<&str, usize>::new();
    for network in networks.iter().filter(|network| network.state == NetworkState::Kernel) {
        *causes.entry(network.cause.as_deref().unwrap_or("unknown cause")).or_default() += 1;
    }
    let mut causes: Vec<_> = causes.into_iter().collect();
    causes.sort_by_key(|(cause, count)| (std::cmp::Reverse(*count), *cause));
    let on_kernel_path = match causes.as_slice() {
        [] => String::new(),
        [(cause, count)] => format!(", {count} on the kernel path: {cause}"),
        causes => {
            let total: usize = causes.iter().map(|(_, count)| count).sum();
            let list: Vec<_> = causes.iter().map(|(cause, count)| format!("{count} {cause}")).collect();
            format!(", {total} on the kernel path: {}", list.join(", "))
        }
    };
    (!networks.is_empty()).then(|| format!("networks {accelerated} accelerated{on_kernel_path}"))
}

fn vteps(vteps: &[VtepRow]) -> Option<String> {
    let unresolved = vteps.iter().filter(|vtep| !vtep.resolved).count();
    let rest = if unresolved == 0 { String::new() } else { format!(", {unresolved} unresolved (kernel path)") };
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
