//! What things are called.

use std::{collections::BTreeMap, path::PathBuf};

use overlay_common::{VtepAddr, maps::PortKey};

/// Names of interfaces, VTEPs, and the namespaces that the daemon has given numbers.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Interfaces by the number of their namespace and their index.
    pub devices: BTreeMap<PortKey, String>,
    /// Files that stand for namespaces, by number.
    pub namespaces: BTreeMap<u32, PathBuf>,
    /// Addresses by index in `OVL_VTEPS`.
    pub vteps: BTreeMap<u32, VtepAddr>,
}

impl Names {
    /// An interface's name, or its index where it has gone.
    pub(crate) fn device(&self, key: PortKey) -> String {
        self.devices.get(&key).cloned().unwrap_or_else(|| match key.netns_id {
            0 => format!("interface {}", key.ifindex),
            netns_id => format!("interface {} in namespace {netns_id}", key.ifindex),
        })
    }

    /// The file that stands for a namespace; `None` for the daemon's own.
    pub(crate) fn namespace(&self, netns_id: u32) -> Option<PathBuf> {
        self.namespaces.get(&netns_id).cloned()
    }
}
