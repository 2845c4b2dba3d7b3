//! Carries changes out, in order, and goes on after failures with what does not depend on them.

use std::collections::{BTreeSet, HashMap};

use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use overlay_common::{MacAddr, Vni};

use super::{
    ChangeErrors, FailedChange, Host, HostChange, HostError, Link, LinkKind,
    bulk::DATAGRAM,
    entries::{self, Entry},
    names::{bridge_name, vxlan_name},
    objects::Veth,
    veth,
};

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
            let row = changes[next..].iter().take(DATAGRAM).take_while(|change| change.is_entry()).count();
            let results = match row {
                0 if is_left_out(&changes[next], &broken) => vec![None],
                0 => vec![Some(self.apply_device(&changes[next], &mut links).await)],
                _ => self.apply_entries(&changes[next..next + row], &links, &broken).await,
            };
            let row = results.len();
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
            _ => Ok(()),
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

    /// Changes entries, at most [`DATAGRAM`]; `None` for one that was left out.
    async fn apply_entries(
        &self,
        changes: &[HostChange],
        links: &Links,
        broken: &BTreeSet<String>,
    ) -> Vec<Option<Result<(), HostError>>> {
        let mut results = Vec::with_capacity(changes.len());
        // What is asked for, with the places of the changes that ask for it.
        let (mut requests, mut asked) = (Vec::with_capacity(changes.len()), Vec::with_capacity(changes.len()));
        for (place, change) in changes.iter().enumerate() {
            results.push(match entry(change, links) {
                _ if is_left_out(change, broken) => None,
                Ok((entry, wanted)) => {
                    requests.push(entry.request(wanted));
                    asked.push((place, wanted));
                    Some(Ok(()))
                }
                // With the device its entries are gone.
                Err((_, false)) => Some(Ok(())),
                Err((error, true)) => Some(Err(error)),
            });
        }
        let failed = match self.bulk.change(requests).await {
            Ok(failed) => failed,
            Err(error) => (0..asked.len()).map(|request| (request, error.clone())).collect(),
        };
        for (request, error) in failed {
            if let Some(&(place, wanted)) = asked.get(request)
                && !entries::is_done(wanted, &error)
            {
                results[place] = Some(Err(HostError::netlink(changes[place].to_string())(error)));
            }
        }
        results
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

/// What entry a change is about, and whether that is to be there; or that its device is not.
fn entry(change: &HostChange, links: &Links) -> Result<(Entry, bool), (HostError, bool)> {
    use HostChange as C;
    let wanted = matches!(change, C::SetFdb(..) | C::AddFlood(..) | C::SetBridgeFdb(..) | C::SetNeighbour(..));
    let index = |name: String| match links.get(&name) {
        Some(link) => Ok(link.index),
        None => Err((HostError::NoLink { name }, wanted)),
    };
    let entry = match change {
        C::SetFdb(vni, mac, vtep) | C::DeleteFdb(vni, mac, vtep) => {
            Entry::Vxlan { device: index(vxlan_name(*vni))?, mac: *mac, vtep: *vtep }
        }
        C::AddFlood(vni, vtep) | C::DeleteFlood(vni, vtep) => {
            Entry::Vxlan { device: index(vxlan_name(*vni))?, mac: MacAddr::default(), vtep: *vtep }
        }
        C::SetBridgeFdb(vni, mac, port) | C::DeleteBridgeFdb(vni, mac, port) => {
            Entry::Bridge { port: index(port.interface(*vni))?, mac: *mac }
        }
        C::SetNeighbour(vni, ip, mac) => Entry::Neighbour { bridge: index(bridge_name(*vni))?, ip: *ip, mac: *mac },
        C::DeleteNeighbour(vni, ip) => {
            Entry::Neighbour { bridge: index(bridge_name(*vni))?, ip: *ip, mac: MacAddr::default() }
        }
        device => return Err((HostError::NoLink { name: device.to_string() }, true)),
    };
    Ok((entry, wanted))
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
