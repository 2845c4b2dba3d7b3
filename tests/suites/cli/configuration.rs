//! Invalid configurations, independent of the host.

use std::fs;

use crate::setup::{Setup, other_endpoint, other_network};

#[test]
fn overlapping_subnets_are_refused() {
    let setup = Setup::new();
    let config = setup.config(|cluster| {
        let mut network = other_network();
        network.subnet = "10.0.0.0/16".to_owned();
        cluster.networks.push(network);
    });
    let parts = ["cluster.toml:", "network \"other\"", "10.0.0.0/16 overlaps 10.0.1.0/24", "use another subnet"];
    setup.assert_checked(&config, &parts);
}

#[test]
fn duplicate_vni_is_refused() {
    let setup = Setup::new();
    let config = setup.config(|cluster| {
        let mut network = other_network();
        network.vni = 4097;
        cluster.networks.push(network);
    });
    let parts = ["network \"other\"", "vni 4097 is already used by network \"my-overlay-network\"", "its own VNI"];
    setup.assert_checked(&config, &parts);
}

#[test]
fn duplicate_mac_is_refused() {
    let setup = Setup::new();
    let config = setup.config(|cluster| {
        let mut endpoint = other_endpoint(cluster);
        endpoint.mac = Some(cluster.endpoints[0].mac());
        cluster.endpoints.push(endpoint);
    });
    let parts = [
        "endpoint \"my-overlay-network/gindemo3\"",
        "mac 02:42:0a:00:01:02 is already used by endpoint \"my-overlay-network/gindemo1\"",
        "its own MAC address",
    ];
    setup.assert_checked(&config, &parts);
}

#[test]
fn duplicate_ip_address_is_refused() {
    let setup = Setup::new();
    let config = setup.config(|cluster| {
        let mut endpoint = other_endpoint(cluster);
        endpoint.ip = cluster.endpoints[0].ip;
        cluster.endpoints.push(endpoint);
    });
    let parts = [
        "endpoint \"my-overlay-network/gindemo3\"",
        "ip 10.0.1.2 is already used by endpoint \"my-overlay-network/gindemo1\"",
        "its own IP address",
    ];
    setup.assert_checked(&config, &parts);
}

#[test]
fn vni_outside_24_bits_is_refused() {
    let setup = Setup::new();
    for vni in [0, 1 << 24] {
        let config = setup.config(|cluster| cluster.networks[0].vni = vni);
        let parts = ["network \"my-overlay-network\"", &format!("{vni} is not a VNI"), "use 1 to 16777215"];
        setup.assert_checked(&config, &parts);
    }
}

#[test]
fn address_outside_subnet_is_refused() {
    let setup = Setup::new();
    let config = setup.config(|cluster| cluster.endpoints[0].ip = [10, 0, 2, 2].into());
    let parts = [
        "endpoint \"my-overlay-network/gindemo1\"",
        "ip 10.0.2.2 is outside the subnet 10.0.1.0/24",
        "use an address inside it",
    ];
    setup.assert_checked(&config, &parts);
    let config = setup.config(|cluster| cluster.networks[0].gateway = Some([10, 0, 2, 1].into()));
    let parts = ["network \"my-overlay-network\"", "gateway 10.0.2.1 is outside the subnet 10.0.1.0/24"];
    setup.assert_checked(&config, &parts);
}

#[test]
fn syntax_error_is_reported_with_its_line() {
    let setup = Setup::new();
    let config = setup.file("[[hosts]]\nname = \"node01\"\naddress = 192.168.1.9\n");
    setup.assert_checked(&config, &["cluster.toml:3: syntax:", "correct the line `address = 192.168.1.9`"]);
    let config = setup.file("[[hosts]]\nname = \"node01\"\naddress = \"192.168.1.9\"\ncolour = \"red\"\n");
    setup.assert_checked(
        &config,
        &["cluster.toml:4:", "host \"node01\"", "\"colour\" is unknown", "the known keys are"],
    );
}

#[test]
fn unreadable_configuration_is_refused() {
    let setup = Setup::new();
    let missing = setup.directory().join("missing.toml");
    setup.assert_checked(&missing, &["missing.toml", "cannot be read", "No such file", "create it"]);
    let text = setup.directory().join("latin1.toml");
    fs::write(&text, b"[[hosts]]\nname = \"b\xfcro\"\n").unwrap();
    setup.assert_checked(&text, &["latin1.toml:2:", "not UTF-8", "save the file as UTF-8"]);
    setup.assert_checked(setup.directory(), &["cannot be read", "directory"]);
}

/// One line per error.
#[test]
fn all_errors_of_a_file_are_reported_together() {
    let setup = Setup::new();
    let config = setup.config(|cluster| {
        cluster.endpoints[0].ip = [10, 0, 2, 2].into();
        cluster.endpoints[1].host = "node03".to_owned();
    });
    let output = setup.overlay(&["check", "--config", config.to_str().unwrap()]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    let (first, second) = stderr.split_once('\n').expect("two lines");
    assert!(first.contains("outside the subnet") && second.contains("node03"), "{stderr}");
    assert_eq!(output.status.code(), Some(2));
}
