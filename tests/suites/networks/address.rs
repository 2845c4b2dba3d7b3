//! Address of `overlay run` without `--node`.

use overlay_tests::lab::{Daemon, Lab, overlay_binary, private_bpffs, private_directory};

#[test]
fn run_uses_default_route_address_and_refuses_ambiguous_addresses() {
    let pins = private_bpffs().unwrap();
    let data = private_directory().unwrap().join("data");
    let lab = Lab::builder(2).build().unwrap();
    let host = lab.host(1);
    host.run(&["ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1"]);
    host.run(&["ip", "addr", "add", "192.168.77.1/24", "dev", "other0"]);
    host.run(&["ip", "link", "set", "other1", "up"]);
    host.run(&["ip", "link", "set", "other0", "up"]);
    let arguments = ["--data-dir", data.to_str().unwrap(), "--node-name", "node01"];
    let overlay = overlay_binary().unwrap();
    let daemon = Daemon::start_with(&overlay, host, &arguments, &pins.join("overlay"));
    let error = format!("{:#}", daemon.unwrap_err());
    assert!(error.contains("exit status: 2"), "{error}");
    for part in ["several addresses", "192.168.1.9", "192.168.77.1", "--node"] {
        assert!(error.contains(part), "{error}");
    }
    host.run(&["ip", "route", "add", "default", "via", "192.168.1.10", "dev", "enp0s3"]);
    let daemon = Daemon::start_with(&overlay, host, &arguments, &pins.join("overlay")).unwrap();
    assert_eq!(daemon.overlay(&["node", "ls", "--json"]).unwrap()["nodes"][0]["address"], "192.168.1.9");
}
