//! The BPF filesystem is unmounted under a running daemon.

use std::process::Command;

use overlay_tests::testbed::Testbed;
use overlay_tests::{
    check::interfaces,
    lab::{BPFFS, Lab, NIC, traffic::Ping},
};

use crate::setup::{Running, add_spares, ping_spares, spares_are_served};

/// Mounts a second BPF filesystem over the first, in the mount namespace of this test: the machine's is never exposed.
fn mount(setup: Testbed) -> Testbed {
    let done = Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]).status().unwrap();
    assert!(done.success());
    setup.run()
}

fn unmount() {
    let done = Command::new("umount").args(["--lazy", BPFFS]).status().unwrap();
    assert!(done.success());
}

/// Without the filesystem, nothing can be read or attached: the daemon reports it and exits, which detaches the
/// programs. The next daemon restores the data path.
#[test]
fn daemon_without_bpffs_exits_and_next_daemon_takes_over_devices() {
    let mut setup = mount(Testbed::with_spares());
    let running = Running::start(&setup);
    unmount();
    // The next daemon applies this change.
    add_spares(&mut setup);
    for host in [1, 2] {
        assert_eq!(setup.daemon(host).output(&["status"]).unwrap().status.code(), Some(3));
        assert_eq!(setup.daemon_mut(host).wait().unwrap().code(), Some(1));
    }
    let before = setup.vxlan(1);
    running.assert_continues();
    assert!(setup.vxlan(1) >= before + 100, "the kernel path handles all packets");
    for host in [1, 2] {
        setup.daemon_mut(host).restart().unwrap();
    }
    spares_are_served(&setup);
    setup.wait_until_resolved().unwrap();
    running.end_lossless(&setup);
    setup.by_fast_path(5, 5, || assert!(ping_spares(&setup, Ping::default()).all()));

    // The daemon owns the devices it took over, so `down` removes them.
    for host in [1, 2] {
        setup.daemon(host).overlay(&["down", "--json"]).unwrap();
        setup.daemon_mut(host).wait().unwrap();
        assert_eq!(interfaces(setup.lab.host(host)), ["lo", NIC]);
    }
}

#[test]
fn daemon_killed_without_bpffs_costs_no_packet() {
    let mut setup = mount(Testbed::new(Lab::two_hosts()));
    let running = Running::start(&setup);
    unmount();
    for host in [1, 2] {
        setup.daemon_mut(host).kill9().unwrap();
    }
    running.assert_continues();
    for host in [1, 2] {
        setup.daemon_mut(host).restart().unwrap();
    }
    setup.wait_until_resolved().unwrap();
    running.end_lossless(&setup);
}
