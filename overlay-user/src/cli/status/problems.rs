//! Problems in `overlay status`.

use crate::{
    api::types::{NetworkStatus, StatusReport, UnresolvedVtep, VtepRow},
    model::Finding,
};

/// Problems that the daemon reports of itself and of its sources.
pub(super) fn of_daemon(report: &StatusReport) -> Vec<Finding> {
    let Some(control) = &report.control else { return Vec::new() };
    let docker = control.docker.as_ref().and_then(|docker| docker.error.as_deref());
    let docker =
        docker.map(|error| Finding::new("docker", error, "start Docker, or set `docker = false` in `[discover]`"));
    control.problems.iter().cloned().chain(docker).collect()
}

/// Problems of networks and their ports: the network's finding before those of its ports.
pub(super) fn of_networks<'r>(networks: impl IntoIterator<Item = &'r NetworkStatus>) -> Vec<&'r Finding> {
    let findings = networks.into_iter().flat_map(|network| {
        let of_ports = network.ports.iter().filter_map(|port| port.finding.as_ref());
        network.finding.as_ref().into_iter().chain(of_ports)
    });
    findings.collect()
}

/// The VTEPs to which packets take the kernel path: those of the daemon's report, and others whose cause is not known.
pub(super) fn of_vteps(report: &StatusReport) -> Vec<UnresolvedVtep> {
    let mut vteps = report.control.as_ref().map(|control| control.unresolved.clone()).unwrap_or_default();
    for row in report.vteps.iter().filter(|row| !row.resolved) {
        let VtepRow { address, port, .. } = *row;
        if !vteps.iter().any(|known| (known.address, known.port, known.vni) == (address, port, None)) {
            let remedy = format!("see `ip route get {address}`");
            let finding = Finding::new(format!("VTEP {address}"), "its next hop is unresolved", remedy);
            vteps.push(UnresolvedVtep { address, port, vni: None, finding });
        }
    }
    vteps
}

/// All problems, including those that the header of `overlay status` shows.
pub(super) fn all(report: &StatusReport, daemon_error: Option<&str>) -> Vec<Finding> {
    let daemon = daemon_error.map(|reason| match report.daemon {
        Some(_) => Finding::new("daemon", reason, ""),
        None if report.heartbeat.expired => Finding::new(
            "daemon",
            "not running and the heartbeat deadline has expired, packets fall back to the kernel path",
            "start it with `overlay run`",
        ),
        None => Finding::new("daemon", "not running", "start it with `overlay run`"),
    });
    let of_networks = of_networks(&report.networks).into_iter().cloned();
    let of_vteps = of_vteps(report).into_iter().map(|vtep| vtep.finding);
    daemon.into_iter().chain(of_daemon(report)).chain(of_networks).chain(of_vteps).collect()
}

/// A line about an object whose packets take the kernel path.
pub(super) fn on_kernel_path(finding: &Finding) -> String {
    format!("{} falls back to the kernel path: {}\n", finding.object, finding.reason())
}

/// One line per problem.
pub(super) fn text(problems: &[Finding]) -> String {
    if problems.is_empty() {
        return "no problems\n".to_owned();
    }
    problems.iter().map(|finding| format!("{finding}\n")).collect()
}
