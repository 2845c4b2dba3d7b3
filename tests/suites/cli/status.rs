//! `overlay status` with many networks, with Docker's networks, and with several underlays.

use std::{fmt::Write as _, os::unix::fs::symlink, time::Duration};

use overlay_tests::{
    check::until,
    lab::{Daemon, DockerApi, NetNs},
};
use serde_json::{Value, json};

use crate::setup::{Setup, assert_message};

const NETWORKS: usize = 30;
/// Number of these on the kernel path.
const REFUSED: usize = 5;

/// A bridge with a VXLAN device for each network; the last ones set DF, which the programs do not support.
fn make_networks(setup: &Setup) {
    let mut script = String::new();
    for index in 0..NETWORKS {
        let vni = 5001 + index;
        let df = if index < NETWORKS - REFUSED { "" } else { "df set" };
        writeln!(
            script,
            "ip link add vx{vni} mtu 1450 type vxlan id {vni} dstport 4789 {df} nolearning
             ip link add br{vni} mtu 1450 type bridge
             ip link set vx{vni} master br{vni} up
             ip link set br{vni} up
             bridge fdb add 02:42:0a:00:01:06 dev vx{vni} dst 192.168.1.10 self permanent"
        )
        .unwrap();
    }
    setup.host().try_script(&script).unwrap();
}

