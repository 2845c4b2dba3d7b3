//! Requests and failures.

use std::{net::Ipv4Addr, path::PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::model::Findings;

/// A request to the daemon. On the wire: an object whose key `request` is the variant's name in `snake_case`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Report the daemon's state that is not in the pinned maps.
    Status,
    /// Compare the desired with the actual state.
    Audit {
        /// Repair the objects of overlay.
        repair: bool,
    },
    /// Create a network.
    NetworkCreate(NetworkCreate),
    /// List the last sampled events.
    Events {
        /// Only events with a greater number.
        after: u64,
    },
    /// List all networks.
    NetworkList,
    /// Show one network with its endpoints and peers.
    NetworkInspect {
        /// Its name.
        name: String,
    },
    /// Remove a network.
    NetworkRemove {
        /// Its name.
        name: String,
        /// Remove its endpoints first, on all hosts.
        force: bool,
    },
    /// Create an endpoint on this host.
    EndpointAdd(EndpointAdd),
    /// List the endpoints of one network, or of all.
    EndpointList {
        /// A network's name.
        network: Option<String>,
    },
    /// Show one endpoint.
    EndpointInspect {
        /// The network's name.
        network: String,
        /// The endpoint's name.
        name: String,
    },
    /// Remove an endpoint.
    EndpointRemove {
        /// The network's name.
        network: String,
        /// The endpoint's name.
        name: String,
    },
    /// List all nodes.
    NodeList,
    /// Remove a failed node.
    NodeRemove {
        /// Its name.
        name: String,
        /// Remove its endpoints as well, and even if the node is alive.
        force: bool,
    },
}

/// A new network. Fields that are `None` get a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkCreate {
    /// Unique in the cluster.
    pub name: String,
    /// Subnet of the endpoints. Default: the next free one of the pools.
    pub subnet: Option<Ipv4Net>,
    /// Gateway of the endpoints. Default: the first address of the subnet.
    pub gateway: Option<Ipv4Addr>,
    /// Network identifier. Default: the next free one.
    pub vni: Option<u32>,
    /// Largest layer-3 packet in bytes. Default: the underlay's MTU minus 50.
    pub mtu: Option<u16>,
    /// Drop frames with a spoofed source.
    pub strict: bool,
    /// Allow a subnet that overlaps other networks with `overlap`.
    pub overlap: bool,
}

/// A new endpoint on the daemon's host. Fields that are `None` get a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndpointAdd {
    /// The network's name.
    pub network: String,
    /// Unique in its network.
    pub name: String,
    /// Absolute path of the container's network namespace.
    pub netns: PathBuf,
    /// Address in the network's subnet. Default: the next free one.
    pub ip: Option<Ipv4Addr>,
    /// MAC address. Default: `02:42` followed by the IPv4 address.
    pub mac: Option<String>,
}

/// Failure of a request. Prints as its findings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{findings}")]
pub(crate) struct Failure {
    /// Kind of the failure.
    pub kind: FailureKind,
    /// The problems.
    pub findings: Findings,
}

/// Kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureKind {
    /// The request is invalid, or does not fit this host; nothing was changed.
    Refused,
    /// The request failed, and its changes were rolled back.
    Failed,
}

impl Failure {
    /// The request is invalid.
    pub(crate) fn refused(findings: impl Into<Findings>) -> Self {
        Self { kind: FailureKind::Refused, findings: findings.into() }
    }

    /// The request failed.
    pub(crate) fn failed(findings: impl Into<Findings>) -> Self {
        Self { kind: FailureKind::Failed, findings: findings.into() }
    }
}
