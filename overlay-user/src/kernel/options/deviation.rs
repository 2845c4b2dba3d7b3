//! State of a link that differs from the table, and the attributes of link messages by set.

use super::{
    link, port,
    table::{Roles, Set},
};
use crate::sys::netlink::attribute::{attribute, text};

/// What differs from the table, of one link. Empty for almost every link.
pub(crate) type Deviations = Vec<Deviation>;

/// A value that the table or a new device does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deviation {
    /// A value that a row does not accept.
    Value {
        /// The set of the attribute.
        set: Set,
        /// Its number.
        number: u16,
        /// Its value.
        value: Vec<u8>,
    },
    /// A feature that is off, and that a row requires.
    FeatureOff {
        /// Its name in the table.
        name: &'static str,
    },
    /// An attribute or feature that the table lacks, and whose value is not that of a new device.
    Unknown {
        /// The attribute: its set and number, or the name of the feature.
        object: String,
        /// Its value.
        value: Vec<u8>,
        /// The remedy, which depends on whether a new device could be made.
        remedy: &'static str,
    },
}

impl Deviation {
    /// Whether it is that the link is down, or the state of a bridge port that is down.
    #[must_use]
    pub(crate) fn is_down(&self) -> bool {
        matches!(
            self,
            Self::Value { set: Set::Flag, number: link::UP, .. }
                | Self::Value { set: Set::Port, number: port::STATE, .. }
        )
    }
}

/// Kind of a link, for the choice of rows and of the new device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Vxlan,
    Bridge,
    /// Any other device: compared with a veth.
    Other,
}

impl Class {
    /// The roles that a link of this class can have.
    pub(super) const fn roles(self) -> Roles {
        match self {
            Self::Vxlan => Roles::VXLAN.and(Roles::TUNNEL),
            Self::Bridge => Roles::BRIDGE,
            Self::Other => Roles::PORT.and(Roles::CONTAINER).and(Roles::NIC),
        }
    }
}

/// Length of `struct ifinfomsg`.
const HEADER: usize = 16;
/// `IFLA_LINKINFO` and `IFLA_INFO_*`.
const LINKINFO: u16 = 18;
const KIND: u16 = 1;
const DATA: u16 = 2;
const SLAVE_KIND: u16 = 4;
const SLAVE_DATA: u16 = 5;

/// The attributes of a link message, by set.
pub(super) struct Sets<'m> {
    pub(super) class: Class,
    link: &'m [u8],
    /// Attributes of a VXLAN device or of a bridge.
    kind: &'m [u8],
    /// Attributes of a bridge port.
    port: &'m [u8],
}

impl<'m> Sets<'m> {
    /// Divides the payload of an `RTM_NEWLINK`.
    pub(super) fn new(payload: &'m [u8]) -> Option<Self> {
        let link = payload.get(HEADER..)?;
        let info = attribute(link, LINKINFO).unwrap_or_default();
        let (class, kind) = match attribute(info, KIND).map(text).as_deref() {
            Some("vxlan") => (Class::Vxlan, attribute(info, DATA)),
            Some("bridge") => (Class::Bridge, attribute(info, DATA)),
            _ => (Class::Other, None),
        };
        let is_port = attribute(info, SLAVE_KIND).map(text).as_deref() == Some("bridge");
        let port = attribute(info, SLAVE_DATA).filter(|_| is_port);
        Some(Self { class, link, kind: kind.unwrap_or_default(), port: port.unwrap_or_default() })
    }

    /// All attributes of each set.
    pub(super) fn each(&self) -> [(Set, &'m [u8]); 3] {
        let kind = if self.class == Class::Bridge { Set::Bridge } else { Set::Vxlan };
        [(Set::Link, self.link), (kind, self.kind), (Set::Port, self.port)]
    }
}
