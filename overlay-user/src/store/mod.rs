//! Networks and endpoints of one's own, in a database: an embedded one for one machine, etcd for a cluster.
//!
//! [`Store`] holds the rules and is the same for both; [`kv`] is what it asks of a database. The keys and their values
//! are a schema of their own, described in `docs/store.md`. [`crate::control::store`] follows the store.

use std::path::Path;

use crate::model::{Endpoint, Network};

mod error;
pub mod kv;
mod types;

pub use error::StoreError;
pub use types::{EndpointRequest, Health, NetworkRequest, NodeRequest, Problem, Snapshot, StoredEndpoint, StoredNode};

/// How etcd is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdOptions {
    /// URLs of the members, like `https://10.77.0.1:2379`.
    pub endpoints: Vec<String>,
    /// User name and password.
    pub user: Option<(String, String)>,
    /// PEM file of the authority that signed the servers' certificates; `None`: as with `http`.
    pub ca: Option<std::path::PathBuf>,
    /// PEM files of this client's certificate and key.
    pub client: Option<(std::path::PathBuf, std::path::PathBuf)>,
}

/// Networks, endpoints and nodes. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Store {
    kv: kv::SharedKv,
}

/// Keeps a node's registration alive. Dropping it stops that; the registration then lasts until its lease runs out.
#[derive(Debug)]
pub struct Registration(());

impl Registration {
    /// Ends the registration at once: others withdraw the node's endpoints.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn withdraw(self) -> Result<(), StoreError> {
        todo!()
    }
}

impl Store {
    /// Opens the embedded database, and makes it where it is absent.
    ///
    /// # Errors
    /// When another process has it, the file is damaged, or a newer program wrote it.
    pub async fn embedded(path: &Path) -> Result<Self, StoreError> {
        let _ = path;
        todo!()
    }

    /// Connects to etcd.
    ///
    /// # Errors
    /// When it cannot be reached within 5 s, refuses the user, or a newer program wrote it.
    pub async fn etcd(options: &EtcdOptions) -> Result<Self, StoreError> {
        let _ = options;
        todo!()
    }

    /// Makes a network.
    ///
    /// # Errors
    /// When a rule of the model is broken, or nothing is free. Nothing was made then.
    pub async fn create_network(&self, request: NetworkRequest) -> Result<Network, StoreError> {
        let _ = request;
        todo!()
    }

    /// Removes a network, with `force` its endpoints too. Answers with what was removed.
    ///
    /// # Errors
    /// When there is none, or it has endpoints.
    pub async fn remove_network(&self, name: &str, force: bool) -> Result<(Network, Vec<StoredEndpoint>), StoreError> {
        let _ = (name, force);
        todo!()
    }

    /// Registers an endpoint on the node of this name, which must be registered itself.
    ///
    /// # Errors
    /// When a rule of the model is broken, or no address is free. Nothing is allocated then.
    pub async fn add_endpoint(&self, node: &str, request: EndpointRequest) -> Result<Endpoint, StoreError> {
        let _ = (node, request);
        todo!()
    }

    /// Removes an endpoint, whatever node it is on, and releases its addresses.
    ///
    /// # Errors
    /// When there is none.
    pub async fn remove_endpoint(&self, network: &str, name: &str) -> Result<StoredEndpoint, StoreError> {
        let _ = (network, name);
        todo!()
    }

    /// Registers a node and keeps it registered. Called again within the lease, nothing changes for others.
    ///
    /// # Errors
    /// When a rule of the model is broken, or another has the name or the address.
    pub async fn register_node(&self, request: NodeRequest) -> Result<Registration, StoreError> {
        let _ = request;
        todo!()
    }

    /// Removes a node that does not come back. With `force` its endpoints too, and though it lives.
    ///
    /// # Errors
    /// When there is none, it lives, or it has endpoints.
    pub async fn remove_node(&self, name: &str, force: bool) -> Result<Vec<StoredEndpoint>, StoreError> {
        let _ = (name, force);
        todo!()
    }

    /// All that the store has, read now. What is already known is in [`crate::control::store::Follower::snapshot`].
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        todo!()
    }

    /// The database itself.
    #[must_use]
    pub fn kv(&self) -> &kv::SharedKv {
        &self.kv
    }
}
