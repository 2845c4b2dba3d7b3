//! Concurrent clients.

use std::{collections::BTreeSet, thread, time::Instant};

use super::*;

/// The work of a client, which returns its allocated addresses.
type Work = std::pin::Pin<Box<dyn Future<Output = Vec<Ipv4Addr>>>>;

#[test]
fn ten_clients_allocate_thousand_endpoints_without_duplicates() {
    let etcd = Etcd::start(3).unwrap();
    let client = etcd.client(1).unwrap();
    let options = options(&etcd);
    let fresh = inside(&client, async || {
        let store = connect(&options).await;
        for number in 1..=10 {
            drop(register(&store, number).await);
        }
        create(&store).await;
        store.kv().list("/").await.unwrap().entries.len()
    });
    let each = |work: fn(Store, u8) -> Work| {
        let start = Instant::now();
        let (client, options) = (&client, &options);
        let ips: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (1..=10)
                .map(|number| scope.spawn(move || inside(client, async || work(connect(options).await, number).await)))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        eprintln!("{:?}", start.elapsed());
        ips
    };
    let ips = each(|store, number| {
        Box::pin(async move {
            let mut ips = Vec::new();
            for index in 0..100 {
                ips.push(add(&store, number, &format!("e{number}-{index}")).await.ip);
            }
            ips
        })
    });
    let unique: BTreeSet<_> = ips.iter().collect();
    assert_eq!(unique.len(), 1000);
    // Consecutive addresses: failed attempts release theirs.
    assert_eq!(unique.last(), Some(&&Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 2)) + 999)));
    inside(&client, async || {
        let store = connect(&options).await;
        let snapshot = store.snapshot().await.unwrap();
        assert_eq!((snapshot.endpoints.len(), snapshot.problems.as_slice()), (1000, [].as_slice()));
        assert_eq!(snapshot.endpoints.iter().map(|stored| stored.endpoint.mac).collect::<BTreeSet<_>>().len(), 1000);
    });
    each(|store, number| {
        Box::pin(async move {
            for index in 0..100 {
                store.remove_endpoint("red", &format!("e{number}-{index}")).await.unwrap();
            }
            Vec::new()
        })
    });
    // The allocation cursor stays, and the ten leases expire later.
    let left = inside(&client, async || connect(&options).await.kv().list("/").await.unwrap().entries);
    let alive = |key: &str| key.starts_with("/overlay/alive/");
    let permanent = left.iter().filter(|entry| !alive(&entry.key)).count();
    assert_eq!(permanent, fresh - 10 + 1, "{:?}", left.iter().map(|entry| &entry.key).collect::<Vec<_>>());
}

#[test]
fn concurrently_created_networks_get_distinct_vnis_and_subnets() {
    let etcd = Etcd::start(1).unwrap();
    let client = etcd.client(1).unwrap();
    let options = options(&etcd);
    let created: Vec<_> = thread::scope(|scope| {
        let work = |number: u8| {
            let (client, options) = (&client, &options);
            scope.spawn(move || {
                inside(client, async || {
                    let store = connect(options).await;
                    let mut created = Vec::new();
                    for index in 0..5 {
                        let request = NetworkRequest::new(format!("n{number}-{index}"));
                        let network = store.create_network(request).await.unwrap();
                        created.push((network.vni.get(), network.subnet.to_string()));
                    }
                    created
                })
            })
        };
        let threads: Vec<_> = (0..5).map(work).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let expected: BTreeSet<_> = (0..25).map(|index| (4096 + index, format!("10.0.{index}.0/24"))).collect();
    assert_eq!(created.into_iter().collect::<BTreeSet<_>>(), expected);
}
