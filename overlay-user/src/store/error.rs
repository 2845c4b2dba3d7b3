//! Why the store did not do something.

use std::{fmt, path::PathBuf};

use ipnet::Ipv4Net;
use overlay_common::VtepAddr;

use crate::model::{Finding, Findings, Located, endpoint_label as endpoint};

/// Why the store did not do something. Nothing was changed, except where [`StoreError::Unreachable`] leaves it open. Prints
/// as its [findings](Self::findings).
#[allow(missing_docs, reason = "the fields are what the messages name; public for tests alone")]
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
    NetworkGoes { name: String },
    /// The node has endpoints, or lives.
    NodeInUse { name: String, why: String, mend: &'static str },
    /// The node is registered with another address.
    NodeAddress { name: String, address: VtepAddr },
    /// No subnet is left.
    PoolsExhausted { name: String, pools: Vec<Ipv4Net> },
    /// No VNI is left.
    VnisExhausted { name: String },
    /// No address is left.
    SubnetExhausted { network: String, name: String, subnet: Ipv4Net },
    /// Too many others changed the same thing.
    Contended { object: String },
    /// The database cannot be reached.
    Unreachable { store: String, reason: String },
    /// The database refuses this user.
    #[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "etcd alone has users"))]
    Denied { store: String, what: String, reason: String },
    /// How to connect is wrong.
    Options { store: String, reason: String, mend: &'static str },
    /// A newer version of this program wrote the store.
    Version { found: String, known: String },
    /// Something else wrote here.
    Invalid { key: String, reason: String },
    /// The embedded database.
    File { path: PathBuf, reason: String },
}

impl StoreError {
    /// The database could not be asked; the same may work later.
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// What is wrong: one finding for each broken rule, and one otherwise.
    #[must_use]
    pub fn findings(&self) -> Findings {
        let finding = match self {
            Self::Rule(findings) => return findings.clone(),
            Self::NoSuchNetwork { name } => {
                Finding::new(network(name), "does not exist", "`overlay network ls` lists those that do")
            }
            Self::NoSuchEndpoint { network, name } => {
                Finding::new(endpoint(network, name), "does not exist", "`overlay endpoint ls` lists those that do")
            }
            Self::NoSuchNode { name } => {
                let remedy = "`overlay node ls` lists those that do, and `overlay run` registers one";
                Finding::new(node(name), "does not exist", remedy)
            }
            Self::NetworkInUse { name, endpoints } => {
                let problem = format!("has {endpoints} endpoints");
                Finding::new(network(name), problem, "remove them first, or use --force")
            }
            Self::NetworkGoes { name } => {
                let remedy = "finish it with `overlay network rm --force`, or wait";
                Finding::new(network(name), "is being removed", remedy)
            }
            Self::NodeInUse { name, why, mend } => Finding::new(node(name), why, *mend),
            Self::NodeAddress { name, address } => {
                let remedy = "use another name, or remove the old one with `overlay node rm`";
                Finding::new(node(name), format!("is registered with address {address}"), remedy)
            }
            Self::PoolsExhausted { name, pools } => {
                let pools = pools.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let remedy = "give one with --subnet, or add a pool to /overlay/config";
                Finding::new(network(name), format!("no subnet is free in the pools {pools}"), remedy)
            }
            Self::VnisExhausted { name } => {
                Finding::new(network(name), "no VNI is free", "remove a network that is not needed")
            }
            Self::SubnetExhausted { network, name, subnet } => {
                let remedy = "remove an endpoint, or use another network";
                Finding::new(endpoint(network, name), format!("no address is free in {subnet}"), remedy)
            }
            Self::Contended { object } => {
                let problem = "others changed the same keys all the time";
                Finding::new(object, problem, "nothing was changed, try again")
            }
            Self::Unreachable { store, reason } => {
                let remedy = "see that it runs and that the network between is up, then try again";
                Finding::new(format!("store {store}"), format!("cannot be reached ({reason})"), remedy)
            }
            Self::Denied { store, what, reason } => {
                let remedy = "check user, password and role of this node (docs/store.md)";
                Finding::new(format!("store {store}"), format!("refuses {what} ({reason})"), remedy)
            }
            Self::Options { store, reason, mend } => Finding::new(format!("store {store}"), reason, *mend),
            Self::Version { found, known } => {
                let problem = format!("the store has schema version {found}, and this program knows {known}");
                Finding::new(key("/overlay/version"), problem, "use a newer overlay")
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

/// As findings call a key.
pub(super) fn key(key: &str) -> String {
    format!("key {key:?}")
}
