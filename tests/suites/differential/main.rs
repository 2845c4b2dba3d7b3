//! The same packets through the kernel's VXLAN device and through the programs, on real devices: the kernel is the
//! oracle.
//!
//! Needs root. Network namespaces are anonymous, and pins are in a mount namespace of the test's thread.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod checksums;
mod frames;
mod receive;
mod receiver;
mod round_trip;
mod send;
mod sender;
