//! Two hosts, a daemon on each, containers' traffic between them: what goes by the fast path, what by the kernel, and
//! what happens when something changes.
//!
//! Packets and counters are checked, never log lines.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod audit;
mod carried;
mod changes;
mod clsact;
mod heartbeat;
mod kernel_peer;
mod lifecycle;
mod local;
mod overlap;
mod refusals;
mod reports;
mod rewrite;
mod underlay;
mod xdp;
