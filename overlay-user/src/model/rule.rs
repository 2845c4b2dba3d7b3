//! Where something can be wrong with a cluster, and what several places say of it.

use std::fmt;

use super::{Finding, Findings};

/// Smallest MTU of a network in bytes: what every IPv4 host must be able to receive (RFC 791). IPv6 wants 1280.
pub(crate) const MTU_MIN: u16 = 576;
/// Largest MTU of a network in bytes: the largest IPv4 packet less what VXLAN adds.
pub(crate) const MTU_MAX: u16 = overlay_common::wire::inner_mtu(u32::MAX);
/// Shortest prefix of a subnet.
pub(crate) const PREFIX_MIN: u8 = 8;
/// Longest prefix of a subnet: the gateway and one endpoint.
pub(crate) const PREFIX_MAX: u8 = 30;
/// Most entries that the FDB may be configured to have.
pub(crate) const FDB_SIZE_MAX: u32 = 1 << 24;

/// A part of a cluster: the place in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartRef {
    /// The cluster as a whole.
    Cluster,
    /// In [`super::Parts::hosts`].
    Host(usize),
    /// In [`super::Parts::networks`].
    Network(usize),
    /// In [`super::Parts::endpoints`].
    Endpoint(usize),
}

/// An attribute of an object, by the name that it has in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Rx,
    FdbSize,
    Hosts,
    Networks,
    Endpoints,
    Name,
    Address,
    Vni,
    Subnet,
    Gateway,
    Mtu,
    Port,
    Strict,
    Overlap,
    Network,
    Ip,
    Mac,
    Host,
    Netns,
    Discover,
    Vxlan,
    Docker,
    NetnsDir,
    Allow,
    Deny,
}

impl Field {
    /// The key in the configuration.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Rx => "rx",
            Self::FdbSize => "fdb_size",
            Self::Hosts => "hosts",
            Self::Networks => "networks",
            Self::Endpoints => "endpoints",
            Self::Name => "name",
            Self::Address => "address",
            Self::Vni => "vni",
            Self::Subnet => "subnet",
            Self::Gateway => "gateway",
            Self::Mtu => "mtu",
            Self::Port => "port",
            Self::Strict => "strict",
            Self::Overlap => "overlap",
            Self::Network => "network",
            Self::Ip => "ip",
            Self::Mac => "mac",
            Self::Host => "host",
            Self::Netns => "netns",
            Self::Discover => "discover",
            Self::Vxlan => "vxlan",
            Self::Docker => "docker",
            Self::NetnsDir => "netns_dir",
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }

    /// The attribute as it is called in a sentence.
    const fn noun(self) -> &'static str {
        match self {
            Self::Vni => "VNI",
            Self::Ip => "IP address",
            Self::Mac => "MAC address",
            Self::Port => "interface",
            _ => self.key(),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// A finding about a part of a cluster, and where that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The part that breaks a rule.
    pub part: PartRef,
    /// Its attribute that does.
    pub field: Field,
    /// The part whose same attribute the problem ends with.
    pub other: Option<PartRef>,
    /// What is wrong; the object as [`super::Parts::validate`] calls it, for instance `endpoint "blue/gindemo1"`.
    pub finding: Finding,
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.finding.fmt(f)
    }
}

impl From<Findings<Located>> for Findings {
    fn from(found: Findings<Located>) -> Self {
        found.into_iter().map(|located| located.finding).collect()
    }
}

/// As findings call an endpoint.
pub(crate) fn endpoint_label(network: &str, name: &str) -> String {
    format!("endpoint {:?}", format!("{network}/{name}"))
}

/// Two objects have what only one can have: `by` has it first. `each`: what there can be one of.
pub(crate) fn taken(field: Field, value: impl fmt::Display, by: &str, each: &str) -> Finding {
    let problem = format!("{field} {value} is already used by {by}");
    Finding::unnamed(problem, format!("give each {each} its own {}", field.noun()))
}

/// MTU out of range.
pub(crate) fn mtu(mtu: i64) -> Finding {
    let remedy = format!("use {MTU_MIN} to {MTU_MAX} bytes, or leave it out for the underlay's less 50");
    Finding::unnamed(format!("mtu {mtu} is out of range"), remedy)
}

/// Not a UDP port.
pub(crate) fn port(port: i64) -> Finding {
    let remedy = format!("use 1 to 65535, or leave it out for {}", overlay_common::wire::VXLAN_PORT);
    Finding::unnamed(format!("port {port} is not a UDP port"), remedy)
}

/// FDB size out of range.
pub(crate) fn fdb_size(size: i64) -> Finding {
    Finding::unnamed(format!("fdb_size {size} is out of range"), format!("use 1 to {FDB_SIZE_MAX} entries"))
}
