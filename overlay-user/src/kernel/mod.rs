//! Kernel state, read through netlink: links, FDB, neighbours, next hops, netfilter, XFRM and traffic control.
//!
//! | file | content |
//! |---|---|
//! | `snapshot` | [`Snapshot`]: the tables of one namespace at one time, each read at most once |
//! | `reader` | [`Reader`]: reads the tables of any namespace |
//! | `links`, `link_info`, `fdb` | links, their addresses and options; FDB and neighbour entries |
//! | `query`, `route`, `rule`, `udp`, `nexthop` | route lookups as VXLAN devices make them; the next hops |
//! | `reverse_path` | which VTEPs the reverse-path filter drops |
//! | `events`, `rule_watch` | [`HostEvent`], [`RuleWatch`]: changes of the tables and of the rules |
//! | `options` | which attributes of links may have which value |
//! | `netfilter`, `xfrm`, `qdisc` | rules, policies and traffic control that apply to packets |
//! | `names` | names and owner mark of overlay's devices |

use std::time::Duration;

mod error;
mod events;
pub(crate) mod fdb;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod fuzz;
mod host;
mod link_info;
mod links;
pub(crate) mod names;
mod netfilter;
mod nexthop;
mod options;
mod qdisc;
mod query;
mod reader;
mod reverse_path;
mod route;
mod rule;
mod rule_watch;
mod snapshot;
mod udp;
mod xfrm;

/// Interval at which state without events is read: rules of iptables-legacy, the order of TCX programs, filters in other
/// namespaces.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(500);

pub(crate) use error::KernelError;
pub(crate) use events::{HostEvent, NEIGHBOUR, Neighbours, ROUTING, subscribe};
pub(crate) use fdb::{FdbEntry, FdbState, Learned, Neighbour, learned};
pub(crate) use host::Host;
pub(crate) use link_info::{BridgeOptions, BridgePort, VxlanInfo};
pub use links::XdpMode;
pub(crate) use links::{Link, LinkKind, VethPeer, vrf};
pub use names::veth_name;
pub(crate) use names::{ALIAS_PREFIX, bridge_name, shim_name, vxlan_name};
pub(crate) use netfilter::chains::{
    Base, Chain, ChainRule, ChainTable, Chains, ChainsVersion, Effect, Field, IPTABLES_LEGACY, Interface, Test, Tool,
    Verdict, chains, chains_version,
};
#[cfg(test)]
pub(crate) use netfilter::{Hooked, Mark};
pub(crate) use netfilter::{Netfilter, NetfilterHook, NetfilterTable, netfilter};
pub(crate) use nexthop::NextHop;
pub(crate) use options::{Deviation, Deviations, Role, Rule, Set, read_features};
pub(crate) use qdisc::{Filter, Ingress, TrafficControl, has_tcx};
pub(crate) use query::{Obstacle, RouteQuery};
pub(crate) use reader::Reader;
pub(crate) use route::{default_ttl, local_ports};
pub(crate) use rule_watch::{NFTABLES, RuleEvents, RuleWatch, XFRM_POLICIES};
pub(crate) use snapshot::Snapshot;
pub(crate) use udp::udp_sockets;
pub(crate) use xfrm::{PolicyMark, has_xfrm_policies, xfrm_policy_marks};
