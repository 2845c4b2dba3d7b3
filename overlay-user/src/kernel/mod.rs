//! What the kernel has: links, FDB, neighbours, next hops, netfilter, XFRM and traffic control, read through netlink.
//!
//! | file | what it knows |
//! |---|---|
//! | `snapshot` | [`Snapshot`]: one namespace at one time. Each table is read once at most, and handed to everything above |
//! | `reader` | [`Reader`]: reads the tables of any namespace |
//! | `links`, `link_info`, `fdb`, `nexthop` | links, their addresses and options; FDB and neighbour entries; routes |
//! | `events` | [`HostEvent`]: what changes |
//! | `netfilter`, `xfrm`, `qdisc` | what would be done to packets by rules, policies, traffic control |
//! | `names` | names and mark of the devices that overlay made |

mod error;
mod events;
mod fdb;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod link_info;
mod links;
pub(crate) mod names;
mod netfilter;
mod nexthop;
mod qdisc;
mod reader;
mod snapshot;
mod xfrm;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use crate::sys::{netlink, netns};

pub use error::KernelError;
pub use events::HostEvent;
pub use fdb::{FdbEntry, FdbState, Neighbour};
pub use link_info::{BridgeOptions, BridgePort, VxlanInfo};
pub use links::{Link, LinkKind};
pub use names::{ALIAS_PREFIX, bridge_name, shim_name, veth_name, vxlan_name};
pub use netfilter::{Family, Hooked, Netfilter, NetfilterHook, NetfilterTable, netfilter};
pub use nexthop::NextHop;
pub use qdisc::TrafficControl;
pub(crate) use qdisc::ingress_filters;
pub use reader::Reader;
pub use snapshot::Snapshot;
pub use xfrm::{PolicyMark, has_xfrm_policies, xfrm_policy_marks};

/// One network namespace of this machine, through three netlink sockets: one for single objects, one to read tables, one
/// for rows of table entries.
#[derive(Clone, Debug)]
pub struct Host {
    pub(crate) netlink: netlink::connection::Netlink,
    reader: Arc<Mutex<Reader>>,
    pub(crate) bulk: netlink::bulk::Bulk,
}

impl Host {
    /// Connects to the network namespace that the calling thread is in. The connection runs as a task of the current
    /// tokio runtime until the last clone is dropped.
    ///
    /// # Errors
    /// [`KernelError::Socket`] when there is no netlink socket to be had.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn open() -> Result<Self, KernelError> {
        let netlink = netlink::connection::Netlink::open().map_err(KernelError::Socket)?;
        let reader = Arc::new(Mutex::new(Reader::open()?));
        Ok(Self { netlink, reader, bulk: netlink::bulk::Bulk::open().map_err(KernelError::Socket)? })
    }

    /// Whether requests still come to the kernel. A connection that has failed stays so.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.netlink.is_connected()
    }

    /// Reads tables on a thread that may block: the kernel may have to wait for others who change links.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T, KernelError> + Send + 'static,
    ) -> Result<T, KernelError> {
        let (reader, span) = (Arc::clone(&self.reader), tracing::Span::current());
        let read = move || span.in_scope(|| read(&reader.lock().unwrap_or_else(PoisonError::into_inner)));
        tokio::task::spawn_blocking(read).await.map_err(|error| KernelError::Socket(io::Error::other(error)))?
    }

    /// Connects to another network namespace. The connection runs on the current tokio runtime.
    ///
    /// # Errors
    /// [`KernelError::Socket`], and [`KernelError::Netns`] when the namespace cannot be entered.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn open_in(netns: &netns::Netns) -> Result<Self, KernelError> {
        let runtime = tokio::runtime::Handle::current();
        netns
            .within(move || {
                let _guard = runtime.enter();
                Self::open()
            })
            .map_err(KernelError::Netns)?
    }
}
