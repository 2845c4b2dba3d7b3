//! The veth of an endpoint: both ends.

use std::net::Ipv4Addr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use super::bridge::up;
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

/// Most interfaces that are tried in a container: `eth0` to `eth127`.
const MAX_INTERFACES: u32 = 128;

impl Host {
    /// Makes both ends, the container's in its namespace at once and under the first name of `eth0`, `eth1`, … that is free
    /// there. The host end is left down.
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
                // The caller has seen that the host end's name is free: the other end's is taken.
                Err(error) if error.errno == libc::EEXIST => last = error,
                result => return result,
            }
        }
        Err(last)
    }

    pub(crate) async fn set_veth(&self, host: &Link, bridge: u32, veth: &Veth, netns: &Netns) -> Result<(), HostError> {
        let name = &host.name;
        self.set_quiet(host, &veth.alias).await?;
        let mut message = LinkMessage::default();
        message.header.index = host.index;
        message.attributes.push(LinkAttribute::Mtu(veth.mtu.into()));
        message.attributes.push(LinkAttribute::Controller(bridge));
        up(&mut message);
        self.set_link(message).await.map_err(HostError::netlink(format!("put {name} into its bridge")))?;

        let inside = Self::open_in(netns)?;
        let Some(container) = self.container_end(host, &inside).await? else {
            return Err(HostError::NoLink { name: format!("at the other end of {name}") });
        };
        inside.set_container_end(&container, veth).await?;
        let device = container.name.clone();
        netns.within(move || ethtool::gro_on(&device))?.map_err(|source| HostError::Gro {
            endpoint: endpoint(veth).to_owned(),
            device: container.name,
            source,
        })
    }

    /// The name of a veth's other end, in whatever namespace it is; `None` for any other interface.
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

    /// Called on a connection inside the container's namespace.
    async fn set_container_end(&self, link: &Link, veth: &Veth) -> Result<(), HostError> {
        let endpoint = endpoint(veth);
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName("lo".into()));
        up(&mut message);
        self.set_link(message).await.map_err(HostError::netlink(format!("set lo of endpoint {endpoint} up")))?;

        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.attributes.push(LinkAttribute::Mtu(veth.mtu.into()));
        if link.mac != veth.mac {
            message.attributes.push(LinkAttribute::Address(veth.mac.0.to_vec()));
        }
        up(&mut message);
        let name = &link.name;
        self.set_link(message).await.map_err(HostError::netlink(format!("set {name} of endpoint {endpoint} up")))?;

        // Addresses of other subnets are the container's own affair.
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

/// Opens the namespace that a veth's container end belongs in.
pub(crate) fn open_netns(veth: &Veth) -> Result<Netns, HostError> {
    let endpoint = endpoint(veth).to_owned();
    let Some(path) = &veth.netns else { return Err(HostError::NoLink { name: format!("for endpoint {endpoint}") }) };
    let netns = Netns::open(path).map_err(|source| HostError::EndpointNetns { endpoint: endpoint.clone(), source })?;
    if netns.is_current() {
        return Err(HostError::NetnsIsHost { endpoint, path: path.clone() });
    }
    // What is no network namespace is found out here, before anything is made.
    let entered: Result<(), NetnsError> = netns.within(|| ());
    entered.map_err(|source| HostError::EndpointNetns { endpoint, source })?;
    Ok(netns)
}

/// `<network>/<endpoint>`.
fn endpoint(veth: &Veth) -> &str {
    veth.alias.strip_prefix(ALIAS_PREFIX).unwrap_or(&veth.alias)
}
