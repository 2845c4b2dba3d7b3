//! JSON output of `status`, `fdb`, `ports` and `counters`.

use overlay_tests::lab::{
    NIC,
    traffic::{Ping, ping},
};
use serde_json::{Value, json};

use overlay_tests::testbed::{GINDEMO2, Testbed};

/// The MAC address of a device.
fn mac(setup: &Testbed, host: usize, device: &str) -> Value {
    let links = setup.lab.host(host).run(&["ip", "-j", "link", "show", "dev", device]);
    serde_json::from_str::<Value>(&links).unwrap()[0]["address"].clone()
}

#[test]
fn status_reports_loaded_data_path() {
    let setup = Testbed::two_hosts();
    let status = setup.daemon(1).overlay(&["status", "--json"]).unwrap();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(status["ready"], true);
    assert!(std::path::Path::new(&format!("/proc/{}", status["daemon"])).exists());
    assert_eq!(status["kernel"], release.trim());
    assert_eq!(status["pin_root"], setup.pin_root(1).to_str().unwrap());
    let underlay = json!({
        "device": NIC, "address": "192.168.1.9", "mac": mac(&setup, 1, NIC), "ports": [4789], "rx": "tc",
    });
    assert_eq!(status["underlay"], underlay);
    let vtep = json!({
        "address": "192.168.1.10", "port": 4789, "resolved": true, "device": NIC, "next_hop": mac(&setup, 2, NIC),
        "mtu": 1450,
    });
    assert_eq!(status["vteps"], json!([vtep]));
    let network = &status["networks"][0];
    let expected = json!({
        "name": "my-overlay-network", "vni": 4097, "mtu": 1450, "port": 4789, "strict": false, "local": 1, "remote": 1,
        "vteps": ["192.168.1.10"], "tx": network["tx"], "rx": network["rx"], "kernel": network["kernel"],
        "kind": "managed", "state": "accelerated", "cause": null, "finding": null, "device": "ovlvx4097", "sandbox": null,
        "ports": [{ "name": "ovlaf7b97732a", "container": "gindemo1", "mac": "02:42:0a:00:01:02", "finding": null }],
    });
    assert!(network["kernel"]["tx"].is_u64() && network["tx"]["packets"].is_u64(), "{network}");
    assert_eq!(status["networks"], json!([expected]));
    assert_eq!(status["hooks"].as_array().unwrap().len(), 2);
}

#[test]
fn fdb_and_ports_report_endpoint_locations() {
    let setup = Testbed::two_hosts();
    let ports = setup.daemon(1).overlay(&["ports", "--json"]).unwrap();
    let port = &ports["ports"][0];
    let device = port["device"].as_str().unwrap();
    let expected = json!({
        "ifindex": port["ifindex"], "device": "ovlaf7b97732a", "sandbox": null, "vni": 4097, "network": "my-overlay-network",
        "endpoint": "gindemo1", "container": "gindemo1", "mac": "02:42:0a:00:01:02", "ip": "10.0.1.2", "mtu": 1450, "strict": false, "xdp": false,
    });
    assert_eq!(ports["ports"], json!([expected]));
    let link: Value =
        serde_json::from_str(&setup.lab.host(1).run(&["ip", "-j", "link", "show", "dev", device])).unwrap();
    assert_eq!((&link[0]["ifindex"], &link[0]["master"]), (&port["ifindex"], &json!("ovlbr4097")));

    let fdb = setup.daemon(1).overlay(&["fdb", "--json"]).unwrap();
    let local = json!({ "vni": 4097, "network": "my-overlay-network", "mac": "02:42:0a:00:01:02", "device": device, "sandbox": null, "vtep": null, "resolved": true });
    let remote = json!({ "vni": 4097, "network": "my-overlay-network", "mac": "02:42:0a:00:01:06", "device": null, "sandbox": null, "vtep": "192.168.1.10", "resolved": true });
    assert_eq!(fdb["entries"], json!([local, remote]));
}

#[test]
fn counters_report_packets_and_bytes() {
    let setup = Testbed::two_hosts();
    let read = || setup.daemon(1).overlay(&["counters", "--json"]).unwrap();
    let amount = |report: &Value, reason: &str| {
        let rows = report["reasons"].as_array().unwrap();
        let row = rows.iter().find(|row| row["reason"] == reason).unwrap();
        (row["packets"].as_u64().unwrap(), row["bytes"].as_u64().unwrap())
    };
    let traffic = |report: &Value, list: &str, direction: &str| {
        let row = &report[list][0][direction];
        (row["packets"].as_u64().unwrap(), row["bytes"].as_u64().unwrap())
    };
    let before = read();
    let plan = Ping { count: 10, size: 100, ..Ping::default() };
    assert!(ping(setup.first(1), GINDEMO2.into(), plan).unwrap().all());
    let after = read();
    let difference = |before: (u64, u64), after: (u64, u64)| (after.0 - before.0, after.1 - before.1);
    // Payload, ICMP, IPv4 and Ethernet; the outer headers add 50 bytes.
    let frame = 100 + 8 + 20 + 14;
    assert_eq!(difference(amount(&before, "encap"), amount(&after, "encap")), (10, 10 * frame));
    assert_eq!(difference(amount(&before, "decap"), amount(&after, "decap")), (10, 10 * (frame + 50)));
    for (list, direction) in [("networks", "tx"), ("networks", "rx"), ("vteps", "tx"), ("vteps", "rx")] {
        let moved = difference(traffic(&before, list, direction), traffic(&after, list, direction));
        assert_eq!(moved, (10, 10 * frame), "{list} {direction}");
    }
    assert_eq!((&after["networks"][0]["vni"], &after["vteps"][0]["address"]), (&json!(4097), &json!("192.168.1.10")));
    let verdicts: Vec<_> =
        after["reasons"].as_array().unwrap().iter().map(|row| row["verdict"].as_str().unwrap()).collect();
    assert!(verdicts.iter().all(|verdict| ["fast", "kernel", "drop"].contains(verdict)), "{verdicts:?}");
}
