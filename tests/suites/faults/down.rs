//! `overlay down` with objects that it cannot remove: it reports them, removes everything else, and completes on a
//! later run.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use aya::programs::{SchedClassifier, TcAttachType};
use overlay_tests::testbed::Testbed;
use overlay_tests::{
    check::{interfaces, until},
    lab::{NIC, snapshot::tree},
};

use crate::setup::Faults;

/// Runs `overlay down` on node01, whose daemon has stopped; returns its standard error.
#[track_caller]
fn down(setup: &Testbed, code: i32) -> String {
    let Output { status, stderr, stdout } = setup.daemon(1).output(&["down"]).unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{stderr}");
    assert!(stdout.is_empty());
    stderr
}

#[track_caller]
fn assert_line(stderr: &str, parts: &[&str]) {
    let found = stderr.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(found, "no line with {parts:?} in:\n{stderr}");
}

/// A second run leaves nothing, and a third one exits with 3.
#[track_caller]
fn finish(setup: &Testbed) {
    down(setup, 0);
    assert_eq!(interfaces(setup.lab.host(1)), ["lo", NIC]);
    assert_eq!(interfaces(setup.first(1)), ["lo"]);
    wait_until_detached(setup);
    assert!(!setup.pin_root(1).exists());
    down(setup, 3);
}

/// Only the ownership record is left, and the programs are detached.
#[track_caller]
fn assert_only_the_record_is_left(setup: &Testbed) {
    wait_until_detached(setup);
    let left = tree(&setup.pin_root(1));
    assert!(left.contains("link:ovlbr4097") && !left.contains("OVL_") && !left.contains("layout:"), "{left}");
}

/// The kernel releases a link with a delay after its last pin is removed.
#[track_caller]
fn wait_until_detached(setup: &Testbed) {
    let programs = || setup.lab.host(1).enter(|| SchedClassifier::query_tcx(NIC, TcAttachType::Ingress)).unwrap().1;
    until("no program is on the NIC", || programs().is_empty());
}

fn mount(words: &[&str], path: &Path) {
    let status = Command::new(words[0]).args(&words[1..]).arg(path).status().unwrap();
    assert!(status.success(), "{words:?} {}", path.display());
}

/// Obstacles: a pin that cannot be removed, and a device with another alias.
#[test]
fn down_names_every_obstacle_and_removes_everything_else() {
    let mut setup = Testbed::two_hosts();
    setup.daemon_mut(1).sigterm().unwrap();
    let links = setup.pin_root(1).join("links");
    let name = fs::read_dir(&links).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let name = name.into_iter().find(|name| name.starts_with("nic-")).unwrap();
    let pin = links.join(&name);
    mount(&["mount", "--bind", "/dev/null"], &pin);
    setup.lab.host(1).run(&["ip", "link", "set", "ovlbr4097", "alias", "mine"]);

    let stderr = down(&setup, 1);
    assert_line(&stderr, &[pin.to_str().unwrap(), "busy", "; "]);
    assert_line(&stderr, &["ovlbr4097", "ip link delete ovlbr4097"]);
    assert_line(&stderr, &["overlay down"]);
    assert_eq!(interfaces(setup.lab.host(1)), ["lo", NIC, "ovlbr4097"], "{stderr}");
    assert_eq!(interfaces(setup.first(1)), ["lo"]);
    let left = tree(&setup.pin_root(1));
    let left: Vec<_> = left.lines().filter(|line| !line.contains("netns:") && !line.contains("record:")).collect();
    assert!(left.iter().any(|line| line.contains("link:ovlbr4097")), "the record stays: {left:#?}");
    assert!(
        !left.iter().any(|line| line.contains("OVL_") || line.contains("ovlvx") || line.contains("port-")),
        "{left:#?}"
    );

    // The result is the same until the obstacles are removed.
    let again = down(&setup, 1);
    assert_line(&again, &[pin.to_str().unwrap()]);
    assert_line(&again, &["ovlbr4097"]);
    mount(&["umount"], &pin);
    let stderr = down(&setup, 1);
    assert!(stderr.contains("ovlbr4097") && !stderr.contains(&name), "{stderr}");
    wait_until_detached(&setup);
    setup.lab.host(1).run(&["ip", "link", "delete", "ovlbr4097"]);
    finish(&setup);
}

/// Link changes fail: the programs are removed, the devices and their record stay.
#[test]
fn devices_that_cannot_be_removed_stay_recorded() {
    let (faults, mut setup) = Faults::setup(None);
    setup.daemon_mut(1).sigterm().unwrap();
    let before = interfaces(setup.lab.host(1));
    let veth = before.iter().find(|name| name.len() == 13).unwrap().clone();
    faults.inject("netlink");
    let stderr = down(&setup, 1);
    for device in ["ovlbr4097", "ovlvx4097", &veth] {
        assert_line(&stderr, &[device, "annot allocate memory"]);
    }
    assert_eq!(interfaces(setup.lab.host(1)), before);
    assert_only_the_record_is_left(&setup);
    faults.clear();
    finish(&setup);
}

/// Devices that cannot be listed may exist.
#[test]
fn devices_that_cannot_be_listed_stay_recorded() {
    let (faults, mut setup) = Faults::setup(None);
    setup.daemon_mut(1).sigterm().unwrap();
    faults.inject("dump");
    let stderr = down(&setup, 1);
    assert_line(&stderr, &["list", "annot allocate memory"]);
    assert_only_the_record_is_left(&setup);
    faults.clear();
    finish(&setup);
}

/// A read-only BPF filesystem keeps pins and programs; devices and entries are removed.
#[test]
fn down_on_read_only_bpffs_keeps_only_pins() {
    let mut setup = Testbed::two_hosts();
    setup.daemon_mut(1).sigterm().unwrap();
    let bpffs = setup.pin_root(1).parent().unwrap().to_owned();
    mount(&["mount", "-o", "remount,ro"], &bpffs);
    let stderr = down(&setup, 1);
    assert_line(&stderr, &[setup.pin_root(1).to_str().unwrap(), "Read-only file system"]);
    assert_eq!(interfaces(setup.lab.host(1)), ["lo", NIC], "{stderr}");
    mount(&["mount", "-o", "remount,rw"], &bpffs);
    finish(&setup);
}

/// A daemon reuses the objects that an incomplete `down` left.
#[test]
fn daemon_starts_after_incomplete_down() {
    let (faults, mut setup) = Faults::setup(None);
    setup.daemon_mut(1).sigterm().unwrap();
    faults.inject("netlink");
    down(&setup, 1);
    faults.clear();
    setup.daemon_mut(1).restart().unwrap();
    setup.wait_until_resolved().unwrap();
    setup.ping_both_ways();
}
