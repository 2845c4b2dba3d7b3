//! `overlay audit` of external networks: overlay's objects in a sandbox are repaired, Docker's objects are reported and
//! not changed.

use std::{fs, sync::Arc};

use overlay_common::{
    MacAddr,
    maps::{self, FdbKey, PortKey},
};
use overlay_tests::check::until;
use overlay_tests::lab::snapshot::{assert_same, network};
use overlay_tests::maps::WritableMaps;
use overlay_user::testing::{
    apply::TcFlavour,
    daemon::AuditMode,
    model::Rx,
    observe::{AuditReport, Difference, Kind, Owner},
    plan::{Changes, Fdb, Ports, TxPorts},
};

use super::replica::{Plan, Replica, VNI, device};

const MAC2: MacAddr = MacAddr([0x02, 0x42, 10, 0, 1, 6]);
const OTHER_MAC: MacAddr = MacAddr([0x02, 0x42, 10, 0, 1, 99]);

/// Table, object, kind and owner of a difference.
type Row<'a> = (&'a str, &'a str, Kind, Owner);

fn rows(report: &AuditReport) -> Vec<Row<'_>> {
    let row = |difference: &'_ Difference| (difference.kind, difference.owner);
    report
        .differences
        .iter()
        .map(|difference| {
            let (kind, owner) = row(difference);
            (difference.table.as_str(), difference.finding.object.as_str(), kind, owner)
        })
        .collect()
}

/// An audit on node01 finds exactly `expected`, all owned by overlay, and repairs it.
#[track_caller]
fn assert_repairs(replica: &Replica, what: &str, expected: &[(&str, &str, Kind)]) {
    let expected: Vec<Row<'_>> =
        expected.iter().map(|(table, object, kind)| (*table, *object, *kind, Owner::Overlay)).collect();
    let node = replica.node(1);
    for mode in [AuditMode::Report, AuditMode::Repair] {
        let report = node.audit(mode);
        assert_eq!(rows(&report), expected, "{what}: {report:#?}");
        assert_eq!(report.clean, mode == AuditMode::Repair, "{what}: {report:#?}");
    }
    let report = node.audit(AuditMode::Report);
    assert!(report.clean && report.differences.is_empty(), "{what}: {report:#?}");
}

fn maps(replica: &Replica) -> WritableMaps {
    WritableMaps::open(replica.node(1).pins()).unwrap()
}

/// Removes every kind of object that the daemon has in a sandbox.
fn remove_and_repair(plan: Plan) {
    let replica = Replica::new(plan).run();
    let node = replica.node(1);
    let first = node.audit(AuditMode::Report);
    assert!(first.clean && first.differences.is_empty(), "{first:#?}");
    assert_eq!((first.compared.external_networks, first.compared.namespaces), (1, 2), "{first:#?}");

    let port = *maps(&replica).read().unwrap().ports.first_key_value().unwrap().0;
    assert_eq!(port, PortKey { netns_id: 1, ifindex: 100 });
    maps(&replica).write(&Changes::remove::<Ports>(port)).unwrap();
    let report = node.audit(AuditMode::Report);
    assert_eq!(report.differences[0].netns.as_deref(), Some(node.sandbox.path()), "{report:#?}");
    assert_repairs(&replica, "a port", &[(maps::PORTS.name, "veth0", Kind::Missing)]);
    maps(&replica).write(&Changes::remove::<Fdb>(FdbKey::new(VNI, MAC2))).unwrap();
    assert_repairs(&replica, "an entry", &[(maps::FDB.name, "VNI 4097 02:42:0a:00:01:06", Kind::Missing)]);
    if let Some(key) = maps(&replica).read().unwrap().txports.first_key_value().map(|(key, _)| *key) {
        maps(&replica).write(&Changes::remove::<TxPorts>(key)).unwrap();
        assert_repairs(&replica, "a device", &[(maps::TXPORTS.name, &format!("key {key}"), Kind::Missing)]);
    }
    replica.wait_until_fast();

    // The daemon attaches these again by itself.
    for link in node.hooks() {
        fs::remove_file(node.pins().join("links").join(link)).unwrap();
    }
    until("all programs are attached", || node.audit(AuditMode::Report).clean);
    replica.wait_until_fast();

    // The daemon receives no events of this end.
    node.sandbox.run(&["ip", "link", "set", "ovlsh4097", "down"]);
    assert_repairs(&replica, "the shim", &[("shims", "ovlsh4097", Kind::Missing)]);
    replica.wait_until_fast();
}

#[test]
fn audit_repairs_overlay_objects_in_sandbox() {
    remove_and_repair(Plan::default());
}

