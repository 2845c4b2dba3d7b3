//! Problems in `overlay status`.

use crate::{
    api::types::{NetworkStatus, StatusReport},
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
    let unresolved = report.vteps.iter().filter(|vtep| !vtep.resolved).map(|vtep| {
        let remedy = format!("see `ip route get {}`", vtep.address);
        let problem = "next hop is unresolved, packets fall back to the kernel path";
        Finding::new(format!("VTEP {}", vtep.address), problem, remedy)
    });
    daemon.into_iter().chain(of_daemon(report)).chain(of_networks).chain(unresolved).collect()
}

/// One line per problem.
pub(super) fn text(problems: &[Finding]) -> String {
    if problems.is_empty() {
        return "no problems\n".to_owned();
    }
    problems.iter().map(|finding| format!("{finding}\n")).collect()
}
