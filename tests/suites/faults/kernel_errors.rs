//! The kernel refuses what the daemon asks for, as when memory runs out: the kernel's path carries the packets, `status`
//! says so, and it is tried again.

use std::time::Duration;

use overlay_tests::{
    check::{interfaces, until},
    lab::{NIC, traffic::Ping},
};

use crate::setup::{
    Refusals, Running, add_spares, ping_spares, remove_spares, spares_are_served, status, wait_for_no_problem,
    wait_for_problem, wait_until_true,
};

/// While `place` is refused the spare containers come; they are served, and `said` is what is wrong.
fn refused(place: &str, said: &str) {
    let (refusals, mut setup) = Refusals::setup(None);
    let running = Running::start(&setup);
    refusals.refuse(place);
    add_spares(&mut setup);
    wait_for_problem(&setup, 1, said);
    wait_for_problem(&setup, 2, said);
    spares_are_served(&setup);
    let before = setup.counts(1);
    assert!(ping_spares(&setup, Ping::default()).all());
    let counts = setup.counts(1).since(&before);
    assert!(counts.vxlan >= 5, "{counts:?}");
    running.goes_on();

    refusals.end();
    wait_for_no_problem(&setup);
    running.end_lossless(&setup);
    setup.by_fast_path(5, 5, || assert!(ping_spares(&setup, Ping::default()).all()));
}

#[test]
fn fdb_entry_is_retried_after_error() {
    refused("map:OVL_FDB", "into the map OVL_FDB");
}

#[test]
fn port_entry_is_retried_after_error() {
    refused("map:OVL_PORTS", "into the map OVL_PORTS");
}

#[test]
fn program_attachment_is_retried_after_error() {
    refused("attach:ovl_port_in", "cannot attach ovl_port_in");
}

/// What the fast path must not go on believing is what the deadline is for.
#[test]
fn entry_that_cannot_be_removed_lets_deadline_expire() {
    let (refusals, mut setup) = Refusals::setup(Some(3));
    let running = Running::start(&setup);
    add_spares(&mut setup);
    spares_are_served(&setup);
    wait_until_true(&setup);

    refusals.refuse("map:OVL_FDB");
    remove_spares(&mut setup);
    for host in [1, 2] {
        wait_for_problem(&setup, host, "into the map OVL_FDB");
        until("the deadline is over", || status(&setup, host)["heartbeat"]["expired"] == true);
    }
    let before = setup.counts(1);
    running.goes_on();
    let counts = setup.counts(1).since(&before);
    assert!(counts.of("stale") >= 100 && counts.of("encap") == 0, "{counts:?}");

    refusals.end();
    until("the deadline is extended", || {
        [1, 2].map(|host| status(&setup, host)["heartbeat"]["expired"] == false) == [true; 2]
    });
    running.end_lossless(&setup);
}

/// The deadline's own map.
#[test]
fn deadline_that_cannot_be_extended_expires() {
    let (refusals, setup) = Refusals::setup(Some(3));
    let running = Running::start(&setup);
    refusals.refuse("map:OVL_HEARTBEAT");
    until("the deadline is over", || status(&setup, 1)["heartbeat"]["expired"] == true);
    running.goes_on();
    refusals.end();
    until("the deadline is extended", || status(&setup, 1)["heartbeat"]["expired"] == false);
    until("and on the other host", || status(&setup, 2)["heartbeat"]["expired"] == false);
    running.end_lossless(&setup);
}

/// A next hop that is new must not be taken for the old one's.
#[test]
fn next_hop_that_cannot_be_written_lets_deadline_expire() {
    let (refusals, setup) = Refusals::setup(Some(3));
    let running = Running::start(&setup);
    refusals.refuse("map:OVL_VTEPS");
    setup.lab.host(2).run(&["ip", "link", "set", NIC, "address", "02:00:00:00:00:22"]);
    wait_for_problem(&setup, 1, "into the map OVL_VTEPS");
    until("the deadline is over", || status(&setup, 1)["heartbeat"]["expired"] == true);
    // The kernel knows the way.
    running.goes_on();
    refusals.end();
    running.end_after_losses(&setup);
}

#[test]
fn kernel_table_change_is_retried_after_error() {
    let (refusals, setup) = Refusals::setup(None);
    let running = Running::start(&setup);
    refusals.refuse("netlink");
    // Somebody takes away what the daemon has made; any change of a link makes it look.
    let host = setup.lab.host(1);
    host.run(&["ip", "neigh", "del", "10.0.1.6", "dev", "ovlbr4097"]);
    host.run(&["ip", "link", "set", "lo", "mtu", "65535"]);
    wait_for_problem(&setup, 1, "10.0.1.6");
    running.goes_on();
    refusals.end();
    wait_for_no_problem(&setup);
    running.end_lossless(&setup);
}

#[test]
fn unreadable_kernel_tables_are_compared_once_readable() {
    let (refusals, setup) = Refusals::setup(None);
    let running = Running::start(&setup);
    refusals.refuse("dump");
    let host = setup.lab.host(1);
    host.run(&["ip", "neigh", "del", "10.0.1.6", "dev", "ovlbr4097"]);
    host.run(&["ip", "link", "set", "lo", "mtu", "65535"]);
    // `status` cannot list links either.
    until("the daemon has tried", || setup.daemon(1).log().contains("annot allocate memory"));
    running.goes_on();
    refusals.end();
    wait_for_no_problem(&setup);
    until("the neighbour is back", || host.run(&["ip", "neigh", "show", "dev", "ovlbr4097"]).contains("10.0.1.6 "));
    running.end_lossless(&setup);
}

#[test]
fn failed_first_start_leaves_nothing_and_later_start_succeeds() {
    let (refusals, mut setup) = Refusals::setup(None);
    for place in ["load", "netlink", "map:OVL_NETWORKS", "attach:ovl_nic_in"] {
        setup.daemon(1).overlay(&["down", "--json"]).unwrap();
        setup.daemon_mut(1).wait().unwrap();
        let before = interfaces(setup.lab.host(1));
        refusals.refuse(place);
        let error = setup.daemon_mut(1).restart().unwrap_err();
        assert!(format!("{error:#}").contains("annot allocate memory"), "{place}: {error:#}");
        assert_eq!(interfaces(setup.lab.host(1)), before, "{place}");
        assert!(!setup.pin_root(1).exists(), "{place}");
        refusals.end();
        setup.daemon_mut(1).restart().unwrap();
    }
    wait_until_true(&setup);
    setup.wait_until_resolved().unwrap();
    setup.ping_both_ways();
}

#[test]
fn failed_restart_leaves_old_data_path_forwarding() {
    let (refusals, mut setup) = Refusals::setup(None);
    let running = Running::start(&setup);
    setup.daemon_mut(1).kill9().unwrap();
    refusals.refuse("load");
    let error = setup.daemon_mut(1).restart().unwrap_err();
    assert!(format!("{error:#}").contains("cannot load the program"), "{error:#}");
    setup.by_fast_path(200, 200, || std::thread::sleep(Duration::from_secs(1)));
    refusals.end();
    setup.daemon_mut(1).restart().unwrap();
    running.end_lossless(&setup);
}
