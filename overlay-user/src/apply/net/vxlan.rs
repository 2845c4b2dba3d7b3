//! The VXLAN device of a network.

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
    },
};
use overlay_common::Vni;

use super::{apply::Links, bridge::request_up, conflicts::port_holder};
use crate::{
    apply::net::HostError,
    kernel::{Host, Link, names::vxlan_name},
    plan::host::objects::Vxlan,
    sys::netlink::{NetlinkError, connection::Mode},
};

impl Host {
    pub(crate) async fn make_vxlan(&self, vni: Vni, vxlan: &Vxlan) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(vxlan_name(vni)));
        message.attributes.push(LinkAttribute::Mtu(vxlan.mtu.into()));
        let data = vec![
            InfoVxlan::Id(vni.get()),
            InfoVxlan::Local(vxlan.local.ipv4()),
            InfoVxlan::Link(vxlan.underlay),
            InfoVxlan::Port(vxlan.port),
            InfoVxlan::Ttl(vxlan.ttl),
            InfoVxlan::Learning(false),
            InfoVxlan::UDPCsum(false),
        ];
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(data)),
        ]));
        self.netlink.change(RouteNetlinkMessage::NewLink(message), Mode::Create).await
    }

    pub(crate) async fn set_vxlan(
        &self,
        vni: Vni,
        link: &Link,
        bridge: u32,
        vxlan: &Vxlan,
        links: &Links,
    ) -> Result<(), HostError> {
        let name = &link.name;
        self.mark_device(link, &vxlan.alias).await?;
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.attributes.push(LinkAttribute::Mtu(vxlan.mtu.into()));
        message.attributes.push(LinkAttribute::Controller(bridge));
        self.set_link(message).await.map_err(HostError::netlink(format!("attach {name} to its bridge")))?;
        self.remove_generated_addresses(link).await?;

        // Port properties require that the device already is a port.
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        let data = vec![InfoBridgePort::Learning(false), InfoBridgePort::NeighSupress(true)];
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(vec![InfoVxlan::Ttl(vxlan.ttl)])),
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(data)),
        ]));
        // Only RTM_NEWLINK evaluates IFLA_INFO_DATA and IFLA_INFO_SLAVE_DATA (`rtnl_changelink`); RTM_SETLINK ignores it.
        self.netlink
            .change(RouteNetlinkMessage::NewLink(message), Mode::Existing)
            .await
            .map_err(HostError::netlink(format!("set the TTL and the bridge port {name}")))?;

        let mut message = LinkMessage::default();
        message.header.index = link.index;
        request_up(&mut message);
        match self.set_link(message).await {
            // The kernel opens the UDP socket when the device goes up.
            Err(error) if error.errno == libc::EADDRINUSE => {
                let holder = port_holder(links.values(), vxlan.port, name);
                Err(HostError::UdpPortInUse { vni, port: vxlan.port, holder })
            }
            result => result.map_err(HostError::netlink(format!("set {name} up"))),
        }
    }
}
