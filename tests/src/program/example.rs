//! The running example, on node 1: gindemo1 and a neighbour are local, gindemo2 is on node 2.

use std::ops::Range;

use overlay_common::{
    MacAddr,
    maps::{Network, Peer, Port},
};

use crate::frame::{Inner, L4, Outer, Station, UdpChecksum, Version};

/// VNI of the running example's network.
pub const VNI: u32 = 4097;
/// Index of the network in `OVL_VNI_STATS`.
pub const SLOT: u32 = 3;
/// MTU of the network.
pub const MTU: u16 = 1450;
/// UDP port of the network.
pub const UDP_PORT: u16 = 4789;
/// Outer UDP source ports: the default of `net.ipv4.ip_local_port_range`, of which the kernel never uses the last.
pub const UDP_SOURCES: Range<u16> = 32_768..60_999;
/// Another UDP port of this host, which the network does not use.
pub const OTHER_UDP_PORT: u16 = 8472;
/// Index of node 2 in `OVL_VTEPS`.
pub const VTEP: u32 = 2;
/// VNI of a network with [`maps::flags::STRICT`](overlay_common::maps::flags::STRICT) and the same containers.
pub const STRICT_VNI: u32 = 4098;

/// node 1, this host: VTEP address.
pub const NODE1: [u8; 4] = [192, 168, 1, 9];
/// node 1: second address of the NIC, see [`Programs::enable_forwarding`](super::Programs::enable_forwarding).
pub const SECOND: [u8; 4] = [192, 168, 1, 99];
/// node 1: MAC of the NIC.
pub const NODE1_MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 9]);
/// node 2, the peer: VTEP address.
pub const NODE2: [u8; 4] = [192, 168, 1, 10];
/// node 2: MAC of the NIC, which is the next hop.
pub const NODE2_MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 10]);
/// node 1: MAC of the network's VXLAN device.
pub const VXLAN_MAC: MacAddr = MacAddr([0x02, 0x56, 0, 0, 0, 9]);
/// gindemo1, the container of node 1.
pub const GINDEMO1: Station = Station::container([10, 0, 1, 2]);
/// gindemo2, the container of node 2.
pub const GINDEMO2: Station = Station::container([10, 0, 1, 6]);
/// Another container of node 1.
pub const NEIGHBOUR: Station = Station::container([10, 0, 1, 3]);

/// Port of gindemo1, not strict.
#[must_use]
pub fn port() -> Port {
    Port {
        vni: VNI,
        slot: SLOT,
        flags: 0,
        ip: GINDEMO1.ipv4,
        mac: GINDEMO1.mac.0,
        mtu: MTU,
        udp_src_first: UDP_SOURCES.start,
        udp_src_span: UDP_SOURCES.end - UDP_SOURCES.start,
    }
}

/// The network, with these flags.
#[must_use]
pub fn network(flags: u32) -> Network {
    Network { slot: SLOT, flags, mtu: MTU, port: UDP_PORT }
}

/// node 2 as a peer.
#[must_use]
pub fn peer() -> Peer {
    Peer { vtep: VTEP, slot: SLOT, device_mac: VXLAN_MAC.0, mtu: MTU, port: UDP_PORT, flags: 0 }
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

/// The outer header (RFC 7348) of a packet from node 1 to node 2.
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

/// The outer header of a packet from node 2 to node 1.
#[must_use]
pub fn from_node2() -> Outer {
    Outer { eth_dst: NODE1_MAC, eth_src: NODE2_MAC, src: NODE2, dst: NODE1, ..to_node2() }
}
