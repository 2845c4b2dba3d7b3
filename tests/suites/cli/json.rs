//! Output of successful commands as text and JSON, and exit codes.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use overlay_common::Reason;
use overlay_tests::lab::{Daemon, overlay_binary};
use serde_json::{Value, json};

use crate::setup::{Setup, assert_message};

#[track_caller]
fn assert_keys(value: &Value, keys: &[&str]) {
    let found: BTreeSet<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(found, keys.iter().copied().collect());
}

#[test]
fn check_accepts_valid_configuration() {
    let setup = Setup::new();
    let config = setup.config(|_| {});
    let path = config.to_str().unwrap();
    let before = setup.snapshot();
    let output = setup.overlay(&["check", "--config", path]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text,
        format!(
            "{path}: 2 hosts, 1 network, 2 endpoints\n\
             this host is node01 (192.168.1.9 on enp0s3), with endpoints in 1 network\n"
        )
    );
    let output = setup.overlay(&["check", "--json", "--config", path]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = json!({
        "ok": true, "file": path, "hosts": 2, "networks": 1, "endpoints": 2,
        "host": "node01", "host_networks": 1, "errors": [], "warnings": [],
    });
    assert_eq!((output.status.code(), found), (Some(0), expected));
    assert_eq!(before, setup.snapshot(), "check changes nothing");
}

#[test]
fn check_reports_errors_as_json() {
    let setup = Setup::new();
    let config = setup.file("[[hosts]]\nname = \"node01\"\naddress = \"127.0.0.1\"\n");
    let path = config.to_str().unwrap();
    let output = setup.overlay(&["check", "--json", "--config", path]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!((&found["ok"], &found["file"]), (&json!(false), &json!(path)));
    assert_eq!(found["errors"].as_array().map(Vec::len), Some(1));
    let error = &found["errors"][0];
    assert_keys(error, &["line", "object", "problem"]);
    assert_eq!((&error["line"], &error["object"]), (&json!(3), &json!("host \"node01\"")));
    assert!(error["problem"].as_str().is_some_and(|text| text.contains("loopback")), "{error}");
    // Conflicts with the host are reported the same way.
    let config = setup.config(|cluster| cluster.networks[0].mtu = Some(1451));
    let output = setup.overlay(&["check", "--json", "--config", config.to_str().unwrap()]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &found["ok"], &found["errors"][0]["line"]),
        (Some(2), &json!(false), &Value::Null)
    );
    assert_eq!(found["errors"][0]["object"], "this host");
}

#[test]
fn every_report_has_its_keys() {
    let setup = Setup::new();
    let config = setup.config(|_| {});
    let daemon = Daemon::start(setup.host(), &config, setup.pin_root()).unwrap();
    let report = |name: &str| daemon.overlay(&[name, "--json"]).unwrap();

    let status = report("status");
    assert_keys(
        &status,
        &["ready", "daemon", "kernel", "pin_root", "heartbeat", "underlay", "networks", "vteps", "hooks", "control"],
    );
    assert_keys(&status["heartbeat"], &["left_s", "expired"]);
    assert!(status["heartbeat"]["left_s"].as_u64().is_some_and(|left| (10..30).contains(&left)), "{status}");
    assert_eq!(status["heartbeat"]["expired"], false);
    assert_keys(&status["underlay"], &["device", "address", "mac", "ports", "rx"]);
    let network = &status["networks"][0];
    let keys = [
        "name", "vni", "kind", "state", "cause", "finding", "device", "sandbox", "port", "mtu", "strict", "local",
        "ports", "remote", "vteps", "tx", "rx", "kernel",
    ];
    assert_keys(network, &keys);
    assert_keys(&network["tx"], &["packets", "bytes"]);
    assert_keys(&network["kernel"], &["tx", "rx"]);
    assert_keys(&network["ports"][0], &["name", "container", "mac", "finding"]);
    assert_eq!(status["control"]["networks"], Value::Null, "networks are listed once");
    let detail = daemon.overlay(&["status", "--json", "my-overlay-network"]).unwrap();
    assert_keys(&detail, &[&keys[..], &["next_hops", "unresolved"]].concat());
    assert_eq!(detail["ports"][0]["container"], "gindemo1");
    // The next hop may have been resolved between the two reports.
    let vtep = &detail["next_hops"][0];
    assert_eq!((&vtep["address"], &vtep["port"]), (&status["vteps"][0]["address"], &status["vteps"][0]["port"]));
    assert_eq!(daemon.overlay(&["status", "--json", "4097"]).unwrap()["name"], "my-overlay-network");
    assert_eq!(daemon.overlay(&["status", "--json", "--problems"]).unwrap(), json!({ "problems": [] }));
    let unknown = daemon.output(&["status", "blue"]).unwrap();
    assert_message(&unknown, 2, &["network \"blue\"", "list them with `overlay status`"]);
    assert_keys(&status["vteps"][0], &["address", "port", "resolved", "device", "next_hop", "mtu"]);
    assert_eq!((&network["name"], &network["vni"]), (&json!("my-overlay-network"), &json!(4097)));
    assert_eq!(status["underlay"]["device"], "enp0s3");
    assert_eq!(status["pin_root"], "/sys/fs/bpf/overlay");

    let fdb = report("fdb");
    assert_keys(&fdb, &["entries"]);
    assert_eq!(fdb["entries"].as_array().map(Vec::len), Some(2));
    assert_keys(&fdb["entries"][0], &["vni", "network", "mac", "device", "sandbox", "vtep", "resolved"]);
    let ports = report("ports");
    assert_keys(&ports, &["ports"]);
    let keys = [
        "ifindex",
        "device",
        "sandbox",
        "vni",
        "network",
        "endpoint",
        "container",
        "mac",
        "ip",
        "mtu",
        "strict",
        "xdp",
    ];
    assert_keys(&ports["ports"][0], &keys);
    assert_eq!(ports["ports"][0]["endpoint"], "gindemo1");
    let counters = report("counters");
    assert_keys(&counters, &["reasons", "networks", "vteps"]);
    assert_keys(&counters["reasons"][0], &["reason", "verdict", "packets", "bytes", "help"]);
    let reasons: Vec<_> = counters["reasons"].as_array().unwrap().iter().map(|row| row["reason"].clone()).collect();
    assert_eq!(reasons, Reason::ALL.map(Reason::name));
    assert_keys(&counters["networks"][0], &["vni", "name", "tx", "rx"]);
    assert_keys(&counters["vteps"][0], &["address", "port", "tx", "rx"]);

    let events = report("events");
    assert_keys(&events, &["events", "last", "lost"]);
    assert_eq!((&events["events"], &events["lost"]), (&json!([]), &json!(0)));

    // Text output, with an empty standard error.
    for (name, parts) in [
        ("status", ["daemon   running (pid", "my-overlay-network"]),
        ("fdb", ["02:42:0a:00:01:02", "VTEP 192.168.1.10"]),
        ("ports", ["gindemo1", "10.0.1.2"]),
        ("counters", ["VERDICT", "192.168.1.10:4789"]),
    ] {
        let output = daemon.output(&[name]).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{name}");
        assert!(parts.iter().all(|part| text.contains(part)), "{name}: {text}");
    }
}

#[test]
fn commands_exit_with_3_when_nothing_is_loaded() {
    let setup = Setup::new();
    for subcommand in ["status", "fdb", "ports", "counters", "down"] {
        for arguments in [&[subcommand][..], &[subcommand, "--json"]] {
            let output = setup.overlay(arguments);
            assert_message(&output, 3, &["nothing is loaded at /sys/fs/bpf/overlay", "overlay run", "--pin-root"]);
            assert!(output.stdout.is_empty());
        }
    }
}

#[test]
fn events_exits_with_3_without_daemon() {
    let setup = Setup::new();
    for arguments in [&["events"][..], &["events", "--json"], &["events", "--follow"]] {
        assert_message(&setup.overlay(arguments), 3, &["no daemon answers at", "overlay run"]);
    }
}

#[test]
fn run_reports_ready_as_json() {
    let setup = Setup::new();
    let config = setup.config(|_| {});
    let mut command = setup.host().command(overlay_binary().unwrap());
    command.args(["run", "--json", "--config"]).arg(&config).arg("--pin-root").arg(setup.pin_root());
    let mut daemon = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let pid = daemon.id();
    let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
    let text: Vec<String> = lines.by_ref().map(Result::unwrap).take_while(|line| line != "}").collect();
    let ready: Value = serde_json::from_str(&(text.join("\n") + "}")).unwrap();
    let expected = json!({
        "ready": true, "daemon": pid, "pin_root": "/sys/fs/bpf/overlay",
        "host": "node01", "address": "192.168.1.9", "networks": 1, "external": 0,
    });
    assert_eq!(ready, expected);
    // `down` stops the daemon; both exit with 0.
    let output = setup.overlay(&["down", "--json"]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), json!({ "removed": "/sys/fs/bpf/overlay" }));
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
    assert_eq!(lines.next().map(Result::unwrap), None, "there is one document");
}
