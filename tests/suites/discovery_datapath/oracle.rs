//! The oracle `overlay_tests::tables` for external networks: ports in sandboxes, shims and instances of the programs.

use overlay_common::maps;
use overlay_tests::tables::{Field, TABLES};
use overlay_user::testing::{apply::TcFlavour, model::Rx};

use super::replica::{Plan, Replica, Second};

/// Differences of node01.
fn differences(replica: &Replica) -> Vec<String> {
    replica.expected(1, &replica.cluster(1)).differences().unwrap()
}

/// Asserts that each of `expected` is the beginning of a difference of node01.
#[track_caller]
fn assert_named(replica: &Replica, what: &str, expected: &[String]) {
    let found = differences(replica);
    let is_named = |line: &String| found.iter().any(|found| found.starts_with(&format!("node01: {line}")));
    assert!(expected.iter().all(is_named), "{what}: {expected:#?}, found {found:#?}");
}

#[test]
fn oracle_agrees_with_external_networks_in_every_place() {
    let second = |second, rx| (Plan { second, rx, ..Plan::default() }, true);
    for (plan, two) in [
        (Plan { sandboxed: false, ..Plan::default() }, false),
        (Plan { flavour: Some(TcFlavour::Clsact), ..Plan::default() }, false),
        second(Second::Together, Rx::Tc),
        second(Second::Apart, Rx::Xdp),
    ] {
        let replica = if two { Replica::two_networks(plan) } else { Replica::new(plan) };
        replica.run().wait_until_converged();
    }
}

/// The fields that have other values in managed networks only.
#[test]
fn oracle_names_changed_fields_of_ports_in_sandbox() {
    let replica = Replica::new(Plan { rx: Rx::Xdp, ..Plan::default() }).run();
    replica.wait_until_converged();
    let pins = replica.node(1).pins();
    for (map, name) in [
        (maps::FDB, "netns_id"),
        (maps::FDB, "shim_or_ip"),
        (maps::FDB, "tx"),
        (maps::PORTS, "ip"),
        (maps::PEERS, "flags"),
    ] {
        let table = TABLES.into_iter().find(|table| table.map == map).unwrap();
        for (key, value) in table.read(pins).unwrap() {
            let Field { bytes, .. } = (table.value)(&value).into_iter().find(|field| field.name == name).unwrap();
            let mut changed = value.clone();
            changed[bytes.end - 1] ^= 1;
            // The daemon keeps its own copy of the maps.
            table.write(pins, &key, Some(&changed)).unwrap();
            let object = table.object(&key);
            assert_named(&replica, &object, &[format!("{object}: {name}: expected")]);
            table.write(pins, &key, Some(&value)).unwrap();
        }
    }
    assert_eq!(differences(&replica), [""; 0]);
}

/// The daemon receives no events of the sandbox.
#[test]
fn oracle_names_changed_objects_in_sandbox() {
    let mut replica = Replica::new(Plan::default()).run();
    replica.wait_until_converged();
    let sandbox = replica.node(1).sandbox.clone();
    for (change, field, restore) in [
        ("ip link set ovlsh4097 mtu 1500", "mtu", "ip link set ovlsh4097 mtu 65535"),
        ("ip link set ovlsh4097 arp on", "ARP", "ip link set ovlsh4097 arp off"),
        ("ip link set ovlsh4097 alias other", "missing", "ip link set ovlsh4097 alias 'overlay shim 4097'"),
        ("ip addr add 10.0.9.1/24 dev ovlsh4097", "addresses", "ip addr del 10.0.9.1/24 dev ovlsh4097"),
    ] {
        sandbox.run(&["sh", "-c", change]);
        assert_named(&replica, change, &[format!("device ovlsh4097 in sandbox: {field}")]);
        sandbox.run(&["sh", "-c", restore]);
    }
    let hooks = replica.node(1).hooks();
    replica.wait_until_converged();
    // A running daemon attaches its programs again.
    replica.nodes[0].end();
    for (prefix, device, program) in [("port-", "veth0", "ovl_port_in"), ("shimin-", "ovlsh4097", "ovl_shim_in")] {
        let link = hooks.iter().find(|name| name.starts_with(prefix)).unwrap();
        let pin = replica.node(1).pins().join("links").join(link);
        replica.node(1).host.run(&["bpftool", "link", "detach", "pinned", &pin.display().to_string()]);
        let hook = format!("hooks of {device} in sandbox: missing");
        assert_named(&replica, link, &[hook, format!("{program} at TCX ingress of {device} in sandbox: missing")]);
    }
}

#[test]
fn oracle_names_removed_clsact_filters_and_qdiscs() {
    let mut replica = Replica::new(Plan { flavour: Some(TcFlavour::Clsact), ..Plan::default() }).run();
    replica.wait_until_converged();
    // A running daemon adds its filters again.
    replica.nodes[0].end();
    let node = replica.node(1);
    node.sandbox.run(&["tc", "filter", "del", "dev", "veth0", "ingress"]);
    node.host.run(&["tc", "qdisc", "del", "dev", "enp0s3", "clsact"]);
    assert_named(
        &replica,
        "filters",
        &[
            "hooks of veth0 in sandbox: missing (clsact ingress ovl_port_in)".to_owned(),
            "hooks of enp0s3: missing (clsact ingress ovl_nic_in)".to_owned(),
            "qdisc of enp0s3: missing".to_owned(),
        ],
    );
}
