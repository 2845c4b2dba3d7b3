//! What needs another kernel than the machine's: `cargo xtask vm` runs this in a virtual machine.
//!
//! On 6.12, which has IPVS and ESP: service addresses, the ingress mesh and encrypted networks of a Docker Swarm. On
//! 6.1, which has no TCX: two hosts with the programs as filters of a clsact qdisc.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod plain;
