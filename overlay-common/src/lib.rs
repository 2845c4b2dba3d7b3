//! What the kernel side (`overlay-ebpf`) and the user side (`overlay-user`) of overlay agree on.
//!
//! Map keys and values, map and program names, the outer VXLAN header, ECN rules and the list of
//! verdict reasons. No I/O: everything here runs, and is tested, on the host.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod ecn;
pub mod encap;
pub mod event;
pub mod flow;
pub mod maps;
pub mod names;
pub mod outer;
pub mod reason;
pub mod wire;

pub use event::{Event, Hook};
pub use reason::{Reason, Verdict};
pub use wire::{MacAddr, Vni, VniError, VtepAddr};
