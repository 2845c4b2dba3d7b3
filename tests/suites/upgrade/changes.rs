//! Daemons that take over in good order.

use overlay_tests::check::until;

use crate::setup::{Build, Upgrade, programs};

/// A new daemon, and its programs at every hook.
#[track_caller]
fn replaced(setup: &mut Upgrade, end: impl Fn(&mut overlay_tests::lab::Daemon), build: Build) {
    setup.change(|daemon| {
        let before = programs(daemon);
        end(daemon);
        daemon.replace_binary(&build.binary());
        daemon.restart().unwrap();
        let after = programs(daemon);
        assert!(!after.is_empty() && after.len() == before.len(), "{before:?} {after:?}");
        for ((hook, old), (same, new)) in before.iter().zip(&after) {
            assert!(hook == same && old != new, "{hook} has the old program");
        }
    });
    setup.assert_clean(build);
}

fn sigterm(daemon: &mut overlay_tests::lab::Daemon) {
    assert!(daemon.sigterm().unwrap().success());
}

fn kill9(daemon: &mut overlay_tests::lab::Daemon) {
    daemon.kill9().unwrap();
}

#[test]
fn traffic_does_not_notice_a_restart_nor_a_kill() {
    let mut setup = Upgrade::start("tc");
    replaced(&mut setup, sigterm, Build::This);
    replaced(&mut setup, kill9, Build::This);
    setup.finish();
}

#[test]
fn traffic_does_not_notice_another_layout_and_the_way_back() {
    let mut setup = Upgrade::start("tc");
    replaced(&mut setup, sigterm, Build::Other);
    replaced(&mut setup, sigterm, Build::This);
    replaced(&mut setup, kill9, Build::Other);
    setup.finish();
}

#[test]
fn traffic_received_by_xdp_does_not_notice_another_layout_and_the_way_back() {
    let mut setup = Upgrade::start("xdp");
    replaced(&mut setup, sigterm, Build::Other);
    replaced(&mut setup, kill9, Build::This);
    setup.finish();
}

/// The table of MAC addresses is a map of another size then.
#[test]
fn traffic_does_not_notice_another_size_of_the_fdb() {
    let mut setup = Upgrade::start("tc");
    setup.configure(|cluster| cluster.fdb_size = Some(1000));
    replaced(&mut setup, kill9, Build::This);
    // And in a running daemon.
    let mut programs_before = [0, 1].map(|host| programs(&setup.daemons[host]));
    setup.configure(|cluster| cluster.fdb_size = Some(2000));
    for (host, before) in programs_before.iter_mut().enumerate() {
        until("the daemon has a table of another size", || programs(&setup.daemons[host]) != *before);
        until("the new table is in its place", || !setup.daemons[host].pin_root().join("next").exists());
    }
    setup.change(|_| {});
    setup.assert_clean(Build::This);
    setup.finish();
}
