//! Carries changes out, in order, and goes on after failures with what does not depend on them.

use std::collections::{BTreeSet, HashMap};

use futures_util::{StreamExt, stream};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use overlay_common::{MacAddr, Vni};

use super::{
    ChangeErrors, FailedChange, Host, HostChange, HostError, Link, LinkKind, NetlinkError,
    entries::Entry,
    names::{bridge_name, vxlan_name},
    objects::Veth,
    veth,
};

/// Requests for table entries that are under way at once.
const WINDOW: usize = 64;

/// The links of this namespace by name, kept up to date while changes are made.
type Links = HashMap<String, Link>;

impl Host {
    /// Makes the changes, in order. A change that fails leaves nothing half-made and does not keep independent ones from
    /// being made; those that need what it did not make are left out.
    ///
    /// # Errors
    /// [`HostError::Changes`] with every change that was not made; [`HostError::Netlink`] when none could be tried.
    pub async fn apply(&self, changes: &[HostChange]) -> Result<(), HostError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut links: Links = self.links().await?.into_iter().map(|link| (link.name.clone(), link)).collect();
        let mut broken = BTreeSet::new();
        let mut errors = ChangeErrors::default();
        let mut next = 0;
        while next < changes.len() {
            // A row of entries goes out in one stream, anything else by itself.
            let row = changes[next..].iter().take_while(|change| change.is_entry()).count().max(1);
            let mut results = Vec::with_capacity(row);
            if changes[next].is_entry() {
                let (links, broken) = (&links, &broken);
                results = stream::iter(&changes[next..next + row])
                    .map(|change| async move {
                        if is_left_out(change, broken) { None } else { Some(self.apply_entry(change, links).await) }
                    })
                    .buffered(WINDOW)
                    .collect()
                    .await;
            } else if is_left_out(&changes[next], &broken) {
                results.push(None);
            } else {
                results.push(Some(self.apply_device(&changes[next], &mut links).await));
            }
            for (index, result) in (next..).zip(results) {
                let error = match result {
                    Some(Ok(())) => continue,
                    Some(Err(error)) => Some(Box::new(error)),
                    None => None,
                };
                broken.extend(changes[index].breaks());
                errors.failed.push(FailedChange { index, change: changes[index].clone(), error });
            }
            next += row;
        }
        if errors.failed.is_empty() { Ok(()) } else { Err(errors.into()) }
    }

    async fn apply_device(&self, change: &HostChange, links: &mut Links) -> Result<(), HostError> {
        match change {
            HostChange::CreateBridge(vni, bridge) => {
                let name = bridge_name(*vni);
                refuse_foreign(links, &name)?;
                self.make_bridge(&name, bridge).await.map_err(HostError::netlink(format!("create {name}")))?;
                let link = self.learn(links, &name).await?;
                let result = self.set_bridge(&link, bridge, true).await;
                self.undo_unless(result, link, links).await
            }
            HostChange::SetBridge(vni, bridge) => {
                self.set_bridge(ours(links, &bridge_name(*vni))?, bridge, false).await
            }
            HostChange::CreateVxlan(vni, vxlan) => {
                let name = vxlan_name(*vni);
                refuse_foreign(links, &name)?;
                let bridge = ours(links, &bridge_name(*vni))?.index;
                match self.make_vxlan(*vni, vxlan).await {
                    Err(error) if error.errno == libc::EEXIST => return Err(self.vni_in_use(*vni, vxlan.port).await),
                    result => result.map_err(HostError::netlink(format!("create {name}")))?,
                }
                let link = self.learn(links, &name).await?;
                let result = self.set_vxlan(*vni, &link, bridge, vxlan).await;
                self.undo_unless(result, link, links).await
            }
            HostChange::SetVxlan(vni, vxlan) => {
                let bridge = ours(links, &bridge_name(*vni))?.index;
                self.set_vxlan(*vni, ours(links, &vxlan_name(*vni))?, bridge, vxlan).await
            }
            HostChange::CreateVeth(name, veth) => self.create_veth(name, veth, links).await,
            HostChange::SetVeth(name, veth) => {
                let netns = veth::open_netns(veth)?;
                let bridge = bridge_of(links, veth)?;
                self.set_veth(ours(links, name)?, bridge, veth, &netns).await
            }
            HostChange::AdoptPort(name, vni) => self.adopt(name, *vni, links).await,
            HostChange::ReleasePort(name, vni) => self.release(name, *vni, links).await,
            HostChange::DeleteBridge(vni) => self.remove(&bridge_name(*vni), links).await,
            HostChange::DeleteVxlan(vni) => self.remove(&vxlan_name(*vni), links).await,
            HostChange::DeleteVeth(name) => self.remove(name, links).await,
            entry => self.apply_entry(entry, links).await,
        }
    }

    async fn create_veth(&self, name: &str, veth: &Veth, links: &mut Links) -> Result<(), HostError> {
        refuse_foreign(links, name)?;
        let bridge = bridge_of(links, veth)?;
        let netns = veth::open_netns(veth)?;
        self.make_veth(name, veth, &netns).await.map_err(HostError::netlink(format!("create {name}")))?;
        let link = self.learn(links, name).await?;
        let result = self.set_veth(&link, bridge, veth, &netns).await;
        self.undo_unless(result, link, links).await
    }

    async fn adopt(&self, name: &str, vni: Vni, links: &mut Links) -> Result<(), HostError> {
        let bridge = ours(links, &bridge_name(vni))?.index;
        let port = links.get(name).ok_or_else(|| HostError::NoLink { name: name.to_owned() })?;
        match port.master {
            Some(master) if master == bridge => return Ok(()),
            Some(master) => {
                let owner = links.values().find(|link| link.index == master).map_or("unknown", |link| &link.name);
                return Err(HostError::PortInUse { name: name.to_owned(), bridge: owner.to_owned() });
            }
            None => {}
        }
        let mut message = LinkMessage::default();
        message.header.index = port.index;
        message.attributes.push(LinkAttribute::Controller(bridge));
        // Up or down, and its MTU, stay as its owner left them.
        self.set_link(message).await.map_err(HostError::netlink(format!("put {name} into {}", bridge_name(vni))))?;
        self.learn(links, name).await.map(|_| ())
    }

    async fn release(&self, name: &str, vni: Vni, links: &mut Links) -> Result<(), HostError> {
        let Some(port) = links.get(name) else { return Ok(()) };
        // Somebody else may have put it elsewhere.
        let bridge = links.get(&bridge_name(vni)).map(|bridge| bridge.index);
        if port.master.is_none() || port.master != bridge {
            return Ok(());
        }
        let mut message = LinkMessage::default();
        message.header.index = port.index;
        message.attributes.push(LinkAttribute::Controller(0));
        match self.set_link(message).await {
            Err(error) if error.is_missing() => _ = links.remove(name),
            result => {
                result.map_err(HostError::netlink(format!("take {name} out of {}", bridge_name(vni))))?;
                self.learn(links, name).await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, name: &str, links: &mut Links) -> Result<(), HostError> {
        let Some(link) = links.get(name) else { return Ok(()) };
        if !link.is_ours() {
            return Err(foreign(link));
        }
        self.delete_link(link).await?;
        links.remove(name);
        Ok(())
    }

    async fn apply_entry(&self, change: &HostChange, links: &Links) -> Result<(), HostError> {
        let index = |name: String| match links.get(&name) {
            Some(link) => Ok(link.index),
            None => Err(HostError::NoLink { name }),
        };
        let flood = MacAddr::default();
        let (entry, wanted) = match change {
            HostChange::SetFdb(vni, mac, vtep) => (index(vxlan_name(*vni)).map(|d| vxlan_entry(d, *mac, *vtep)), true),
            HostChange::DeleteFdb(vni, mac, vtep) => {
                (index(vxlan_name(*vni)).map(|d| vxlan_entry(d, *mac, *vtep)), false)
            }
            HostChange::AddFlood(vni, vtep) => (index(vxlan_name(*vni)).map(|d| vxlan_entry(d, flood, *vtep)), true),
            HostChange::DeleteFlood(vni, vtep) => {
                (index(vxlan_name(*vni)).map(|d| vxlan_entry(d, flood, *vtep)), false)
            }
            HostChange::SetBridgeFdb(vni, mac, port) => {
                (index(port.interface(*vni)).map(|port| Entry::Bridge { port, mac: *mac }), true)
            }
            HostChange::DeleteBridgeFdb(vni, mac, port) => {
                (index(port.interface(*vni)).map(|port| Entry::Bridge { port, mac: *mac }), false)
            }
            HostChange::SetNeighbour(vni, ip, mac) => {
                (index(bridge_name(*vni)).map(|bridge| Entry::Neighbour { bridge, ip: *ip, mac: *mac }), true)
            }
            HostChange::DeleteNeighbour(vni, ip) => {
                (index(bridge_name(*vni)).map(|bridge| Entry::Neighbour { bridge, ip: *ip, mac: flood }), false)
            }
            _ => return Ok(()),
        };
        let result: Result<(), NetlinkError> = match entry {
            Ok(entry) if wanted => entry.set(&self.netlink).await,
            Ok(entry) => entry.delete(&self.netlink).await,
            // With the device its entries are gone.
            Err(_) if !wanted => Ok(()),
            Err(error) => return Err(error),
        };
        result.map_err(HostError::netlink(change.to_string()))
    }

    /// Reads one link again, after a change.
    async fn learn(&self, links: &mut Links, name: &str) -> Result<Link, HostError> {
        let link = self.link_by_name(name).await?.ok_or_else(|| HostError::NoLink { name: name.to_owned() })?;
        links.insert(name.to_owned(), link.clone());
        Ok(link)
    }

    /// Removes a new device again when it could not be set up, so that the next attempt starts afresh.
    async fn undo_unless(&self, result: Result<(), HostError>, link: Link, links: &mut Links) -> Result<(), HostError> {
        match result {
            Ok(()) => self.learn(links, &link.name).await.map(|_| ()),
            Err(error) => {
                links.remove(&link.name);
                // The first error is the one to report.
                let _ = self.delete_link(&link).await;
                Err(error)
            }
        }
    }
}

fn vxlan_entry(device: u32, mac: MacAddr, vtep: std::net::Ipv4Addr) -> Entry {
    Entry::Vxlan { device, mac, vtep }
}

fn is_left_out(change: &HostChange, broken: &BTreeSet<String>) -> bool {
    !broken.is_empty() && change.needs().iter().any(|name| broken.contains(name))
}

fn bridge_of(links: &Links, veth: &Veth) -> Result<u32, HostError> {
    match veth.vni {
        Some(vni) => ours(links, &bridge_name(vni)).map(|bridge| bridge.index),
        None => Err(HostError::NoLink { name: "of an unknown bridge".into() }),
    }
}

/// A device that we made.
fn ours<'a>(links: &'a Links, name: &str) -> Result<&'a Link, HostError> {
    let link = links.get(name).ok_or_else(|| HostError::NoLink { name: name.to_owned() })?;
    if link.is_ours() { Ok(link) } else { Err(foreign(link)) }
}

/// A name must be free before a device of that name is made.
fn refuse_foreign(links: &Links, name: &str) -> Result<(), HostError> {
    match links.get(name) {
        Some(link) => Err(foreign(link)),
        None => Ok(()),
    }
}

pub(super) fn foreign(link: &Link) -> HostError {
    let kind = match &link.kind {
        LinkKind::Vxlan(info) => format!("vxlan, VNI {}", info.vni),
        kind => kind.name().to_owned(),
    };
    HostError::Foreign { name: link.name.clone(), kind }
}
