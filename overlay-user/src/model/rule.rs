//! What can be wrong with a cluster, and how it is said: `<what is wrong>; <what mends it>`.

use std::{fmt, net::Ipv4Addr, path::PathBuf};

use ipnet::Ipv4Net;
use overlay_common::{MacAddr, maps};

/// Smallest MTU of a network in bytes: what every IPv4 host must be able to receive (RFC 791). IPv6 wants 1280.
pub const MTU_MIN: u16 = 576;
/// Largest MTU of a network in bytes: the largest IPv4 packet less what VXLAN adds.
pub const MTU_MAX: u16 = overlay_common::wire::inner_mtu(u32::MAX);
/// Shortest prefix of a subnet.
pub const PREFIX_MIN: u8 = 8;
/// Longest prefix of a subnet: the gateway and one endpoint.
pub const PREFIX_MAX: u8 = 30;
/// Most entries that the FDB may be configured to have.
pub const FDB_SIZE_MAX: u32 = 1 << 24;

/// A part of a cluster: the place in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[expect(missing_docs, reason = "documented where the model has the field of that name")]
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
    Mirror,
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
            Self::Mirror => "mirror",
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

/// Another object that an error names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Where it is in the cluster.
    pub object: PartRef,
    /// How it is called, for instance `network "red"`.
    pub label: String,
    /// Line of the attribute in question, where the cluster comes from a text. Counted from 1.
    pub line: Option<usize>,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)?;
        self.line.map_or(Ok(()), |line| write!(f, " (line {line})"))
    }
}

/// A broken rule. Prints as `<what is wrong>; <what mends it>`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum Rule {
    /// Names go into file names, labels and messages.
    #[error(
        "name {name:?} is not allowed; use 1 to 63 letters, digits, '_', '-' and '.', beginning with a letter or a digit"
    )]
    Name { name: String },
    /// Endpoints refer to a host by name or address.
    #[error("name {name:?} is an address, and not this host's; choose a name that is not an address")]
    NameIsAddress { name: String },
    /// Two objects have what only one can have.
    #[error("{field} {value} is already used by {by}; give each {each} its own {}", .field.noun())]
    Taken { field: Field, value: String, by: Reference, each: &'static str },
    /// A VTEP's address must be unicast.
    #[error("address {address} is {kind}; use the unicast address of the host's underlay device")]
    HostAddress { address: Ipv4Addr, kind: &'static str },
    /// Prefix length out of range.
    #[error("subnet {subnet} has a prefix length of {}; use /{PREFIX_MIN} to /{PREFIX_MAX}", .subnet.prefix_len())]
    Prefix { subnet: Ipv4Net },
    /// Not the network address.
    #[error("subnet {subnet} has address bits behind its prefix; write {}", .subnet.trunc())]
    HostBits { subnet: Ipv4Net },
    /// Loopback, multicast and reserved ranges.
    #[error("subnet {subnet} is not unicast; use a private range like 10.0.1.0/24")]
    SubnetKind { subnet: Ipv4Net },
    /// The hosts could not tell the networks' addresses apart.
    #[error("subnet {subnet} overlaps {other} of {by}; use another subnet, or set overlap = true in both networks")]
    Overlap { subnet: Ipv4Net, other: Ipv4Net, by: Reference },
    /// An endpoint or a gateway with an address of another network.
    #[error("{field} {address} is outside the subnet {subnet}; use an address inside it")]
    Outside { field: Field, address: Ipv4Addr, subnet: Ipv4Net },
    /// First or last address of the subnet.
    #[error("{field} {address} is the {kind} address of {subnet}; use an address between the first and the last")]
    Reserved { field: Field, address: Ipv4Addr, kind: &'static str, subnet: Ipv4Net },
    /// An endpoint with the gateway's address.
    #[error("ip {address} is the gateway of {network}; use another address of the subnet")]
    IpIsGateway { address: Ipv4Addr, network: String },
    /// MTU out of range.
    #[error("mtu {mtu} is out of range; use {MTU_MIN} to {MTU_MAX} bytes, or leave it out for the underlay's less 50")]
    Mtu { mtu: i64 },
    /// Not a UDP port.
    #[error("port {port} is not a UDP port; use 1 to 65535, or leave it out for {}", overlay_common::wire::VXLAN_PORT)]
    Port { port: i64 },
    /// The programs compare against a fixed number of ports.
    #[error(
        "port {port} is one UDP port too many beside {used:?}; let networks share ports, at most {} in a cluster",
        maps::UDP_PORTS
    )]
    Ports { port: u16, used: Vec<u16> },
    /// An endpoint without its network.
    #[error("there is no network with VNI {vni}; add the network, or correct the endpoint")]
    NoSuchVni { vni: u32 },
    /// An endpoint without its host.
    #[error("there is no host with address {address}; add the host, or correct the endpoint")]
    NoSuchAddress { address: Ipv4Addr },
    /// Zero or a group address.
    #[error("mac {mac} is {kind}; use a unicast address like 02:42:0a:00:01:02")]
    MacKind { mac: MacAddr, kind: &'static str },
    /// The bridge of each host has this one.
    #[error("mac {mac} is the gateway's of {network}; use another address")]
    MacIsGateway { mac: MacAddr, network: String },
    /// FDB size out of range.
    #[error("fdb_size {size} is out of range; use 1 to {FDB_SIZE_MAX} entries")]
    FdbSize { size: i64 },
    /// The FDB cannot hold all endpoints.
    #[error("fdb_size {size} is less than the {endpoints} endpoints; raise it to at least {endpoints}")]
    FdbTooSmall { size: u32, endpoints: usize },
    /// A path that depends on the daemon's working directory.
    #[error("netns {path:?} is not an absolute path; write a path like /run/netns/gindemo1")]
    NetnsPath { path: PathBuf },
    /// What the kernel takes for an interface's name (`dev_valid_name` in net/core/dev.c).
    #[error("port {name:?} cannot be an interface; use 1 to 15 characters without spaces, '/' and ':'")]
    Interface { name: String },
}

impl Rule {
    /// The other object that the message names.
    pub fn reference_mut(&mut self) -> Option<&mut Reference> {
        match self {
            Self::Taken { by, .. } | Self::Overlap { by, .. } => Some(by),
            _ => None,
        }
    }
}

/// One object that breaks one rule. Prints as `<object>: <what is wrong>; <what mends it>`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{label}: {rule}")]
pub struct Violation {
    /// Where the object is in the cluster.
    pub object: PartRef,
    /// How it is called, for instance `endpoint "my-overlay-network/gindemo1"`.
    pub label: String,
    /// The attribute that breaks the rule.
    pub field: Field,
    /// What is wrong with it.
    pub rule: Rule,
}

/// Why a cluster is refused: at least one violation. Prints one per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// # Errors
    /// When there is any.
    pub(crate) fn of(found: Vec<Violation>) -> Result<(), Self> {
        if found.is_empty() { Ok(()) } else { Err(Self(found)) }
    }
}

impl From<Violation> for Violations {
    fn from(violation: Violation) -> Self {
        Self(vec![violation])
    }
}

impl IntoIterator for Violations {
    type Item = Violation;
    type IntoIter = std::vec::IntoIter<Violation>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.0.iter().enumerate() {
            write!(f, "{}{violation}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}
