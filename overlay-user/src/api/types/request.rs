//! What can be asked.

use std::{net::Ipv4Addr, path::PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::model::Findings;

/// A question to the daemon. On the wire: an object whose key `request` has the variant's name in `snake_case`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// What the daemon knows that the pinned maps do not show.
    Status,
    /// What differs from what should be.
    Audit {
        /// Mend what is ours.
        repair: bool,
    },
    /// Make a network.
    NetworkCreate(NetworkCreate),
    /// The last refused packets.
    Events {
        /// Only those with a greater number.
        after: u64,
    },
    /// All networks.
    NetworkList,
    /// One network with everybody in it.
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
    /// Make an endpoint on this host.
    EndpointAdd(EndpointAdd),
    /// The endpoints of one network, or of all.
    EndpointList {
        /// A network's name.
        network: Option<String>,
    },
    /// One endpoint.
    EndpointInspect {
        /// The network's name.
        network: String,
        /// The endpoint's name.
        name: String,
    },
    /// Take an endpoint of this host back.
    EndpointRemove {
        /// The network's name.
        network: String,
        /// The endpoint's name.
        name: String,
    },
    /// All nodes.
    NodeList,
    /// Remove a node that does not come back.
    NodeRemove {
        /// Its name.
        name: String,
        /// Remove its endpoints too, and though it lives.
        force: bool,
    },
}

/// A network to be made. What is `None` is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkCreate {
    /// Unique in the cluster.
    pub name: String,
    /// Where the endpoints' addresses are from; the next free one of the pools.
    pub subnet: Option<Ipv4Net>,
    /// Default route of the endpoints; the first address of the subnet.
    pub gateway: Option<Ipv4Addr>,
    /// Network identifier; the next free one.
    pub vni: Option<u32>,
    /// Largest layer-3 packet in bytes; the underlay's MTU less 50.
    pub mtu: Option<u16>,
    /// Drop frames with a spoofed source.
    pub strict: bool,
    /// Other networks that say so too may use the same addresses.
    pub overlap: bool,
}

/// An endpoint to be made on the host of the daemon. What is `None` is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndpointAdd {
    /// The network's name.
    pub network: String,
    /// Unique in its network.
    pub name: String,
    /// The network namespace that gets the interface: an absolute path.
    pub netns: PathBuf,
    /// An address of the network's subnet; the next free one.
    pub ip: Option<Ipv4Addr>,
    /// `02:42` and the address.
    pub mac: Option<String>,
}

/// Why a request was not carried out. Prints as its findings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{findings}")]
pub(crate) struct Failure {
    /// What it means for the caller.
    pub kind: FailureKind,
    /// What is wrong.
    pub findings: Findings,
}

/// What a failure means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureKind {
    /// What was asked for is wrong, or does not fit; nothing was changed.
    Refused,
    /// It was tried and could not be done; what was running was taken back.
    Failed,
}

impl Failure {
    /// What was asked for is wrong.
    pub(crate) fn refused(findings: impl Into<Findings>) -> Self {
        Self { kind: FailureKind::Refused, findings: findings.into() }
    }

    /// It could not be done.
    pub(crate) fn failed(findings: impl Into<Findings>) -> Self {
        Self { kind: FailureKind::Failed, findings: findings.into() }
    }
}
