//! overlay: an eBPF/XDP fast path for VXLAN container networks.
//!
//! Data flows one way: control source → [`model`] → [`plan`] → tables (BPF maps in [`datapath`], kernel FDB in
//! [`host`]) → packets. Counters come back the other way through [`observe`].
//! [`audit`] says where the tables are not what the plan says.

#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "println! and eprintln! panic where the output cannot be written, and the fast path ends with the daemon; use tracing"
)]

pub mod api;
pub mod apply;
pub mod cli;
pub mod daemon;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod kernel;
pub mod model;
pub mod observe;
pub mod plan;
pub mod sources;
pub mod store;
pub mod sys;
