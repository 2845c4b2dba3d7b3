//! System calls of the daemon fail, for instance without memory: packets take the kernel path, `status` reports the
//! error, and the daemon retries.

use std::{ffi::OsStr, time::Duration};

use overlay_tests::{
    check::{interfaces, until},
    lab::{NIC, overlay_binary, traffic::Ping},
};
use serde_json::Value;

use crate::setup::{
    Faults, Running, add_spares, ping_spares, remove_spares, spares_are_served, status, wait_for_no_problem,
    wait_for_problem,
};

/// Adds the spare containers while `point` fails: they use the kernel path, and `problem` is reported.
fn retries(point: &str, problem: &str) {
    let (faults, mut setup) = Faults::setup(None);
    let running = Running::start(&setup);
    faults.inject(point);
    add_spares(&mut setup);
    wait_for_problem(&setup, 1, problem);
    wait_for_problem(&setup, 2, problem);
    spares_are_served(&setup);
    let before = setup.counts(1);
    assert!(ping_spares(&setup, Ping::default()).all());
    let counts = setup.counts(1).since(&before);
    assert!(counts.vxlan >= 5, "{counts:?}");
    running.assert_continues();

    faults.clear();
    wait_for_no_problem(&setup);
    running.end_lossless(&setup);
    setup.by_fast_path(5, 5, || assert!(ping_spares(&setup, Ping::default()).all()));
}

#[test]
fn fdb_entry_is_retried_after_error() {
    retries("map:OVL_FDB", "into the map OVL_FDB");
}

#[test]
fn port_entry_is_retried_after_error() {
    retries("map:OVL_PORTS", "into the map OVL_PORTS");
}

#[test]
fn program_attachment_is_retried_after_error() {
    retries("attach:ovl_port_in", "cannot attach ovl_port_in");
}

/// The deadline expires if a stale entry cannot be removed.
#[test]
fn entry_that_cannot_be_removed_lets_deadline_expire() {
    let (faults, mut setup) = Faults::setup(Some(3));
    let running = Running::start(&setup);
    add_spares(&mut setup);
    spares_are_served(&setup);
    setup.wait_until_converged();

    faults.inject("map:OVL_FDB");
    remove_spares(&mut setup);
    for host in [1, 2] {
        wait_for_problem(&setup, host, "into the map OVL_FDB");
        until("the deadline has expired", || status(&setup, host)["heartbeat"]["expired"] == true);
    }
    let before = setup.counts(1);
    running.assert_continues();
    let counts = setup.counts(1).since(&before);
    assert!(counts.of("stale") >= 100 && counts.of("encap") == 0, "{counts:?}");

    faults.clear();
    until("the deadline is extended", || {
        [1, 2].map(|host| status(&setup, host)["heartbeat"]["expired"] == false) == [true; 2]
    });
    running.end_lossless(&setup);
}

/// The deadline expires if its own map cannot be written.
#[test]
fn deadline_that_cannot_be_extended_expires() {
    let (faults, setup) = Faults::setup(Some(3));
    let running = Running::start(&setup);
    faults.inject("map:OVL_HEARTBEAT");
    until("the deadline has expired", || status(&setup, 1)["heartbeat"]["expired"] == true);
    running.assert_continues();
    faults.clear();
    until("the deadline is extended", || status(&setup, 1)["heartbeat"]["expired"] == false);
    until("the deadline is extended on the other host", || status(&setup, 2)["heartbeat"]["expired"] == false);
    running.end_lossless(&setup);
}

/// The deadline expires if a stale next hop cannot be replaced.
#[test]
fn next_hop_that_cannot_be_written_lets_deadline_expire() {
    let (faults, setup) = Faults::setup(Some(3));
    let running = Running::start(&setup);
    faults.inject("map:OVL_VTEPS");
    setup.lab.host(2).run(&["ip", "link", "set", NIC, "address", "02:00:00:00:00:22"]);
    wait_for_problem(&setup, 1, "into the map OVL_VTEPS");
    until("the deadline has expired", || status(&setup, 1)["heartbeat"]["expired"] == true);
    // The kernel path uses the new next hop.
    running.assert_continues();
    faults.clear();
    running.end_after_losses(&setup);
}

