//! Pair proof on transmit (ADR 23): an entry is used after the kernel has sent a packet the same way, and until the proof
//! ends. Real packets between two hosts; node01 has the programs with the feature `proof`, its daemon is killed.
//!
//! Needs root. `cargo nextest run --profile full -p overlay-tests --features proof --test proof`
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod changes;
mod cost;
mod forged;
mod proven;
#[allow(dead_code, reason = "suite `discovery_datapath` uses the rest")]
#[path = "../discovery_datapath/replica.rs"]
mod replica;
mod sandbox;
mod setup;
