//! What the daemon says of itself and of the networks of its host.

use std::collections::{BTreeMap, BTreeSet};

use overlay_common::{Vni, wire::VXLAN_PORT};

use super::{Answers, Control};
use crate::{
    api::{DaemonReport, NetworkKind, NetworkState, NetworkStatus, PortStatus},
    control::mirror::Report,
    daemon::{DaemonState, LocalEndpoint, Served},
    host,
    model::Finding,
};

impl Answers {
    pub(super) fn status(&self) -> DaemonReport {
        let state = self.state.borrow();
        let report = self.mirror.borrow();
        DaemonReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source: match &self.control {
                Control::File(_) => "file",
                Control::Mirror => "mirror",
                Control::Store { .. } => "store",
            }
            .to_owned(),
            node: self.about.node.clone(),
            address: self.about.address.or(state.mirrored.address),
            store: self.store_report(),
            problems: self.problems(&state),
            docker: report.docker.clone(),
            networks: network_status(&state, &report),
        }
    }

    fn problems(&self, state: &DaemonState) -> Vec<Finding> {
        let mut problems = Vec::new();
        problems.extend(state.complaint.iter().flat_map(|text| findings("daemon", text)));
        problems.extend(state.refused.iter().flat_map(|refused| findings("configuration", &refused.reason)));
        if let Control::Store { follower, .. } = &self.control {
            problems.extend(follower.health().error.iter().flat_map(|text| findings("store", text)));
            let ignored = follower.problems();
            problems.extend(
                ignored.iter().flat_map(|problem| findings(&format!("key {:?}", problem.key), &problem.reason)),
            );
        }
        problems
    }
}

/// Every network of the host, once: those that overlay made, and those that were discovered.
fn network_status(state: &DaemonState, report: &Report) -> Vec<NetworkStatus> {
    let mut endpoints = BTreeMap::<Vni, Vec<PortStatus>>::new();
    for ((vni, name), local) in &state.local {
        endpoints.entry(*vni).or_default().push(endpoint_status(*vni, name, local));
    }
    let managed = endpoints.into_iter().map(|(vni, ports)| NetworkStatus {
        // Name, MTU, port and the other hosts are read from the kernel and the maps.
        name: None,
        vni: vni.get(),
        kind: NetworkKind::Managed,
        state: NetworkState::Accelerated,
        cause: None,
        finding: None,
        device: host::vxlan_name(vni),
        sandbox: None,
        port: VXLAN_PORT,
        mtu: 0,
        strict: false,
        local: ports.len(),
        ports,
        remote: 0,
        vteps: BTreeSet::new(),
        tx: None,
        rx: None,
        kernel: None,
    });
    let found = report.networks.iter().map(|network| {
        let mut network = network.clone();
        if network.finding.is_none() {
            let admitted = Vni::new(network.vni).ok().and_then(|vni| state.mirrored.networks.get(&vni));
            let reason = match admitted {
                Some(admitted) => admitted.refused.as_ref().map(ToString::to_string),
                None => Some("it was found this moment; wait".to_owned()),
            };
            network.finding =
                reason.and_then(|reason| findings(&format!("VNI {}", network.vni), &reason).into_iter().next());
        }
        if let Some(finding) = &network.finding {
            network.state = NetworkState::Kernel;
            network.cause = Some(cause(&finding.problem).to_owned());
        }
        network
    });
    managed.chain(found).collect()
}

fn endpoint_status(vni: Vni, name: &str, local: &LocalEndpoint) -> PortStatus {
    let finding = |problem, remedy| Some(Finding::new(format!("VNI {vni} endpoint {name}"), problem, remedy));
    PortStatus {
        name: name.to_owned(),
        container: Some(name.to_owned()),
        mac: Some(local.mac.to_string()),
        finding: match local.served {
            Served::FastPath => None,
            Served::KernelPath => finding("the maps or the programs do not have it", "see the daemon's problems"),
            Served::No => finding("it has no interface in the network's bridge", "start its container"),
        },
    }
}

/// The lines of a message, each `<problem>; <remedy>`, as findings about an object.
fn findings(object: &str, message: &str) -> Vec<Finding> {
    let split = |line: &str| {
        let (problem, remedy) = line.split_once("; ").unwrap_or((line, ""));
        Finding::new(object, problem, remedy)
    };
    message.lines().map(split).collect()
}

/// A word for a refusal, from its text.
fn cause(problem: &str) -> &'static str {
    let words: &[(&[&str], &str)] = &[
        (&["deny list", "allow list"], "excluded"),
        (&["it is new", "this moment", "not known yet"], "pending"),
        (&["cannot be known", "cannot be read"], "unknown"),
        (&["encrypt", "XFRM", "has a rule for VNI"], "encrypted"),
        (&["is also the one of", "the configuration has a network"], "duplicate VNI"),
        (&["sent from"], "another address"),
        (&["UDP port", "no room"], "no room"),
        (&["XDP program is on", "traffic control", "queueing discipline", "rules that see"], "filtered"),
        (&["the programs do not do", "collect-metadata", "is not in a bridge"], "unsupported"),
        (&["is bound to interface"], "route"),
    ];
    let is_in = |parts: &[&str]| parts.iter().any(|part| problem.contains(part));
    words.iter().find(|(parts, _)| is_in(parts)).map_or("refused", |(_, word)| word)
}
