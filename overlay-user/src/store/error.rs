//! Errors of the store.

use std::{fmt, path::PathBuf};

use ipnet::Ipv4Net;
use overlay_common::VtepAddr;

use crate::model::{Finding, Findings, Located, counted, endpoint_label as endpoint};

/// A failed operation of the store. Nothing was changed, except possibly with [`StoreError::Unreachable`]. Displays its
/// [findings](Self::findings).
#[allow(missing_docs, reason = "the fields are the objects in the messages; public for tests only")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// A rule of the model, as in a configuration file.
    Rule(Findings),
    /// There is no such network.
    NoSuchNetwork { name: String },
    /// There is no such endpoint.
    NoSuchEndpoint { network: String, name: String },
    /// There is no such node.
    NoSuchNode { name: String },
    /// The network has endpoints.
    NetworkInUse { name: String, endpoints: usize },
    /// The network is being removed.
    NetworkRemoving { name: String },
    /// The node has endpoints, or is alive.
    NodeInUse { name: String, reason: String, remedy: &'static str },
    /// The node is registered with another address.
    NodeAddress { name: String, address: VtepAddr },
    /// No subnet is left.
    PoolsExhausted { name: String, pools: Vec<Ipv4Net> },
    /// No VNI is left.
    VnisExhausted { name: String },
    /// No address is left.
    SubnetExhausted { network: String, name: String, subnet: Ipv4Net },
    /// Concurrent changes of the same object.
    Contended { object: String },
    /// The database cannot be reached.
    Unreachable { store: String, reason: String },
    /// The database refuses this user.
    #[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "only etcd has users"))]
    Denied { store: String, what: String, reason: String },
    /// The connection options are invalid.
    Options { store: String, reason: String, remedy: &'static str },
    /// The schema is newer.
    Version { found: String, known: String },
    /// A value is invalid.
    Invalid { key: String, reason: String },
    /// The embedded database's file.
    File { path: PathBuf, reason: String },
}

impl StoreError {
    /// Whether the database could not be reached; a retry may succeed.
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// One finding for each broken rule, or one for any other error.
    #[must_use]
    pub fn findings(&self) -> Findings {
        let finding = match self {
            Self::Rule(findings) => return findings.clone(),
            Self::NoSuchNetwork { name } => {
                Finding::new(network(name), "does not exist", "list the networks with `overlay network ls`")
            }
            Self::NoSuchEndpoint { network, name } => {
                Finding::new(endpoint(network, name), "does not exist", "list the endpoints with `overlay endpoint ls`")
            }
            Self::NoSuchNode { name } => {
                let remedy = "list the nodes with `overlay node ls`, or register one with `overlay run`";
                Finding::new(node(name), "does not exist", remedy)
            }
            Self::NetworkInUse { name, endpoints } => {
                let problem = format!("has {}", counted(*endpoints, "endpoint"));
                Finding::new(network(name), problem, "remove the endpoints first, or use --force")
            }
            Self::NetworkRemoving { name } => {
                let remedy = "finish the removal with `overlay network rm --force`, or wait";
                Finding::new(network(name), "is being removed", remedy)
            }
            Self::NodeInUse { name, reason, remedy } => Finding::new(node(name), reason, *remedy),
            Self::NodeAddress { name, address } => {
                let remedy = "use another name, or remove the old one with `overlay node rm`";
                Finding::new(node(name), format!("is registered with address {address}"), remedy)
            }
            Self::PoolsExhausted { name, pools } => {
                let pools = pools.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let remedy = "set one with --subnet, or add a pool to /overlay/config";
                Finding::new(network(name), format!("no subnet is free in the pools {pools}"), remedy)
            }
            Self::VnisExhausted { name } => Finding::new(network(name), "no VNI is free", "remove an unused network"),
            Self::SubnetExhausted { network, name, subnet } => {
                let remedy = "remove an endpoint, or use another network";
                Finding::new(endpoint(network, name), format!("no address is free in {subnet}"), remedy)
            }
            Self::Contended { object } => {
                let problem = "concurrent changes of the same keys continue";
                Finding::new(object, problem, "retry; nothing was changed")
            }
            Self::Unreachable { store, reason } => {
                let remedy = "check that it runs and that the network path to it works, then retry";
                Finding::new(format!("store {store}"), format!("cannot be reached ({reason})"), remedy)
            }
            Self::Denied { store, what, reason } => {
                let remedy = "check user, password and role of this node (docs/store.md)";
                Finding::new(format!("store {store}"), format!("refuses {what} ({reason})"), remedy)
            }
            Self::Options { store, reason, remedy } => Finding::new(format!("store {store}"), reason, *remedy),
            Self::Version { found, known } => {
                let problem =
                    format!("the store has schema version {found}, and this version of overlay supports {known}");
                Finding::new(key("/overlay/version"), problem, "use a newer version of overlay")
            }
            Self::Invalid { key: name, reason } => Finding::new(key(name), reason, "correct or remove it"),
            Self::File { path, reason } => {
                let remedy = "check the file and the disk, and that no other daemon uses it";
                Finding::new(format!("store {}", path.display()), reason, remedy)
            }
        };
        finding.into()
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings().fmt(f)
    }
}

impl std::error::Error for StoreError {}

impl From<Findings<Located>> for StoreError {
    fn from(broken: Findings<Located>) -> Self {
        Self::Rule(broken.into())
    }
}

fn network(name: &str) -> String {
    format!("network {name:?}")
}

fn node(name: &str) -> String {
    format!("node {name:?}")
}

/// A key as the object of a finding.
pub(super) fn key(key: &str) -> String {
    format!("key {key:?}")
}
