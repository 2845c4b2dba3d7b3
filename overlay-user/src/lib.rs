//! overlay: an eBPF/XDP fast path for VXLAN container networks.
//!
//! Data flows one way: control source → [`model`] → [`plan`] → tables (BPF maps in [`datapath`], kernel FDB in
//! [`host`]) → packets. Counters come back the other way through [`observe`].

pub mod api;
pub mod control;
pub mod daemon;
pub mod datapath;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod host;
pub mod model;
pub mod observe;
pub mod plan;
pub mod store;
