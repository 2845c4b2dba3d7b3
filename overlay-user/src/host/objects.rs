//! Our kernel objects as plain data: the same shape for what is wanted and for what is found.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
    path::PathBuf,
};

use ipnet::Ipv4Net;
use overlay_common::{MacAddr, Vni};

/// Our objects in one network namespace.
///
/// Names of bridges and VXLAN devices follow from their VNI. As what is found ([`super::Host::state`]), it holds only
/// what is ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostState {
    /// One per network.
    pub bridges: BTreeMap<Vni, Bridge>,
    /// One per network.
    pub vxlans: BTreeMap<Vni, Vxlan>,
    /// By the name of the host end.
    pub veths: BTreeMap<String, Veth>,
    /// Interfaces that existed and are enslaved to a network's bridge, by name.
    pub ports: BTreeMap<String, Vni>,
    /// FDB of the VXLAN devices: behind which VTEP a MAC address is. Found, 0.0.0.0 is an entry that ages or has options.
    pub fdb: BTreeMap<(Vni, MacAddr), Ipv4Addr>,
    /// VTEPs that broadcast, multicast and unknown unicast frames are copied to (head-end replication).
    pub flood: BTreeSet<(Vni, Ipv4Addr)>,
    /// Static FDB of the bridges: behind which port a MAC address is.
    pub bridge_fdb: BTreeMap<(Vni, MacAddr), FdbPort>,
    /// Permanent neighbours on the bridges: what ARP is answered from.
    pub neighbours: BTreeMap<(Vni, Ipv4Addr), MacAddr>,
}

impl HostState {
    /// How many objects these are.
    #[must_use]
    pub fn count(&self) -> usize {
        let Self { bridges, vxlans, veths, ports, fdb, flood, bridge_fdb, neighbours } = self;
        let devices = bridges.len() + vxlans.len() + veths.len() + ports.len();
        devices + fdb.len() + flood.len() + bridge_fdb.len() + neighbours.len()
    }
}

/// What is wanted ([`super::desired`]).
pub type DesiredHost = HostState;

/// The bridge of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// `ifalias`.
    pub alias: String,
    /// Layer 3, in bytes.
    pub mtu: u16,
    /// The anycast gateway's; `None`: the kernel's choice.
    pub mac: Option<MacAddr>,
    /// The anycast gateway's, or none.
    pub addresses: BTreeSet<Ipv4Net>,
    /// Administratively up.
    pub up: bool,
}

/// The VXLAN device of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// `ifalias`.
    pub alias: String,
    /// Layer 3, in bytes.
    pub mtu: u16,
    /// UDP port.
    pub port: u16,
    /// Outer source address.
    pub local: Ipv4Addr,
    /// Interface index of the underlay device.
    pub underlay: u32,
    /// Does not learn, answers no ARP, sends no outer UDP checksum.
    pub plain: bool,
    /// Enslaved to its network's bridge, as a port that does not learn and suppresses neighbour discovery.
    pub enslaved: bool,
    /// Administratively up.
    pub up: bool,
}

/// The veth of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Veth {
    /// `ifalias` of the host end.
    pub alias: String,
    /// The network whose bridge the host end is enslaved to.
    pub vni: Option<Vni>,
    /// Where the container end is; `None`: not where it is wanted.
    pub netns: Option<PathBuf>,
    /// Of both ends, layer 3, in bytes; 0: they differ.
    pub mtu: u16,
    /// Of the container end.
    pub mac: MacAddr,
    /// Of the container end, with the subnet's prefix length.
    pub address: Option<Ipv4Net>,
    /// Default route of the container, where it has none. Not read back: found as wanted.
    pub gateway: Option<Ipv4Addr>,
    /// Both ends are administratively up.
    pub up: bool,
}

/// A port of a network's bridge, as the target of an FDB entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FdbPort {
    /// The network's VXLAN device.
    Vxlan,
    /// The host end of a veth, or an existing interface, by name.
    Interface(String),
    /// Any, and not sticky: a frame from another port could move it. Found only, never wanted.
    Movable,
}

impl FdbPort {
    /// The name of the interface in this network; empty where it is not known.
    #[must_use]
    pub fn interface(&self, vni: Vni) -> String {
        match self {
            Self::Vxlan => super::vxlan_name(vni),
            Self::Interface(name) => name.clone(),
            Self::Movable => String::new(),
        }
    }
}

impl fmt::Display for FdbPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vxlan => f.write_str("the VXLAN device"),
            Self::Interface(name) => f.write_str(name),
            Self::Movable => f.write_str("a port, not sticky"),
        }
    }
}
