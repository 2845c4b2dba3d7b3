//! The running example, as seen from node 1: gindemo1 and a neighbour here, gindemo2 behind node 2.

use overlay_common::{
    MacAddr,
    maps::{Network, Peer, Port},
};

use crate::frame::{Inner, L4, Outer, Station, UdpChecksum, Version};

/// The network of the running example.
pub const VNI: u32 = 4097;
/// Its index in `OVL_VNI_STATS`.
pub const SLOT: u32 = 3;
/// Its MTU.
pub const MTU: u16 = 1450;
/// Its UDP port.
pub const UDP_PORT: u16 = 4789;
/// Another UDP port of this host, that this network does not use.
pub const OTHER_UDP_PORT: u16 = 8472;
/// Index of node 2 in `OVL_VTEPS`.
pub const VTEP: u32 = 2;
/// The network with [`maps::flags::STRICT`](overlay_common::maps::flags::STRICT): another VNI, the same containers.
pub const STRICT_VNI: u32 = 4098;

/// node 1, this host: VTEP address.
pub const NODE1: [u8; 4] = [192, 168, 1, 9];
/// node 1: another address on the same NIC, see [`Programs::make_a_router`](super::Programs::make_a_router).
pub const SECOND: [u8; 4] = [192, 168, 1, 99];
/// node 1: MAC of the NIC.
pub const NODE1_MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 9]);
/// node 2, the peer: VTEP address.
pub const NODE2: [u8; 4] = [192, 168, 1, 10];
/// node 2: MAC of the NIC, and so of the next hop.
pub const NODE2_MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 10]);
/// gindemo1, the container of node 1.
pub const GINDEMO1: Station = Station::container([10, 0, 1, 2]);
/// gindemo2, the container of node 2.
pub const GINDEMO2: Station = Station::container([10, 0, 1, 6]);
/// Another container of node 1.
pub const NEIGHBOUR: Station = Station::container([10, 0, 1, 3]);

/// gindemo1's port, not strict.
#[must_use]
pub fn port() -> Port {
    Port { vni: VNI, slot: SLOT, flags: 0, ip: GINDEMO1.ipv4, mac: GINDEMO1.mac.0, mtu: MTU }
}

/// The network, with these flags.
#[must_use]
pub fn network(flags: u32) -> Network {
    Network { slot: SLOT, flags, mtu: MTU, port: UDP_PORT }
}

/// node 2 as a peer.
#[must_use]
pub fn peer() -> Peer {
    Peer { vtep: VTEP, slot: SLOT, port: UDP_PORT, flags: 0 }
}

/// A frame from gindemo1 to gindemo2.
#[must_use]
pub fn outbound(version: Version, l4: L4) -> Inner {
    Inner::new(GINDEMO1, GINDEMO2, version, l4)
}

/// A frame from gindemo2 to gindemo1.
#[must_use]
pub fn inbound(version: Version, l4: L4) -> Inner {
    Inner::new(GINDEMO2, GINDEMO1, version, l4)
}

/// The outer header of a packet that node 1 sends to node 2, as the running example and RFC 7348 have it.
#[must_use]
pub fn to_node2() -> Outer {
    Outer {
        eth_dst: NODE2_MAC,
        eth_src: NODE1_MAC,
        src: NODE1,
        dst: NODE2,
        tos: 0,
        id: 0,
        dont_fragment: false,
        fragment: (0, false),
        ttl: 64,
        options: Vec::new(),
        udp_src: 50730,
        udp_dst: UDP_PORT,
        udp_checksum: UdpChecksum::Absent,
        vxlan_flags: 8,
        vxlan_reserved1: [0; 3],
        vni: VNI,
        vxlan_reserved2: 0,
    }
}

/// The outer header of a packet that node 1 gets from node 2.
#[must_use]
pub fn from_node2() -> Outer {
    Outer { eth_dst: NODE1_MAC, eth_src: NODE2_MAC, src: NODE2, dst: NODE1, ..to_node2() }
}
