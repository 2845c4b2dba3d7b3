//! The bridge of a network.

use std::net::IpAddr;

use ipnet::Ipv4Net;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{
        AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoData, InfoKind, LinkAttribute,
        LinkInfo, LinkMessage,
    },
};

use crate::{
    apply::net::HostError,
    kernel::{Host, KernelError, Link},
    plan::host::objects::Bridge,
    sys::netlink::{NetlinkError, connection::Mode},
};

/// Smallest MTU of a device with IPv6 (RFC 8200 §5).
const IPV6_MIN_MTU: u32 = 1280;

/// Whether a device was created in this round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    New,
    Existing,
}

impl Host {
    pub(crate) async fn make_bridge(&self, name: &str, bridge: &Bridge) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::Mtu(bridge.mtu.into()));
        message.attributes.extend(bridge.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        let data = vec![
            InfoBridge::StpState(BridgeStpState::Disabled),
            InfoBridge::MulticastSnooping(false),
            // Otherwise the kernel stores every static FDB entry twice: without VLAN, and in VLAN 1.
            InfoBridge::VlanDefaultPvid(0),
        ];
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(data)),
        ]));
        self.netlink.change(RouteNetlinkMessage::NewLink(message), Mode::Create).await
    }

    pub(crate) async fn set_bridge(&self, link: &Link, bridge: &Bridge, origin: Origin) -> Result<(), HostError> {
        let name = &link.name;
        self.mark_device(link, &bridge.alias).await?;
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        // A bridge's MTU that was set explicitly no longer follows its ports (BROPT_MTU_SET_BY_USER).
        message.attributes.push(LinkAttribute::Mtu(bridge.mtu.into()));
        // Setting a MAC address flushes the neighbours, even if it does not change (NETDEV_CHANGEADDR). A MAC address
        // that was never set follows the ports, which also flushes them.
        let mac = bridge.mac.unwrap_or(link.mac);
        if origin == Origin::New || mac != link.mac {
            message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        }
        request_up(&mut message);
        self.set_link(message).await.map_err(HostError::netlink(format!("set MTU and MAC address of {name}")))?;
        self.remove_generated_addresses(link).await?;
        self.set_addresses(link, &bridge.addresses.iter().copied().collect::<Vec<_>>(), |_| true).await
    }

    /// Sets the owner mark, and disables IPv6 address generation: no link-local address, so no router solicitation and
    /// no duplicate address detection. Called before the device is up.
    pub(crate) async fn mark_device(&self, link: &Link, alias: &str) -> Result<(), HostError> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        self.set_link(message).await.map_err(HostError::netlink(format!("set the alias of {}", link.name)))?;
        self.disable_address_generation(link).await
    }

    async fn disable_address_generation(&self, link: &Link) -> Result<(), HostError> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
            AfSpecInet6::AddrGenMode(In6AddrGenMode::None),
        ])]));
        match self.set_link(message).await {
            // No IPv6 in this kernel, or not on a device with this MTU.
            Err(error) if [libc::EAFNOSUPPORT, libc::EOPNOTSUPP, libc::EINVAL].contains(&error.errno) => Ok(()),
            result => result.map_err(HostError::netlink(format!("disable IPv6 address generation on {}", link.name))),
        }
    }

    /// Removes the IPv6 addresses that the kernel has generated because the MTU of a device was raised. `before`: the
    /// device with its earlier MTU. An MTU below 1280 ends IPv6 on a device, and the address generation mode is lost
    /// with its IPv6 state (`addrconf_notify` in net/ipv6/addrconf.c).
    pub(crate) async fn remove_generated_addresses(&self, before: &Link) -> Result<(), HostError> {
        if before.mtu >= IPV6_MIN_MTU {
            return Ok(());
        }
        self.disable_address_generation(before).await?;
        let (index, name) = (before.index, &before.name);
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Inet6;
        request.header.index = index;
        // A kernel without IPv6 lists the addresses of all families.
        let of_link = move |answer| match answer {
            RouteNetlinkMessage::NewAddress(address) => {
                (address.header.family == AddressFamily::Inet6 && address.header.index == index).then_some(address)
            }
            _ => None,
        };
        let found = self.read(move |reader| {
            let found = reader.dump(&RouteNetlinkMessage::GetAddress(request), of_link);
            found.map_err(KernelError::netlink("list IPv6 addresses"))
        });
        for address in found.await? {
            match self.netlink.change(RouteNetlinkMessage::DelAddress(address), Mode::Existing).await {
                Err(error) if error.is_missing() => Ok(()),
                result => result.map_err(HostError::netlink(format!("remove an IPv6 address from {name}"))),
            }?;
        }
        Ok(())
    }

    /// Adds these IPv4 addresses to a link, and removes other addresses that are `removable`.
    pub(crate) async fn set_addresses(
        &self,
        link: &Link,
        wanted: &[Ipv4Net],
        removable: impl Fn(Ipv4Net) -> bool,
    ) -> Result<(), HostError> {
        let found: Vec<Ipv4Net> =
            self.addresses(Some(link.index), None).await?.into_iter().map(|(_, address)| address).collect();
        // Removals first: with the last primary address of a subnet the kernel removes the secondary ones.
        for &address in found.iter().filter(|address| !wanted.contains(address) && removable(**address)) {
            let message = RouteNetlinkMessage::DelAddress(address_message(link.index, address));
            match self.netlink.change(message, Mode::Existing).await {
                Err(error) if error.is_missing() => Ok(()),
                result => result.map_err(HostError::netlink(format!("remove address {address} from {}", link.name))),
            }?;
        }
        for &address in wanted {
            let message = RouteNetlinkMessage::NewAddress(address_message(link.index, address));
            match self.netlink.change(message, Mode::Create).await {
                Err(error) if error.errno == libc::EEXIST => Ok(()),
                result => result.map_err(HostError::netlink(format!("add address {address} to {}", link.name))),
            }?;
        }
        Ok(())
    }

    pub(crate) async fn set_link(&self, message: LinkMessage) -> Result<(), NetlinkError> {
        self.netlink.change(RouteNetlinkMessage::SetLink(message), Mode::Existing).await
    }

    pub(crate) async fn delete_link(&self, link: &Link) -> Result<(), HostError> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        match self.netlink.change(RouteNetlinkMessage::DelLink(message), Mode::Existing).await {
            Err(error) if error.is_missing() => Ok(()),
            result => result.map_err(HostError::netlink(format!("remove interface {}", link.name))),
        }
    }
}

/// Sets the administrative state to up in a request.
pub(crate) fn request_up(message: &mut LinkMessage) {
    message.header.flags |= netlink_packet_route::link::LinkFlags::Up;
    message.header.change_mask |= netlink_packet_route::link::LinkFlags::Up;
}

fn address_message(index: u32, address: Ipv4Net) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.attributes.push(AddressAttribute::Local(IpAddr::V4(address.addr())));
    message.attributes.push(AddressAttribute::Address(IpAddr::V4(address.addr())));
    if address.prefix_len() < 31 {
        message.attributes.push(AddressAttribute::Broadcast(address.broadcast()));
    }
    message
}
