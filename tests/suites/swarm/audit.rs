//! `overlay audit` with a real Docker: Docker's objects are no differences, and are not modified.

use std::process::Output;

use overlay_tests::lab::docker_mac;
use overlay_user::testing::observe::{AuditReport, Kind, Owner};

use super::setup::{Accelerated, GINDEMO2, VNI, until};

fn audit(setup: &Accelerated, arguments: &[&str]) -> (Option<i32>, AuditReport) {
    let output: Output = setup.daemon(1).output(&[&["audit", "--json"], arguments].concat()).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    (output.status.code(), report)
}

#[test]
fn audit_on_swarm_finds_only_entries_docker_lost() {
    let setup = Accelerated::start(2, &[1, 2]);
    let (code, report) = audit(&setup, &[]);
    assert!(code == Some(0) && report.clean && report.differences.is_empty(), "{report:#?}");
    assert!(report.compared.external_networks >= 1 && report.compared.namespaces >= 2, "{report:#?}");

    let (sandbox, mac) = (setup.sandbox(1), docker_mac(GINDEMO2));
    let vtep = setup.swarm.node(2).address().to_string();
    sandbox.run(&["bridge", "fdb", "del", &mac, "dev", "vxlan0", "dst", &vtep, "self"]);
    // Discovery follows the kernel's FDB.
    until("gindemo2 is removed from the map", || !setup.fdb(1, VNI).contains_key(&mac));
    let before = sandbox.fdb().unwrap();
    let (code, report) = audit(&setup, &["--repair"]);
    let [difference] = report.differences.as_slice() else { panic!("{report:#?}") };
    assert_eq!((difference.table.as_str(), difference.kind, difference.owner), ("fdb", Kind::Missing, Owner::External));
    assert_eq!((difference.finding.object.clone(), difference.repaired), (format!("vxlan0 {mac}"), None));
    assert!(difference.netns.as_ref().unwrap().starts_with("/var/run/docker/netns"), "{difference:?}");
    assert_eq!(code, Some(1));
    assert_eq!(sandbox.fdb().unwrap(), before);

    sandbox.run(&["bridge", "fdb", "add", &mac, "dev", "vxlan0", "dst", &vtep, "self", "permanent"]);
    setup.wait_for_map(1, VNI, GINDEMO2, 2);
    assert_eq!(audit(&setup, &[]).0, Some(0));
    setup.ping_both_ways();
}
