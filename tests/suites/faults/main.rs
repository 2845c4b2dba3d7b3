//! Faults: something is missing, full, refused, gone or in the way. Each test ends with traffic flowing and the tables true
//! again.
//!
//! Packets, counters and tables are checked, never log lines. `docs/failure.md` lists the faults by what traffic and operator
//! see of them.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod bpffs;
mod clock;
mod down;
mod hooks;
mod kernel_errors;
mod log;
mod missing;
mod netlink;
mod nic;
mod setup;
mod tables;
