//! Address allocation: against a reference model, and concurrent.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Add { name: u8, ip: Option<u8> },
    Remove { name: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let add = (0..20_u8, proptest::option::weighted(0.3, 0..18_u8)).prop_map(|(name, ip)| Step::Add { name, ip });
    let remove = (0..20_u8).prop_map(|name| Step::Remove { name });
    proptest::collection::vec(prop_oneof![3 => add, 2 => remove], 1..60)
}

/// Reference model of the allocation in 10.0.0.0/28: addresses 2 to 14 in order, wrapping around.
#[derive(Default)]
struct Model {
    taken: BTreeMap<u8, u8>,
    next: u8,
}

impl Model {
    fn add(&mut self, name: u8, ip: Option<u8>) -> Option<u8> {
        let free = |ip: &u8| (2..=14).contains(ip) && !self.taken.values().any(|taken| taken == ip);
        let start = self.next.max(1);
        let found = match ip {
            Some(ip) => Some(ip).filter(free),
            None => (start..=14).chain(1..start).find(free),
        };
        let ip_found = found.filter(|_| !self.taken.contains_key(&name))?;
        if ip.is_none() {
            self.next = if ip_found == 14 { 1 } else { ip_found + 1 };
        }
        self.taken.insert(name, ip_found);
        Some(ip_found)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..crate::seed::property() })]

    #[test]
    fn allocator_matches_reference_model(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new().await;
            let subnet = Some("10.0.0.0/28".parse().unwrap());
            fixture.store.create_network(NetworkRequest { subnet, ..NetworkRequest::new("red") }).await.unwrap();
            let fresh = fixture.store.kv.list("/").await.unwrap().entries.len();
            let mut model = Model::default();
            for step in steps {
                match step {
                    Step::Add { name, ip } => {
                        let requested_ip = ip.map(|last| Ipv4Addr::new(10, 0, 0, last));
                        let request = EndpointRequest { ip: requested_ip, ..request(format!("e{name}")) };
                        let added = fixture.store.add_endpoint("node01", request).await.ok();
                        assert_eq!(added.map(|endpoint| endpoint.ip.octets()[3]), model.add(name, ip));
                    }
                    Step::Remove { name } => {
                        let removed = fixture.store.remove_endpoint("red", &format!("e{name}")).await.ok();
                        let expected = model.taken.remove(&name);
                        assert_eq!(removed.map(|removed| removed.endpoint.ip.octets()[3]), expected);
                    }
                }
                let snapshot = fixture.store.snapshot().await.unwrap();
                assert_eq!(snapshot.problems, []);
                let stored: BTreeMap<_, _> = snapshot
                    .endpoints
                    .iter()
                    .map(|stored| (stored.endpoint.name[1..].parse().unwrap(), stored.endpoint.ip.octets()[3]))
                    .collect();
                assert_eq!(stored, model.taken);
            }
            for name in model.taken.keys() {
                fixture.store.remove_endpoint("red", &format!("e{name}")).await.unwrap();
            }
            let left = fixture.store.kv.list("/").await.unwrap().entries;
            // The cursor remains if an address was allocated.
            assert_eq!(left.len(), fresh + usize::from(model.next != 0), "{left:?}");
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_concurrent_endpoints_get_unique_addresses() {
    let fixture = Fixture::new().await;
    let subnet = Some("10.0.0.0/16".parse().unwrap());
    fixture.store.create_network(NetworkRequest { subnet, ..NetworkRequest::new("red") }).await.unwrap();
    let started = Instant::now();
    let tasks: Vec<_> = (0..10)
        .map(|task| {
            let store = fixture.store.clone();
            tokio::spawn(async move {
                let mut ips = Vec::new();
                for number in 0..100 {
                    let node = if task % 2 == 0 { "node01" } else { "node02" };
                    ips.push(store.add_endpoint(node, request(format!("e{task}-{number}"))).await.unwrap().ip);
                }
                ips
            })
        })
        .collect();
    let mut ips = BTreeSet::new();
    for task in tasks {
        ips.extend(task.await.unwrap());
    }
    eprintln!("1000 endpoints in {:?}", started.elapsed());
    assert_eq!(ips.len(), 1000);
    // In order, without gaps.
    assert_eq!(ips.last(), Some(&Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 2)) + 999)));
    let snapshot = fixture.store.snapshot().await.unwrap();
    assert_eq!((snapshot.endpoints.len(), snapshot.problems.len()), (1000, 0));
}

#[tokio::test]
async fn released_address_is_not_reused_immediately() {
    let Fixture { store, _directory } = &Fixture::with_network().await;
    let mut last = None;
    for number in 0..253_u8 {
        let ip = store.add_endpoint("node01", request("a")).await.unwrap().ip;
        assert_ne!(Some(ip), last, "{number}");
        last = Some(ip);
        store.remove_endpoint("red", "a").await.unwrap();
    }
    // Wrapped around to the first address.
    assert_eq!(store.add_endpoint("node01", request("a")).await.unwrap().ip, Ipv4Addr::new(10, 0, 0, 2));
}

#[tokio::test]
async fn full_network_is_reported() {
    let Fixture { store, _directory } = &Fixture::new().await;
    let subnet = Some("10.0.0.0/30".parse().unwrap());
    store.create_network(NetworkRequest { subnet, ..NetworkRequest::new("red") }).await.unwrap();
    store.add_endpoint("node01", request("a")).await.unwrap();
    let error = store.add_endpoint("node01", request("b")).await.unwrap_err().to_string();
    let message = "endpoint \"red/b\": no address is free in 10.0.0.0/30; remove an endpoint, or use another network";
    assert_eq!(error, message);
}

#[tokio::test]
async fn requested_mac_reserves_its_derived_ip() {
    let Fixture { store, _directory } = &Fixture::with_network().await;
    let mac = Some("02:42:0a:00:00:03".parse().unwrap());
    store.add_endpoint("node01", EndpointRequest { mac, ..request("a") }).await.unwrap();
    assert_eq!(store.add_endpoint("node01", request("b")).await.unwrap().ip, Ipv4Addr::new(10, 0, 0, 4));
}
