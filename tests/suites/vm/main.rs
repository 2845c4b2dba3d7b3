//! Tests for other kernels than the host's: `cargo xtask vm` runs them in a virtual machine.
//!
//! The machines can be emulated and slow, so there are few tests with much in each.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod selftests;
mod swarm;
mod underlays;

#[path = "../swarm/setup.rs"]
#[allow(dead_code, reason = "the suite `swarm` uses all of it")]
mod swarm_setup;
