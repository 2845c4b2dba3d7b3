//! Keys of the `--json` output.

use std::collections::BTreeSet;

use overlay_tests::maps::WritableMaps;
use overlay_user::testing::plan::{Changes, Fdb};
use serde_json::{Value, json};

use crate::setup::{Single, ok};

#[track_caller]
fn assert_keys(value: &Value, keys: &[&str]) {
    let found: BTreeSet<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(found, keys.iter().copied().collect());
}

const NETWORK: [&str; 9] = ["name", "vni", "subnet", "gateway", "mtu", "port", "strict", "overlap", "endpoints"];
const ENDPOINT: [&str; 11] =
    ["network", "name", "vni", "ip", "mac", "node", "address", "netns", "device", "interface", "ready"];
const STORE: [&str; 5] = ["kind", "reachable", "age_ms", "revision", "error"];

#[test]
fn every_json_answer_has_its_keys() {
    let single = Single::start();
    assert_keys(&single.json(&["network", "create", "blue", "--strict", "--mtu", "1400"]), &NETWORK);
    assert_keys(&ok(&single.add("blue", "one", "gindemo1", &[])), &ENDPOINT);

    let list = single.json(&["network", "ls"]);
    assert_keys(&list, &["networks", "store"]);
    assert_keys(&list["networks"][0], &NETWORK);
    assert_keys(&list["store"], &STORE);
    let network = single.json(&["network", "inspect", "blue"]);
    assert_keys(&network, &[&NETWORK[..], &["containers", "peers", "store"]].concat());
    assert_eq!((&network["mtu"], &network["strict"], &network["endpoints"]), (&json!(1400), &json!(true), &json!(1)));
    assert_keys(&network["containers"][0], &ENDPOINT);
    let peer = json!({ "node": "node01", "address": "192.168.1.9", "endpoints": 1, "alive": true });
    assert_eq!(network["peers"], json!([peer]));

    assert_keys(&single.json(&["endpoint", "ls", "blue"]), &["endpoints", "store"]);
    assert_keys(&single.json(&["endpoint", "ls"])["endpoints"][0], &ENDPOINT);
    let endpoint = single.json(&["endpoint", "inspect", "blue", "one"]);
    assert_keys(&endpoint, &ENDPOINT);
    assert_eq!((&endpoint["interface"], &endpoint["node"]), (&json!("eth0"), &json!("node01")));
    let nodes = single.json(&["node", "ls"]);
    assert_keys(&nodes, &["nodes", "store"]);
    let node = json!({ "name": "node01", "address": "192.168.1.9", "alive": true, "local": true, "endpoints": 1 });
    assert_eq!(nodes["nodes"], json!([node]));

    let control = &single.json(&["status"])["control"];
    assert_keys(
        control,
        &["version", "source", "node", "address", "store", "problems", "unresolved", "poll_interval_ms", "docker"],
    );
    assert_eq!((&control["source"], &control["store"]["kind"]), (&json!("store"), &json!("embedded")));
    assert_eq!((&control["problems"], &control["store"]["reachable"]), (&json!([]), &json!(true)));
    assert_eq!(single.json(&["endpoint", "rm", "blue", "one"]), json!({ "removed": "blue/one", "endpoints": 1 }));

    // Text output, with an empty standard error.
    for (words, parts) in [
        (&["network", "ls"][..], ["blue", "10.0.0.0/24"]),
        (&["network", "inspect", "blue"], ["VNI      4096", "options  strict"]),
        (&["endpoint", "ls"], ["ENDPOINT", "STATE"]),
        (&["node", "ls"], ["node01 (this one)", "alive"]),
        (&["status"], ["control  store, node node01", "embedded store at revision"]),
    ] {
        let output = single.daemon.output(words).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{words:?}");
        assert!(parts.iter().all(|part| text.contains(part)), "{words:?}: {text}");
    }
}

/// An audit compares the maps with the store, also immediately after a change.
#[test]
fn audit_compares_maps_with_store() {
    const REPORT: [&str; 3] = ["clean", "compared", "differences"];
    const DIFFERENCE: [&str; 10] =
        ["table", "kind", "object", "cause", "remedy", "netns", "wanted", "found", "owner", "repaired"];
    let single = Single::start();
    single.json(&["network", "create", "blue"]);
    let mac = ok(&single.add("blue", "one", "gindemo1", &[]))["mac"].as_str().unwrap().to_owned();
    let clean = single.json(&["audit"]);
    assert_keys(&clean, &REPORT);
    assert_keys(&clean["compared"], &["map_entries", "kernel_objects", "hooks", "external_networks", "namespaces"]);
    assert_eq!((&clean["clean"], &clean["differences"]), (&json!(true), &json!([])));

    let key = *single.tables().fdb.first_key_value().unwrap().0;
    WritableMaps::open(single.daemon.pin_root()).unwrap().write(&Changes::remove::<Fdb>(key)).unwrap();
    let output = single.daemon.output(&["audit", "--json"]).unwrap();
    let broken: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), broken["differences"].as_array().unwrap().len()), (Some(1), 1), "{broken:#}");
    let difference = &broken["differences"][0];
    assert_keys(difference, &DIFFERENCE);
    let words = ["table", "kind", "object", "owner"].map(|key| difference[key].as_str().unwrap());
    assert_eq!(words, ["OVL_FDB", "missing", &format!("VNI 4096 {mac}"), "overlay"]);
    assert_eq!(single.json(&["audit", "--repair"])["differences"][0]["repaired"], json!(true));

    ok(&single.daemon.output(&["endpoint", "rm", "blue", "one", "--json"]).unwrap());
    assert_eq!(single.json(&["audit"])["clean"], json!(true));
}
