//! Entries of FDBs and of the neighbour table, as netlink messages.

use std::net::Ipv4Addr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use overlay_common::MacAddr;

use super::NetlinkError;
use super::netlink::{Mode, Netlink};

/// One entry of one table.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    /// `bridge fdb ... dev VXLAN dst VTEP self permanent`; the zero MAC is head-end replication.
    Vxlan { device: u32, mac: MacAddr, vtep: Ipv4Addr },
    /// `bridge fdb ... dev PORT master static sticky`: a frame with this source address on another port does not move it.
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
            Self::Vxlan { mac, vtep, .. } => (mac, Some(vtep)),
            Self::Bridge { mac, .. } => (mac, None),
            Self::Neighbour { mac, ip, .. } => (mac, Some(ip)),
        };
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        message.attributes.extend(destination.map(|ip| NeighbourAttribute::Destination(ip.into())));
        message
    }

    /// Makes the entry, or overwrites the one of the same key.
    pub(super) async fn set(self, netlink: &Netlink) -> Result<(), NetlinkError> {
        let mode = match self {
            Self::Vxlan { mac, .. } if mac == MacAddr::default() => Mode::Append,
            _ => Mode::Replace,
        };
        match netlink.change(RouteNetlinkMessage::NewNeighbour(self.message()), mode).await {
            Err(error) if error.errno == libc::EEXIST => Ok(()),
            result => result,
        }
    }

    /// Removes the entry, which may have gone before.
    pub(super) async fn delete(self, netlink: &Netlink) -> Result<(), NetlinkError> {
        let mut message = self.message();
        message.header.flags.remove(NeighbourFlags::Sticky);
        match netlink.change(RouteNetlinkMessage::DelNeighbour(message), Mode::Existing).await {
            Err(error) if error.is_missing() => Ok(()),
            result => result,
        }
    }
}