#[test]
fn audit_repairs_xdp_redirect_targets_of_sandbox() {
    remove_and_repair(Plan { rx: Rx::Xdp, ..Plan::default() });
}

#[test]
fn removed_clsact_filters_are_added_again() {
    let replica = Replica::new(Plan { flavour: Some(TcFlavour::Clsact), ..Plan::default() }).run();
    let node = replica.node(1);
    assert!(node.audit(AuditMode::Report).differences.is_empty(), "{:#?}", node.audit(AuditMode::Report));
    for _ in 0..2 {
        node.sandbox.run(&["tc", "filter", "del", "dev", "veth0", "ingress"]);
        node.host.run(&["tc", "qdisc", "del", "dev", "enp0s3", "clsact"]);
        until("the filters are there", || node.audit(AuditMode::Report).clean);
        replica.wait_until_fast();
    }
}

/// The test reports no change to the daemon: the maps differ from the kernel's tables.
#[test]
fn audit_reports_entries_docker_lost_and_leaves_them() {
    let replica = Replica::new(Plan::default()).run();
    let node = replica.node(1);
    let sandbox = &node.sandbox;
    let vtep = replica.node(2).host.address();
    let entry = format!("bridge fdb replace {MAC2} dev vxlan0 dst {vtep} self permanent");
    let neighbour = format!("ip neigh replace 10.0.1.6 lladdr {MAC2} dev vxlan0 nud permanent");
    let (fdb, at_mac) = (format!("vxlan0 {MAC2}"), format!("vxlan0 at {MAC2}"));
    for (command, expected) in [
        (format!("bridge fdb del {MAC2} dev vxlan0 dst {vtep} self"), ("fdb", fdb.as_str(), Kind::Missing)),
        (format!("bridge fdb replace {MAC2} dev vxlan0 dst 192.168.1.77 self permanent"), ("fdb", &fdb, Kind::Differs)),
        ("ip neigh del 10.0.1.6 dev vxlan0".to_owned(), ("neighbours", &at_mac, Kind::Missing)),
        (
            format!("ip neigh replace 10.0.1.6 lladdr {OTHER_MAC} dev vxlan0 nud permanent"),
            ("neighbours", "vxlan0 10.0.1.6", Kind::Differs),
        ),
        (
            format!("ip neigh add 10.0.1.99 lladdr {OTHER_MAC} dev vxlan0 nud permanent"),
            ("fdb", "vxlan0 02:42:0a:00:01:63", Kind::Missing),
        ),
    ] {
        sandbox.try_script(&command).unwrap();
        // Repairing overlay's entry must not change Docker's.
        maps(&replica).write(&Changes::remove::<Fdb>(FdbKey::new(VNI, MAC2))).unwrap();
        let before = network(sandbox);
        let (table, object, kind) = expected;
        let external = (table, object, kind, Owner::External);
        let owned = (maps::FDB.name, "VNI 4097 02:42:0a:00:01:06", Kind::Missing, Owner::Overlay);
        let report = node.audit(AuditMode::Repair);
        assert_eq!(rows(&report), [owned, external], "{command}: {report:#?}");
        assert!(!report.clean, "{command}: {report:#?}");
        assert_eq!(report.differences[1].netns.as_deref(), Some(sandbox.path()), "{command}: {report:#?}");
        assert_eq!(
            report.differences.iter().map(|row| row.repaired).collect::<Vec<_>>(),
            [Some(true), None],
            "{command}"
        );
        assert_same(&before, &network(sandbox));
        assert_eq!(rows(&node.audit(AuditMode::Repair)), [external], "{command}");
        let _ = sandbox.try_script("ip neigh del 10.0.1.99 dev vxlan0");
        sandbox.try_script(&format!("{entry}\n{neighbour}")).unwrap();
        let report = node.audit(AuditMode::Report);
        assert!(report.clean, "{command}: {report:#?}");
    }
    replica.wait_until_fast();
}

/// Discovery has removed a container, of which the kernel has only one of two entries left.
#[test]
fn audit_reports_incomplete_docker_entry() {
    let replica = Replica::new(Plan::default()).run();
    let node = replica.node(1);
    let mut found = replica.found(1);
    Arc::make_mut(&mut found.networks).iter_mut().for_each(|network| device(network).remote.clear());
    node.updates.send_replace(found);
    let vtep = replica.node(2).host.address();
    node.sandbox.try_script(&format!("bridge fdb del {MAC2} dev vxlan0 dst {vtep} self")).unwrap();
    let report = node.audit(AuditMode::Repair);
    assert_eq!(rows(&report), [("fdb", "vxlan0 02:42:0a:00:01:06", Kind::Missing, Owner::External)], "{report:#?}");
    assert!(report.differences[0].finding.problem.contains("10.0.1.6"), "{report:#?}");
}
