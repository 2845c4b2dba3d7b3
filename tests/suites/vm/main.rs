//! Tests for other kernels than the host's: `cargo xtask vm` runs them in a virtual machine.
//!
//! On 6.12 with IPVS and ESP: service addresses, the ingress mesh and encrypted networks of a Docker Swarm. On 6.1,
//! which has no TCX: two hosts with the programs as filters of a clsact qdisc.
//!
//! The machine is emulated and slow, so each kernel has one test with one setup.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod swarm;
mod two_hosts;

#[path = "../swarm/setup.rs"]
#[allow(dead_code, reason = "the suite `swarm` uses all of it")]
mod swarm_setup;
