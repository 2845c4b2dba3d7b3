//! Definitions shared by the eBPF programs (`overlay-ebpf`) and the user-space part (`overlay-user`) of overlay.
//!
//! Map keys and values, map and program names, the outer VXLAN header, ECN rules and the list of verdict reasons. The
//! crate does no I/O and is tested on the host.
#![cfg_attr(not(test), no_std)]

pub mod ecn;
pub mod encap;
pub mod event;
pub mod flow;
pub mod maps;
pub mod names;
pub mod outer;
#[cfg(feature = "proof")]
pub mod proof;
pub mod reason;
#[cfg(test)]
#[allow(unreachable_pub, reason = "a module of overlay-tests")]
#[allow(dead_code, reason = "the suites of overlay-tests use the rest")]
#[path = "../../tests/src/seed.rs"]
mod seed;
pub mod wire;

pub use event::{Event, Hook};
pub use reason::{Reason, Verdict};
pub use wire::{MacAddr, Vni, VniError, VtepAddr};
