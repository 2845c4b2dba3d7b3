//! What links of some kinds say beside what all links do.

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
    /// Learns senders from packets.
    pub learning: bool,
    /// Answers ARP itself.
    pub proxy: bool,
    /// Sends outer UDP checksums.
    pub udp_csum: bool,
    /// Collect-metadata mode.
    pub external: bool,
    /// Outer TTL; 0: the host's default.
    pub ttl: u8,
    /// Outer traffic class; 1: the inner packet's.
    pub tos: u8,
    /// Destination of what the FDB does not know: a multicast group, or a VTEP.
    pub group: Option<VtepAddr>,
    /// The underlay is IPv6.
    pub ipv6: bool,
    /// An option, as `ip link` calls it, that changes what is on the wire or who may send.
    pub special: Option<&'static str>,
}

/// Properties of a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BridgeOptions {
    /// Looks at VLAN tags.
    pub vlan_filtering: bool,
    /// Runs the iptables hooks for its frames, whatever the sysctl says.
    pub nf_call: bool,
}

/// Properties of a bridge port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BridgePort {
    /// Learns source addresses.
    pub learning: bool,
    /// Answers ARP in the place of what is behind the port.
    pub neigh_suppress: bool,
    /// Spanning tree lets frames through.
    pub forwarding: bool,
    /// Not allowed to talk to other isolated ports.
    pub isolated: bool,
    /// Only senders that the FDB has may send.
    pub locked: bool,
    /// Maps VLANs to VNIs.
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

/// Six bytes as a MAC address.
pub(crate) fn mac(bytes: &[u8]) -> Option<MacAddr> {
    bytes.try_into().ok().map(MacAddr)
}
