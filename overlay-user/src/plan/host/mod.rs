//! The plan of the kernel's own objects: bridges, VXLAN devices, veths, FDB and neighbour entries.
//!
//! | file | what it knows |
//! |---|---|
//! | `objects` | [`HostState`]: our objects as plain data, wanted or found |
//! | `desired` | [`desired`]: from the model to the wanted objects |
//! | `diff` | [`HostChanges::between`]: from wanted and found objects to changes |

mod desired;
pub(crate) mod diff;
pub(crate) mod objects;

#[cfg(test)]
pub(crate) mod tests;

pub use desired::{DesiredError, UnderlayDevice, desired};
pub use objects::{
    Bridge, BridgeFdb, Bridges, DesiredHost, FdbPort, Flood, HostChanges, HostState, Members, Neighbours, Object,
    ObjectVisitor, Parent, Phase, Veth, Veths, Vxlan, VxlanFdb, Vxlans,
};
