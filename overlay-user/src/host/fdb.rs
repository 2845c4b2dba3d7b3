//! Reading forwarding databases: a bridge's, and a VXLAN device's own.

use std::net::Ipv4Addr;

use netlink_packet_route::{
    AddressFamily,
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use overlay_common::MacAddr;

use super::{
    Host, HostError,
    state::{destination, lladdr},
};

/// One entry, of a bridge (`master`) or of the device itself (`self`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// The device: a bridge's port, the bridge itself, or a VXLAN device.
    pub ifindex: u32,
    /// The address; zero for what a VXLAN device does not know.
    pub mac: MacAddr,
    /// `self`: in the device's own table, which for a VXLAN device says where a MAC address is.
    pub own: bool,
    /// How it came to be.
    pub state: FdbState,
    /// VTEP, in the table of a VXLAN device.
    pub dst: Option<Ipv4Addr>,
    /// The VLAN that it is for.
    pub vlan: Option<u16>,
    /// Has attributes beside the VTEP (another UDP port, VNI or device, a nexthop group), or flags that change its
    /// meaning.
    pub special: bool,
}

/// How an FDB entry came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdbState {
    /// `permanent`. In a bridge's table: an address of the bridge itself.
    Permanent,
    /// `static`: does not age.
    Static,
    /// Learned from a packet.
    Learned,
}

impl Host {
    /// All entries of the bridge family: of bridges and of VXLAN devices.
    ///
    /// # Errors
    /// [`HostError::Netlink`].
    pub async fn fdb(&self) -> Result<Vec<FdbEntry>, HostError> {
        Ok(self.neighbours(AddressFamily::Bridge).await?.iter().filter_map(entry).collect())
    }
}

pub(super) fn entry(message: &NeighbourMessage) -> Option<FdbEntry> {
    /// `NDA_NH_ID`; the crate has no name for it.
    const NEXTHOP: u16 = 13;
    /// `NUD_NOARP`, which iproute2 sets together with `NUD_REACHABLE`.
    const NOARP: u16 = 0x40;
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
                special |= rtnetlink::packet_core::Nla::kind(other) == NEXTHOP;
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
        dst: destination(message),
        vlan,
        special,
    })
}
