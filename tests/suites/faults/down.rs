//! `overlay down` meets something that it cannot remove: it says so, removes all else, and finishes when it is run again.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use aya::programs::{SchedClassifier, TcAttachType};
use overlay_tests::world::World;
use overlay_tests::{
    check::{interfaces, until},
    lab::{NIC, snapshot::tree},
};

use crate::setup::Refusals;

/// Runs `overlay down` on node01, whose daemon has ended; what it says on standard error.
#[track_caller]
fn down(setup: &World, code: i32) -> String {
    let Output { status, stderr, stdout } = setup.daemon(1).output(&["down"]).unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{stderr}");
    assert!(stdout.is_empty());
    stderr
}

#[track_caller]
fn assert_line(said: &str, parts: &[&str]) {
    let found = said.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(found, "no line with {parts:?} in:\n{said}");
}

/// A second run leaves nothing, and a third finds nothing.
#[track_caller]
fn finish(setup: &World) {
    down(setup, 0);
    assert_eq!(interfaces(setup.lab.host(1)), ["lo", NIC]);
    assert_eq!(interfaces(setup.first(1)), ["lo"]);
    wait_until_detached(setup);
    assert!(!setup.pin_root(1).exists());
    down(setup, 3);
}

/// Of what was pinned, with the programs detached.
#[track_caller]
fn assert_only_the_record_is_left(setup: &World) {
    wait_until_detached(setup);
    let left = tree(&setup.pin_root(1));
    assert!(left.contains("link:ovlbr4097") && !left.contains("OVL_") && !left.contains("layout:"), "{left}");
}

/// The kernel releases a link some time after its last pin is gone.
#[track_caller]
fn wait_until_detached(setup: &World) {
    let programs = || setup.lab.host(1).enter(|| SchedClassifier::query_tcx(NIC, TcAttachType::Ingress)).unwrap().1;
    until("no program is on the NIC", || programs().is_empty());
}

fn mount(words: &[&str], path: &Path) {
    let status = Command::new(words[0]).args(&words[1..]).arg(path).status().unwrap();
    assert!(status.success(), "{words:?} {}", path.display());
}

/// A pin that cannot be removed, and a device whose alias was changed.
#[test]
fn down_names_every_obstacle_and_removes_everything_else() {
    let mut setup = World::two_hosts();
    setup.daemon_mut(1).sigterm().unwrap();
    let links = setup.pin_root(1).join("links");
    let name = fs::read_dir(&links).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let name = name.into_iter().find(|name| name.starts_with("nic-")).unwrap();
    let pin = links.join(&name);
    mount(&["mount", "--bind", "/dev/null"], &pin);
    setup.lab.host(1).run(&["ip", "link", "set", "ovlbr4097", "alias", "mine"]);

    let said = down(&setup, 1);
    assert_line(&said, &[pin.to_str().unwrap(), "busy", "; "]);
    assert_line(&said, &["ovlbr4097", "ip link delete ovlbr4097"]);
    assert_line(&said, &["overlay down"]);
    assert_eq!(interfaces(setup.lab.host(1)), ["lo", NIC, "ovlbr4097"], "{said}");
    assert_eq!(interfaces(setup.first(1)), ["lo"]);
    let left = tree(&setup.pin_root(1));
    let left: Vec<_> = left.lines().filter(|line| !line.contains("netns:") && !line.contains("record:")).collect();
    assert!(left.iter().any(|line| line.contains("link:ovlbr4097")), "the record stays: {left:#?}");
    assert!(
        !left.iter().any(|line| line.contains("OVL_") || line.contains("ovlvx") || line.contains("port-")),
        "{left:#?}"
    );

    // The same again, until the obstacles are gone.
    let again = down(&setup, 1);
    assert_line(&again, &[pin.to_str().unwrap()]);
    assert_line(&again, &["ovlbr4097"]);
    mount(&["umount"], &pin);
    let said = down(&setup, 1);
    assert!(said.contains("ovlbr4097") && !said.contains(&name), "{said}");
    wait_until_detached(&setup);
    setup.lab.host(1).run(&["ip", "link", "delete", "ovlbr4097"]);
    finish(&setup);
}

/// Every change of a link is refused: the programs go, the devices stay, and the record with them.
#[test]
fn devices_that_cannot_be_removed_stay_recorded() {
    let (refusals, mut setup) = Refusals::setup(None);
    setup.daemon_mut(1).sigterm().unwrap();
    let before = interfaces(setup.lab.host(1));
    let veth = before.iter().find(|name| name.len() == 13).unwrap().clone();
    refusals.refuse("netlink");
    let said = down(&setup, 1);
    for device in ["ovlbr4097", "ovlvx4097", &veth] {
        assert_line(&said, &[device, "annot allocate memory"]);
    }
    assert_eq!(interfaces(setup.lab.host(1)), before);
    assert_only_the_record_is_left(&setup);
    refusals.end();
    finish(&setup);
}

/// What cannot be looked at may be there.
#[test]
fn devices_that_cannot_be_listed_stay_recorded() {
    let (refusals, mut setup) = Refusals::setup(None);
    setup.daemon_mut(1).sigterm().unwrap();
    refusals.refuse("dump");
    let said = down(&setup, 1);
    assert_line(&said, &["list", "annot allocate memory"]);
    assert_only_the_record_is_left(&setup);
    refusals.end();
    finish(&setup);
}

/// A BPF filesystem that became read-only keeps its pins and the programs; links and entries go.
#[test]
fn down_on_read_only_bpffs_keeps_only_pins() {
    let mut setup = World::two_hosts();
    setup.daemon_mut(1).sigterm().unwrap();
    let bpffs = setup.pin_root(1).parent().unwrap().to_owned();
    mount(&["mount", "-o", "remount,ro"], &bpffs);
    let said = down(&setup, 1);
    assert_line(&said, &[setup.pin_root(1).to_str().unwrap(), "Read-only file system"]);
    assert_eq!(interfaces(setup.lab.host(1)), ["lo", NIC], "{said}");
    mount(&["mount", "-o", "remount,rw"], &bpffs);
    finish(&setup);
}

/// A daemon finds what was left and goes on with it.
#[test]
fn daemon_starts_after_incomplete_down() {
    let (refusals, mut setup) = Refusals::setup(None);
    setup.daemon_mut(1).sigterm().unwrap();
    refusals.refuse("netlink");
    down(&setup, 1);
    refusals.end();
    setup.daemon_mut(1).restart().unwrap();
    setup.wait_until_resolved().unwrap();
    setup.ping_both_ways();
}
