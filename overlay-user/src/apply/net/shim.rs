//! Cross-netns veths (shims) between this namespace and one with an external network.
//!
//! Both ends of a shim are up, without addresses and ARP. Frames enter it only by `bpf_redirect_peer`, which does not
//! check the MTU; the MTU is the maximum anyway.

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};
use overlay_common::Vni;

use super::{bridge::request_up, conflicts::not_owned};
use crate::{
    apply::{ledger::Recorded, net::HostError},
    kernel::{
        Host, Link, LinkKind,
        names::{ALIAS_PREFIX, shim_name},
    },
    sys::{netlink::connection::Mode, netns::Netns},
};

/// `ETH_MAX_MTU` (`include/uapi/linux/if_ether.h`).
const MTU: u32 = 65_535;

/// An existing shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shim {
    /// Interface index of the end in this namespace.
    pub outer: u32,
    /// Interface index of the end in the other namespace.
    pub inner: u32,
}

impl Host {
    /// Returns the recorded shim of a network into `netns`, and creates it if necessary.
    ///
    /// # Errors
    /// [`HostError::NotOwned`] and [`HostError::OtherOverlay`] when the name is taken; errors of the kernel.
    pub(crate) async fn shim(&self, vni: Vni, netns: &Netns, recorded: Recorded) -> Result<Shim, HostError> {
        let name = shim_name(vni);
        if let Some(found) = self.link_by_name(&name).await? {
            if !found.is_owned() {
                return Err(not_owned(&found));
            }
            if recorded.is_new() {
                return Err(HostError::OtherOverlay { name });
            }
            if let Some(shim) = self.usable(&found, netns).await? {
                return Ok(shim);
            }
            self.delete_link(&found).await?;
        }
        self.make_shim(&name, netns).await?;
        let missing = || HostError::NoLink { name: name.clone() };
        let outer = self.link_by_name(&name).await?.ok_or_else(missing)?;
        let result = self.set_up(&outer, vni, netns).await;
        if result.is_err() {
            // An incomplete shim is removed. If the namespace is gone, so is the pair.
            self.delete_link(&outer).await?;
        }
        result
    }

    /// Removes the recorded shim of a network if it exists. A shim without an alias is unfinished.
    ///
    /// # Errors
    /// [`KernelError::Netlink`](crate::kernel::KernelError::Netlink); [`HostError::NotOwned`] when another device has
    /// its name.
    pub(crate) async fn delete_shim(&self, vni: Vni) -> Result<(), HostError> {
        match self.link_by_name(&shim_name(vni)).await? {
            Some(link) if link.kind == LinkKind::Veth && (link.is_owned() || link.alias.is_none()) => {
                self.delete_link(&link).await
            }
            Some(link) => Err(not_owned(&link)),
            None => Ok(()),
        }
    }

    /// The shim of a network into `netns` if it exists and is usable.
    ///
    /// # Errors
    /// [`KernelError::Netlink`](crate::kernel::KernelError::Netlink).
    pub(crate) async fn find_shim(&self, vni: Vni, netns: &Netns) -> Result<Option<Shim>, HostError> {
        match self.link_by_name(&shim_name(vni)).await? {
            Some(link) if link.is_owned() => self.usable(&link, netns).await,
            _ => Ok(None),
        }
    }

    /// The shim of this end, if its peer is in `netns` and both are up.
    async fn usable(&self, outer: &Link, netns: &Netns) -> Result<Option<Shim>, HostError> {
        let (Some(inner), Some(number)) = (outer.lower, outer.lower_netns) else { return Ok(None) };
        if !outer.up || outer.kind != LinkKind::Veth || self.netns_number(netns).await? != Some(number) {
            return Ok(None);
        }
        let up = self.link_in(number, inner).await?.is_some_and(|link| link.up);
        Ok(up.then_some(Shim { outer: outer.index, inner }))
    }

    async fn make_shim(&self, name: &str, netns: &Netns) -> Result<(), HostError> {
        let mut peer = LinkMessage::default();
        peer.attributes.push(LinkAttribute::IfName(name.to_owned()));
        peer.attributes.push(LinkAttribute::Mtu(MTU));
        peer.attributes.push(LinkAttribute::NetNsFd(netns.fd()));
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::Mtu(MTU));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.netlink
            .change(RouteNetlinkMessage::NewLink(message), Mode::Create)
            .await
            .map_err(HostError::netlink(format!("create {name}")))
    }

    async fn set_up(&self, outer: &Link, vni: Vni, netns: &Netns) -> Result<Shim, HostError> {
        let inside = Self::open_in(netns)?;
        let name = &outer.name;
        let inner = inside.link_by_name(name).await?.ok_or_else(|| HostError::NoLink { name: name.clone() })?;
        let alias = format!("{ALIAS_PREFIX}shim {vni}");
        for (host, link) in [(&inside, &inner), (self, outer)] {
            host.mark_device(link, &alias).await?;
            let mut message = LinkMessage::default();
            message.header.index = link.index;
            message.header.flags |= LinkFlags::Noarp;
            message.header.change_mask |= LinkFlags::Noarp;
            request_up(&mut message);
            host.set_link(message).await.map_err(HostError::netlink(format!("set {name} up")))?;
        }
        Ok(Shim { outer: outer.index, inner: inner.index })
    }
}
