//! Tests of `StoreSource`.

use std::time::{Duration, Instant};

use super::*;
use crate::{
    model::Cluster,
    model::RemoteChange,
    sources::{Source as _, Update, store::StoreSource},
};

async fn next(source: &mut StoreSource) -> Cluster {
    tokio::time::timeout(Duration::from_secs(5), source.next_cluster()).await.expect("no update within 5 s").unwrap()
}

async fn quiet(source: &mut StoreSource) {
    let update = tokio::time::timeout(Duration::from_millis(200), source.next_cluster()).await;
    assert!(update.is_err(), "{update:?}");
}

fn names(cluster: &Cluster) -> Vec<&str> {
    cluster.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect()
}

#[tokio::test]
async fn node_receives_only_its_own_networks() {
    let Fixture { store, _directory } = &Fixture::with_network().await;
    let mut source = StoreSource::new(store.clone(), "node01");
    let first = next(&mut source).await;
    assert_eq!((first.hosts.len(), first.networks.len(), first.endpoints.len()), (2, 1, 0));
    store.add_endpoint("node02", request("b")).await.unwrap();
    quiet(&mut source).await;
    let started = Instant::now();
    store.add_endpoint("node01", request("a")).await.unwrap();
    assert_eq!(names(&next(&mut source).await), ["a", "b"]);
    assert!(started.elapsed() < Duration::from_millis(100), "{:?}", started.elapsed());
    store.add_endpoint("node02", request("c")).await.unwrap();
    assert_eq!(names(&next(&mut source).await), ["a", "b", "c"]);
    store.remove_endpoint("red", "a").await.unwrap();
    assert_eq!(names(&next(&mut source).await), [""; 0]);
    let follower = source.follower();
    assert_eq!(follower.endpoints(Some("red")).len(), 2);
    assert_eq!(follower.snapshot(), store.snapshot().await.unwrap());
    assert!(follower.health().connected);
}

/// A changed endpoint of another node is a `Remote` update, unless the change affects more than that.
#[tokio::test]
async fn remote_endpoint_changes_are_sent_one_by_one() {
    let Fixture { store, _directory } = &Fixture::with_network().await;
    store.add_endpoint("node01", request("a")).await.unwrap();
    let mut source = StoreSource::new(store.clone(), "node01");
    let change = async |source: &mut StoreSource| {
        tokio::time::timeout(Duration::from_secs(5), source.next()).await.expect("within 5 s").unwrap()
    };
    assert!(matches!(change(&mut source).await, Update::Cluster(_)), "the first update is complete");
    let endpoint = store.add_endpoint("node02", request("b")).await.unwrap();
    let update = change(&mut source).await;
    let vni = endpoint.vni;
    let Update::Remote(changes) = &update else { panic!("{update:?}") };
    assert_eq!((changes.len(), &changes[0].name, changes[0].vni), (1, &"b".to_owned(), vni));
    assert_eq!(changes[0].endpoint.as_ref().map(|remote| (remote.ip, remote.mac)), Some((endpoint.ip, endpoint.mac)));
    store.remove_endpoint("red", "b").await.unwrap();
    let gone = RemoteChange { vni, name: "b".into(), endpoint: None };
    assert_eq!(change(&mut source).await, Update::Remote(vec![gone]));
    store.add_endpoint("node01", request("c")).await.unwrap();
    assert!(matches!(change(&mut source).await, Update::Cluster(_)), "a local endpoint");
}

#[tokio::test]
async fn endpoints_of_unregistered_node_are_withdrawn_and_restored() {
    let fixture = Fixture::with_network().await;
    fixture.store.add_endpoint("node01", request("a")).await.unwrap();
    fixture.store.add_endpoint("node02", request("b")).await.unwrap();
    let mut source = StoreSource::new(fixture.store.clone(), "node01");
    let complete = next(&mut source).await;
    assert_eq!(names(&complete), ["a", "b"]);
    let end_registration = async |node: &str| {
        let then = vec![Op::Delete(format!("/overlay/alive/{node}"))];
        fixture.store.kv.commit(Txn { then, ..Txn::default() }).await.unwrap();
    };
    end_registration("node02").await;
    assert_eq!(names(&next(&mut source).await), ["a"]);
    assert_eq!(fixture.store.snapshot().await.unwrap().endpoints.len(), 2);
    // A node never withdraws its own endpoints.
    end_registration("node01").await;
    assert_eq!(names(&next(&mut source).await), ["a"]);
    fixture.put("/overlay/alive/node02", r#"{"ttl":15}"#).await;
    assert_eq!(next(&mut source).await, complete);
}

#[tokio::test]
async fn newer_schema_is_reported_and_last_state_stays() {
    let fixture = Fixture::with_network().await;
    let mut source = StoreSource::new(fixture.store.clone(), "node01");
    next(&mut source).await;
    fixture.put("/overlay/version", r#"{"major":2,"minor":0}"#).await;
    let error = source.next_cluster().await.unwrap_err().to_string();
    assert!(error.contains("use a newer version of overlay"), "{error}");
    assert_eq!(source.follower().snapshot().networks.len(), 1);
}

#[tokio::test]
async fn watch_older_than_history_is_compacted() {
    let fixture = Fixture::with_network().await;
    let revision = fixture.store.kv.list("/").await.unwrap().revision;
    for number in 0..1100 {
        fixture.put("/overlay/config", &format!("{{\"first_vni\":{}}}", 4096 + number)).await;
    }
    let mut watch = fixture.store.kv.watch("/overlay/", revision).await.unwrap();
    let error = watch.next().await.unwrap_err();
    assert!(matches!(error, kv::WatchError::Compacted(_)), "{error}");
}
