//! Keys of other programs: invalid ones are reported and ignored, and of two conflicting ones the older is valid.

use super::*;

fn endpoint(ip: &str, mac: &str) -> String {
    format!(r#"{{"vni":4096,"ip":"{ip}","mac":"{mac}","netns":"/run/netns/x"}}"#)
}

async fn problems(fixture: &Fixture) -> Vec<String> {
    fixture.store.snapshot().await.unwrap().problems.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn invalid_keys_are_reported_and_ignored() {
    let fixture = Fixture::with_network().await;
    fixture.store.add_endpoint("node01", request("a")).await.unwrap();
    let before = fixture.store.snapshot().await.unwrap();
    fixture.put("/overlay/nonsense", "1").await;
    fixture.put("/overlay/networks/blue", "{").await;
    fixture.put("/overlay/networks/green", r#"{"vni":0,"subnet":"10.7.0.0/24","gateway":"10.7.0.1"}"#).await;
    fixture.put("/overlay/endpoints/node01/nowhere/a", &endpoint("10.0.0.7", "02:42:0a:00:00:07")).await;
    fixture.put("/overlay/endpoints/missing/red/b", &endpoint("10.0.0.7", "02:42:0a:00:00:07")).await;
    let after = fixture.store.snapshot().await.unwrap();
    assert_eq!((after.networks, after.endpoints, after.nodes), (before.networks, before.endpoints, before.nodes));
    let objects: Vec<_> = after.problems.iter().map(|problem| problem.object.as_str()).collect();
    assert_eq!(
        objects,
        [
            r#"key "/overlay/endpoints/missing/red/b""#,
            r#"key "/overlay/endpoints/node01/nowhere/a""#,
            r#"key "/overlay/networks/blue""#,
            r#"key "/overlay/networks/green""#,
            r#"key "/overlay/nonsense""#,
        ]
    );
    assert!(after.problems.iter().all(|problem| !problem.remedy.is_empty()), "{:?}", after.problems);
}

#[tokio::test]
async fn older_of_two_conflicting_endpoints_is_valid() {
    let fixture = Fixture::with_network().await;
    let added = fixture.store.add_endpoint("node01", request("a")).await.unwrap();
    // Sorts before the first one and has its addresses.
    fixture.put("/overlay/endpoints/node00/red/0", &endpoint("10.0.0.2", "02:42:0a:00:00:09")).await;
    fixture.put("/overlay/endpoints/node02/red/0", &endpoint("10.0.0.2", "02:42:0a:00:00:09")).await;
    fixture.put("/overlay/endpoints/node02/red/1", &endpoint("10.0.0.8", "02:42:0a:00:00:02")).await;
    let snapshot = fixture.store.snapshot().await.unwrap();
    assert_eq!(snapshot.endpoints.iter().map(|stored| &stored.endpoint).collect::<Vec<_>>(), [&added]);
    assert_eq!(
        problems(&fixture).await[1..],
        [
            r#"key "/overlay/endpoints/node02/red/0": ip 10.0.0.2 is already used by endpoint "red/a"; give each endpoint of a network its own IP address"#,
            r#"key "/overlay/endpoints/node02/red/1": mac 02:42:0a:00:00:02 is already used by endpoint "red/a"; give each endpoint of a network its own MAC address"#,
        ]
    );
}

#[tokio::test]
async fn removed_endpoint_makes_conflicting_one_valid() {
    let fixture = Fixture::with_network().await;
    fixture.put("/overlay/endpoints/node01/red/a", &endpoint("10.0.0.2", "02:42:0a:00:00:02")).await;
    // The first b conflicts with the address of a, the second one with the name of the first.
    fixture.put("/overlay/endpoints/node02/red/b", &endpoint("10.0.0.2", "02:42:0a:00:00:03")).await;
    fixture.put("/overlay/endpoints/node01/red/b", &endpoint("10.0.0.4", "02:42:0a:00:00:04")).await;
    let names = |snapshot: Snapshot| {
        snapshot.endpoints.iter().map(|stored| format!("{}@{}", stored.endpoint.name, stored.node)).collect::<Vec<_>>()
    };
    assert_eq!(names(fixture.store.snapshot().await.unwrap()), ["a@node01", "b@node01"]);
    let then = vec![Op::Delete("/overlay/endpoints/node01/red/a".into())];
    fixture.store.kv.commit(Txn { then, ..Txn::default() }).await.unwrap();
    assert_eq!(names(fixture.store.snapshot().await.unwrap()), ["b@node02"]);
}

#[tokio::test]
async fn node_with_duplicate_address_is_ignored() {
    let fixture = Fixture::with_network().await;
    fixture.put("/overlay/nodes/a-duplicate", r#"{"address":"192.168.1.9"}"#).await;
    let snapshot = fixture.store.snapshot().await.unwrap();
    assert_eq!(snapshot.nodes.iter().map(|node| node.host.name.as_str()).collect::<Vec<_>>(), ["node01", "node02"]);
    assert_eq!(snapshot.problems[0].object, r#"key "/overlay/nodes/a-duplicate""#);
}

/// Changes applied one by one give the same state as a listing.
#[tokio::test]
async fn followed_state_equals_listed_state() {
    let fixture = Fixture::with_network().await;
    let mut followed = StoreState::new(fixture.store.kv.list(schema::ROOT).await.unwrap());
    let mut watch = fixture.store.kv.watch(schema::ROOT, followed.revision() + 1).await.unwrap();
    let mut random = fastrand::Rng::with_seed(crate::seed::Seed::start().number());
    for _ in 0..400 {
        let node = ["node01", "node02", "node03"][random.usize(0..3)];
        let name = random.u8(0..8);
        let key = match random.u8(0..20) {
            0 => "/overlay/networks/red".to_owned(),
            1 => format!("/overlay/nodes/{node}"),
            2 => format!("/overlay/alive/{node}"),
            _ => format!("/overlay/endpoints/{node}/red/e{name}"),
        };
        let value = match key.split('/').nth(2) {
            Some("networks") => r#"{"vni":4096,"subnet":"10.0.0.0/24","gateway":"10.0.0.1"}"#.into(),
            Some("nodes") => format!(r#"{{"address":"192.168.1.{}"}}"#, random.u8(9..12)),
            Some("alive") => r#"{"ttl":15}"#.into(),
            _ => endpoint(&format!("10.0.0.{}", random.u8(0..9)), &format!("02:42:0a:00:00:0{}", random.u8(1..9))),
        };
        let op = if random.u8(0..3) == 0 { Op::Delete(key) } else { Op::put(key, value.into_bytes()) };
        fixture.store.kv.commit(Txn { then: vec![op], ..Txn::default() }).await.unwrap();
        let batch = watch.next().await.unwrap();
        for event in &batch.events {
            followed.apply(event);
        }
        followed.advance(batch.revision);
        let mut listed = StoreState::new(fixture.store.kv.list(schema::ROOT).await.unwrap());
        assert_eq!(followed.snapshot(), listed.snapshot());
        let cluster = followed.cluster("node01").unwrap();
        assert_eq!(cluster.validate(), Ok(()));
        assert_eq!(cluster, listed.cluster("node01").unwrap());
    }
}

/// Found by fuzzing: an endpoint added after a snapshot was reported.
#[test]
fn endpoint_of_network_being_removed_is_not_a_problem() {
    let entry = |key: &str, value: &str| kv::Entry {
        key: key.into(),
        value: value.into(),
        create_revision: 1,
        mod_revision: 1,
        lease: 0,
    };
    let network =
        entry("/overlay/networks/old", r#"{"vni":4096,"subnet":"10.0.0.0/24","gateway":"10.0.0.1","removing":true}"#);
    let mut state = StoreState::new(kv::Listing { revision: 1, entries: vec![network] });
    assert_eq!(state.problems(), []);
    let endpoint = entry("/overlay/endpoints/node01/old/a", &endpoint("10.0.0.2", "02:42:0a:00:00:02"));
    state.apply(&kv::Event::Put(endpoint));
    assert_eq!(state.problems(), []);
}

/// An interface can be a port of one bridge only, even if its endpoints are in different networks.
#[test]
fn older_of_two_endpoints_with_one_port_is_valid() {
    let mut state = StoreState::new(kv::Listing::default());
    let put = |state: &mut StoreState, revision: i64, key: &str, value: String| {
        let (key, value) = (format!("/overlay/{key}"), value.into_bytes());
        state.apply(&kv::Event::Put(kv::Entry {
            key,
            value,
            create_revision: revision,
            mod_revision: revision,
            lease: 0,
        }));
    };
    for (name, vni) in [("red", 4096), ("blue", 4097)] {
        let subnet = format!("10.0.{}", vni - 4096);
        let value = format!(r#"{{"vni":{vni},"subnet":"{subnet}.0/24","gateway":"{subnet}.1"}}"#);
        put(&mut state, 1, &format!("networks/{name}"), value);
    }
    for (node, last) in [("node01", 9), ("node02", 10)] {
        put(&mut state, 1, &format!("nodes/{node}"), format!(r#"{{"address":"192.168.1.{last}"}}"#));
        put(&mut state, 1, &format!("alive/{node}"), r#"{"ttl":15}"#.into());
    }
    let tap = |vni: u32, last: u8| {
        let third = vni - 4096;
        format!(r#"{{"vni":{vni},"ip":"10.0.{third}.{last}","mac":"02:00:00:00:0{third}:0{last}","port":"tap1"}}"#)
    };
    put(&mut state, 2, "endpoints/node01/red/a", tap(4096, 2));
    assert_eq!(state.problems(), []);
    // In the same network, after a recomputation.
    put(&mut state, 3, "endpoints/node01/red/b", tap(4096, 3));
    assert_eq!(state.problems().len(), 1);
    put(&mut state, 4, "endpoints/node01/blue/c", tap(4097, 4));
    // The same interface name on another node.
    put(&mut state, 5, "endpoints/node02/red/d", tap(4096, 5));
    put(&mut state, 6, "endpoints/node02/blue/e", tap(4097, 6));
    let names = |state: &mut StoreState, node: &str| {
        let cluster = state.cluster(node).unwrap();
        assert_eq!(cluster.validate(), Ok(()), "{node}");
        cluster.endpoints.iter().map(|endpoint| endpoint.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&mut state, "node01"), ["a", "d"]);
    assert_eq!(names(&mut state, "node02"), ["a", "d"]);
    let problem = |key: &str, by: &str| {
        format!(
            r#"key "/overlay/endpoints/{key}": port "tap1" is already used by endpoint {by:?}; give each endpoint of a host its own interface"#
        )
    };
    let expected = [("node01/blue/c", "red/a"), ("node01/red/b", "red/a"), ("node02/blue/e", "red/d")];
    let message: Vec<_> = state.problems().iter().map(ToString::to_string).collect();
    assert_eq!(message, expected.map(|(key, by)| problem(key, by)));
    // The next older one becomes valid.
    state.apply(&kv::Event::Delete { key: "/overlay/endpoints/node01/red/a".into(), revision: 7 });
    assert!(!state.is_independent("red"));
    assert_eq!(names(&mut state, "node01"), ["b", "d"]);
    state.apply(&kv::Event::Delete { key: "/overlay/endpoints/node01/red/b".into(), revision: 8 });
    assert_eq!(names(&mut state, "node01"), ["c"]);
    assert_eq!(state.problems().len(), 1);
}

/// The store has no setting for `fdb_size`.
#[test]
fn fdb_size_grows_with_endpoints() {
    let mut state = StoreState::new(kv::Listing::default());
    let put = |state: &mut StoreState, key: String, value: String| {
        let value = value.into_bytes();
        state.apply(&kv::Event::Put(kv::Entry { key, value, create_revision: 1, mod_revision: 1, lease: 0 }));
    };
    put(
        &mut state,
        "/overlay/networks/red".into(),
        r#"{"vni":4096,"subnet":"10.0.0.0/8","gateway":"10.0.0.1"}"#.into(),
    );
    put(&mut state, "/overlay/nodes/node01".into(), r#"{"address":"192.168.1.9"}"#.into());
    for number in 2..131_074_u32 {
        let ip = Ipv4Addr::from_bits(0x0a00_0000 + number);
        let mac = overlay_common::MacAddr::from_ipv4(ip.octets());
        put(
            &mut state,
            format!("/overlay/endpoints/node01/red/e{number}"),
            endpoint(&ip.to_string(), &mac.to_string()),
        );
    }
    assert_eq!(state.cluster("node01").unwrap().fdb_size, None);
    put(&mut state, "/overlay/endpoints/node01/red/more".into(), endpoint("10.9.0.0", "02:00:00:00:00:09"));
    let cluster = state.cluster("node01").unwrap();
    assert_eq!((cluster.endpoints.len(), cluster.fdb_size), (131_073, Some(262_144)));
}
