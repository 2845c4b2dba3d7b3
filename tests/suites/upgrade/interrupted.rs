//! Upgrades to another layout that SIGKILL interrupts, and their completion by either version.

use crate::setup::{Build, Upgrade};

/// Interrupts the upgrade at `point`, and starts `next`: traffic takes the fast path throughout.
fn interrupt_at(point: &str, next: Build) {
    let mut setup = Upgrade::start("tc");
    setup.change(|_, daemon| {
        daemon.sigterm().unwrap();
        daemon.replace_binary(&Build::Other.binary());
        daemon.restart_and_crash_at(point).unwrap();
        // Both versions have objects when the next daemon starts.
        std::thread::sleep(std::time::Duration::from_millis(100));
        daemon.replace_binary(&next.binary());
        daemon.restart().unwrap();
    });
    setup.assert_clean(next);
    let setup = setup.finish();
    let roots = [1, 2].map(|host| setup.pin_root(host));
    setup.down();
    assert!(roots.iter().all(|root| !root.exists()));
}

#[test]
fn old_version_takes_over_after_crash_with_loaded_maps() {
    interrupt_at("loaded", Build::This);
}

#[test]
fn new_version_takes_over_after_crash_with_filled_maps() {
    interrupt_at("filled", Build::Other);
}

#[test]
fn old_version_takes_over_after_crash_with_mixed_programs() {
    interrupt_at("attached:1", Build::This);
}

#[test]
fn new_version_takes_over_after_crash_with_mixed_programs() {
    interrupt_at("attached:1", Build::Other);
}

#[test]
fn old_version_takes_over_after_crash_with_replaced_programs() {
    interrupt_at("replaced", Build::This);
}

#[test]
fn old_version_takes_over_after_crash_before_first_rename() {
    interrupt_at("decided", Build::This);
}

#[test]
fn old_version_takes_over_after_crash_during_renames() {
    interrupt_at("renamed:4", Build::This);
}

#[test]
fn new_version_takes_over_after_crash_during_renames() {
    interrupt_at("renamed:11", Build::Other);
}

/// `overlay down` of either version after an interrupted upgrade.
#[test]
fn either_version_takes_down_interrupted_upgrade() {
    for (point, last) in [("attached:1", Build::This), ("renamed:4", Build::Other)] {
        let mut setup = Upgrade::start("tc").finish();
        for daemon in setup.daemons_mut() {
            daemon.sigterm().unwrap();
            daemon.replace_binary(&Build::Other.binary());
            daemon.restart_and_crash_at(point).unwrap();
            daemon.replace_binary(&last.binary());
        }
        let roots = [1, 2].map(|host| setup.pin_root(host));
        setup.down();
        assert!(roots.iter().all(|root| !root.exists()));
    }
}
