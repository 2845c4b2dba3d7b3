//! Waiting until the local daemon has received a change.

use super::*;

/// The wait fails on a partitioned node, and ends after reconnection, with and without a compaction.
#[test]
fn wait_for_revision_ends_after_partition_and_compaction() {
    let etcd = Etcd::start(1).unwrap();
    let (local, remote) = (etcd.client(1).unwrap(), etcd.client(2).unwrap());
    let options = options(&etcd);
    inside(&local, async || {
        let store = connect(&options).await;
        let _registration = register(&store, 1).await;
        create(&store).await;
        let source = StoreSource::new(store.clone(), "node01");
        let follower = source.follower();
        for name in ["a", "b"] {
            let before = store.written();
            add(&store, 1, name).await;
            assert!(store.written() > before);
            follower.wait_for_revision(store.written(), Duration::from_secs(5)).await.unwrap();
            assert!(follower.endpoints(None).iter().any(|stored| stored.endpoint.name == name));
        }
        for compact in [false, true] {
            etcd.connect(&local, false).unwrap();
            let name = format!("c{compact}");
            let revision = inside(&remote, async || {
                let store = connect(&options).await;
                add(&store, 1, &name).await;
                store.written()
            });
            if compact {
                etcd.ctl(&["compact", &revision.to_string()]).unwrap();
            }
            let started = Instant::now();
            while follower.health().connected {
                assert!(started.elapsed() < Duration::from_secs(30), "the partition is not detected");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let behind = follower.wait_for_revision(revision, Duration::from_millis(100)).await.unwrap_err();
            assert!(behind.revision == revision && behind.known < revision, "{behind}");
            assert!(behind.reason.contains("cannot be reached"), "{behind}");
            let waiting = tokio::spawn({
                let follower = follower.clone();
                async move { follower.wait_for_revision(revision, Duration::from_secs(20)).await }
            });
            etcd.connect(&local, true).unwrap();
            waiting.await.unwrap().unwrap();
            assert!(follower.endpoints(None).iter().any(|stored| stored.endpoint.name == name));
        }
        drop(source);
        let behind = follower.wait_for_revision(i64::MAX, Duration::from_secs(20)).await.unwrap_err();
        assert!(behind.reason.contains("no longer followed"), "{behind}");
    });
}
