//! Reads forwarding databases of bridges and VXLAN devices, and permanent neighbours.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use overlay_common::{MacAddr, VtepAddr};
use rtnetlink::packet_core::Nla as _;

use super::{link_info::mac, options::entry_is_unknown};
use crate::sys::netlink::{
    attribute::{attribute, ne16, ne32},
    connection::decode,
    raw::Collect,
};

/// An FDB entry, of a bridge (`master`) or of the device itself (`self`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FdbEntry {
    /// The device: a bridge's port, the bridge itself, or a VXLAN device.
    pub ifindex: u32,
    /// MAC address; zero: default entry of a VXLAN device.
    pub mac: MacAddr,
    /// `self`: in the device's own table, which for a VXLAN device contains the VTEPs of MAC addresses.
    pub own: bool,
    /// State of the entry.
    pub state: FdbState,
    /// VTEP, in a VXLAN device's table.
    pub dst: Option<VtepAddr>,
    /// VLAN of the entry.
    pub vlan: Option<u16>,
    /// Has attributes besides the VTEP (another UDP port, VNI or device, a nexthop group, an unknown one), or flags that
    /// change its meaning.
    pub special: bool,
    /// `sticky`: the bridge does not move the entry to another port.
    pub sticky: bool,
}

/// The state of an FDB entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FdbState {
    /// `permanent`. In a bridge's table: an address of the bridge itself.
    Permanent,
    /// `static`: does not age.
    Static,
    /// Learned from a frame.
    Learned,
}

/// A permanent entry of the neighbour table, used by bridges and VXLAN devices for ARP suppression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    /// The device.
    pub ifindex: u32,
    /// IPv4 address.
    pub ip: Ipv4Addr,
    /// MAC address.
    pub mac: MacAddr,
}

/// A learned FDB entry, as far as it is read before it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Learned {
    /// The device.
    pub ifindex: u32,
    /// MAC address.
    pub mac: MacAddr,
    /// In the device's own table.
    pub own: bool,
}

/// `NUD_NOARP`, which iproute2 sets together with `NUD_REACHABLE`, and `NUD_PERMANENT`.
const NOARP: u16 = 0x40;
const PERMANENT: u16 = 0x80;

/// The learned FDB entry of a message, after its netlink header; `None` for every other message.
pub(crate) fn learned(body: &[u8]) -> Option<Learned> {
    /// Offsets in `struct ndmsg`, and its length.
    const IFINDEX: usize = 4;
    const STATE: usize = 8;
    const FLAGS: usize = 10;
    const HEADER: usize = 12;
    /// `NDA_LLADDR`.
    const LLADDR: u16 = 2;
    let is_bridge = i32::from(*body.first()?) == libc::AF_BRIDGE;
    if !is_bridge || ne16(body, STATE)? & (NOARP | PERMANENT) != 0 {
        return None;
    }
    Some(Learned {
        ifindex: ne32(body, IFINDEX)?,
        mac: mac(attribute(body.get(HEADER..)?, LLADDR)?)?,
        own: NeighbourFlags::from_bits_retain(*body.get(FLAGS)?).contains(NeighbourFlags::Own),
    })
}

/// The entries of a dump, without most of the learned ones: a container can cause any number of these.
#[derive(Debug)]
pub(crate) struct BoundedFdb<'a> {
    pub(crate) entries: Vec<FdbEntry>,
    /// Addresses whose learned entries are all kept.
    important: &'a HashSet<MacAddr>,
    /// Number of the other learned entries of a device, by its index and [`Learned::own`].
    learned: HashMap<(u32, bool), usize>,
}

impl<'a> BoundedFdb<'a> {
    /// Maximum number of learned entries of a device's table, besides those of important addresses.
    pub(crate) const LEARNED: usize = 64;

    pub(crate) fn new(important: &'a HashSet<MacAddr>) -> Self {
        Self { entries: Vec::new(), important, learned: HashMap::new() }
    }
}

impl Collect for BoundedFdb<'_> {
    fn add(&mut self, kind: u16, payload: &[u8]) {
        if let Some(Learned { ifindex, mac, own }) = learned(payload)
            && !self.important.contains(&mac)
        {
            let count = self.learned.entry((ifindex, own)).or_default();
            if *count == Self::LEARNED {
                return;
            }
            *count += 1;
        }
        if let Some(RouteNetlinkMessage::NewNeighbour(message)) = decode(kind, payload) {
            self.entries.extend(entry(&message));
        }
    }
}

/// Reads an entry of the neighbour table, if it is permanent.
pub(crate) fn permanent(message: &NeighbourMessage) -> Option<Neighbour> {
    (message.header.state == NeighbourState::Permanent).then_some(())?;
    Some(Neighbour { ifindex: message.header.ifindex, ip: destination(message)?, mac: lladdr(message)? })
}

/// Reads an FDB entry.
pub(crate) fn entry(message: &NeighbourMessage) -> Option<FdbEntry> {
    /// `NDA_NH_ID`; not defined by the crate.
    const NEXTHOP: u16 = 13;
    let flags = message.header.flags;
    let mut vlan = None;
    let mut special = flags.contains(NeighbourFlags::Router);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Vlan(id) => vlan = Some(*id).filter(|id| *id != 0),
            NeighbourAttribute::Port(_)
            | NeighbourAttribute::Vni(_)
            | NeighbourAttribute::SourceVni(_)
            | NeighbourAttribute::IfIndex(_) => special = true,
            NeighbourAttribute::Other(other) => {
                let mut value = vec![0; other.value_len()];
                other.emit_value(&mut value);
                special |= other.kind() == NEXTHOP || entry_is_unknown(other.kind(), &value);
            }
            _ => {}
        }
    }
    Some(FdbEntry {
        ifindex: message.header.ifindex,
        mac: lladdr(message)?,
        own: flags.contains(NeighbourFlags::Own),
        state: match message.header.state {
            NeighbourState::Permanent => FdbState::Permanent,
            NeighbourState::Noarp => FdbState::Static,
            NeighbourState::Other(bits) if bits & NOARP != 0 => FdbState::Static,
            _ => FdbState::Learned,
        },
        dst: destination(message).map(VtepAddr::from),
        vlan,
        special,
        sticky: flags.contains(NeighbourFlags::Sticky),
    })
}

/// The link-layer address of an entry.
pub(crate) fn lladdr(entry: &NeighbourMessage) -> Option<MacAddr> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => mac(bytes),
        _ => None,
    })
}

/// The IPv4 address of an entry. In the bridge family the crate does not decode it.
pub(crate) fn destination(entry: &NeighbourMessage) -> Option<Ipv4Addr> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(*ip),
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Ipv4Addr::from)
        }
        _ => None,
    })
}

#[cfg(test)]
#[path = "fdb_tests.rs"]
pub(crate) mod tests;
