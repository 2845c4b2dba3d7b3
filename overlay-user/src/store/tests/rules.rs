//! Refused requests, their messages, and the unchanged store.

use super::*;

#[tokio::test]
async fn store_allocates_the_running_example() {
    let Fixture { store, _directory } = &Fixture::new().await;
    store.create_network(NetworkRequest::new("first")).await.unwrap();
    let network = store.create_network(NetworkRequest::new("my-overlay-network")).await.unwrap();
    assert_eq!((network.vni.get(), network.subnet.to_string().as_str()), (4097, "10.0.1.0/24"));
    assert_eq!(network.gateway, Ipv4Addr::new(10, 0, 1, 1));
    let add = |node, name| store.add_endpoint(node, EndpointRequest::new("my-overlay-network", name, "/run/netns/x"));
    let gindemo1 = add("node01", "gindemo1").await.unwrap();
    assert_eq!((gindemo1.ip.to_string(), gindemo1.mac.to_string()), ("10.0.1.2".into(), "02:42:0a:00:01:02".into()));
    assert_eq!(gindemo1.host, [192, 168, 1, 9].into());
    let gindemo2 = add("node02", "gindemo2").await.unwrap();
    assert_eq!((gindemo2.ip.to_string(), gindemo2.host.to_string()), ("10.0.1.3".into(), "192.168.1.10".into()));
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!((snapshot.nodes.len(), snapshot.networks.len(), snapshot.endpoints.len()), (2, 2, 2));
    assert!(snapshot.nodes.iter().all(|node| node.live && node.endpoints == 1));
    assert_eq!(snapshot.problems, []);
}

