//! Drop-in acceleration of a real Docker Swarm: two dockerds as two nodes, containers of one network on both, and
//! `overlay run --discover` beside them.
//!
//! Packets, counters and the kernel's tables are checked, never log lines.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod audit;
mod baseline;
mod forwarding;
mod lifecycle;
mod moves;
mod random;
mod setup;
