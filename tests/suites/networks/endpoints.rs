//! Endpoints are added and removed as all-or-nothing.

use overlay_tests::lab::traffic::{Ping, ping, tcp_transfer};
use serde_json::json;

use crate::setup::{IDLE, Single, ok};
use overlay_tests::check::interfaces;

#[test]
fn two_containers_of_one_host_use_fast_path() {
    let single = Single::start();
    let network = single.json(&["network", "create", "blue"]);
    assert_eq!((&network["subnet"], &network["gateway"]), (&json!("10.0.0.0/24"), &json!("10.0.0.1")));
    assert_eq!(network["vni"], 4096);
    assert_eq!(interfaces(single.lab.host(1)), IDLE, "a network without local endpoints has no devices");

    let one = ok(&single.add("blue", "one", "gindemo1", &[]));
    let two = ok(&single.add("blue", "two", "spare", &[]));
    assert_eq!((&one["ip"], &one["mac"]), (&json!("10.0.0.2/24"), &json!("02:42:0a:00:00:02")));
    assert_eq!((&two["ip"], &two["ready"], &two["interface"]), (&json!("10.0.0.3/24"), &json!(true), &json!("eth0")));

    // After `add` returns, the first packet arrives.
    let (from, to) = (single.container("gindemo1"), single.container("spare"));
    let replies = ping(from, [10, 0, 0, 3].into(), Ping::default()).unwrap();
    assert!(replies.all(), "{replies:?}");
    let before = single.daemon.packets("local").unwrap();
    tcp_transfer(from, to, [10, 0, 0, 3].into(), 1_000_001).unwrap();
    assert!(single.daemon.packets("local").unwrap() >= before + 100);
    let route = from.run(&["ip", "route", "show", "default"]);
    assert!(route.contains("via 10.0.0.1 dev eth0"), "{route}");

    single.json(&["endpoint", "rm", "blue", "two"]);
    assert_eq!(interfaces(to), ["lo"], "the interface is removed before `rm` returns");
    assert_eq!((single.tables().ports.len(), single.tables().fdb.len()), (1, 1));
    single.json(&["endpoint", "rm", "blue", "one"]);
    assert_eq!(interfaces(single.lab.host(1)), IDLE);
    assert_eq!(single.tables().fdb.len(), 0);
    single.json(&["network", "rm", "blue"]);
    assert_eq!(single.json(&["network", "ls"])["networks"], json!([]));
}

/// A container that already has an eth0, and is in two networks.
#[test]
fn endpoint_gets_next_free_interface_name() {
    let single = Single::start();
    for name in ["blue", "red"] {
        single.json(&["network", "create", name]);
    }
    let spare = single.container("spare");
    spare.run(&["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth2"]);
    let blue = ok(&single.add("blue", "spare", "spare", &[]));
    let red = ok(&single.add("red", "spare", "spare", &["--ip", "10.0.1.77", "--mac", "02:00:00:00:00:77"]));
    assert_eq!((&blue["interface"], &red["interface"]), (&json!("eth1"), &json!("eth3")));
    let addresses = spare.run(&["ip", "-br", "addr", "show", "dev", "eth3"]);
    assert!(addresses.contains("10.0.1.77/24"), "{addresses}");
    let link = spare.run(&["ip", "link", "show", "dev", "eth3"]);
    assert!(link.contains("02:00:00:00:00:77") && link.contains("mtu 1450"), "{link}");
}

#[test]
fn network_with_endpoints_is_removed_only_with_force() {
    let single = Single::start();
    single.json(&["network", "create", "blue"]);
    ok(&single.add("blue", "one", "gindemo1", &[]));
    single.assert_refused(&["network", "rm", "blue"], &["network \"blue\"", "1 endpoint", "--force"]);
    let removed = single.json(&["network", "rm", "blue", "--force"]);
    assert_eq!(removed, json!({ "removed": "blue", "endpoints": 1 }));
    assert_eq!(interfaces(single.lab.host(1)), IDLE);
    assert_eq!(interfaces(single.container("gindemo1")), ["lo"]);
    assert_eq!(single.json(&["endpoint", "ls"])["endpoints"], json!([]));
}

/// The store accepts the endpoint and the host refuses it: nothing is left in either.
#[test]
fn endpoint_that_cannot_be_created_is_rolled_back() {
    let single = Single::start();
    // The underlay's MTU 1500 permits at most 1450.
    single.json(&["network", "create", "large", "--mtu", "1451"]);
    let path = single.container("gindemo1").path().to_str().unwrap().to_owned();
    single.assert_refused(
        &["endpoint", "add", "large", "one", "--netns", &path],
        &["MTU 1451", "set the network's mtu to 1450 or less"],
    );
    // The daemon still works.
    single.json(&["network", "create", "blue"]);
    ok(&single.add("blue", "one", "gindemo1", &[]));
}
