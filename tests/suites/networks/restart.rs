//! Daemons exit while networks are in use, and while endpoints are added.

use std::{process::Stdio, thread, time::Duration};

use overlay_tests::lab::{
    overlay_binary,
    traffic::{Datagrams, UdpFlow},
};
use serde_json::json;

use crate::setup::{Single, ok};
use overlay_tests::check::interfaces;

#[test]
fn restart_costs_no_packet_and_no_endpoint() {
    let mut single = Single::start();
    single.json(&["network", "create", "blue"]);
    ok(&single.add("blue", "one", "gindemo1", &[]));
    ok(&single.add("blue", "two", "spare", &[]));
    let flow = UdpFlow::start(
        single.container("gindemo1"),
        single.container("spare"),
        [10, 0, 0, 3].into(),
        Datagrams::steady(1000),
    )
    .unwrap();
    flow.wait_for(200).unwrap();
    let tables = single.tables();
    for kill in [true, false] {
        if kill {
            single.daemon.kill9().unwrap();
        } else {
            assert!(single.daemon.sigterm().unwrap().success());
        }
        assert_eq!(single.daemon.output(&["network", "ls"]).unwrap().status.code(), Some(3));
        let status = single.json(&["status"]);
        assert_eq!((&status["ready"], &status["control"]), (&json!(false), &json!(null)), "read from the maps");
        flow.wait_for(200).unwrap();
        single.daemon.restart().unwrap();
        assert_eq!(single.tables().ports, tables.ports);
        assert_eq!(single.json(&["endpoint", "ls"])["endpoints"].as_array().unwrap().len(), 2);
    }
    let report = flow.stop();
    assert_eq!((report.lost(), report.duplicates, report.corrupt), (0, 0, 0), "{report:?}");
}

/// After a crash at any time, an endpoint exists completely after the next start, or not at all.
#[test]
fn sigkill_during_endpoint_add_leaves_no_partial_endpoint() {
    let mut single = Single::start();
    single.json(&["network", "create", "blue"]);
    let netns = single.container("gindemo1").path().to_str().unwrap().to_owned();
    let pin_root = single.daemon.pin_root().to_owned();
    for round in 0..6_u64 {
        let mut command = single.lab.host(1).command(overlay_binary().unwrap());
        command.args(["endpoint", "add", "blue", "one", "--netns", &netns, "--pin-root"]).arg(&pin_root);
        let mut adding = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(4 + 8 * round));
        single.daemon.kill9().unwrap();
        let code = adding.wait().unwrap().code();
        assert!([Some(0), Some(1), Some(3)].contains(&code), "{code:?}");
        single.daemon.restart().unwrap();
        let endpoints = single.json(&["endpoint", "ls"])["endpoints"].as_array().unwrap().clone();
        let (ports, inside) = (single.tables().ports.len(), interfaces(single.container("gindemo1")).len());
        if endpoints.is_empty() {
            assert_ne!(code, Some(0), "a successful `add` is permanent");
            assert_eq!((ports, inside), (0, 1), "round {round}");
        } else {
            assert_eq!((ports, inside, &endpoints[0]["ready"]), (1, 2, &json!(true)), "round {round}");
            single.json(&["endpoint", "rm", "blue", "one"]);
            assert_eq!(single.tables().ports.len(), 0);
        }
    }
}

/// After a reboot the pins and the containers are gone, and the store is not.
#[test]
fn daemon_starts_with_endpoint_of_missing_netns() {
    let mut single = Single::start();
    single.json(&["network", "create", "blue"]);
    ok(&single.add("blue", "one", "gindemo1", &[]));
    let host = single.lab.host(1).clone();
    host.run(&["ip", "netns", "add", "overlay-test-gone"]);
    let added = single.daemon.output(&["endpoint", "add", "blue", "two", "--netns", "/run/netns/overlay-test-gone"]);
    host.run(&["ip", "netns", "del", "overlay-test-gone"]);
    assert!(added.unwrap().status.success());
    assert!(single.daemon.output(&["down"]).unwrap().status.success());
    single.daemon.wait().unwrap();
    single.daemon.restart().unwrap();
    let list = single.json(&["endpoint", "ls", "blue"]);
    let ready: Vec<_> = list["endpoints"].as_array().unwrap().iter().map(|endpoint| &endpoint["ready"]).collect();
    assert_eq!(ready, [&json!(true), &json!(false)]);
    single.json(&["endpoint", "rm", "blue", "two"]);
}
