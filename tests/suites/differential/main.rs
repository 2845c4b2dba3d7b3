//! The same packets through the kernel's VXLAN device and through the programs, on real devices: the kernel is the
//! oracle.
//!
//! Needs root. Network namespaces are anonymous, and pins are in a mount namespace of the test's thread.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod arrivals;
mod checksums;
mod controls;
mod frames;
mod receive;
mod receiver;
mod round_trip;
mod send;
mod sender;

use overlay_tests::seed::Seed;
use proptest::test_runner::{Config, RngSeed};

/// The configuration of a property test. Failures are not stored in files: they become named tests. Every lost packet
/// costs a timeout, so shrinking is limited.
fn property() -> Config {
    let rng_seed = RngSeed::Fixed(Seed::start().number());
    Config { cases: 20, max_shrink_iters: 40, failure_persistence: None, rng_seed, ..Config::default() }
}
