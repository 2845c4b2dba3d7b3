//! The same packets through the kernel's VXLAN device and through the programs, on real devices: the kernel is the
//! oracle.
//!
//! Needs root. Network namespaces are anonymous, and pins are in a mount namespace of the test's thread.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod arrivals;
mod checksums;
mod compare;
mod container;
mod controls;
mod frames;
mod offload;
mod pair;
mod probe;
mod receive;
mod receiver;
mod round_trip;
mod send;
mod sender;
mod sockets;
mod wire;

use overlay_tests::seed::Seed;
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// A runner of a property test. Failures are not stored in files: they become named tests. Every lost packet costs a
/// timeout, so shrinking is limited.
fn runner(cases: u32) -> TestRunner {
    let rng_seed = RngSeed::Fixed(Seed::start().number());
    TestRunner::new(Config { cases, max_shrink_iters: 40, failure_persistence: None, rng_seed, ..Config::default() })
}
