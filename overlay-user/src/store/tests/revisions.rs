//! A follower at the last written revision has all changes.

use std::time::Duration;

use super::*;
use crate::sources::store::{Follower, StoreSource};

/// Numbers of networks, endpoints and nodes of a follower at the last written revision.
async fn known(store: &Store, follower: &Follower) -> [usize; 3] {
    follower.wait_for_revision(store.written(), Duration::from_secs(5)).await.unwrap();
    let snapshot = follower.snapshot();
    [snapshot.networks.len(), snapshot.endpoints.len(), snapshot.nodes.len()]
}

#[tokio::test]
async fn follower_has_every_write_at_its_revision() {
    let Fixture { store, _directory } = &Fixture::new().await;
    let source = StoreSource::new(store.clone(), "node01");
    let follower = source.follower();
    assert_eq!(known(store, &follower).await, [0, 0, 2]);
    store.create_network(NetworkRequest::new("red")).await.unwrap();
    assert_eq!(known(store, &follower).await, [1, 0, 2]);
    for number in 0..60 {
        store.add_endpoint("node02", request(format!("e{number}"))).await.unwrap();
        assert_eq!(known(store, &follower).await, [1, number + 1, 2]);
    }
    store.remove_endpoint("red", "e0").await.unwrap();
    assert_eq!(known(store, &follower).await, [1, 59, 2]);
    store.remove_network("red", Removal::Forced).await.unwrap();
    assert_eq!(known(store, &follower).await, [0, 0, 2]);
    store.remove_node("node02", Removal::Forced).await.unwrap();
    assert_eq!(known(store, &follower).await, [0, 0, 1]);
}

/// Removing a claim without an endpoint changes no followed key.
#[tokio::test]
async fn unfollowed_keys_do_not_advance_written_revision() {
    let fixture = Fixture::with_network().await;
    let store = &fixture.store;
    store.add_endpoint("node01", request("a")).await.unwrap();
    let then = vec![Op::Delete("/overlay/endpoints/node01/red/a".into())];
    store.kv.commit(Txn { then, ..Txn::default() }).await.unwrap();
    let before = store.written();
    // The endpoint does not exist, but its claims are removed.
    assert!(store.remove_endpoint("red", "a").await.is_err());
    assert_eq!(store.kv.list("/overlay-ipam/networks/red/names/").await.unwrap().entries, []);
    assert_eq!(store.written(), before);
}

#[tokio::test]
async fn missing_revision_is_an_error() {
    let Fixture { store, _directory } = &Fixture::new().await;
    let source = StoreSource::new(store.clone(), "node01");
    let follower = source.follower();
    known(store, &follower).await;
    let revision = store.written() + 1;
    let timeout = follower.wait_for_revision(revision, Duration::from_millis(20)).await.unwrap_err();
    assert_eq!((timeout.revision, timeout.known), (revision, revision - 1));
    assert!(timeout.to_string().contains("no newer revision arrived within 20ms"), "{timeout}");
    drop(source);
    let timeout = follower.wait_for_revision(revision, Duration::from_secs(20)).await.unwrap_err();
    assert!(timeout.to_string().contains("no longer followed"), "{timeout}");
}
