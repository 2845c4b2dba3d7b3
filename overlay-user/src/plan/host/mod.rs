//! The plan of the kernel's own objects: bridges, VXLAN devices, veths, FDB and neighbour entries.
//!
//! | file | what it knows |
//! |---|---|
//! | `objects` | [`HostState`]: our objects as plain data, wanted or found |
//! | `desired` | [`desired()`]: from the model to the wanted objects |
//! | `diff` | [`HostChanges::between`]: from wanted and found objects to changes |

mod desired;
pub(crate) mod diff;
pub(crate) mod objects;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use desired::{DesiredError, UnderlayDevice, desired};
pub(crate) use objects::{
    Bridge, Bridges, DesiredHost, HostChanges, HostState, Members, Object, ObjectVisitor, Phase, Veths, Vxlans,
};
