//! The store as a source: follows it, and yields what this node has to know.

use std::net::Ipv4Addr;

use tokio::sync::watch;

use super::{Source, Update};
use crate::store::{Health, Problem, Snapshot, Store, StoredEndpoint};

/// Follows a store. It is read in the background; [`Source::next`] yields each state that concerns this node.
#[derive(Debug)]
pub struct StoreSource {
    follower: Follower,
}

/// What a [`StoreSource`] knows, for answers that do not ask the database. Clones share it.
#[derive(Clone, Debug)]
pub struct Follower {
    health: watch::Receiver<Health>,
}

impl StoreSource {
    /// Follows the store on behalf of the node with this underlay address. Must be called in a Tokio runtime.
    #[must_use]
    pub fn new(store: Store, address: Ipv4Addr) -> Self {
        let _ = (store, address);
        todo!()
    }

    /// What it knows.
    #[must_use]
    pub fn follower(&self) -> Follower {
        self.follower.clone()
    }
}

impl Follower {
    /// All that is known: the last state, however old.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        todo!()
    }

    /// Keys that are ignored.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        todo!()
    }

    /// The endpoints of one network, or of all, by network and name.
    #[must_use]
    pub fn endpoints(&self, network: Option<&str>) -> Vec<StoredEndpoint> {
        let _ = network;
        todo!()
    }

    /// Whether the store is reached, and how old what is known is.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// Waits until at least this revision is known, for instance that of a change just made.
    pub async fn caught_up(&mut self, revision: i64) {
        let _ = self.health.wait_for(|health| health.revision >= revision).await;
    }
}

impl Source for StoreSource {
    async fn next(&mut self) -> Update {
        todo!()
    }
}
