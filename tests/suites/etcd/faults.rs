//! Crashed members, compactions, partitions, and invalid keys.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    thread,
};

use super::*;

#[test]
fn killed_etcd_leader_loses_no_write() {
    let mut etcd = Etcd::start(3).unwrap();
    let client = etcd.client(1).unwrap();
    let options = options(&etcd);
    let (progress, reached) = mpsc::channel();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            inside(&client, async || {
                let store = connect(&options).await;
                let registration = register(&store, 1).await;
                create(&store).await;
                for index in 0..200 {
                    add(&store, 1, &format!("e{index:03}")).await;
                    progress.send(index).unwrap();
                }
                registration
            })
        });
        while reached.recv().unwrap() < 50 {}
        let leader = etcd.leader().unwrap();
        etcd.kill(leader).unwrap();
        drop(writer.join().unwrap());
        inside(&client, async || {
            let store = connect(&options).await;
            let snapshot = store.snapshot().await.unwrap();
            assert_eq!(snapshot.problems, []);
            let names: Vec<_> = snapshot.endpoints.iter().map(|stored| stored.endpoint.name.clone()).collect();
            assert_eq!(names, (0..200).map(|index| format!("e{index:03}")).collect::<Vec<_>>());
            // Per endpoint: name, IP address and MAC address; and one cursor.
            let claims = store.kv().list("/overlay-ipam/networks/red/").await.unwrap().entries;
            assert_eq!(claims.len(), 3 * 200 + 1);
        });
        etcd.start_member(leader).unwrap();
    });
}

/// Waits until another thread sets the flag.
async fn wait_for(flag: &AtomicBool) {
    let start = Instant::now();
    while !flag.load(SeqCst) {
        assert!(start.elapsed() < Duration::from_secs(40), "the other thread makes no progress");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn node_partitioned_beyond_its_lease_keeps_its_endpoints() {
    let etcd = Etcd::start(1).unwrap();
    let (local, remote) = (etcd.client(1).unwrap(), etcd.client(2).unwrap());
    let options = options(&etcd);
    let [ready, withdrawn, end] = [const { AtomicBool::new(false) }; 3];
    thread::scope(|scope| {
        let (options, remote, ready, withdrawn, end) = (&options, &remote, &ready, &withdrawn, &end);
        // The other node is connected all the time.
        scope.spawn(move || {
            inside(remote, async || {
                let store = connect(options).await;
                let _registration = register(&store, 2).await;
                create(&store).await;
                add(&store, 2, "b").await;
                let mut source = StoreSource::new(store.clone(), "node02");
                ready.store(true, SeqCst);
                until(&mut source, &["a", "b"], &["b"]).await;
                until(&mut source, &["b"], &["b"]).await;
                add(&store, 2, "c").await;
                withdrawn.store(true, SeqCst);
                until(&mut source, &["a", "b", "c"], &["b"]).await;
                wait_for(end).await;
            });
        });
        inside(&local, async || {
            wait_for(ready).await;
            let store = connect(options).await;
            let _registration = register(&store, 1).await;
            let mut source = StoreSource::with_hold(store.clone(), "node01", TTL);
            add(&store, 1, "a").await;
            until(&mut source, &["a", "b"], &[]).await;
            etcd.connect(&local, false).unwrap();
            let error = source.next_cluster().await.unwrap_err().to_string();
            assert!(error.contains("cannot be reached"), "{error}");
            let health = source.follower().health();
            assert!(!health.connected && health.error.is_some(), "{health:?}");
            let request = EndpointRequest::new("red", "x", "/run/netns/x");
            let error = store.add_endpoint("node01", request).await.unwrap_err();
            assert!(error.is_unreachable(), "{error}");
            // The lease has expired, and the other node has withdrawn the endpoint.
            wait_for(withdrawn).await;
            assert_eq!(source.follower().endpoints(None).len(), 2);
            assert_quiet(&mut source, Duration::from_millis(10)).await;
            etcd.connect(&local, true).unwrap();
            until(&mut source, &["a", "b", "c"], &["a", "b"]).await;
            assert!(source.follower().health().connected);
            assert_steady(&mut source, TTL + Duration::from_secs(1), &["a", "b", "c"]).await;
            end.store(true, SeqCst);
        });
    });
}

#[test]
fn watch_continues_after_compaction_without_flapping() {
    let etcd = Etcd::start(1).unwrap();
    let (local, remote) = (etcd.client(1).unwrap(), etcd.client(2).unwrap());
    let options = options(&etcd);
    inside(&local, async || {
        let store = connect(&options).await;
        let _registration = register(&store, 1).await;
        create(&store).await;
        for name in ["a", "b"] {
            add(&store, 1, name).await;
        }
        let mut source = StoreSource::new(store, "node01");
        until(&mut source, &["a", "b"], &["a", "b"]).await;
        etcd.connect(&local, false).unwrap();
        let error = source.next_cluster().await.unwrap_err().to_string();
        assert!(error.contains("cannot be reached"), "{error}");
        let revision = inside(&remote, async || {
            let store = connect(&options).await;
            store.remove_endpoint("red", "b").await.unwrap();
            add(&store, 1, "c").await;
            store.kv().list("/overlay/").await.unwrap().revision
        });
        etcd.ctl(&["compact", &revision.to_string()]).unwrap();
        etcd.connect(&local, true).unwrap();
        until(&mut source, &["a", "c"], &["a"]).await;
        // Lease renewals increase the revision too.
        assert!(source.follower().health().revision >= revision);
    });
}

#[test]
fn invalid_keys_are_reported_and_ignored() {
    let etcd = Etcd::start(1).unwrap();
    let client = etcd.client(1).unwrap();
    let options = options(&etcd);
    inside(&client, async || {
        let store = connect(&options).await;
        let _registration = register(&store, 1).await;
        create(&store).await;
        add(&store, 1, "a").await;
        let mut source = StoreSource::new(store.clone(), "node01");
        until(&mut source, &["a"], &[]).await;
        etcd.ctl(&["put", "/overlay/endpoints/node01/red/broken", "{"]).unwrap();
        etcd.ctl(&["put", "/overlay/garbage\u{fffd}", "x"]).unwrap();
        let second = r#"{"vni":4096,"ip":"10.0.0.2","mac":"02:42:0a:00:00:63"}"#;
        etcd.ctl(&["put", "/overlay/endpoints/node01/red/second", second]).unwrap();
        etcd.ctl(&["put", "/overlay/nodes/second", r#"{"address":"192.168.1.9"}"#]).unwrap();
        add(&store, 1, "z").await;
        until(&mut source, &["a", "z"], &["a"]).await;
        let objects: Vec<_> = source.follower().problems().into_iter().map(|problem| problem.object).collect();
        let endpoints = "/overlay/endpoints/node01/red";
        let keys = [
            &format!("{endpoints}/broken"),
            &format!("{endpoints}/second"),
            "/overlay/garbage\u{fffd}",
            "/overlay/nodes/second",
        ];
        assert_eq!(objects, keys.map(|key| format!("key {key:?}")));
    });
}

#[test]
fn newer_schema_is_refused() {
    let etcd = Etcd::start(1).unwrap();
    let client = etcd.client(1).unwrap();
    etcd.ctl(&["put", "/overlay/version", r#"{"major":2,"minor":0}"#]).unwrap();
    let error = inside(&client, async || Store::etcd(&options(&etcd)).await.unwrap_err().to_string());
    assert!(
        error.contains("schema version 2.0, and this version of overlay supports 1.0; use a newer version of overlay"),
        "{error}"
    );
}
