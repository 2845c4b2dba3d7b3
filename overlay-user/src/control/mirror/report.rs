//! What is reported of discovered networks.

use std::{collections::BTreeSet, net::Ipv4Addr, path::PathBuf};

use super::network::Found;
use crate::{
    api::{DockerReport, NetworkKind, NetworkState, NetworkStatus, PortStatus},
    control::docker::{DockerNetwork, DockerState},
    host::{Link, LinkKind},
    model::{
        Finding,
        mirror::{MirroredNetwork, Site},
    },
};

/// The state of the mirror.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Outer source address; `None` while it is not known, and nothing is accelerated then.
    pub address: Option<Ipv4Addr>,
    /// What is heard from Docker; `None`: it is not asked.
    pub docker: Option<DockerReport>,
    /// By VNI.
    pub networks: Vec<NetworkStatus>,
}

impl Report {
    pub(super) fn new(address: Option<Ipv4Addr>, found: &[Found], docker: &DockerState) -> Self {
        let report = DockerReport { answered: docker.answered, error: docker.error.clone() };
        Self {
            address,
            docker: docker.asked.then_some(report),
            networks: found.iter().map(|found| status(found, docker)).collect(),
        }
    }
}

/// A device without a VNI of its own.
pub(super) fn external(link: &Link, site: &Site) -> NetworkStatus {
    let reason =
        "is in collect-metadata mode (external): whoever controls it decides for each packet; leave it to the kernel";
    NetworkStatus {
        name: None,
        vni: 0,
        kind: NetworkKind::Bridged,
        state: NetworkState::Kernel,
        cause: None,
        finding: Some(finding("VNI 0", &format!("{} {reason}", link.name))),
        device: link.name.clone(),
        sandbox: sandbox(site),
        port: match &link.kind {
            LinkKind::Vxlan(info) => info.port,
            _ => 0,
        },
        mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
        strict: false,
        local: 0,
        ports: Vec::new(),
        remote: 0,
        vteps: BTreeSet::new(),
        tx: None,
        rx: None,
        kernel: None,
    }
}

fn status(found: &Found, docker: &DockerState) -> NetworkStatus {
    let (vni, network) = (found.vni, &found.network);
    let docker = docker_network(vni.get(), network, docker);
    let left = |name: &str, reason: &str| Some(finding(format!("VNI {vni} port {name}"), reason));
    let known = network.ports.values().map(|port| PortStatus {
        name: port.name.clone(),
        container: docker.and_then(|docker| docker.containers.get(&port.mac?).cloned()),
        mac: port.mac.map(|mac| mac.to_string()),
        finding: match port.mac {
            Some(_) => None,
            None => left(&port.name, "the MAC address behind it is not known yet"),
        },
    });
    let left_out = found.left_out.iter().map(|(name, reason)| PortStatus {
        name: name.clone(),
        finding: left(name, reason),
        ..PortStatus::default()
    });
    let ports: Vec<_> = known.chain(left_out).collect();
    NetworkStatus {
        name: network.name.clone(),
        vni: vni.get(),
        kind: NetworkKind::Bridged,
        state: if network.refused.is_some() { NetworkState::Kernel } else { NetworkState::Accelerated },
        cause: None,
        finding: network.refused.as_ref().map(|refusal| finding(format!("VNI {vni}"), &refusal.0)),
        device: network.device.clone(),
        sandbox: sandbox(&network.site),
        port: network.port,
        mtu: network.mtu,
        strict: false,
        local: ports.len(),
        ports,
        remote: network.remote.len(),
        vteps: network.senders.clone(),
        tx: None,
        rx: None,
        kernel: None,
    }
}

/// The network as Docker knows it.
fn docker_network<'d>(vni: u32, network: &MirroredNetwork, docker: &'d DockerState) -> Option<&'d DockerNetwork> {
    let name = network.name.as_ref()?;
    docker.networks.iter().find(|known| known.name == *name && (known.vnis.is_empty() || known.vnis.contains(&vni)))
}

/// A reason `<problem>; <remedy>` as a finding about an object.
fn finding(object: impl Into<String>, reason: &str) -> Finding {
    let (problem, remedy) = reason.split_once("; ").unwrap_or((reason, ""));
    Finding::new(object, problem, remedy)
}

/// The file that a namespace is known by.
fn sandbox(site: &Site) -> Option<PathBuf> {
    match site {
        Site::Host => None,
        Site::Netns { path, .. } => Some(path.clone()),
    }
}
