//! Everything that is wrong, beyond what the header says.

use crate::{
    api::types::{NetworkStatus, StatusReport},
    model::Finding,
};

/// What the daemon says is wrong with itself and with its sources.
pub(super) fn of_daemon(report: &StatusReport) -> Vec<Finding> {
    let Some(control) = &report.control else { return Vec::new() };
    let docker = control.docker.as_ref().and_then(|docker| docker.error.as_deref());
    let docker =
        docker.map(|error| Finding::new("docker", error, "start it, or set `docker = false` in the table `discover`"));
    control.problems.iter().cloned().chain(docker).collect()
}

/// What is wrong with networks and their ports: the network's finding before those of its ports.
pub(super) fn of_networks<'r>(networks: impl IntoIterator<Item = &'r NetworkStatus>) -> Vec<&'r Finding> {
    let findings = networks.into_iter().flat_map(|network| {
        let of_ports = network.ports.iter().filter_map(|port| port.finding.as_ref());
        network.finding.as_ref().into_iter().chain(of_ports)
    });
    findings.collect()
}

/// All of it, with what the header of `overlay status` says in other words.
pub(super) fn all(report: &StatusReport, silence: Option<&str>) -> Vec<Finding> {
    let silence = silence.map(|reason| match report.daemon {
        Some(_) => Finding::new("daemon", reason, ""),
        None if report.heartbeat.expired => Finding::new(
            "daemon",
            "not running, and the heartbeat deadline has expired: packets fall back to the kernel path",
            "start it with `overlay run`",
        ),
        None => Finding::new("daemon", "not running", "start it with `overlay run`"),
    });
    let of_networks = of_networks(&report.networks).into_iter().cloned();
    let unresolved = report.vteps.iter().filter(|vtep| !vtep.resolved).map(|vtep| {
        let remedy = format!("see `ip route get {}`", vtep.address);
        Finding::new(format!("VTEP {}", vtep.address), "its next hop is not resolved: left to the kernel", remedy)
    });
    silence.into_iter().chain(of_daemon(report)).chain(of_networks).chain(unresolved).collect()
}

/// One line each.
pub(super) fn text(problems: &[Finding]) -> String {
    if problems.is_empty() {
        return "no problems\n".to_owned();
    }
    problems.iter().map(|finding| format!("{finding}\n")).collect()
}
