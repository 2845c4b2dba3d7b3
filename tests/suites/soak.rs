//! A short run of the soak test.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use overlay_tests::{
    lab::overlay_binary,
    seed::Seed,
    soak::{Budget, Plan, soak},
};

#[test]
fn mixed_traffic_survives_churn_and_random_kills() {
    let seed = Seed::start();
    let plan = Plan { overlay: overlay_binary().unwrap(), budget: Budget::Events(10), seed: seed.number() };
    let verdict = soak(&plan).unwrap();
    assert!(verdict.failures.is_empty(), "repeat with {seed}:\n{}", verdict.text);
}
