//! A short run of the soak test, and its negative controls.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use overlay_tests::{
    lab::{Fault, overlay_binary},
    seed::Seed,
    soak::{Budget, Plan, controls, soak},
};

#[test]
fn mixed_traffic_survives_churn_and_random_kills() {
    let seed = Seed::start();
    let plan = Plan { overlay: overlay_binary().unwrap(), budget: Budget::Events(10), seed: seed.number() };
    let verdict = soak(&plan).unwrap();
    assert!(verdict.failures.is_empty(), "repeat with {seed}:\n{}", verdict.text);
}

#[test]
fn soak_detects_each_fault_of_one_datagram() {
    let expected: [(Option<Fault>, &[&str]); 6] = [
        (None, &[]),
        (Some(Fault::Loss), &["echoed datagrams: 1 lost"]),
        (Some(Fault::Reordering), &["echoed datagrams: 1 reordered"]),
        (Some(Fault::Duplication), &["echoed datagrams: duplicates: 1"]),
        // The number of a corrupt datagram is not received.
        (Some(Fault::Corruption), &["echoed datagrams: 1 lost", "echoed datagrams: wrong contents: 1"]),
        // The kernel drops the datagram.
        (Some(Fault::InvalidChecksum), &["echoed datagrams: 1 lost"]),
    ];
    let verdicts = controls(&overlay_binary().unwrap(), &expected.map(|(fault, _)| fault)).unwrap();
    for ((fault, expected), failures) in expected.iter().zip(verdicts) {
        assert_eq!(failures, *expected, "{fault:?}");
    }
}
