//! The daemon's report of itself and of the networks of its host.

use std::collections::BTreeMap;

use overlay_common::Vni;

use super::{Answers, Control};
use crate::{
    api::types::{DaemonReport, DockerReport, NetworkKind, NetworkState, NetworkStatus, PortStatus, UnresolvedVtep},
    daemon::{DaemonState, LocalEndpoint, Served, Unresolved},
    kernel,
    model::{
        Finding, Network,
        network::{ExternalPort, Kind},
    },
    store::StoreError,
};

impl Answers {
    pub(super) fn status(&self) -> DaemonReport {
        let state = self.state.borrow();
        DaemonReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source: match &self.control {
                Control::File(_) => "file",
                Control::Discovery => "discovery",
                Control::Store { .. } => "store",
            }
            .to_owned(),
            node: self.about.node.clone(),
            address: self.about.address.or(state.networks.served),
            store: self.store_report(),
            poll_interval_ms: kernel::POLL_INTERVAL.as_millis().try_into().unwrap_or(u64::MAX),
            problems: self.problems(&state),
            unresolved: state.unresolved.iter().map(unresolved).collect(),
            docker: state
                .docker
                .enabled
                .then(|| DockerReport { answered: state.docker.answered, error: state.docker.error.clone() }),
            networks: network_status(&state),
        }
    }

    fn problems(&self, state: &DaemonState) -> Vec<Finding> {
        let mut problems: Vec<Finding> = state.findings.iter().flat_map(lines).collect();
        if let Control::Store { follower, .. } = &self.control {
            problems.extend(follower.health().error.iter().flat_map(StoreError::findings));
            problems.extend(follower.problems());
        }
        problems
    }
}

fn unresolved(unresolved: &Unresolved) -> UnresolvedVtep {
    let Unresolved { vtep, port, vni, finding } = unresolved;
    UnresolvedVtep { address: *vtep, port: *port, vni: vni.map(Vni::get), finding: finding.clone() }
}

/// Every network of the host, once.
fn network_status(state: &DaemonState) -> Vec<NetworkStatus> {
    let mut endpoints = BTreeMap::<Vni, Vec<PortStatus>>::new();
    for ((vni, name), local) in &state.local {
        endpoints.entry(*vni).or_default().push(endpoint_status(*vni, name, local));
    }
    let of = |network: &Network| {
        let external = network.kind.external();
        let refusal = network.admission.refusal();
        let ports = match (external, network.vni) {
            (Some(external), _) => external.ports.values().map(|port| port_status(network, port)).collect(),
            (None, Some(vni)) => endpoints.get(&vni).cloned().unwrap_or_default(),
            (None, None) => Vec::new(),
        };
        NetworkStatus {
            name: network.name.clone(),
            vni: network.vni.map_or(0, Vni::get),
            kind: match network.kind {
                Kind::Managed => NetworkKind::Managed,
                Kind::Bridged(_) => NetworkKind::Bridged,
                Kind::Routed(_) => NetworkKind::Routed,
            },
            state: if refusal.is_none() { NetworkState::Accelerated } else { NetworkState::Kernel },
            cause: refusal.map(|refusal| refusal.cause.to_string()),
            finding: refusal.map(|refusal| refusal.finding.clone()),
            device: match (external, network.vni) {
                (Some(external), _) => external.device.clone(),
                (None, vni) => vni.map(kernel::vxlan_name).unwrap_or_default(),
            },
            sandbox: external.and_then(|external| external.netns.path()).map(Into::into),
            port: network.port,
            // The MTU and VTEPs of a managed network are read from the maps.
            mtu: external.map_or(0, |external| external.mtu),
            strict: false,
            local: ports.len(),
            ports,
            remote: external.map_or(0, |external| external.remote.len()),
            vteps: external.map(|external| external.peers.clone()).unwrap_or_default(),
            tx: None,
            rx: None,
            kernel: None,
        }
    };
    state.networks.list.iter().map(of).collect()
}

fn port_status(network: &Network, port: &ExternalPort) -> PortStatus {
    PortStatus {
        name: port.name.clone(),
        container: port.container.clone(),
        mac: port.mac.map(|mac| mac.to_string()),
        finding: network.port_finding(port),
    }
}

fn endpoint_status(vni: Vni, name: &str, local: &LocalEndpoint) -> PortStatus {
    let finding = |problem, remedy| Some(Finding::new(format!("VNI {vni} endpoint {name}"), problem, remedy));
    PortStatus {
        name: name.to_owned(),
        container: Some(name.to_owned()),
        mac: Some(local.mac.to_string()),
        finding: match local.served {
            Served::FastPath => None,
            _ if let Some(found) = &local.finding => finding(found.problem.as_str(), found.remedy.as_str()),
            Served::KernelPath => finding(
                "takes the kernel path: its map entries or its program are missing",
                "see the problems of the daemon",
            ),
            Served::No => finding(
                "its netns or port does not exist, or is not connected to the network's bridge",
                "create it; the daemon then connects it",
            ),
        },
    }
}

/// The findings in an error message, one per line.
fn lines(finding: &Finding) -> Vec<Finding> {
    finding.reason().lines().map(|line| Finding::from_reason(&finding.object, line)).collect()
}
