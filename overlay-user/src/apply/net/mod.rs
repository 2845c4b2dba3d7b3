//! Creates and removes kernel network objects. They form a complete kernel path for every packet that the BPF programs
//! pass to the kernel.
//!
//! | file | contents |
//! |---|---|
//! | `state` | [`Snapshot::state`](crate::kernel::Snapshot::state): the existing owned objects |
//! | `conflicts` | conflicting devices and sockets |
//! | `apply` | [`Host::apply`](crate::kernel::Host::apply); `bridge`, `vxlan`, `veth`, `entries`: one kind of object |
//! | `shim` | cross-netns veths (shims) to external networks in other namespaces |

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
