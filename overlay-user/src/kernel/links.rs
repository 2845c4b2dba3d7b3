//! Reads links and addresses.

use std::net::IpAddr;

use ipnet::Ipv4Net;
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::AddressAttribute,
    link::{
        InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
        LinkXdp, XdpAttached,
    },
};
use overlay_common::MacAddr;

use super::{
    BridgeOptions, BridgePort, Deviations, VxlanInfo,
    link_info::{mac, vxlan_info},
    names::ALIAS_PREFIX,
};

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// MAC address; zero for devices without one, or with one of another length.
    pub mac: MacAddr,
    /// Whether frames on it are Ethernet frames with 48-bit addresses.
    pub ethernet: bool,
    /// Layer-3 MTU, in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// It has had a carrier, so it and its peer were up at the same time.
    pub was_up: bool,
    /// Index of the bridge, bond or VRF that it is enslaved to.
    pub master: Option<u32>,
    /// Kind of the device.
    pub kind: LinkKind,
    /// `ifalias`.
    pub alias: Option<String>,
    /// `IFLA_LINK`: the other end of a veth, the lower device of a VXLAN or VLAN device.
    pub lower: Option<u32>,
    /// Netns ID (`IFLA_LINK_NETNSID`) of the namespace of `lower`; `None`: the same namespace.
    pub lower_netns: Option<i32>,
    /// A veth whose other end is in another network namespace, so that `bpf_redirect_peer` works.
    pub peer_netns: bool,
    /// Port attributes, if its master is a bridge.
    pub bridge_port: Option<BridgePort>,
    /// Bridge attributes, if it is a bridge.
    pub bridge: Option<BridgeOptions>,
    /// An XDP program is attached, by any owner.
    pub xdp: bool,
    /// The mode of that program, as it concerns frames that programs deliver to the link.
    pub xdp_mode: XdpMode,
    /// ID of that program; `None`: none, or several in different modes.
    pub xdp_program: Option<u32>,
    /// State that the fast path may not support; empty if the link was not read by a [`super::Reader`].
    pub deviations: Deviations,
}

impl Link {
    /// Whether the link has the owner mark.
    #[must_use]
    pub(crate) fn is_owned(&self) -> bool {
        self.alias.as_deref().is_some_and(|alias| alias.starts_with(ALIAS_PREFIX))
    }

    /// Whether the link is a VRF.
    #[must_use]
    pub(crate) fn is_vrf(&self) -> bool {
        matches!(&self.kind, LinkKind::Other(kind) if kind == "vrf")
    }
}

/// The other end of a veth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VethPeer {
    /// Its address.
    pub mac: MacAddr,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// It has a master, such as a bridge: its frames have other source addresses.
    pub enslaved: bool,
    /// Its XDP program.
    pub xdp: XdpMode,
    /// [`Link::deviations`].
    pub deviations: Deviations,
}

impl From<Link> for VethPeer {
    fn from(link: Link) -> Self {
        let Link { mac, mtu, master, xdp_mode: xdp, deviations, .. } = link;
        Self { mac, mtu, enslaved: master.is_some(), xdp, deviations }
    }
}

/// The kind of a network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum LinkKind {
    /// A driver's device, or loopback.
    #[default]
    Device,
    /// A bridge.
    Bridge,
    /// One end of a veth.
    Veth,
    /// A VXLAN device.
    Vxlan(VxlanInfo),
    /// Any other virtual device, by its kind in `ip -details link`.
    Other(String),
}

impl LinkKind {
    /// The kind as printed by `ip -details link`.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Device => "device",
            Self::Bridge => "bridge",
            Self::Veth => "veth",
            Self::Vxlan(_) => "vxlan",
            Self::Other(kind) => kind,
        }
    }
}

/// The VRF that a link is in, itself or through its masters (`l3mdev_master_upper_ifindex_by_index_rcu` in
/// net/l3mdev/l3mdev.c).
pub(crate) fn vrf(links: &[Link], index: u32) -> Option<&Link> {
    let find = |index: u32| links.iter().find(|link| link.index == index);
    // Masters have no circles, but a list that changed while it was read may.
    let chain = std::iter::successors(find(index), |link| find(link.master?)).take(links.len());
    chain.into_iter().find(|link| link.is_vrf())
}

