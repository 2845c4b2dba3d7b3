//! The veth pair of an endpoint.

use std::net::Ipv4Addr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use super::bridge::request_up;
use crate::{
    apply::net::HostError,
    kernel::{Host, KernelError, Link, names::ALIAS_PREFIX},
    plan::host::objects::Veth,
    sys::{
        ethtool,
        netlink::{NetlinkError, connection::Mode},
        netns::{Netns, NetnsError},
    },
};

/// Number of interface names tried in a container: `eth0` to `eth127`.
const MAX_INTERFACES: u32 = 128;

impl Host {
    /// Creates both ends, the container's directly in its namespace under the first free name of `eth0`, `eth1`, …. The
    /// host end stays down.
    pub(crate) async fn make_veth(&self, name: &str, veth: &Veth, netns: &Netns) -> Result<(), NetlinkError> {
        let mut last = NetlinkError { errno: libc::EEXIST, message: None };
        for number in 0..MAX_INTERFACES {
            let mut peer = LinkMessage::default();
            peer.attributes.push(LinkAttribute::IfName(format!("eth{number}")));
            peer.attributes.push(LinkAttribute::Mtu(veth.mtu.into()));
            peer.attributes.push(LinkAttribute::Address(veth.mac.0.to_vec()));
            peer.attributes.push(LinkAttribute::NetNsFd(netns.fd()));
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::IfName(name.to_owned()));
            message.attributes.push(LinkAttribute::Mtu(veth.mtu.into()));
            message.attributes.push(LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]));
            match self.netlink.change(RouteNetlinkMessage::NewLink(message), Mode::Create).await {
                // The host end's name is free, so the peer's name is taken.
                Err(error) if error.errno == libc::EEXIST => last = error,
                result => return result,
            }
        }
        Err(last)
    }

    pub(crate) async fn set_veth(&self, host: &Link, bridge: u32, veth: &Veth, netns: &Netns) -> Result<(), HostError> {
        let name = &host.name;
        self.mark_device(host, &veth.alias).await?;
        let mut message = LinkMessage::default();
        message.header.index = host.index;
        message.attributes.push(LinkAttribute::Mtu(veth.mtu.into()));
        message.attributes.push(LinkAttribute::Controller(bridge));
        // An operator may have set the port down.
        if !veth.checked && !host.was_up {
            request_up(&mut message);
        }
        self.set_link(message).await.map_err(HostError::netlink(format!("attach {name} to its bridge")))?;
        self.remove_generated_addresses(host).await?;

        let inside = Self::open_in(netns)?;
        let Some(container) = self.container_end(host, &inside).await? else {
            return Err(HostError::NoLink { name: format!("{name} (peer end)") });
        };
        inside.set_container_end(&container, veth).await?;
        let device = container.name.clone();
        netns.within(move || ethtool::gro_on(&device))?.map_err(|source| HostError::Gro {
            endpoint: endpoint(veth).to_owned(),
            device: container.name,
            source,
        })
    }

    /// Sets the host end of a veth up.
    pub(crate) async fn raise_veth(&self, host: &Link) -> Result<(), HostError> {
        let mut message = LinkMessage::default();
        message.header.index = host.index;
        request_up(&mut message);
        self.set_link(message).await.map_err(HostError::netlink(format!("set {} up", host.name)))
    }

    /// The name of a veth's peer in another namespace; `None` for any other interface.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) async fn container_interface(&self, name: &str) -> Result<Option<String>, HostError> {
        let Some(Link { lower: Some(index), lower_netns: Some(netns), .. }) = self.link_by_name(name).await? else {
            return Ok(None);
        };
        Ok(self.link_in(netns, index).await?.map(|link| link.name))
    }

    async fn container_end(&self, host: &Link, inside: &Self) -> Result<Option<Link>, HostError> {
        match host.lower {
            Some(index) => Ok(inside.link_by_index(index).await?),
            None => Ok(None),
        }
    }

    /// Requires a connection inside the container's namespace.
    async fn set_container_end(&self, link: &Link, veth: &Veth) -> Result<(), HostError> {
        let endpoint = endpoint(veth);
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName("lo".into()));
        request_up(&mut message);
        self.set_link(message).await.map_err(HostError::netlink(format!("set lo of endpoint {endpoint} up")))?;

        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.attributes.push(LinkAttribute::Mtu(veth.mtu.into()));
        if link.mac != veth.mac {
            message.attributes.push(LinkAttribute::Address(veth.mac.0.to_vec()));
        }
        request_up(&mut message);
        let name = &link.name;
        self.set_link(message).await.map_err(HostError::netlink(format!("set {name} of endpoint {endpoint} up")))?;

        // Addresses of other subnets belong to the container.
        if let Some(address) = veth.address {
            self.set_addresses(link, &[address], |other| address.trunc() == other.trunc()).await?;
        }
        match veth.gateway {
            Some(gateway) if !self.has_default_route().await? => self.add_default_route(link, gateway, endpoint).await,
            _ => Ok(()),
        }
    }

    async fn has_default_route(&self) -> Result<bool, HostError> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        let is_default = |route| {
            matches!(route, RouteNetlinkMessage::NewRoute(route)
                if route.header.destination_prefix_length == 0 && route.header.table == RouteHeader::RT_TABLE_MAIN)
            .then_some(())
        };
        let default_routes = self.read(move |reader| {
            let found = reader.dump(&RouteNetlinkMessage::GetRoute(request), is_default);
            found.map_err(KernelError::netlink("list a container's routes"))
        });
        Ok(!default_routes.await?.is_empty())
    }

    async fn add_default_route(&self, link: &Link, gateway: Ipv4Addr, endpoint: &str) -> Result<(), HostError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        message.attributes.push(RouteAttribute::Oif(link.index));
        match self.netlink.change(RouteNetlinkMessage::NewRoute(message), Mode::Create).await {
            Err(error) if error.errno == libc::EEXIST => Ok(()),
            result => {
                result.map_err(HostError::netlink(format!("add endpoint {endpoint}'s default route via {gateway}")))
            }
        }
    }
}

/// Opens the namespace of a veth's container end.
pub(crate) fn open_netns(veth: &Veth) -> Result<Netns, HostError> {
    let endpoint = endpoint(veth).to_owned();
    let Some(path) = &veth.netns else { return Err(HostError::NoLink { name: format!("for endpoint {endpoint}") }) };
    let netns = Netns::open(path).map_err(|source| HostError::EndpointNetns { endpoint: endpoint.clone(), source })?;
    if netns.is_current() {
        return Err(HostError::NetnsIsHost { endpoint, path: path.clone() });
    }
    // Rejects a file that is not a network namespace before any device is created.
    let entered: Result<(), NetnsError> = netns.within(|| ());
    entered.map_err(|source| HostError::EndpointNetns { endpoint, source })?;
    Ok(netns)
}

/// `<network>/<endpoint>`.
fn endpoint(veth: &Veth) -> &str {
    veth.alias.strip_prefix(ALIAS_PREFIX).unwrap_or(&veth.alias)
}
