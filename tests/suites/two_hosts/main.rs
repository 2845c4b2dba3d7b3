//! Two hosts with a daemon each, and traffic between their containers: fast path, kernel path, and changes under load.
//!
//! Packets and counters are checked, never log lines.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod audit;
mod changes;
mod clsact;
mod container_xdp;
mod cpus;
mod device_state;
mod firewall;
mod flows;
mod forwarding;
mod heartbeat;
mod hooks;
mod kernel_peer;
mod learning;
mod lifecycle;
mod local;
mod marks;
mod oracle;
mod outer_rules;
mod overlap;
mod reports;
mod rewrite;
mod routes;
mod several_daemons;
mod underlay;
mod xdp;
