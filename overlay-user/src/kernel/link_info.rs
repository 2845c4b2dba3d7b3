//! Attributes of VXLAN devices, bridges and bridge ports.

use netlink_packet_route::link::{InfoVxlan, VxlanDf};
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
    /// Collect-metadata mode.
    pub external: bool,
    /// Outer TTL; 0: the host's default.
    pub ttl: u8,
    /// Outer traffic class; 1: the inner packet's.
    pub tos: u8,
    /// `srcport`: smallest source port, and the first one after the largest; zeros: the ports of
    /// `net.ipv4.ip_local_port_range`.
    pub source_ports: (u16, u16),
    /// Default destination, for addresses without an FDB entry: a multicast group, or a VTEP.
    pub group: Option<VtepAddr>,
    /// The underlay is IPv6.
    pub ipv6: bool,
    /// Name of an option of `ip link` that changes the packet format or the allowed peers.
    pub special: Option<&'static str>,
}

/// Properties of a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BridgeOptions {
    /// `vlan_filtering`.
    pub vlan_filtering: bool,
    /// Runs the iptables hooks for its frames, independently of the sysctl.
    pub nf_call: bool,
}

/// Properties of a bridge port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BridgePort {
    /// Learns source addresses.
    pub learning: bool,
    /// `neigh_suppress`: replies to ARP for hosts behind the port.
    pub neigh_suppress: bool,
    /// The spanning tree state is "forwarding".
    pub forwarding: bool,
    /// `isolated`: no frames to other isolated ports.
    pub isolated: bool,
    /// `locked`: only source addresses in the FDB are accepted.
    pub locked: bool,
    /// `vlan_tunnel`: maps VLANs to VNIs.
    pub vlan_tunnel: bool,
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
            InfoVxlan::CollectMetadata(on) => info.external = on,
            InfoVxlan::PortRange(ports) => info.source_ports = ports,
            InfoVxlan::Ttl(ttl) => info.ttl = ttl,
            InfoVxlan::Tos(tos) => info.tos = tos,
            InfoVxlan::Group(group) => info.group = Some(group.into()).filter(|group| *group != VtepAddr::UNSPECIFIED),
            InfoVxlan::Local6(address) | InfoVxlan::Group6(address) => info.ipv6 |= !address.is_unspecified(),
            InfoVxlan::TtlInherit(on) if on != 0 => info.special = Some("ttl inherit"),
            InfoVxlan::Df(df) if df != VxlanDf::Unset => info.special = Some("df"),
            InfoVxlan::Gbp => info.special = Some("gbp"),
            InfoVxlan::Gpe => info.special = Some("gpe"),
            InfoVxlan::Rsc(true) => info.special = Some("rsc"),
            InfoVxlan::Vnifilter(true) => info.special = Some("vnifilter"),
            InfoVxlan::RemCsumTX(true) | InfoVxlan::RemCsumRX(true) => info.special = Some("remcsum"),
            _ => {}
        }
    }
    info
}

/// A MAC address, if there are six bytes.
pub(crate) fn mac(bytes: &[u8]) -> Option<MacAddr> {
    bytes.try_into().ok().map(MacAddr)
}
