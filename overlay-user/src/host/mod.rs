//! The kernel's own networking objects: links, bridges, VXLAN devices, veths, FDB, neighbours, next hops.
//!
//! Everything here goes through rtnetlink, and keeps the kernel's VXLAN path complete: every packet that the BPF
//! programs leave alone is carried by what this module made. A module knows one thing:
//!
//! | file | what it knows |
//! |---|---|
//! | `objects` | [`HostState`]: our objects as plain data, wanted or found |
//! | `desired` | [`desired`]: from the model to the wanted objects (pure) |
//! | `plan` | [`HostChanges::between`]: from wanted and found objects to changes (pure) |
//! | `state` | [`Host::state`]: what of ours exists |
//! | `apply` | [`Host::apply`]: carries the changes out; `bridge`, `vxlan`, `veth`, `entries`: one kind of object each |
//! | `links`, `link_info`, `nexthop`, `events` | reading the underlay, and hearing of its changes |
//! | `conflicts` | [`Host::conflicts`]: what is in the way of ours |
//! | `shim` | the veth pairs that lead to foreign networks in other namespaces |
//! | `qdisc` | the clsact qdisc that the data path may leave behind, and what others have set |
//! | `fdb`, `netfilter`, `xfrm` | reading what the kernel would do to frames of networks that others made |
//! | `netns`, `ethtool`, `netlink`, `bulk`, `raw` | the ways into the kernel |
//!
//! Names: bridge `ovlbr<vni>`, VXLAN device `ovlvx<vni>`, host end of a veth `ovl` and ten hexadecimal digits. Every
//! device of ours has an `ifalias` that begins with [`ALIAS_PREFIX`]; a device of our name without it is foreign and is
//! never touched.

mod apply;
mod bridge;
mod bulk;
mod conflicts;
mod desired;
mod entries;
mod error;
mod ethtool;
mod events;
mod fdb;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod link_info;
mod links;
mod names;
mod netfilter;
mod netlink;
pub mod netns;
mod nexthop;
mod objects;
mod plan;
mod qdisc;
mod raw;
mod shim;
mod state;
mod veth;
mod vxlan;
mod xfrm;

#[cfg(test)]
pub(crate) mod tests;

pub use apply::{Ledger, Phase};
pub use desired::{DesiredError, UnderlayDevice, desired};
pub use error::{ChangeErrors, FailedChange, HostError};
pub use ethtool::tx_checksum;
pub use events::HostEvent;
pub use fdb::{FdbEntry, FdbState, Neighbour};
pub use link_info::{BridgeOptions, BridgePort, VxlanInfo};
pub use links::{Link, LinkKind};
pub use names::{ALIAS_PREFIX, bridge_name, shim_name, veth_name, vxlan_name};
pub use netfilter::{Family, Hooked, Netfilter, NetfilterHook, NetfilterTable, netfilter};
pub use netlink::NetlinkError;
pub use nexthop::NextHop;
pub use objects::{
    Bridge, BridgeFdb, Bridges, DesiredHost, FdbPort, Flood, HostChanges, HostState, Members, Neighbours, Object,
    ObjectVisitor, Parent, Veth, Veths, Vxlan, VxlanFdb, Vxlans,
};
pub(crate) use plan::link_key;
pub(crate) use qdisc::ingress_filters;
pub use qdisc::{TrafficControl, traffic_control};
pub use shim::Shim;
pub use xfrm::{PolicyMark, has_xfrm_policies, xfrm_policy_marks};

/// One network namespace of this machine, through a netlink connection, and a second one for rows of table entries.
#[derive(Clone, Debug)]
pub struct Host {
    netlink: netlink::Netlink,
    bulk: bulk::Bulk,
}

impl Host {
    /// Connects to the network namespace that the calling thread is in. The connection runs as a task of the current
    /// tokio runtime until the last clone is dropped.
    ///
    /// # Errors
    /// [`HostError::Socket`] when there is no netlink socket to be had.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn open() -> Result<Self, HostError> {
        let netlink = netlink::Netlink::open().map_err(HostError::Socket)?;
        Ok(Self { netlink, bulk: bulk::Bulk::open().map_err(HostError::Socket)? })
    }

    /// Whether requests still come to the kernel. A connection that has failed stays so.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.netlink.is_connected()
    }

    /// Connects to another network namespace. The connection runs on the current tokio runtime.
    ///
    /// # Errors
    /// [`HostError::Socket`], and [`HostError::Netns`] when the namespace cannot be entered.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn open_in(netns: &netns::Netns) -> Result<Self, HostError> {
        let runtime = tokio::runtime::Handle::current();
        netns
            .within(move || {
                let _guard = runtime.enter();
                Self::open()
            })
            .map_err(HostError::Netns)?
    }
}
