//! The data path of external networks: replicas of Docker nodes, whose bridge and VXLAN device are in a sandbox. The
//! tests supply the results of discovery.
//!
//! Packets, counters and the kernel's objects are checked, never log lines.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod audit;
mod changes;
mod down;
mod forwarding;
mod hooks;
mod lifecycle;
mod oracle;
mod replica;
