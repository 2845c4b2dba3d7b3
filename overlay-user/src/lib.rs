//! overlay: an eBPF/XDP fast path for VXLAN container networks.
//!
//! Data flows one way: `sources` → `model` → `plan` → `apply` (BPF maps and programs, kernel objects) → packets.
//! `observe` reads counters and events. docs/architecture.md describes the layers; a layer imports only those below it.

// Some items are public only for tests.
#![cfg_attr(not(feature = "testing"), allow(unreachable_pub))]
// The documentation is for developers of the library and includes private items.
#![allow(rustdoc::private_intra_doc_links)]
#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "println! and eprintln! panic if the output cannot be written, and the fast path ends with the daemon; use tracing"
)]

mod api;
mod apply;
pub mod cli;
mod daemon;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod fuzz;
mod kernel;
mod model;
mod observe;
mod plan;
#[cfg(test)]
#[allow(unreachable_pub, reason = "a module of overlay-tests")]
#[allow(dead_code, reason = "the suites of overlay-tests use the rest")]
#[path = "../../tests/src/seed.rs"]
mod seed;
mod sources;
mod store;
mod sys;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;
