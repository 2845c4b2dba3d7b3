//! The store with a real etcd, in network namespaces. Needs root, `etcd` and `etcdctl`.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod allocation;
mod faults;
mod liveness;
mod revisions;
mod security;

use std::{
    future::Future,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use overlay_tests::lab::{Etcd, EtcdClient};
use overlay_user::testing::{
    model,
    sources::{Source as _, StoreSource},
    store::{EndpointRequest, EtcdOptions, NetworkRequest, NodeRequest, Registration, Removal, Store},
};

/// The shortest lease that etcd grants.
const TTL: Duration = Duration::from_secs(3);

/// Runs `work` in the client's netns, on a separate runtime.
#[track_caller]
fn inside<T: Send, F: Future<Output = T>>(client: &EtcdClient, work: impl FnOnce() -> F + Send) -> T {
    client.ns.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work())
    })
}

fn options(etcd: &Etcd) -> EtcdOptions {
    EtcdOptions { endpoints: etcd.urls(), ..EtcdOptions::default() }
}

async fn connect(options: &EtcdOptions) -> Store {
    Store::etcd(options).await.unwrap_or_else(|error| panic!("{error}"))
}

fn node(number: u8) -> NodeRequest {
    let address = Ipv4Addr::new(192, 168, 1, 8 + number);
    NodeRequest { ttl: TTL, ..NodeRequest::new(format!("node{number:02}"), address.into()) }
}

async fn register(store: &Store, number: u8) -> Registration {
    store.register_node(node(number)).await.unwrap_or_else(|error| panic!("{error}"))
}

async fn create(store: &Store) -> model::NetworkSpec {
    let subnet = Some("10.0.0.0/16".parse().unwrap());
    store.create_network(NetworkRequest { subnet, ..NetworkRequest::new("red") }).await.unwrap()
}

async fn add(store: &Store, number: u8, name: &str) -> model::Endpoint {
    let request = EndpointRequest::new("red", name, "/run/netns/x");
    store.add_endpoint(&format!("node{number:02}"), request).await.unwrap_or_else(|error| panic!("{error}"))
}

fn names(cluster: &model::Cluster) -> Vec<&str> {
    cluster.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect()
}

/// Reads updates until the endpoints are `expected`; returns the elapsed time. Every update must contain `steady`.
async fn until(source: &mut StoreSource, expected: &[&str], steady: &[&str]) -> Duration {
    let start = Instant::now();
    let mut last = String::from("none");
    while start.elapsed() < Duration::from_secs(30) {
        let Ok(update) = tokio::time::timeout(Duration::from_secs(30), source.next_cluster()).await else { break };
        match update {
            Ok(cluster) => {
                let names = names(&cluster);
                assert!(steady.iter().all(|name| names.contains(name)), "{steady:?} must stay: {names:?}");
                if names == expected {
                    return start.elapsed();
                }
                last = format!("{names:?}");
            }
            Err(error) => last = error.to_string(),
        }
    }
    panic!("not {expected:?} within 30 s; the last update: {last}");
}

/// Every update during `time` has exactly the endpoints `expected`.
async fn assert_steady(source: &mut StoreSource, time: Duration, expected: &[&str]) {
    let end = tokio::time::Instant::now() + time;
    while let Ok(update) = tokio::time::timeout_at(end, source.next_cluster()).await {
        assert_eq!(names(&update.unwrap()), expected);
    }
}

/// No update arrives during `time`.
async fn assert_quiet(source: &mut StoreSource, time: Duration) {
    if let Ok(update) = tokio::time::timeout(time, source.next_cluster()).await {
        panic!("{update:?}");
    }
}
