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
fn traffic_over_maps_half_made_is_taken_over_by_the_old_version() {
    died_at("loaded", Build::This);
}

#[test]
fn traffic_over_maps_half_made_is_taken_over_by_the_new_version() {
    died_at("filled", Build::Other);
}

#[test]
fn traffic_by_programs_of_both_versions_is_taken_over_by_the_old_one() {
    died_at("attached:1", Build::This);
}

#[test]
fn traffic_by_programs_of_both_versions_is_taken_over_by_the_new_one() {
    died_at("attached:1", Build::Other);
}

#[test]
fn traffic_by_new_programs_over_maps_without_their_names_is_taken_over_by_the_old_version() {
    died_at("replaced", Build::This);
}

#[test]
fn traffic_by_new_programs_is_taken_over_by_the_old_version_before_the_first_name() {
    died_at("decided", Build::This);
}

#[test]
fn traffic_by_new_programs_is_taken_over_by_the_old_version_amid_the_names() {
    died_at("renamed:4", Build::This);
}

#[test]
fn traffic_by_new_programs_is_taken_over_by_the_new_version_amid_the_names() {
    died_at("renamed:11", Build::Other);
}

/// `overlay down` of the old version, after the new one died with programs of both attached.
#[test]
fn traffic_by_programs_of_both_versions_can_be_ended_by_either() {
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
