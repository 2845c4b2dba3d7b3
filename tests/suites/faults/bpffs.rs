//! The BPF filesystem is taken away from under the daemon.

use std::process::Command;

use overlay_tests::world::World;
use overlay_tests::{
    check::interfaces,
    lab::{BPFFS, Lab, NIC, traffic::Ping},
};

use crate::setup::{Running, add_spares, ping_spares, spares_are_served};

/// Two filesystems, one over the other, in the mount namespace of this test: below the one that goes is not the machine's.
fn mount(setup: World) -> World {
    let done = Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]).status().unwrap();
    assert!(done.success());
    setup.run()
}

fn unmount() {
    let done = Command::new("umount").args(["--lazy", BPFFS]).status().unwrap();
    assert!(done.success());
}

/// Nobody could look at what is loaded, and nothing new could be attached: the daemon says so and ends, and with it go
/// filesystem and programs. Whoever starts it again gets everything back.
#[test]
fn daemon_without_bpffs_exits_and_next_daemon_takes_over_devices() {
    let mut setup = mount(World::with_spares());
    let running = Running::start(&setup);
    unmount();
    // What is told meanwhile waits for the successor.
    add_spares(&mut setup);
    for host in [1, 2] {
        assert_eq!(setup.daemon(host).output(&["status"]).unwrap().status.code(), Some(3));
        assert_eq!(setup.daemon_mut(host).wait().unwrap().code(), Some(1));
    }
    let before = setup.vxlan(1);
    running.goes_on();
    assert!(setup.vxlan(1) >= before + 100, "the kernel carries all");
    for host in [1, 2] {
        setup.daemon_mut(host).restart().unwrap();
    }
    spares_are_served(&setup);
    setup.wait_until_resolved().unwrap();
    running.end_lossless(&setup);
    setup.by_fast_path(5, 5, || assert!(ping_spares(&setup, Ping::default()).all()));

    // They are its own now: it takes all of them back.
    for host in [1, 2] {
        setup.daemon(host).overlay(&["down", "--json"]).unwrap();
        setup.daemon_mut(host).wait().unwrap();
        assert_eq!(interfaces(setup.lab.host(host)), ["lo", NIC]);
    }
}

#[test]
fn daemon_killed_without_bpffs_costs_no_packet() {
    let mut setup = mount(World::new(Lab::two_hosts()));
    let running = Running::start(&setup);
    unmount();
    for host in [1, 2] {
        setup.daemon_mut(host).kill9().unwrap();
    }
    running.goes_on();
    for host in [1, 2] {
        setup.daemon_mut(host).restart().unwrap();
    }
    setup.wait_until_resolved().unwrap();
    running.end_lossless(&setup);
}
