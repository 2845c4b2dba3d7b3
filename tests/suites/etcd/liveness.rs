//! Nodes whose lease expires.

use super::*;

#[test]
fn endpoints_follow_lease_of_their_node() {
    let etcd = Etcd::start(1).unwrap();
    let (local, remote) = (etcd.client(1).unwrap(), etcd.client(2).unwrap());
    let options = options(&etcd);
    inside(&local, async || {
        let store = connect(&options).await;
        let _registration = register(&store, 1).await;
        create(&store).await;
        add(&store, 1, "a").await;
        let other = register(&store, 2).await;
        add(&store, 2, "b").await;
        let mut source = StoreSource::new(store.clone(), "node01");
        until(&mut source, &["a", "b"], &[]).await;
        // The lease is renewed.
        assert_quiet(&mut source, TTL * 2).await;
        // A restart within the lease changes nothing.
        drop(other);
        let other = register(&store, 2).await;
        assert_quiet(&mut source, TTL * 2).await;
        drop(other);
        let elapsed = until(&mut source, &["a"], &["a"]).await;
        assert!(elapsed > TTL / 2 && elapsed < TTL * 2, "{elapsed:?}");
        assert_eq!(store.snapshot().await.unwrap().endpoints.len(), 2);
        inside(&remote, async || drop(register(&connect(&options).await, 2).await));
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
        // The median tolerates other load of the machine.
        assert!(times[10] < Duration::from_millis(100), "{times:?}");
    });
}
