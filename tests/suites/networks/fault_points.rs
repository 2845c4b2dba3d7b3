//! Requests that fail at the fault points of a build with the feature `testing`.

use std::time::{Duration, Instant};

use overlay_tests::{
    check::until,
    lab::traffic::{Ping, ping},
};
use serde_json::{Value, json};

use crate::{
    revisions::is_listed,
    setup::{Single, inject_fault, ok},
};

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

/// The database stores the changes, and the daemon receives no event.
#[test]
fn change_without_watch_event_is_reported_as_error() {
    let single = Single::with_faults();
    single.json(&["network", "create", "blue"]);
    inject_fault("watch");
    for (words, object) in
        [(&["network", "create", "red"][..], "network \"red\""), (&["network", "rm", "blue"], "network \"blue\"")]
    {
        let started = Instant::now();
        let output = single.daemon.output(words).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{words:?}");
        for part in [object, "revision", "annot allocate memory", "network ls"] {
            assert!(stderr.contains(part), "{words:?}: no {part:?} in: {stderr}");
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }
    inject_fault("");
    until("the daemon has caught up", || is_listed(&single, "red") && !is_listed(&single, "blue"));
}
