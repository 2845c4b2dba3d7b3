//! FDB and neighbour entries as netlink messages.

use std::net::Ipv4Addr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use overlay_common::{MacAddr, VtepAddr};

use crate::{
    plan::host::Phase,
    sys::netlink::{NetlinkError, connection::Mode},
};

/// One entry of one table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry {
    /// `bridge fdb ... dev VXLAN dst VTEP self permanent`; the zero MAC is head-end replication.
    Vxlan { device: u32, mac: MacAddr, vtep: VtepAddr },
    /// `bridge fdb ... dev PORT master static sticky`: a frame with this source MAC on another port does not move it.
    Bridge { port: u32, mac: MacAddr },
    /// `ip neighbour ... dev BRIDGE nud permanent`.
    Neighbour { bridge: u32, ip: Ipv4Addr, mac: MacAddr },
}

impl Entry {
    fn message(self) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        let header = &mut message.header;
        (header.family, header.ifindex, header.state, header.flags) = match self {
            Self::Vxlan { device, .. } => {
                (AddressFamily::Bridge, device, NeighbourState::Permanent, NeighbourFlags::Own)
            }
            // Static is NOARP; "permanent" in a bridge means an address of the host itself (net/bridge/br_fdb.c).
            Self::Bridge { port, .. } => (
                AddressFamily::Bridge,
                port,
                NeighbourState::Noarp,
                NeighbourFlags::Controller | NeighbourFlags::Sticky,
            ),
            Self::Neighbour { bridge, .. } => {
                (AddressFamily::Inet, bridge, NeighbourState::Permanent, NeighbourFlags::empty())
            }
        };
        let (mac, destination) = match self {
            Self::Vxlan { mac, vtep, .. } => (mac, Some(vtep.ipv4())),
            Self::Bridge { mac, .. } => (mac, None),
            Self::Neighbour { mac, ip, .. } => (mac, Some(ip)),
        };
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        message.attributes.extend(destination.map(|ip| NeighbourAttribute::Destination(ip.into())));
        message
    }

    /// The request that adds the entry, replacing one with the same key, or that removes it.
    pub(crate) fn request(self, phase: Phase) -> (RouteNetlinkMessage, Mode) {
        let mut message = self.message();
        if phase == Phase::Remove {
            message.header.flags.remove(NeighbourFlags::Sticky);
            return (RouteNetlinkMessage::DelNeighbour(message), Mode::Existing);
        }
        let mode = match self {
            Self::Vxlan { mac, .. } if mac == MacAddr::default() => Mode::Append,
            _ => Mode::Replace,
        };
        (RouteNetlinkMessage::NewNeighbour(message), mode)
    }
}

/// Whether the error means that nothing is left to do: the entry to add exists, or the one to remove is missing.
pub(crate) fn is_done(phase: Phase, error: &NetlinkError) -> bool {
    match phase {
        Phase::Create => error.errno == libc::EEXIST,
        Phase::Remove => error.is_missing(),
    }
}
