//! TLS, and the role of one node in `docs/store.md`.

use overlay_user::testing::store::{Op, StoreError, Txn};

use super::*;

/// Permissions of a node that adds endpoints to the network "red", for `etcdctl role grant-permission node01`.
const GRANTS: [&[&str]; 7] = [
    &["read", "--prefix=true", "/overlay/"],
    &["read", "--prefix=true", "/overlay-ipam/"],
    &["readwrite", "/overlay/nodes/node01"],
    &["readwrite", "/overlay/alive/node01"],
    &["readwrite", "--prefix=true", "/overlay/endpoints/node01/"],
    &["readwrite", "/overlay-ipam/nodes/192.168.1.9"],
    &["readwrite", "--prefix=true", "/overlay-ipam/networks/red/"],
];

#[test]
fn node_role_permits_writing_only_own_keys() {
    let etcd = Etcd::start_tls().unwrap();
    let client = etcd.client(1).unwrap();
    let root = |user: Option<(&str, &str)>| EtcdOptions {
        endpoints: etcd.urls(),
        user: user.map(|(name, password)| (name.into(), password.into())),
        ca: Some(etcd.file("ca.pem")),
        client: Some((etcd.file("root.pem"), etcd.file("root.key"))),
    };
    // Setup by the administrator.
    inside(&client, async || {
        let store = connect(&root(None)).await;
        create(&store).await;
        store.create_network(NetworkRequest::new("blue")).await.unwrap();
        drop(register(&store, 2).await);
    });
    for command in
        ["user add root:secret", "role add node01", "user add node01:secret", "user grant-role node01 node01"]
    {
        etcd.ctl(&command.split(' ').collect::<Vec<_>>()).unwrap();
    }
    for grant in GRANTS {
        etcd.ctl(&[&["role", "grant-permission", "node01"], grant].concat()).unwrap();
    }
    etcd.ctl(&["user", "grant-role", "root", "root"]).unwrap();
    etcd.ctl(&["auth", "enable"]).unwrap();

    let (certificate, key) = etcd.certificate("node01").unwrap();
    let by_password = EtcdOptions { user: Some(("node01".into(), "secret".into())), ..root(None) };
    let by_certificate = EtcdOptions { client: Some((certificate, key)), ..root(None) };
    for options in [by_password, by_certificate] {
        inside(&client, async || {
            let store = connect(&options).await;
            let registration = register(&store, 1).await;
            add(&store, 1, "a").await;
            let mut source = StoreSource::new(store.clone(), "node01");
            until(&mut source, &["a"], &[]).await;
            store.remove_endpoint("red", "a").await.unwrap();
            let request = |network| EndpointRequest::new(network, "a", "/run/netns/x");
            let denied = |error: Result<(), StoreError>| match error {
                Err(error @ StoreError::Denied { .. }) => assert!(error.to_string().contains("role"), "{error}"),
                other => panic!("{other:?}"),
            };
            denied(store.add_endpoint("node02", request("red")).await.map(drop));
            denied(store.add_endpoint("node01", request("blue")).await.map(drop));
            denied(store.create_network(NetworkRequest::new("green")).await.map(drop));
            denied(store.remove_network("red", Removal::Unused).await.map(drop));
            denied(store.register_node(node(3)).await.map(drop));
            let then = vec![Op::Delete("/overlay/alive/node02".into())];
            denied(store.kv().commit(Txn { then, ..Txn::default() }).await.map(drop));
            drop(registration);
            assert_eq!(store.snapshot().await.unwrap().problems, []);
        });
    }
    let wrong = EtcdOptions { user: Some(("node01".into(), "wrong".into())), ..root(None) };
    let error = inside(&client, async || Store::etcd(&wrong).await.unwrap_err());
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
}

#[test]
fn client_without_certificate_is_refused() {
    let etcd = Etcd::start_tls().unwrap();
    let client = etcd.client(1).unwrap();
    let without_certificate =
        EtcdOptions { endpoints: etcd.urls(), ca: Some(etcd.file("ca.pem")), ..EtcdOptions::default() };
    let error = inside(&client, async || Store::etcd(&without_certificate).await.unwrap_err());
    assert!(error.is_unreachable(), "{error}");
    let without_ca = EtcdOptions { endpoints: etcd.urls(), ..EtcdOptions::default() };
    let error = inside(&client, async || Store::etcd(&without_ca).await.unwrap_err().to_string());
    assert!(error.contains("the CA certificate is missing; set the CA of the servers' certificates"), "{error}");
}
