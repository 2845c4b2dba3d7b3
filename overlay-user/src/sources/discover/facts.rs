//! Everything that is decided from: what the kernel and Docker say, as plain data.

use std::collections::{BTreeMap, BTreeSet};

use overlay_common::{MacAddr, VtepAddr};

use super::docker::DockerState;
use crate::{
    kernel::{FdbEntry, Link, Netfilter, PolicyMark, TrafficControl},
    model::discovery::NetnsRef,
};

/// Everything that is known at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The namespaces that could be read.
    pub namespaces: Vec<NetnsFacts>,
    /// The namespace of the underlay, which is the daemon's.
    pub host: HostFacts,
    /// What Docker says.
    pub docker: DockerState,
}

/// One network namespace.
#[derive(Clone, Debug)]
pub(crate) struct NetnsFacts {
    /// Which.
    pub netns_ref: NetnsRef,
    /// The number that it has for the daemon's namespace; `None` when it is that, or does not know it.
    pub underlay_netns: Option<i32>,
    /// Its interfaces.
    pub links: Vec<Link>,
    /// The other ends of its veths, by the interface index of the end here.
    pub veth_peers: BTreeMap<u32, VethPeer>,
    /// Entries of its bridges and VXLAN devices.
    pub fdb: Vec<FdbEntry>,
    /// Its rules, or why they cannot be read.
    pub netfilter: Result<Netfilter, String>,
    /// Bridges hand their frames to iptables (`net.bridge.bridge-nf-call-ip[6]tables`).
    pub bridge_nf: bool,
    /// Its queueing disciplines and filters, or why they cannot be read.
    pub tc: Result<TrafficControl, String>,
    /// VXLAN devices, by interface index, that have been there for long enough that whoever made them has also set up
    /// the encryption.
    pub settled: BTreeSet<u32>,
}

/// The other end of a veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VethPeer {
    /// Its address.
    pub mac: MacAddr,
    /// It belongs to a bridge or the like: what it sends has other addresses.
    pub enslaved: bool,
    /// An XDP program is on it.
    pub xdp: bool,
}

/// The namespace of the underlay.
#[derive(Clone, Debug)]
pub(crate) struct HostFacts {
    /// For each VTEP the device and the source address that the kernel would send with; `None`: it would not.
    pub sources: BTreeMap<VtepAddr, Option<(u32, VtepAddr)>>,
    /// Addresses, with the device that has them.
    pub addresses: Vec<(u32, VtepAddr)>,
    /// `net.ipv4.ip_default_ttl`.
    pub default_ttl: u8,
    /// XFRM policies, or why they cannot be read.
    pub xfrm: Result<Vec<PolicyMark>, String>,
    /// Its rules, or why they cannot be read.
    pub netfilter: Result<Netfilter, String>,
}

impl Default for HostFacts {
    fn default() -> Self {
        Self {
            sources: BTreeMap::new(),
            addresses: Vec::new(),
            default_ttl: 64,
            xfrm: Ok(Vec::new()),
            netfilter: Ok(Netfilter::default()),
        }
    }
}
