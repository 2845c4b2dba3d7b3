//! Shims: the veth pair between this namespace and one that holds an external network.
//!
//! A shim carries nothing by itself: both ends are up, have no address and answer no ARP. Frames come into it by
//! `bpf_redirect_peer` alone, which asks for no MTU; it is the largest all the same.

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};
use overlay_common::Vni;

use super::{bridge::up, conflicts::not_ours};
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

/// A shim that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shim {
    /// Interface index of the end in this namespace.
    pub outer: u32,
    /// Interface index of the end in the other.
    pub inner: u32,
}

impl Host {
    /// The shim of a network into `netns`, which is recorded: the one that is there, or a new one.
    ///
    /// # Errors
    /// [`HostError::NotOurs`] and [`HostError::OtherOverlay`] when the name is taken; what the kernel refuses.
    pub(crate) async fn shim(&self, vni: Vni, netns: &Netns, recorded: Recorded) -> Result<Shim, HostError> {
        let name = shim_name(vni);
        if let Some(found) = self.link_by_name(&name).await? {
            if !found.is_ours() {
                return Err(not_ours(&found));
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
        let made = self.set_up(&outer, vni, netns).await;
        if made.is_err() {
            // Half a shim is none. If the namespace has gone, the pair went with it.
            self.delete_link(&outer).await?;
        }
        made
    }

    /// Removes the shim of a network, which is in the caller's record, if it is there. One without an alias was not
    /// finished.
    ///
    /// # Errors
    /// [`KernelError::Netlink`](crate::kernel::KernelError::Netlink); [`HostError::NotOurs`] when another device has its name.
    pub(crate) async fn delete_shim(&self, vni: Vni) -> Result<(), HostError> {
        match self.link_by_name(&shim_name(vni)).await? {
            Some(link) if link.kind == LinkKind::Veth && (link.is_ours() || link.alias.is_none()) => {
                self.delete_link(&link).await
            }
            Some(link) => Err(not_ours(&link)),
            None => Ok(()),
        }
    }

    /// The shim of a network into `netns`, when it is there and can carry frames.
    ///
    /// # Errors
    /// [`KernelError::Netlink`](crate::kernel::KernelError::Netlink).
    pub(crate) async fn find_shim(&self, vni: Vni, netns: &Netns) -> Result<Option<Shim>, HostError> {
        match self.link_by_name(&shim_name(vni)).await? {
            Some(link) if link.is_ours() => self.usable(&link, netns).await,
            _ => Ok(None),
        }
    }

    /// The shim that this link is an end of, when its other end is in `netns` and both are up.
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
            .map_err(HostError::netlink(format!("make {name}")))
    }

    async fn set_up(&self, outer: &Link, vni: Vni, netns: &Netns) -> Result<Shim, HostError> {
        let inside = Self::open_in(netns)?;
        let name = &outer.name;
        let inner = inside.link_by_name(name).await?.ok_or_else(|| HostError::NoLink { name: name.clone() })?;
        let alias = format!("{ALIAS_PREFIX}shim {vni}");
        for (host, link) in [(&inside, &inner), (self, outer)] {
            host.set_quiet(link, &alias).await?;
            let mut message = LinkMessage::default();
            message.header.index = link.index;
            message.header.flags |= LinkFlags::Noarp;
            message.header.change_mask |= LinkFlags::Noarp;
            up(&mut message);
            host.set_link(message).await.map_err(HostError::netlink(format!("set {name} up")))?;
        }
        Ok(Shim { outer: outer.index, inner: inner.index })
    }
}
