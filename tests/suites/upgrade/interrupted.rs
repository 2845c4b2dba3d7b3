//! Daemons that die by SIGKILL while they take over another layout, and who finishes it.

use crate::setup::{Build, Upgrade};

/// Until one is there, packets take the fast path with the programs of both; then with those of `next`.
fn died_at(place: &str, next: Build) {
    let mut setup = Upgrade::start("tc");
    setup.change(|daemon| {
        daemon.sigterm().unwrap();
        daemon.replace_binary(&Build::Other.binary());
        daemon.restart_and_die_at(place).unwrap();
        // The one that comes next finds both.
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
    died_at("loaded", Build::This);
}

#[test]
fn new_version_takes_over_after_crash_with_filled_maps() {
    died_at("filled", Build::Other);
}

#[test]
fn old_version_takes_over_after_crash_with_mixed_programs() {
    died_at("attached:1", Build::This);
}

#[test]
fn new_version_takes_over_after_crash_with_mixed_programs() {
    died_at("attached:1", Build::Other);
}

#[test]
fn old_version_takes_over_after_crash_with_replaced_programs() {
    died_at("replaced", Build::This);
}

#[test]
fn old_version_takes_over_after_crash_before_first_rename() {
    died_at("decided", Build::This);
}

#[test]
fn old_version_takes_over_after_crash_during_renames() {
    died_at("renamed:4", Build::This);
}

#[test]
fn new_version_takes_over_after_crash_during_renames() {
    died_at("renamed:11", Build::Other);
}

/// `overlay down` of the old version, after the new one died with programs of both attached.
#[test]
fn either_version_takes_down_interrupted_upgrade() {
    for (place, last) in [("attached:1", Build::This), ("renamed:4", Build::Other)] {
        let mut setup = Upgrade::start("tc").finish();
        for daemon in setup.daemons_mut() {
            daemon.sigterm().unwrap();
            daemon.replace_binary(&Build::Other.binary());
            daemon.restart_and_die_at(place).unwrap();
            daemon.replace_binary(&last.binary());
        }
        let roots = [1, 2].map(|host| setup.pin_root(host));
        setup.down();
        assert!(roots.iter().all(|root| !root.exists()));
    }
}
