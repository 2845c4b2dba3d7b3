//! Makes and removes the kernel's own objects, and keeps the kernel's VXLAN path complete: every packet that the BPF
//! programs leave alone is carried by what this module made.
//!
//! | file | what it knows |
//! |---|---|
//! | `state` | [`Snapshot::state`](crate::kernel::Snapshot::state): what of ours exists |
//! | `conflicts` | what is in the way of ours |
//! | `apply` | [`Host::apply`](crate::kernel::Host::apply): carries the changes out; `bridge`, `vxlan`, `veth`, `entries`: one kind of object each |
//! | `shim` | the veth pairs that lead to external networks in other namespaces |

mod apply;
mod bridge;
mod conflicts;
mod entries;
mod error;
mod shim;
mod state;
mod veth;
mod vxlan;

pub(crate) use error::{ChangeErrors, FailedChange, HostError};
pub(crate) use shim::Shim;

#[cfg(test)]
pub(crate) mod tests;
