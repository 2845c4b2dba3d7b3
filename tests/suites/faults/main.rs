//! Faults: missing, full, refused, removed and conflicting objects. Each test ends with traffic on the fast path and
//! converged tables.
//!
//! Packets, counters and tables are checked, never log lines. `docs/failure.md` lists the faults with their effect on
//! traffic and their symptoms.
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
