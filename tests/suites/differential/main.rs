//! The kernel is the oracle: the same packets through its VXLAN device and through the programs, on real devices.
//!
//! Needs root. Everything is in anonymous namespaces, and pins are in a mount namespace of the test's thread.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod checksums;
mod frames;
mod receive;
mod receiver;
mod round_trip;
mod send;
mod sender;
