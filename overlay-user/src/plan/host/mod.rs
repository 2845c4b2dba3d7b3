//! The plan of the kernel objects: bridges, VXLAN devices, veths, FDB and neighbour entries.
//!
//! | file | content |
//! |---|---|
//! | `objects` | [`HostState`]: the objects as plain data, desired or found |
//! | `desired` | [`desired()`]: the desired objects of a model |
//! | `diff` | [`HostChanges::between`]: the changes from found to desired objects |

mod desired;
pub(crate) mod diff;
pub(crate) mod objects;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use desired::{DesiredError, UnderlayDevice, desired};
pub(crate) use objects::{
    Bridge, Bridges, DesiredHost, HostChanges, HostState, Members, Object, ObjectVisitor, Phase, Veths, Vxlans,
};