/// The XDP program of a container's interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// None.
    #[default]
    None,
    /// It runs in the driver. `bpf_redirect_peer` enters above the driver and would bypass it.
    Native,
    /// It runs in the network stack, which skips it for redirected packets (`netif_receive_generic_xdp` in
    /// net/core/dev.c); or the mode cannot be read. Packets must take the kernel path.
    Generic,
}

pub(crate) fn new_link(message: RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(link(message)),
        _ => None,
    }
}

/// Reads a link message.
pub(crate) fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        ethernet: message.header.link_layer_type == netlink_packet_route::link::LinkLayerType::Ether,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = mac(&bytes).unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(master) => link.master = Some(master).filter(|master| *master != 0),
            LinkAttribute::CarrierUpCount(count) => link.was_up = count > 0,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Link(lower) => link.lower = Some(lower),
            LinkAttribute::LinkNetNsId(id) => link.lower_netns = Some(id),
            LinkAttribute::LinkInfo(infos) => read_infos(&mut link, infos),
            LinkAttribute::Xdp(attributes) => {
                // In one of the modes, or in several (`rtnl_xdp_fill`).
                let is_program = |attribute| matches!(attribute, LinkXdp::Attached(mode) if mode != XdpAttached::None);
                link.xdp_program = attributes.iter().find_map(|attribute| match attribute {
                    LinkXdp::ProgId(id) => Some(*id),
                    _ => None,
                });
                link.xdp_mode = attributes.iter().fold(XdpMode::None, |mode, attribute| match attribute {
                    LinkXdp::Attached(XdpAttached::None) => mode,
                    LinkXdp::Attached(XdpAttached::Driver) => XdpMode::Native,
                    LinkXdp::Attached(_) => XdpMode::Generic,
                    _ => mode,
                });
                link.xdp = attributes.into_iter().any(is_program);
            }
            _ => {}
        }
    }
    link.peer_netns = link.kind == LinkKind::Veth && link.lower_netns.is_some();
    link
}

fn read_infos(link: &mut Link, infos: Vec<LinkInfo>) {
    for info in infos {
        match info {
            LinkInfo::Kind(InfoKind::Bridge) => link.kind = LinkKind::Bridge,
            LinkInfo::Kind(InfoKind::Veth) => link.kind = LinkKind::Veth,
            LinkInfo::Kind(InfoKind::Vxlan) => link.kind = LinkKind::Vxlan(VxlanInfo::default()),
            LinkInfo::Kind(kind) => link.kind = LinkKind::Other(kind.to_string()),
            LinkInfo::Data(InfoData::Vxlan(data)) => link.kind = LinkKind::Vxlan(vxlan_info(data)),
            LinkInfo::Data(InfoData::Bridge(data)) => {
                let mut options = BridgeOptions::default();
                for attribute in data {
                    match attribute {
                        InfoBridge::NfCallIpTables(on) | InfoBridge::NfCallIp6Tables(on) => options.nf_call |= on,
                        _ => {}
                    }
                }
                link.bridge = Some(options);
            }
            LinkInfo::PortData(InfoPortData::BridgePort(data)) => {
                let mut port = BridgePort::default();
                for attribute in data {
                    match attribute {
                        InfoBridgePort::Learning(on) => port.learning = on,
                        InfoBridgePort::NeighSupress(on) => port.neigh_suppress = on,
                        InfoBridgePort::UnicastFlood(on) => port.flood = on,
                        InfoBridgePort::ProxyARP(on) => port.proxy_arp = on,
                        _ => {}
                    }
                }
                link.bridge_port = Some(port);
            }
            _ => {}
        }
    }
}

pub(crate) fn new_address(message: RouteNetlinkMessage) -> Option<(u32, Ipv4Net)> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let (mut local, mut address) = (None, None);
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(IpAddr::V4(ip)) => local = Some(ip),
            // On a point-to-point link this is the peer's address, and IFA_LOCAL is present.
            AddressAttribute::Address(IpAddr::V4(ip)) => address = Some(ip),
            _ => {}
        }
    }
    let net = Ipv4Net::new(local.or(address)?, message.header.prefix_len).ok()?;
    Some((message.header.index, net))
}
