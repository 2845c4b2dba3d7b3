//! Locations of findings in a cluster, and findings that several modules share.

use std::fmt;

use super::{Finding, Findings};

/// Smallest MTU of a network, in bytes: every IPv4 host must be able to receive it (RFC 791). IPv6 requires 1280.
pub(crate) const MTU_MIN: u16 = 576;
/// Largest MTU of a network, in bytes: the largest IPv4 packet less the VXLAN overhead.
pub(crate) const MTU_MAX: u16 = overlay_common::wire::inner_mtu(u32::MAX);
/// Shortest prefix of a subnet.
pub(crate) const PREFIX_MIN: u8 = 8;
/// Longest prefix of a subnet: room for the gateway and one endpoint.
pub(crate) const PREFIX_MAX: u8 = 30;
/// Largest configurable FDB size, in entries.
pub(crate) const FDB_SIZE_MAX: u32 = 1 << 24;

/// A part of a cluster, by index in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartRef {
    /// The cluster itself.
    Cluster,
    /// Index in [`super::Parts::hosts`].
    Host(usize),
    /// Index in [`super::Parts::networks`].
    Network(usize),
    /// Index in [`super::Parts::endpoints`].
    Endpoint(usize),
}

/// An attribute of an object, named as in the configuration.
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
    /// Key in the configuration.
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

    /// Noun for the attribute in a sentence.
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

/// A finding about a part of a cluster, and its location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The part that violates a rule.
    pub part: PartRef,
    /// The attribute that violates the rule.
    pub field: Field,
    /// The part that the problem names last; the same attribute is meant.
    pub other: Option<PartRef>,
    /// Problem and remedy, with the object as named by [`super::Parts::validate`], for instance `endpoint
    /// "blue/gindemo1"`.
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

/// Label of an endpoint in findings.
pub(crate) fn endpoint_label(network: &str, name: &str) -> String {
    format!("endpoint {:?}", format!("{network}/{name}"))
}

/// A value that must be unique is already used by the object `by`. `each`: noun for the objects with unique values. The
/// label of the finding's object contains its name, so that a problem with the name does not repeat it.
pub(crate) fn already_used(field: Field, value: impl fmt::Display, by: &str, each: &str) -> Finding {
    let problem = match field {
        Field::Name => format!("its name is already used by another {}", each.split(' ').next().unwrap_or(each)),
        _ => format!("{field} {value} is already used by {by}"),
    };
    Finding::unnamed(problem, format!("give each {each} its own {}", field.noun()))
}

/// The MTU is out of range.
pub(crate) fn mtu(mtu: i64) -> Finding {
    let remedy = format!("use {MTU_MIN} to {MTU_MAX} bytes, or omit it for the underlay's MTU less 50");
    Finding::unnamed(format!("mtu {mtu} is out of range"), remedy)
}

/// The number is not a UDP port.
pub(crate) fn port(port: i64) -> Finding {
    let remedy = format!("use 1 to 65535, or omit it for {}", overlay_common::wire::VXLAN_PORT);
    Finding::unnamed(format!("port {port} is not a UDP port"), remedy)
}

/// The FDB size is out of range.
pub(crate) fn fdb_size(size: i64) -> Finding {
    Finding::unnamed(format!("fdb_size {size} is out of range"), format!("use 1 to {FDB_SIZE_MAX} entries"))
}