#[test]
fn status_prints_thirty_networks_in_forty_lines() {
    let setup = Setup::new();
    make_networks(&setup);
    let config = setup.file(&format!("[discover]\ndocker = false\nnetns_dir = {:?}\n", setup.directory()));
    let daemon = Daemon::start(setup.host(), &config, setup.pin_root()).unwrap();
    let text = |words: &[&str]| {
        let output = daemon.output(words).unwrap();
        assert!(output.status.success(), "{words:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let summary = "\nnetworks 25 accelerated, 5 on the kernel path: device option\n";
    until("all networks are listed", || text(&["status"]).contains(summary));
    let status = text(&["status"]);
    assert!(status.lines().count() <= 40, "{status}");
    assert_eq!(status.lines().filter(|line| line.starts_with("vx50")).count(), NETWORKS, "{status}");
    assert!(status.ends_with("5 problems not shown; list with `overlay status --problems`\n"), "{status}");

    let problems = text(&["status", "--problems"]);
    let of_networks = problems.lines().filter(|line| line.starts_with("VNI ") && line.contains("sets DF"));
    assert_eq!(of_networks.count(), REFUSED, "{problems}");
    let report = daemon.overlay(&["status", "--json"]).unwrap();
    let networks = report["networks"].as_array().unwrap();
    assert_eq!(networks.len(), NETWORKS, "every network is listed once");
    let row = |vni: u32| networks.iter().find(|network| network["vni"] == vni).unwrap();
    assert_eq!((&row(5001)["state"], &row(5001)["kind"]), (&json!("accelerated"), &json!("bridged")));
    let last = row(5030);
    assert_eq!(
        (&last["state"], &last["cause"], &last["tx"]),
        (&json!("kernel"), &json!("device option"), &Value::Null)
    );
    assert_eq!(last["finding"]["object"], "VNI 5030");

    assert!(text(&["status", "5030"]).contains("state    kernel path: device option\n"));
    assert_message(&daemon.output(&["status", "6000"]).unwrap(), 2, &["network \"6000\""]);
}

/// A sandbox like Docker's, with one container.
fn make_sandbox(setup: &Setup) -> [NetNs; 2] {
    let [sandbox, container] = ["sandbox", "container"].map(|name| NetNs::anonymous(name).unwrap());
    let (inside, in_container) = (sandbox.path().display(), container.path().display());
    setup
        .host()
        .try_script(&format!(
            "ip link add vx type vxlan id 5000 dstport 4789 nolearning proxy l2miss l3miss udpcsum
             ip link set vx netns {inside} name vxlan0"
        ))
        .unwrap();
    sandbox
        .try_script(&format!(
            "ip link add br0 mtu 1450 type bridge
             ip link set vxlan0 mtu 1450 master br0 up
             ip link add veth0 mtu 1450 type veth peer name eth0 address {MAC} mtu 1450 netns {in_container}
             ip link set veth0 master br0 up
             ip link set br0 up
             bridge fdb add 02:42:0a:00:05:06 dev vxlan0 dst 192.168.1.10 self permanent"
        ))
        .unwrap();
    container.run(&["ip", "link", "set", "eth0", "up"]);
    symlink(sandbox.path(), setup.directory().join(format!("1-{}", &DockerApi::ID[..10]))).unwrap();
    [sandbox, container]
}

const MAC: &str = "02:42:0a:00:05:02";

#[test]
fn reports_show_docker_names_of_discovered_networks() {
    let setup = Setup::new();
    let _namespaces = make_sandbox(&setup);
    let docker = DockerApi::start(5000, MAC).unwrap();
    let (socket, directory) = (docker.socket(), setup.directory());
    let config = setup.file(&format!("[discover]\ndocker = {socket:?}\nnetns_dir = {directory:?}\n"));
    let mut daemon = Daemon::start(setup.host(), &config, setup.pin_root()).unwrap();
    until("the container is named", || {
        let network = daemon.overlay(&["status", "my-overlay-network", "--json"]);
        network.is_ok_and(|network| network["ports"][0]["container"] == "gindemo1")
    });
    let report = |name: &str| daemon.overlay(&[name, "--json"]).unwrap();
    let (ports, counters, fdb) = (report("ports"), report("counters"), report("fdb"));
    let port = &ports["ports"][0];
    assert_eq!((&port["network"], &port["container"]), (&json!("my-overlay-network"), &json!("gindemo1")), "{ports}");
    assert_eq!(counters["networks"][0]["name"], "my-overlay-network", "{counters}");
    assert_eq!(fdb["entries"][0]["network"], "my-overlay-network", "{fdb}");
    let networks = &report("status")["networks"];
    assert_eq!((networks.as_array().unwrap().len(), &networks[0]["name"]), (1, &json!("my-overlay-network")));

    // Without the daemon there are no names.
    assert!(daemon.sigterm().unwrap().success());
    let ports = daemon.overlay(&["ports", "--json"]).unwrap();
    assert_eq!((&ports["ports"][0]["network"], &ports["ports"][0]["mac"]), (&Value::Null, &json!(MAC)), "{ports}");
}

/// The intermediate states while a network is removed are not logged.
#[test]
fn log_reports_removed_network_as_gone() {
    let setup = Setup::new();
    let host = setup.host();
    let make = "ip link add vx5001 mtu 1450 type vxlan id 5001 dstport 4789 local 192.168.1.9 nolearning
         ip link add br5001 mtu 1450 type bridge
         ip link set vx5001 master br5001 up
         ip link set br5001 up";
    host.try_script(make).unwrap();
    let config = setup.file(&format!("[discover]\ndocker = false\nnetns_dir = {:?}\n", setup.directory()));
    let daemon = Daemon::start(host, &config, setup.pin_root()).unwrap();
    let line_count = |line: &str| daemon.log().lines().filter(|logged| logged.ends_with(line)).count();
    until("the network is accelerated", || line_count("VNI 5001 is accelerated") == 1);
    let step = || std::thread::sleep(Duration::from_millis(150));
    host.run(&["ip", "link", "set", "vx5001", "nomaster"]);
    step();
    host.run(&["ip", "link", "set", "vx5001", "down"]);
    step();
    host.run(&["ip", "link", "delete", "vx5001"]);
    until("the network is removed", || line_count("VNI 5001 is gone") == 1);
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!daemon.log().contains("kernel path"), "{}", daemon.log());
    // A permanent problem is logged.
    host.try_script("ip link del br5001").unwrap();
    host.try_script(make).unwrap();
    until("the network is accelerated again", || line_count("VNI 5001 is accelerated") == 2);
    host.run(&["ip", "link", "set", "vx5001", "nomaster"]);
    until("the reason is logged", || {
        daemon.log().matches("VNI 5001 falls back to the kernel path: vx5001 is not in a bridge").count() == 1
    });
}

/// An unusable underlay affects its own networks only.
#[test]
fn each_underlay_has_its_own_state() {
    let setup = Setup::new();
    let host = setup.host();
    let make = |vni: u32, local: &str| {
        let vtep = if local == "192.168.1.9" { "192.168.1.10" } else { "10.7.0.2" };
        host.try_script(&format!(
            "ip link add vx{vni} mtu 1450 type vxlan id {vni} dstport 4789 local {local} nolearning
             ip link add br{vni} mtu 1450 type bridge
             ip link set vx{vni} master br{vni} up
             ip link set br{vni} up
             bridge fdb add 02:42:0a:00:01:06 dev vx{vni} dst {vtep} self permanent"
        ))
        .unwrap();
    };
    host.try_script(
        "ip address add 9.9.9.1/32 dev lo
         ip link add enp0s8 type veth peer name wire8
         ip address add 10.7.0.1/24 dev enp0s8
         ip link set wire8 up
         ip link set enp0s8 up",
    )
    .unwrap();
    // Underlay address on `lo`, and one of no interface.
    make(5005, "9.9.9.1");
    make(5006, "10.8.0.1");
    let config = setup.file(&format!("[discover]\ndocker = false\nnetns_dir = {:?}\n", setup.directory()));
    let daemon = Daemon::start(host, &config, setup.pin_root()).unwrap();
    let states = || -> Vec<(u64, String)> {
        let status = daemon.overlay(&["status", "--json"]).unwrap();
        let state = |network: &Value| network["cause"].as_str().unwrap_or("accelerated").to_owned();
        let networks = status["networks"].as_array().unwrap().iter();
        networks.map(|network| (network["vni"].as_u64().unwrap(), state(network))).collect()
    };
    let expected =
        |words: &[(u64, &str)]| words.iter().map(|(vni, state)| (*vni, (*state).to_owned())).collect::<Vec<_>>();
    let unusable = [(5005, "no underlay"), (5006, "no underlay")];
    until("neither network is accelerated", || states() == expected(&unusable));
    make(5001, "192.168.1.9");
    let one_served = [&[(5001, "accelerated")][..], &unusable].concat();
    until("one network is accelerated", || states() == expected(&one_served));
    // Another usable underlay with a lower address.
    make(5000, "10.7.0.1");
    let both = [&[(5000, "other underlay")][..], &one_served].concat();
    until("the first underlay stays in use", || states() == expected(&both));
    let status = daemon.output(&["status"]).unwrap().stdout;
    let status = String::from_utf8(status).unwrap();
    for line in [
        "VNI 5000 falls back to the kernel path: its underlay address is 10.7.0.1, but the other networks use 192.168.1.9",
        "VNI 5005 falls back to the kernel path: its underlay address 9.9.9.1 is on lo, which is not an Ethernet device",
        "VNI 5006 falls back to the kernel path: its underlay address 10.8.0.1 is not assigned to an interface",
    ] {
        assert!(status.lines().any(|found| found.starts_with(line)), "{line}:\n{status}");
    }
    // Without its address the underlay is unusable, and the other one is used.
    host.run(&["ip", "address", "del", "192.168.1.9/24", "dev", "enp0s3"]);
    let moved = [(5000, "accelerated"), (5001, "no underlay"), (5005, "no underlay"), (5006, "no underlay")];
    until("the other network is accelerated", || states() == expected(&moved));
    host.run(&["ip", "address", "add", "192.168.1.9/24", "dev", "enp0s3"]);
    until("the first network is accelerated again", || states() == expected(&both));
}
