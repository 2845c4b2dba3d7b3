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
#[cfg(any(test, feature = "testing"))]
pub(crate) mod fuzz;
mod host;
mod link_info;
mod links;
pub(crate) mod names;
mod netfilter;
mod nexthop;
mod qdisc;
mod reader;
mod snapshot;
mod xfrm;

pub use error::KernelError;
pub use events::HostEvent;
pub use fdb::{FdbEntry, FdbState, Neighbour};
pub use host::Host;
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
