//! Tests of rules.

use ipnet::Ipv4Net;

/// A test of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    /// The name of the input interface: of the bridge, for a bridged packet.
    Input(Interface),
    /// The name of the output interface: of the bridge, for a bridged packet.
    Output(Interface),
    /// A number: `field & mask` is in `first..=last`, or with `is_inverted` outside of it.
    Number {
        /// The number.
        field: Field,
        /// Its bits that are compared.
        mask: u32,
        /// The smallest value.
        first: u32,
        /// The largest value.
        last: u32,
        /// Other values match.
        is_inverted: bool,
    },
    /// All tests of one of the lists match, or with `true` those of none.
    AnyOf(Vec<Vec<Test>>, bool),
    /// A bridge forwards the packet.
    Bridged,
    /// Anything else.
    Other,
}

/// A property of a packet that is a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Field {
    /// Index of the input interface; 0: there is none.
    InputIndex,
    /// Index of the output interface; 0: there is none.
    OutputIndex,
    /// EtherType.
    EtherType,
    /// Family of the network layer (`NFPROTO_*`).
    Family,
    /// Protocol of the transport layer.
    Protocol,
    /// IPv4 source address, as a number.
    Source,
    /// IPv4 destination address, as a number.
    Destination,
    /// Source port.
    SourcePort,
    /// Destination port.
    DestinationPort,
    /// The packet's mark.
    Mark,
    /// One bit for the state of its connection (`NF_CT_STATE_*`).
    State,
    /// Type of the source address (`RTN_*`).
    SourceType,
    /// Type of the destination address (`RTN_*`).
    DestinationType,
    /// `PACKET_*`.
    PacketType,
    /// The VNI of a VXLAN packet.
    Vni,
}

/// A pattern for the name of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// The name, or its beginning.
    pub name: String,
    /// Only the beginning counts.
    pub is_prefix: bool,
    /// Other interfaces match.
    pub is_inverted: bool,
}

impl Test {
    /// The field equals a number.
    pub(crate) const fn is(field: Field, number: u32) -> Self {
        Self::range(field, number, number, false)
    }

    /// The field is in a range, or with `is_inverted` outside of it.
    pub(crate) const fn range(field: Field, first: u32, last: u32, is_inverted: bool) -> Self {
        Self::Number { field, mask: u32::MAX, first, last, is_inverted }
    }

    /// The field has one of these bits, or with `is_inverted` none.
    pub(crate) const fn has_bit(field: Field, mask: u32, is_inverted: bool) -> Self {
        Self::Number { field, mask, first: 0, last: 0, is_inverted: !is_inverted }
    }

    /// The address is in a network, or with `is_inverted` outside of it.
    pub(crate) fn network(field: Field, network: Ipv4Net, is_inverted: bool) -> Self {
        let (mask, address) = (network.netmask().to_bits(), network.network().to_bits());
        Self::Number { field, mask, first: address, last: address, is_inverted }
    }

    /// Whether the result depends on this field.
    pub(crate) fn asks(&self, wanted: Field) -> bool {
        match self {
            Self::Number { field, .. } => *field == wanted,
            Self::AnyOf(lists, _) => lists.iter().flatten().any(|test| test.asks(wanted)),
            Self::Input(_) | Self::Output(_) | Self::Bridged | Self::Other => false,
        }
    }
}

impl Interface {
    /// Whether the pattern matches the interface with this name.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let is_named = if self.is_prefix { name.starts_with(&self.name) } else { name == self.name };
        is_named != self.is_inverted
    }
}
