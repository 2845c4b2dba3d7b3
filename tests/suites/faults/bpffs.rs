//! The BPF filesystem is taken away from under the daemon.

use std::process::Command;

use overlay_tests::{
    check::until,
    lab::{BPFFS, traffic::Ping},
};

use crate::{
    running::{Running, add_spares, ping_spares, spares_are_served, with_spares},
    setup::TwoHosts,
};

/// In the mount namespace of this test, which the daemons share.
fn mount(words: &[&str]) {
    let done = Command::new(words[0]).args(&words[1..]).status().unwrap();
    assert!(done.success(), "{words:?}");
}

fn nothing_is_loaded(setup: &TwoHosts, host: usize) -> bool {
    setup.daemon(host).output(&["status"]).unwrap().status.code() == Some(3)
}

/// The daemon holds the filesystem, so that its programs stay, and goes on; the pins cannot be reached any more.
#[test]
fn without_the_bpf_filesystem_traffic_goes_on_and_a_restart_mends_it() {
    let mut setup = with_spares().run();
    let running = Running::start(&setup);
    mount(&["umount", "--lazy", BPFFS]);
    for host in [1, 2] {
        assert!(nothing_is_loaded(&setup, host));
    }
    running.goes_on();

    // What comes meanwhile the kernel carries at least.
    add_spares(&mut setup);
    until("both spare containers have their interfaces", || {
        ["spare1", "spare2"].iter().zip([1, 2]).all(|(name, host)| {
            setup.lab.host(host).container(name).try_run(&["ip", "link", "show", "dev", "eth0"]).is_ok()
        })
    });
    running.goes_on();

    mount(&["mount", "-t", "bpf", "bpf", BPFFS]);
    for host in [1, 2] {
        setup.daemon_mut(host).sigterm().unwrap();
        setup.daemon_mut(host).restart().unwrap();
    }
    spares_are_served(&setup);
    setup.wait_until_resolved();
    running.end_lossless(&setup);
    setup.by_fast_path(5, 5, || assert!(ping_spares(&setup, Ping::default()).all()));
}

/// With the daemon goes the filesystem, and with that the programs: the kernel takes over at once.
#[test]
fn a_daemon_that_dies_without_the_bpf_filesystem_leaves_all_to_the_kernel() {
    let mut setup = TwoHosts::start();
    let running = Running::start(&setup);
    mount(&["umount", "--lazy", BPFFS]);
    for host in [1, 2] {
        setup.daemon_mut(host).kill9().unwrap();
    }
    running.goes_on();
    for host in [1, 2] {
        // It mounts the filesystem where it is missing.
        setup.daemon_mut(host).restart().unwrap();
    }
    setup.wait_until_resolved();
    running.end_lossless(&setup);
}