#[tokio::test]
async fn refused_endpoint_changes_nothing() {
    let Fixture { store, _directory } = &Fixture::with_network().await;
    store.add_endpoint("node01", request("a")).await.unwrap();
    let before = store.kv.list("/").await.unwrap();
    let refused = async |request| store.add_endpoint("node01", request).await.unwrap_err().to_string();
    let ip = |last| Some(Ipv4Addr::new(10, 0, 0, last));
    for (request, message) in [
        (request("a"), r#"its name is already used by another endpoint; give each endpoint of a network its own name"#),
        (
            EndpointRequest { ip: ip(2), ..request("b") },
            r#"ip 10.0.0.2 is already used by endpoint "red/a"; give each endpoint of a network its own IP address"#,
        ),
        (
            EndpointRequest { mac: Some("02:42:0a:00:00:02".parse().unwrap()), ..request("b") },
            r#"mac 02:42:0a:00:00:02 is already used by endpoint "red/a"; give each endpoint of a network its own MAC address"#,
        ),
        (EndpointRequest { ip: ip(1), ..request("b") }, "is the gateway of"),
        (EndpointRequest { ip: ip(255), ..request("b") }, "is the broadcast address of"),
        (EndpointRequest { ip: Some(Ipv4Addr::new(10, 1, 0, 5)), ..request("b") }, "is outside the subnet"),
        (EndpointRequest { network: "blue".into(), ..request("b") }, r#"network "blue": does not exist"#),
        (request("a/b"), "is not allowed"),
        (EndpointRequest { attachment: Attachment::Netns("x".into()), ..request("b") }, "is not an absolute path"),
    ] {
        let error = refused(request).await;
        assert!(error.contains(message), "{error}");
    }
    let error = store.add_endpoint("node03", request("b")).await.unwrap_err().to_string();
    assert!(error.starts_with(r#"node "node03": does not exist; "#), "{error}");
    assert_eq!(store.kv.list("/").await.unwrap(), before);
}

#[tokio::test]
async fn network_follows_the_models_rules() {
    let Fixture { store, _directory } = &Fixture::with_network().await;
    let refused = async |request| store.create_network(request).await.unwrap_err().to_string();
    let subnet = |text: &str| Some(text.parse().unwrap());
    let blue = || NetworkRequest::new("blue");
    for (request, message) in [
        (NetworkRequest::new("red"), r#"network "red": its name is already used by another network; "#),
        (NetworkRequest::new("-"), r#"network "-": name "-" is not allowed; "#),
        (NetworkRequest { subnet: subnet("10.0.0.128/25"), ..blue() }, "subnet 10.0.0.128/25 overlaps 10.0.0.0/24 of "),
        (NetworkRequest { subnet: subnet("10.9.0.1/24"), ..blue() }, "has host bits set"),
        (
            NetworkRequest { vni: Some(overlay_common::Vni::new(4096).unwrap()), ..blue() },
            "vni 4096 is already used by",
        ),
        (NetworkRequest { mtu: Some(5), ..blue() }, "mtu 5 is out of range"),
    ] {
        let error = refused(request).await;
        assert!(error.contains(message), "{error}");
    }
    assert_eq!(store.snapshot().await.unwrap().networks.len(), 1);
}

#[tokio::test]
async fn subnets_and_vnis_are_allocated_in_order() {
    let Fixture { store, _directory } = &Fixture::new().await;
    // Allocated subnets exclude the nodes' addresses.
    drop(store.register_node(NodeRequest::new("node03", [10, 0, 2, 7].into())).await.unwrap());
    let create = async |name: &str| {
        let network = store.create_network(NetworkRequest::new(name)).await.unwrap();
        (network.vni.get(), network.subnet.to_string())
    };
    assert_eq!(create("a").await, (4096, "10.0.0.0/24".into()));
    assert_eq!(create("b").await, (4097, "10.0.1.0/24".into()));
    assert_eq!(create("c").await, (4098, "10.0.3.0/24".into()));
    store.remove_network("a", Removal::Unused).await.unwrap();
    assert_eq!(create("d").await, (4099, "10.0.0.0/24".into()));
}

#[tokio::test]
async fn pools_are_configurable_and_finite() {
    let fixture = Fixture::new().await;
    let pools =
        r#"{"pools":[{"base":"172.30.0.0/29","prefix":30},{"base":"172.31.0.0/24","prefix":24}],"first_vni":7}"#;
    fixture.put("/overlay/config", pools).await;
    let mut created = Vec::new();
    for name in ["a", "b", "c"] {
        let network = fixture.store.create_network(NetworkRequest::new(name)).await.unwrap();
        created.push(format!("{} {}", network.vni, network.subnet));
    }
    assert_eq!(created, ["7 172.30.0.0/30", "8 172.30.0.4/30", "9 172.31.0.0/24"]);
    let error = fixture.store.create_network(NetworkRequest::new("d")).await.unwrap_err();
    assert!(matches!(error, StoreError::PoolsExhausted { .. }), "{error}");
}

#[tokio::test]
async fn network_with_endpoints_is_removed_only_by_force() {
    let Fixture { store, _directory } = &Fixture::new().await;
    let empty = store.kv.list("/").await.unwrap().entries.len();
    store.create_network(NetworkRequest::new("red")).await.unwrap();
    for number in 0..60 {
        store.add_endpoint("node01", request(format!("e{number}"))).await.unwrap();
    }
    let error = store.remove_network("red", Removal::Unused).await.unwrap_err().to_string();
    assert_eq!(error, r#"network "red": has 60 endpoints; remove the endpoints first, or use --force"#);
    let (_, removed) = store.remove_network("red", Removal::Forced).await.unwrap();
    assert_eq!(removed.len(), 60);
    // Only the allocator's cursor remains.
    assert_eq!(store.kv.list("/").await.unwrap().entries.len(), empty + 1);
    assert!(matches!(store.remove_network("red", Removal::Forced).await, Err(StoreError::NoSuchNetwork { .. })));
}

#[tokio::test]
async fn node_name_and_address_are_unique() {
    let Fixture { store, _directory } = &Fixture::with_network().await;
    let register = async |name: &str, last| {
        store.register_node(NodeRequest::new(name, [192, 168, 1, last].into())).await.map(drop)
    };
    let error = register("node03", 9).await.unwrap_err().to_string();
    assert_eq!(
        error,
        r#"host "node03": address 192.168.1.9 is already used by host "node01"; give each host its own address"#
    );
    assert!(matches!(register("node01", 11).await, Err(StoreError::NodeAddress { .. })));
    register("node01", 9).await.unwrap();
    store.add_endpoint("node01", request("a")).await.unwrap();
    assert!(matches!(store.remove_node("node01", Removal::Unused).await, Err(StoreError::NodeInUse { .. })));
    assert_eq!(store.remove_node("node01", Removal::Forced).await.unwrap().len(), 1);
    register("node01", 11).await.unwrap();
}

#[tokio::test]
async fn database_is_persistent_and_exclusive() {
    let Fixture { store, _directory } = Fixture::with_network().await;
    let path = _directory.path().join("store.redb");
    let error = Store::embedded(&path).await.unwrap_err();
    assert!(error.to_string().contains("no other daemon uses it"), "{error}");
    store.add_endpoint("node01", request("a")).await.unwrap();
    let before = store.snapshot().await.unwrap();
    drop(store);
    let again = Store::embedded(&path).await.unwrap();
    assert_eq!(again.snapshot().await.unwrap(), before);
}

#[tokio::test]
async fn newer_schema_is_refused() {
    let Fixture { store, _directory } = Fixture::with_network().await;
    let put = Op::put("/overlay/version", br#"{"major":2,"minor":0}"#.to_vec());
    store.kv.commit(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
    let message = "key \"/overlay/version\": the store has schema version 2.0, and this version of overlay supports 1.0; \
        use a newer version of overlay";
    let add = store.add_endpoint("node01", request("a")).await.unwrap_err();
    assert_eq!(add.to_string(), message);
    assert_eq!(store.snapshot().await.unwrap_err().to_string(), message);
    drop(store);
    let error = Store::embedded(&_directory.path().join("store.redb")).await.unwrap_err();
    assert_eq!(error.to_string(), message);
}
