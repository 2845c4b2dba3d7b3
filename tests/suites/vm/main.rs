//! What needs another kernel than the machine's: `cargo xtask vm` runs this in a virtual machine.
//!
//! On 6.12, which has IPVS and ESP: service addresses, the ingress mesh and encrypted networks of a Docker Swarm. On
//! 6.1, which has no TCX: two hosts with the programs as filters of a clsact qdisc.
//!
//! Everything is emulated and slow: one test for each kernel, which sets up once.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod swarm;
mod two_hosts;

#[path = "../swarm/setup.rs"]
#[allow(dead_code, reason = "the suite that it is from needs more of it")]
mod swarm_setup;