#[test]
fn kernel_table_change_is_retried_after_error() {
    let (faults, setup) = Faults::setup(None);
    let running = Running::start(&setup);
    faults.inject("netlink");
    // Any change of a link makes the daemon compare the tables.
    let host = setup.lab.host(1);
    host.run(&["ip", "neigh", "del", "10.0.1.6", "dev", "ovlbr4097"]);
    host.run(&["ip", "link", "set", "lo", "mtu", "65535"]);
    wait_for_problem(&setup, 1, "10.0.1.6");
    running.assert_continues();
    faults.clear();
    wait_for_no_problem(&setup);
    running.end_lossless(&setup);
}

#[test]
fn entries_are_not_used_while_kernel_tables_are_unreadable() {
    let (faults, setup) = Faults::setup(None);
    let running = Running::start(&setup);
    faults.inject("dump");
    let host = setup.lab.host(1);
    host.run(&["ip", "neigh", "del", "10.0.1.6", "dev", "ovlbr4097"]);
    host.run(&["ip", "link", "set", "lo", "mtu", "65535"]);
    let overlay = overlay_binary().unwrap();
    let pins = setup.pin_root(1);
    // Without the daemon's environment, which has the fault.
    let counters = ["counters", "--json", "--pin-root"].map(OsStr::new);
    let words = [&[overlay.as_os_str()][..], &counters, &[pins.as_os_str()]].concat();
    let count = || {
        let report: Value = serde_json::from_str(&host.run(&words)).unwrap();
        let reasons = report["reasons"].as_array().unwrap();
        let of = |name: &str| {
            reasons.iter().find(|row| row["reason"] == name).map_or(0, |row| row["packets"].as_u64().unwrap())
        };
        [of("encap"), of("decap")]
    };
    let by_fast_path = || {
        let before = count();
        running.assert_continues();
        let now = count();
        [now[0] - before[0], now[1] - before[1]]
    };
    until("packets take the kernel path in both directions", || by_fast_path() == [0, 0]);
    assert_eq!(by_fast_path(), [0, 0], "until the tables are readable");
    faults.clear();
    wait_for_no_problem(&setup);
    until("packets take the fast path again", || by_fast_path().iter().all(|count| *count >= 50));
    until("the neighbour is restored", || host.run(&["ip", "neigh", "show", "dev", "ovlbr4097"]).contains("10.0.1.6 "));
    running.end_lossless(&setup);
}

#[test]
fn failed_first_start_leaves_nothing_and_later_start_succeeds() {
    let (faults, mut setup) = Faults::setup(None);
    for point in ["load", "netlink", "map:OVL_NETWORKS", "attach:ovl_nic_in"] {
        setup.daemon(1).overlay(&["down", "--json"]).unwrap();
        setup.daemon_mut(1).wait().unwrap();
        let before = interfaces(setup.lab.host(1));
        faults.inject(point);
        let error = setup.daemon_mut(1).restart().unwrap_err();
        assert!(format!("{error:#}").contains("annot allocate memory"), "{point}: {error:#}");
        assert_eq!(interfaces(setup.lab.host(1)), before, "{point}");
        assert!(!setup.pin_root(1).exists(), "{point}");
        faults.clear();
        setup.daemon_mut(1).restart().unwrap();
    }
    setup.wait_until_converged();
    setup.wait_until_resolved().unwrap();
    setup.ping_both_ways();
}

#[test]
fn failed_restart_leaves_old_data_path_forwarding() {
    let (faults, mut setup) = Faults::setup(None);
    let running = Running::start(&setup);
    setup.daemon_mut(1).kill9().unwrap();
    faults.inject("load");
    let error = setup.daemon_mut(1).restart().unwrap_err();
    assert!(format!("{error:#}").contains("cannot load the program"), "{error:#}");
    setup.by_fast_path(200, 200, || std::thread::sleep(Duration::from_secs(1)));
    faults.clear();
    setup.daemon_mut(1).restart().unwrap();
    running.end_lossless(&setup);
}
