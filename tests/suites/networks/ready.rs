//! An endpoint is ready when it is in the maps. An endpoint on the kernel path works and is not ready.

use overlay_tests::{
    check::until,
    lab::traffic::{Ping, ping},
};
use serde_json::{Value, json};

use crate::setup::{Single, inject_fault, ok};

fn listed(single: &Single, name: &str) -> Value {
    single.json(&["endpoint", "inspect", "blue", name])
}

/// `add` has succeeded, and the endpoint uses the kernel path.
#[track_caller]
fn assert_on_kernel_path(single: &Single, added: &Value) {
    assert_eq!(
        (&added["ready"], &added["kernel_path"], &added["interface"]),
        (&json!(false), &json!(true), &json!("eth0"))
    );
    assert_eq!(listed(single, "two")["ready"], json!(false));
    let list = single.daemon.output(&["endpoint", "ls"]).unwrap();
    let text = String::from_utf8(list.stdout).unwrap();
    assert!(text.lines().any(|line| line.contains("two") && line.contains("kernel path")), "{text}");
    let replies = ping(single.container("spare"), [10, 0, 0, 2].into(), Ping::default()).unwrap();
    assert!(replies.all(), "{replies:?}");
}

#[test]
fn endpoint_with_failed_map_update_uses_kernel_path_and_is_not_ready() {
    let single = Single::with_faults();
    single.json(&["network", "create", "blue"]);
    let one = ok(&single.add("blue", "one", "gindemo1", &[]));
    assert_eq!((&one["ready"], one.get("kernel_path")), (&json!(true), None), "{one}");
    for map in ["OVL_PORTS", "OVL_FDB"] {
        inject_fault(&format!("map:{map}"));
        let two = ok(&single.add("blue", "two", "spare", &[]));
        assert_on_kernel_path(&single, &two);
        inject_fault("");
        until("the endpoint is in the maps", || listed(&single, "two")["ready"] == json!(true));
        assert_eq!((single.tables().ports.len(), single.tables().fdb.len()), (2, 2));
        single.json(&["endpoint", "rm", "blue", "two"]);
    }
}

#[test]
fn endpoint_without_attached_program_is_not_ready() {
    let single = Single::with_faults();
    single.json(&["network", "create", "blue"]);
    ok(&single.add("blue", "one", "gindemo1", &[]));
    inject_fault("attach:ovl_port_in");
    let two = ok(&single.add("blue", "two", "spare", &[]));
    assert_on_kernel_path(&single, &two);
    inject_fault("");
    until("the program is attached", || listed(&single, "two")["ready"] == json!(true));
}

/// IPsec policies remove VTEPs from the maps, not local ports.
#[test]
fn endpoint_is_added_while_ipsec_policies_exist() {
    let single = Single::start();
    single.json(&["network", "create", "blue"]);
    let host = single.lab.host(1);
    host.run(&["ip", "xfrm", "policy", "add", "dst", "192.168.1.10/32", "dir", "out", "action", "allow"]);
    let one = ok(&single.add("blue", "one", "gindemo1", &[]));
    assert_eq!(one["ready"], json!(true));
    assert_eq!((single.tables().ports.len(), single.tables().fdb.len()), (1, 1));
}
