//! Names of interfaces, namespaces and VTEPs for messages.

use std::{collections::BTreeMap, path::PathBuf};

use overlay_common::{VtepAddr, maps::PortKey};

/// Names of interfaces, of namespaces with an ID, and of VTEPs.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Interface names by netns id and interface index.
    pub devices: BTreeMap<PortKey, String>,
    /// Paths of namespaces, by netns id.
    pub namespaces: BTreeMap<u32, PathBuf>,
    /// Addresses by index in `OVL_VTEPS`.
    pub vteps: BTreeMap<u32, VtepAddr>,
}

impl Names {
    /// An interface's name, or its index if the interface is gone.
    pub(crate) fn device(&self, key: PortKey) -> String {
        self.devices.get(&key).cloned().unwrap_or_else(|| match key.netns_id {
            0 => format!("interface {}", key.ifindex),
            netns_id => format!("interface {} in netns {netns_id}", key.ifindex),
        })
    }

    /// The path of a namespace; `None` for the daemon's own.
    pub(crate) fn namespace(&self, netns_id: u32) -> Option<PathBuf> {
        self.namespaces.get(&netns_id).cloned()
    }
}
