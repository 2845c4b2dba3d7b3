//! A short run of the soak test.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use std::time::Duration;

use overlay_tests::{
    lab::overlay_binary,
    soak::{Plan, soak},
};

#[test]
fn mixed_traffic_survives_churn_and_random_kills() {
    // Events differ in every run; a failure reports the seed.
    let plan = Plan { overlay: overlay_binary().unwrap(), duration: Duration::from_secs(20), seed: random() };
    let verdict = soak(&plan).unwrap();
    assert!(verdict.failures.is_empty(), "{}", verdict.text);
}

fn random() -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one(0)
}
