//! Two hosts, a daemon on each, containers' traffic between them: what goes by the fast path, what by the kernel, and
//! what happens when something changes.
//!
//! Packets and counters are checked, never log lines.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod audit;
mod changes;
mod clsact;
mod forwarding;
mod heartbeat;
mod kernel_peer;
mod lifecycle;
mod local;
mod overlap;
mod reports;
mod rewrite;
mod several_daemons;
mod underlay;
mod xdp;
