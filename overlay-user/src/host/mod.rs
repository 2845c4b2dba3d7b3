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
//! | `snapshot` | [`Snapshot`]: one namespace at one time. Each table is read once at most, and handed to everything below |
//! | `state` | [`Snapshot::state`]: what of ours exists |
//! | `apply` | [`Host::apply`]: carries the changes out; `bridge`, `vxlan`, `veth`, `entries`: one kind of object each |
//! | `links`, `link_info`, `nexthop`, `events` | reading the underlay, and hearing of its changes |
//! | `conflicts` | [`Snapshot::conflicts`]: what is in the way of ours |
//! | `shim` | the veth pairs that lead to external networks in other namespaces |
//! | `qdisc` | the clsact qdisc that the data path may leave behind, and what others have set |
//! | `fdb`, `netfilter`, `xfrm` | reading what the kernel would do to frames of networks that others made |
//! | `netns`, `ethtool`, `netlink`, `reader`, `bulk`, `raw` | the ways into the kernel |
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
mod reader;
mod shim;
mod snapshot;
mod state;
mod veth;
mod vxlan;
mod xfrm;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

pub use apply::Phase;
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
pub use qdisc::TrafficControl;
pub(crate) use qdisc::ingress_filters;
pub use reader::Reader;
pub use shim::Shim;
pub use snapshot::Snapshot;
pub use xfrm::{PolicyMark, has_xfrm_policies, xfrm_policy_marks};

/// One network namespace of this machine, through three netlink sockets: one for single objects, one to read tables, one
/// for rows of table entries.
#[derive(Clone, Debug)]
pub struct Host {
    netlink: netlink::Netlink,
    reader: Arc<Mutex<Reader>>,
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
        let reader = Arc::new(Mutex::new(Reader::open()?));
        Ok(Self { netlink, reader, bulk: bulk::Bulk::open().map_err(HostError::Socket)? })
    }

    /// Whether requests still come to the kernel. A connection that has failed stays so.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.netlink.is_connected()
    }

    /// Reads tables on a thread that may block: the kernel may have to wait for others who change links.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T, HostError> + Send + 'static,
    ) -> Result<T, HostError> {
        let (reader, span) = (Arc::clone(&self.reader), tracing::Span::current());
        let read = move || span.in_scope(|| read(&reader.lock().unwrap_or_else(PoisonError::into_inner)));
        tokio::task::spawn_blocking(read).await.map_err(|error| HostError::Socket(io::Error::other(error)))?
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
