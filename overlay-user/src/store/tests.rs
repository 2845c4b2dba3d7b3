//! Tests of the store with the embedded database.

mod allocator;
mod revisions;
mod rules;
mod state;
mod watch;

use std::{net::Ipv4Addr, path::PathBuf};

use tempfile::TempDir;

use super::*;
use crate::model::Attachment;

/// A new store with the nodes of the running example.
struct Fixture {
    store: Store,
    _directory: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::embedded(&directory.path().join("store.redb")).await.unwrap();
        for (name, last) in [("node01", 9), ("node02", 10)] {
            let address = Ipv4Addr::new(192, 168, 1, last);
            drop(store.register_node(NodeRequest::new(name, address.into())).await.unwrap());
        }
        Self { store, _directory: directory }
    }

    /// A fixture with the network "red", 10.0.0.0/24.
    async fn with_network() -> Self {
        let fixture = Self::new().await;
        fixture.store.create_network(NetworkRequest::new("red")).await.unwrap();
        fixture
    }

    async fn put(&self, key: &str, value: &str) {
        let then = vec![Op::put(key, value.as_bytes().to_vec())];
        self.store.kv.commit(Txn { then, ..Txn::default() }).await.unwrap();
    }
}

fn request(name: impl Into<String>) -> EndpointRequest {
    EndpointRequest {
        attachment: Attachment::Netns(PathBuf::from("/run/netns/x")),
        ..EndpointRequest::new("red", name, "/run/netns/x")
    }
}
