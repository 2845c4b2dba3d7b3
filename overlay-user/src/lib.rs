//! overlay: an eBPF/XDP fast path for VXLAN container networks.
//!
//! Data flows one way: `sources` → `model` → `plan` → `apply` (BPF maps and programs, kernel objects) → packets. Counters and
//! events come back through `observe`. docs/architecture.md has the layers; a layer imports only those below it.

// What the tests alone reach is public for them.
#![cfg_attr(not(feature = "testing"), allow(unreachable_pub))]
// The documentation is for who changes the library, and is made with private items.
#![allow(rustdoc::private_intra_doc_links)]
#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "println! and eprintln! panic where the output cannot be written, and the fast path ends with the daemon; use tracing"
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
mod sources;
mod store;
mod sys;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;
