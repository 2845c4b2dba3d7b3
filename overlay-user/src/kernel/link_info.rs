//! Attributes of VXLAN devices, bridges and bridge ports.

use netlink_packet_route::link::InfoVxlan;
use overlay_common::{MacAddr, VtepAddr};

/// Properties of a VXLAN device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VxlanInfo {
    /// VNI; 0 for a collect-metadata device.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Outer source address.
    pub local: Option<VtepAddr>,
    /// Interface index of the underlay device.
    pub underlay: Option<u32>,
    /// `learning`: learns source addresses from packets.
    pub learning: bool,
    /// `proxy`: replies to ARP.
    pub proxy: bool,
    /// Sends outer UDP checksums.
    pub udp_csum: bool,
    /// Outer TTL; 0: the host's default.
    pub ttl: u8,
    /// `srcport`: smallest source port, and the first one after the largest; zeros: the ports of
    /// `net.ipv4.ip_local_port_range`.
    pub source_ports: (u16, u16),
}

/// Properties of a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BridgeOptions {
    /// Runs the iptables hooks for its frames, independently of the sysctl.
    pub nf_call: bool,
}

/// Properties of a bridge port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BridgePort {
    /// Learns source addresses.
    pub learning: bool,
    /// Receives unicast frames to unknown addresses.
    pub flood: bool,
    /// `proxy_arp`: answers ARP, and is not flooded.
    pub proxy_arp: bool,
    /// `neigh_suppress`: replies to ARP for hosts behind the port.
    pub neigh_suppress: bool,
}

impl BridgePort {
    /// Whether every address behind the port is reachable, by an entry that the bridge learns or by flooding.
    pub(crate) const fn is_open(self) -> bool {
        self.learning && self.flood && !self.proxy_arp
    }
}

pub(crate) fn vxlan_info(data: Vec<InfoVxlan>) -> VxlanInfo {
    let mut info = VxlanInfo::default();
    for attribute in data {
        match attribute {
            InfoVxlan::Id(vni) => info.vni = vni,
            InfoVxlan::Port(port) => info.port = port,
            InfoVxlan::Local(local) => info.local = Some(local.into()),
            InfoVxlan::Link(index) => info.underlay = Some(index).filter(|index| *index != 0),
            InfoVxlan::Learning(on) => info.learning = on,
            InfoVxlan::Proxy(on) => info.proxy = on,
            InfoVxlan::UDPCsum(on) => info.udp_csum = on,
            InfoVxlan::PortRange(ports) => info.source_ports = ports,
            InfoVxlan::Ttl(ttl) => info.ttl = ttl,
            _ => {}
        }
    }
    info
}

/// A MAC address, if there are six bytes.
pub(crate) fn mac(bytes: &[u8]) -> Option<MacAddr> {
    bytes.try_into().ok().map(MacAddr)
}
