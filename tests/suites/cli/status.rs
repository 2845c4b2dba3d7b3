//! `overlay status` on a host with many networks.

use std::fmt::Write as _;

use overlay_tests::{check::until, lab::Daemon};
use serde_json::{Value, json};

use crate::bench::{Bench, assert_message};

const NETWORKS: usize = 30;
/// Of these the kernel path serves so many.
const REFUSED: usize = 5;

/// A bridge with a VXLAN device for each network; those of the last ones send with a TTL that the programs do not have.
fn make_networks(bench: &Bench) {
    let mut script = String::new();
    for index in 0..NETWORKS {
        let vni = 5001 + index;
        let ttl = if index < NETWORKS - REFUSED { "" } else { "ttl 5" };
        writeln!(
            script,
            "ip link add vx{vni} mtu 1450 type vxlan id {vni} dstport 4789 {ttl} nolearning
             ip link add br{vni} mtu 1450 type bridge
             ip link set vx{vni} master br{vni} up
             ip link set br{vni} up
             bridge fdb add 02:42:0a:00:01:06 dev vx{vni} dst 192.168.1.10 self permanent"
        )
        .unwrap();
    }
    bench.host().try_script(&script).unwrap();
}

#[test]
fn thirty_networks_take_forty_lines() {
    let bench = Bench::new();
    make_networks(&bench);
    let config = bench.file(&format!("[mirror]\ndocker = false\nnetns_dir = {:?}\n", bench.directory()));
    let daemon = Daemon::start(bench.host(), &config, bench.pin_root()).unwrap();
    let text = |words: &[&str]| {
        let output = daemon.output(words).unwrap();
        assert!(output.status.success(), "{words:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let summary = "\nnetworks 25 accelerated, 5 by the kernel: unsupported\n";
    until("all networks are known", || text(&["status"]).contains(summary));
    let status = text(&["status"]);
    assert!(status.lines().count() <= 40, "{status}");
    assert_eq!(status.lines().filter(|line| line.starts_with("- ")).count(), NETWORKS, "{status}");
    assert!(status.ends_with("5 problems are not listed here; `overlay status --problems` lists them\n"), "{status}");

    let problems = text(&["status", "--problems"]);
    let of_networks = problems.lines().filter(|line| line.starts_with("VNI ") && line.contains("sends with TTL 5"));
    assert_eq!(of_networks.count(), REFUSED, "{problems}");
    let report = daemon.overlay(&["status", "--json"]).unwrap();
    let networks = report["networks"].as_array().unwrap();
    assert_eq!(networks.len(), NETWORKS, "each once");
    let row = |vni: u32| networks.iter().find(|network| network["vni"] == vni).unwrap();
    assert_eq!((&row(5001)["state"], &row(5001)["kind"]), (&json!("accelerated"), &json!("bridged")));
    let last = row(5030);
    assert_eq!((&last["state"], &last["cause"], &last["tx"]), (&json!("kernel"), &json!("unsupported"), &Value::Null));
    assert_eq!(last["finding"]["object"], "VNI 5030");

    assert!(text(&["status", "5030"]).contains("state    kernel: unsupported\n"));
    assert_message(&daemon.output(&["status", "6000"]).unwrap(), 2, &["network \"6000\""]);
}
