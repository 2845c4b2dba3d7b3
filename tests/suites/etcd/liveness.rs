//! Nodes that go and come back.

use super::*;

#[test]
fn endpoints_follow_lease_of_their_node() {
    let etcd = Etcd::start(1).unwrap();
    let (here, there) = (etcd.client(1).unwrap(), etcd.client(2).unwrap());
    let options = options(&etcd);
    inside(&here, async || {
        let store = connect(&options).await;
        let _registration = register(&store, 1).await;
        create(&store).await;
        add(&store, 1, "a").await;
        let other = register(&store, 2).await;
        add(&store, 2, "b").await;
        let mut source = StoreSource::new(store.clone(), "node01");
        until(&mut source, &["a", "b"], &[]).await;
        // Its lease is renewed.
        quiet(&mut source, TTL * 2).await;
        // A restart within the lease.
        drop(other);
        let other = register(&store, 2).await;
        quiet(&mut source, TTL * 2).await;
        drop(other);
        let gone = until(&mut source, &["a"], &["a"]).await;
        assert!(gone > TTL / 2 && gone < TTL * 2, "{gone:?}");
        assert_eq!(store.snapshot().await.unwrap().endpoints.len(), 2);
        inside(&there, async || drop(register(&connect(&options).await, 2).await));
        assert!(until(&mut source, &["a", "b"], &["a"]).await < Duration::from_millis(500));
    });
}

#[test]
fn endpoint_reaches_other_nodes_within_100_ms() {
    let etcd = Etcd::start(3).unwrap();
    let client = etcd.client(1).unwrap();
    let options = options(&etcd);
    inside(&client, async || {
        let store = connect(&options).await;
        let _registrations = (register(&store, 1).await, register(&store, 2).await);
        create(&store).await;
        add(&store, 1, "a").await;
        let mut source = StoreSource::new(connect(&options).await, "node01");
        until(&mut source, &["a"], &[]).await;
        let mut times = Vec::new();
        for _ in 0..20 {
            add(&store, 2, "b").await;
            times.push(until(&mut source, &["a", "b"], &["a"]).await);
            store.remove_endpoint("red", "b").await.unwrap();
            until(&mut source, &["a"], &["a"]).await;
        }
        times.sort_unstable();
        // The median: this machine has other things to do, too.
        assert!(times[10] < Duration::from_millis(100), "{times:?}");
    });
}
