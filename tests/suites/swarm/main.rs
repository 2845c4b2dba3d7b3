//! Acceleration of a real Docker Swarm: two nodes with a dockerd and `overlay run --discover` each, and containers of
//! one network on both; and managed networks beside Docker.
//!
//! Packets, counters and the kernel's tables are checked, never log lines.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod audit;
mod baseline;
mod forwarding;
mod lifecycle;
mod managed;
mod moves;
mod random;
mod recreate;
mod setup;
