//! Why the store did not do something: `<object>: <what is wrong>; <what mends it>`.

use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::model::Violations;

/// Why the store did not do something. Nothing was changed, except where [`StoreError::Unreachable`] leaves it open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum StoreError {
    /// A rule of the model, as in a configuration file.
    #[error(transparent)]
    Rule(#[from] Violations),
    /// There is no such network.
    #[error("network {name:?}: does not exist; `overlay network ls` lists those that do")]
    NoSuchNetwork { name: String },
    /// There is no such endpoint.
    #[error("endpoint \"{network}/{name}\": does not exist; `overlay endpoint ls` lists those that do")]
    NoSuchEndpoint { network: String, name: String },
    /// There is no such node.
    #[error("node {name:?}: does not exist; `overlay node ls` lists those that do, and `overlay run` registers one")]
    NoSuchNode { name: String },
    /// The network has endpoints.
    #[error("network {name:?}: has {endpoints} endpoints; remove them first, or use --force")]
    NetworkInUse { name: String, endpoints: usize },
    /// The network is being removed.
    #[error("network {name:?}: is being removed; finish it with `overlay network rm --force`, or wait")]
    NetworkGoes { name: String },
    /// The node has endpoints, or lives.
    #[error("node {name:?}: {why}; {mend}")]
    NodeInUse { name: String, why: String, mend: &'static str },
    /// The node is registered with another address.
    #[error(
        "node {name:?}: is registered with address {address}; use another name, or remove the old one with `overlay node rm`"
    )]
    NodeAddress { name: String, address: std::net::Ipv4Addr },
    /// No subnet is left.
    #[error("network {name:?}: no subnet is free in the pools {}; give one with --subnet, or add a pool to /overlay/config", list(.pools))]
    PoolsExhausted { name: String, pools: Vec<Ipv4Net> },
    /// No VNI is left.
    #[error("network {name:?}: no VNI is free; remove a network that is not needed")]
    VnisExhausted { name: String },
    /// No address is left.
    #[error(
        "endpoint \"{network}/{name}\": no address is free in {subnet}; remove an endpoint, or use another network"
    )]
    SubnetExhausted { network: String, name: String, subnet: Ipv4Net },
    /// Too many others changed the same thing.
    #[error("{object}: others changed the same keys all the time; nothing was changed, try again")]
    Contended { object: String },
    /// The database cannot be reached.
    #[error(
        "store {store}: cannot be reached ({reason}); see that it runs and that the network between is up, then try again"
    )]
    Unreachable { store: String, reason: String },
    /// The database refuses this user.
    #[error("store {store}: refuses {what} ({reason}); check user, password and role of this node (docs/store.md)")]
    Denied { store: String, what: String, reason: String },
    /// How to connect is wrong.
    #[error("store {store}: {reason}; {mend}")]
    Options { store: String, reason: String, mend: &'static str },
    /// A newer version of this program wrote the store.
    #[error(
        "key \"/overlay/version\": the store has schema version {found}, and this program knows {known}; use a newer overlay"
    )]
    Version { found: String, known: String },
    /// Something else wrote here.
    #[error("key {key:?}: {reason}; correct or remove it")]
    Foreign { key: String, reason: String },
    /// The embedded database.
    #[error("store {}: {reason}; check the file and the disk, and that no other daemon uses it", .path.display())]
    File { path: PathBuf, reason: String },
}

impl StoreError {
    /// The database could not be asked; the same may work later.
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

fn list(pools: &[Ipv4Net]) -> String {
    pools.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
