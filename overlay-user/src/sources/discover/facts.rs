//! The input of `decide`: the state of the kernel and of Docker, as plain data.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use overlay_common::{MacAddr, VtepAddr};

use super::docker::DockerState;
use crate::{
    kernel::{FdbEntry, Link, Netfilter, PolicyMark, RouteQuery, TrafficControl, VethPeer, VxlanInfo},
    model::discovery::NetnsRef,
    plan::bridged_path::BridgedRules,
};

/// All facts at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The readable namespaces.
    pub namespaces: Vec<NetnsFacts>,
    /// The underlay's namespace, which is the daemon's own.
    pub host: HostFacts,
    /// The state of Docker's API.
    pub docker: DockerState,
}

/// The lookup that yields the source address of a VXLAN device's packets; `None`: the device has `local`.
pub(crate) fn source_query(info: &VxlanInfo) -> Option<RouteQuery> {
    let query = RouteQuery { source: None, port: info.port, source_ports: (1, u16::MAX) };
    info.local.is_none().then_some(query)
}

/// One network namespace.
#[derive(Clone, Debug)]
pub(crate) struct NetnsFacts {
    pub netns_ref: NetnsRef,
    /// Its netns id of the daemon's namespace; `None` in the daemon's own namespace, or if there is no id.
    pub underlay_netns: Option<i32>,
    /// Its interfaces.
    pub links: Vec<Link>,
    /// The peers of its veths, by the interface index of the end in this namespace.
    pub veth_peers: BTreeMap<u32, VethPeer>,
    /// FDB entries of its bridges and VXLAN devices.
    pub fdb: Vec<FdbEntry>,
    /// Addresses whose entries have changed since they were read.
    pub moved: HashSet<MacAddr>,
    /// Events were lost since the entries were read: any of them may be stale.
    pub is_lost: bool,
    /// Its netfilter rules, or the read error.
    pub rules: Arc<Result<BridgedRules, String>>,
    /// Its queueing disciplines and filters, or the read error.
    pub tc: Result<TrafficControl, String>,
    /// `net.ipv4.ip_local_port_range`.
    pub local_ports: (u16, u16),
    /// Interface indices of the VXLAN devices old enough that Docker has installed their encryption rules, if any.
    pub aged: BTreeSet<u32>,
}

/// The underlay's namespace.
#[derive(Clone, Debug)]
pub(crate) struct HostFacts {
    /// For each route lookup without a source address, and VTEP: the kernel's output device and source address; `None`:
    /// no route.
    pub sources: BTreeMap<(RouteQuery, VtepAddr), Option<(u32, VtepAddr)>>,
    /// Local addresses with their device.
    pub addresses: Vec<(u32, VtepAddr)>,
    /// XFRM policies, or the read error.
    pub xfrm: Result<Vec<PolicyMark>, String>,
    /// Its netfilter rules, or the read error.
    pub netfilter: Result<Netfilter, String>,
}

impl Default for HostFacts {
    fn default() -> Self {
        Self {
            sources: BTreeMap::new(),
            addresses: Vec::new(),
            xfrm: Ok(Vec::new()),
            netfilter: Ok(Netfilter::default()),
        }
    }
}
