//! What people want to know of mirrored networks.

use std::{collections::BTreeSet, net::Ipv4Addr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::network::Found;
use crate::{
    control::docker::DockerState,
    host::{Link, LinkKind},
    model::mirror::Site,
};

/// The state of the mirror.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Outer source address; `None` while it is not known, and nothing is accelerated then.
    pub address: Option<Ipv4Addr>,
    /// What is heard from Docker; `None`: it is not asked.
    pub docker: Option<DockerReport>,
    /// By VNI.
    pub networks: Vec<NetworkReport>,
}

/// What is heard from Docker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerReport {
    /// When it answered last, in seconds since 1970.
    pub answered: Option<u64>,
    /// Why it does not answer now.
    pub error: Option<String>,
}

/// One VXLAN device that somebody else made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkReport {
    /// The orchestrator's name, where it is known.
    pub name: Option<String>,
    /// VXLAN network identifier; 0 for a device that has none of its own.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Layer 3, in bytes.
    pub mtu: u16,
    /// The file of the namespace that it is in; `None`: the host's own.
    pub sandbox: Option<PathBuf>,
    /// The VXLAN device.
    pub device: String,
    /// Bridge ports.
    pub local: Vec<PortReport>,
    /// VTEPs that may send.
    pub vteps: BTreeSet<Ipv4Addr>,
    /// How many MAC addresses are behind VTEPs.
    pub remote: usize,
    /// Why it is left to the kernel; `None`: it is accelerated.
    pub refused: Option<String>,
}

/// One bridge port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReport {
    /// Interface name in the sandbox.
    pub name: String,
    /// Who is behind it; `None`: not known, or not without doubt.
    pub mac: Option<String>,
    /// Why it is left to the kernel; `None`: it is accelerated once the MAC address is known.
    pub left_out: Option<String>,
}

impl Report {
    pub(super) fn new(address: Option<Ipv4Addr>, found: &[Found], docker: &DockerState) -> Self {
        let report = DockerReport { answered: docker.answered, error: docker.error.clone() };
        Self {
            address,
            docker: docker.asked.then_some(report),
            networks: found.iter().map(NetworkReport::new).collect(),
        }
    }
}

impl NetworkReport {
    /// A device without a VNI of its own.
    pub(super) fn external(link: &Link, site: &Site) -> Self {
        let reason = "is in collect-metadata mode (external): whoever controls it decides for each packet; leave it to the kernel";
        Self {
            name: None,
            vni: 0,
            port: match &link.kind {
                LinkKind::Vxlan(info) => info.port,
                _ => 0,
            },
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            sandbox: sandbox(site),
            device: link.name.clone(),
            local: Vec::new(),
            vteps: BTreeSet::new(),
            remote: 0,
            refused: Some(format!("{} {reason}", link.name)),
        }
    }

    fn new(found: &Found) -> Self {
        let network = &found.network;
        let known = network.ports.values().map(|port| PortReport {
            name: port.name.clone(),
            mac: port.mac.map(|mac| mac.to_string()),
            left_out: None,
        });
        let left_out = found.left_out.iter().map(|(name, reason)| PortReport {
            name: name.clone(),
            mac: None,
            left_out: Some(reason.clone()),
        });
        Self {
            name: network.name.clone(),
            vni: found.vni.get(),
            port: network.port,
            mtu: network.mtu,
            sandbox: sandbox(&network.site),
            device: network.device.clone(),
            local: known.chain(left_out).collect(),
            vteps: network.senders.clone(),
            remote: network.remote.len(),
            refused: network.refused.as_ref().map(ToString::to_string),
        }
    }
}

/// The file that a namespace is known by.
fn sandbox(site: &Site) -> Option<PathBuf> {
    match site {
        Site::Host => None,
        Site::Netns { path, .. } => Some(path.clone()),
    }
}
