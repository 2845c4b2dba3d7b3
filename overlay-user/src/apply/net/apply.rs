//! Applies changes in order. After a failure, independent changes continue.

use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv4Addr,
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};
use overlay_common::{MacAddr, Vni, VtepAddr};
use tracing::debug;

use super::{
    bridge::Origin,
    conflicts::{not_owned, vni_in_use},
    entries::{self, Entry},
    veth,
};
use crate::{
    apply::{
        ledger::{Ledger, Owned, Recorded},
        net::{ChangeErrors, FailedChange, HostError},
    },
    kernel::{
        Host, Link, Snapshot,
        names::{bridge_name, vxlan_name},
    },
    plan::{
        change::{Change, ChangeOf},
        host::{
            Bridge, HostChanges, Phase,
            diff::{is_same_tunnel, is_same_veth},
            objects::{
                BridgeFdb, Bridges, FdbPort, Flood, Members, Neighbours, Object, ObjectVisitor, Veth, Veths, Vxlan,
                VxlanFdb, Vxlans,
            },
        },
    },
    sys::netlink::{bulk::DATAGRAM, connection::Mode},
};

/// The links of this namespace by name, updated with every change.
pub(crate) type Links = HashMap<String, Link>;

impl Host {
    /// Applies the changes of one phase, in order. A failed change is rolled back; changes that depend on it are
    /// skipped, and independent ones continue. `snapshot`, of this namespace, has the links; the changed tables are
    /// read again on the next access.
    ///
    /// # Errors
    /// [`HostError::Changes`] with every failed or skipped change;
    /// [`KernelError::Netlink`](crate::kernel::KernelError::Netlink) when the links cannot be read.
    pub(crate) async fn apply(
        &self,
        changes: &HostChanges,
        phase: Phase,
        ledger: &Ledger,
        snapshot: &mut Snapshot,
    ) -> Result<(), HostError> {
        let mut any = HasChanges { phase, changes: false };
        changes.visit(&mut any);
        if !any.changes {
            return Ok(());
        }
        let links = snapshot.links().await?.iter().map(|link| (link.name.clone(), link.clone())).collect();
        let mut devices = HasChanges { phase, changes: false };
        devices.table::<Bridges>(&changes.bridges);
        devices.table::<Vxlans>(&changes.vxlans);
        devices.table::<Veths>(&changes.veths);
        devices.table::<Members>(&changes.ports);
        if devices.changes {
            snapshot.forget_links();
        } else {
            snapshot.forget_entries();
        }
        let (broken, errors) = (BTreeSet::new(), ChangeErrors::default());
        let (requests, actions) = (Vec::new(), Vec::new());
        let mut session = Session { host: self, ledger, phase, links, broken, errors, requests, actions };
        match phase {
            Phase::Create => {
                session.devices::<Bridges>(&changes.bridges).await;
                session.devices::<Vxlans>(&changes.vxlans).await;
                session.devices::<Veths>(&changes.veths).await;
                session.devices::<Members>(&changes.ports).await;
                session.entries::<Flood>(&changes.flood).await;
                session.entries::<VxlanFdb>(&changes.fdb).await;
                session.entries::<BridgeFdb>(&changes.bridge_fdb).await;
                session.entries::<Neighbours>(&changes.neighbours).await;
                session.flush().await;
            }
            Phase::Remove => {
                session.entries::<Neighbours>(&changes.neighbours).await;
                session.entries::<BridgeFdb>(&changes.bridge_fdb).await;
                session.entries::<VxlanFdb>(&changes.fdb).await;
                session.entries::<Flood>(&changes.flood).await;
                session.flush().await;
                session.devices::<Members>(&changes.ports).await;
                session.devices::<Veths>(&changes.veths).await;
                session.devices::<Vxlans>(&changes.vxlans).await;
                session.devices::<Bridges>(&changes.bridges).await;
            }
        }
        if session.errors.failed.is_empty() { Ok(()) } else { Err(session.errors.into()) }
    }

    async fn adopt(&self, port: &Link, vni: Vni, links: &Links) -> Result<(), HostError> {
        let (name, bridge) = (&port.name, owned_link(links, &bridge_name(vni))?.index);
        match port.master {
            Some(master) if master == bridge => return Ok(()),
            Some(master) => {
                let owner = links.values().find(|link| link.index == master).map_or("unknown", |link| &link.name);
                return Err(HostError::PortInUse { name: name.clone(), bridge: owner.to_owned() });
            }
            None => {}
        }
        let mut message = LinkMessage::default();
        message.header.index = port.index;
        message.attributes.push(LinkAttribute::Controller(bridge));
        // The administrative state and the MTU belong to the port's owner.
        self.set_link(message).await.map_err(HostError::netlink(format!("attach {name} to {}", bridge_name(vni))))
    }

    async fn release(&self, name: &str, vni: Vni, links: &mut Links) -> Result<(), HostError> {
        // Another program may have moved the port.
        let Some(port) = self.link_by_name(name).await? else { return Ok(()) };
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
                result.map_err(HostError::netlink(format!("detach {name} from {}", bridge_name(vni))))?;
                self.refresh_link(links, name).await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, name: &str, links: &mut Links) -> Result<(), HostError> {
        let Some(link) = links.get(name) else { return Ok(()) };
        if !link.is_owned() {
            return Err(not_owned(link));
        }
        self.delete_link(link).await?;
        links.remove(name);
        Ok(())
    }

    /// Reads one link after a change.
    async fn refresh_link(&self, links: &mut Links, name: &str) -> Result<Link, HostError> {
        let link = self.link_by_name(name).await?.ok_or_else(|| HostError::NoLink { name: name.to_owned() })?;
        links.insert(name.to_owned(), link.clone());
        Ok(link)
    }
}

/// State of one phase.
struct Session<'a> {
    host: &'a Host,
    ledger: &'a Ledger,
    phase: Phase,
    links: Links,
    /// Names of the devices that are missing or unusable because a change failed.
    broken: BTreeSet<String>,
    errors: ChangeErrors,
    /// Queued requests for entries, and the action of each.
    requests: Vec<(RouteNetlinkMessage, Mode)>,
    actions: Vec<Box<dyn Fn() -> String + 'a>>,
}

/// Whether a phase has changes.
struct HasChanges {
    phase: Phase,
    changes: bool,
}

impl ObjectVisitor for HasChanges {
    fn table<T: Object>(&mut self, changes: &[ChangeOf<T>]) {
        self.changes |= changes.iter().any(|change| change.new.is_some() == (self.phase == Phase::Create));
    }
}

impl<'a> Session<'a> {
    /// Applies the changes of one kind of device.
    async fn devices<T: Device>(&mut self, changes: &[ChangeOf<T>]) {
        for (change, value) in self.of_phase(changes) {
            let result = match self.is_skipped::<T>(change, value) {
                true => Err(None),
                false => self.device::<T>(change).await.map_err(Some),
            };
            if let Err(error) = result {
                let stays = change.old.as_ref().zip(change.new.as_ref());
                if stays.is_none_or(|(old, new)| T::is_recreated(old, new)) {
                    self.broken.insert(T::name(&change.key));
                }
                self.fail(T::action(change), error);
            }
        }
    }

    async fn device<T: Device>(&mut self, change: &ChangeOf<T>) -> Result<(), HostError> {
        let Change { key, old, new } = change;
        let name = T::name(key);
        if let (Some(old), Some(new)) = (old, new)
            && !T::is_recreated(old, new)
        {
            return T::set(self.host, key, new, owned_link(&self.links, &name)?, &self.links, Origin::Existing).await;
        }
        if let Some(old) = old {
            T::remove(self.host, key, old, &mut self.links).await?;
        }
        let owned = T::owned(key);
        let Some(new) = new else { return Ok(self.ledger.forget(&owned)?) };
        let recorded = self.ledger.record(&owned)?;
        let created = self.create::<T>(key, new, &name, recorded).await;
        // A device that was not created is not owned.
        if created.is_err() && T::IS_LINK && self.host.link_by_name(&name).await?.is_none() {
            self.ledger.forget(&owned)?;
        }
        created
    }

    /// Creates and configures a device; removes it if the configuration fails.
    async fn create<T: Device>(
        &mut self,
        key: &T::Key,
        value: &T::Value,
        name: &str,
        recorded: Recorded,
    ) -> Result<(), HostError> {
        let Self { host, links, .. } = self;
        if T::IS_LINK {
            match links.get(name) {
                Some(link) => return Err(not_owned(link)),
                None => T::create(host, key, value, links, recorded).await?,
            }
        }
        let link = host.refresh_link(links, name).await?;
        let result = T::set(host, key, value, &link, links, Origin::New).await;
        if result.is_ok() {
            return host.refresh_link(links, name).await.map(|_| ());
        }
        if T::IS_LINK {
            links.remove(name);
            // The first error is the one to report.
            let _ = host.delete_link(&link).await;
        }
        result
    }

    /// Queues the changes of one kind of entry. Full datagrams are sent; the rest waits for [`Self::flush`].
    async fn entries<T: TableEntry>(&mut self, changes: &'a [ChangeOf<T>]) {
        for (change, value) in self.of_phase(changes) {
            if self.is_skipped::<T>(change, value) {
                self.fail(T::action(change), None);
                continue;
            }
            match T::entry(&change.key, value, &self.links) {
                Ok(entry) => {
                    self.requests.push(entry.request(self.phase));
                    self.actions.push(Box::new(|| T::action(change)));
                }
                // The kernel removes entries with their device.
                Err(_) if self.phase == Phase::Remove => {}
                Err(error) => self.fail(T::action(change), Some(error)),
            }
            if self.requests.len() == DATAGRAM {
                self.flush().await;
            }
        }
    }

    /// Sends the queued requests.
    async fn flush(&mut self) {
        let (requests, actions) = (std::mem::take(&mut self.requests), std::mem::take(&mut self.actions));
        if requests.is_empty() {
            return;
        }
        let failed = match self.host.bulk.change(requests).await {
            Ok(failed) => failed,
            Err(error) => (0..actions.len()).map(|request| (request, error.clone())).collect(),
        };
        for (request, error) in failed {
            if let Some(action) = actions.get(request).map(|action| action())
                && !entries::is_done(self.phase, &error)
            {
                self.fail(action.clone(), Some(HostError::netlink(action)(error)));
            }
        }
    }

    /// The changes of this phase, each with its value: the new one, or the removed one.
    fn of_phase<'c, K, V>(
        &self,
        changes: &'c [Change<K, V>],
    ) -> impl Iterator<Item = (&'c Change<K, V>, &'c V)> + use<'c, K, V> {
        let phase = self.phase;
        changes.iter().filter_map(move |change| match phase {
            Phase::Create => Some((change, change.new.as_ref()?)),
            Phase::Remove if change.new.is_none() => Some((change, change.old.as_ref()?)),
            Phase::Remove => None,
        })
    }

    fn is_skipped<T: Object>(&self, change: &ChangeOf<T>, value: &T::Value) -> bool {
        debug!("{}: {}", T::action(change), T::text(&change.key, value));
        // Removals have no dependencies.
        !self.broken.is_empty()
            && self.phase == Phase::Create
            && T::parents(&change.key, value).iter().flatten().any(|parent| self.broken.contains(&parent.device()))
    }

    /// Records a failed change; `error` is `None` for a skipped one.
    fn fail(&mut self, action: String, error: Option<HostError>) {
        self.errors.failed.push(FailedChange { action, error: error.map(Box::new) });
    }
}

/// A kind of device.
trait Device: Object {
    /// `false`: the membership of an adopted interface in a bridge.
    const IS_LINK: bool = true;

    /// Its entry in the record.
    fn owned(key: &Self::Key) -> Owned {
        Owned::Link(Self::name(key))
    }

    /// Whether the new value requires recreation.
    fn is_recreated(_old: &Self::Value, _new: &Self::Value) -> bool {
        false
    }

    /// Creates the device. Its name is free, and it is recorded.
    async fn create(
        host: &Host,
        key: &Self::Key,
        value: &Self::Value,
        links: &Links,
        _: Recorded,
    ) -> Result<(), HostError>;

    /// Applies the value to the existing device.
    async fn set(
        host: &Host,
        key: &Self::Key,
        value: &Self::Value,
        link: &Link,
        links: &Links,
        origin: Origin,
    ) -> Result<(), HostError>;

    async fn remove(host: &Host, key: &Self::Key, _: &Self::Value, links: &mut Links) -> Result<(), HostError> {
        host.remove(&Self::name(key), links).await
    }
}

impl Device for Bridges {
    async fn create(host: &Host, vni: &Vni, bridge: &Bridge, _: &Links, _: Recorded) -> Result<(), HostError> {
        let name = bridge_name(*vni);
        host.make_bridge(&name, bridge).await.map_err(HostError::netlink(format!("create {name}")))
    }

    async fn set(
        host: &Host,
        _: &Vni,
        bridge: &Bridge,
        link: &Link,
        _: &Links,
        origin: Origin,
    ) -> Result<(), HostError> {
        host.set_bridge(link, bridge, origin).await
    }
}

impl Device for Vxlans {
    fn is_recreated(old: &Vxlan, new: &Vxlan) -> bool {
        !is_same_tunnel(old, new)
    }

    async fn create(host: &Host, vni: &Vni, vxlan: &Vxlan, links: &Links, _: Recorded) -> Result<(), HostError> {
        match host.make_vxlan(*vni, vxlan).await {
            Err(error) if error.errno == libc::EEXIST => Err(vni_in_use(links.values(), *vni, vxlan.port)),
            result => result.map_err(HostError::netlink(format!("create {}", vxlan_name(*vni)))),
        }
    }

    async fn set(
        host: &Host,
        vni: &Vni,
        vxlan: &Vxlan,
        link: &Link,
        links: &Links,
        _: Origin,
    ) -> Result<(), HostError> {
        host.set_vxlan(*vni, link, owned_link(links, &bridge_name(*vni))?.index, vxlan, links).await
    }
}

impl Device for Veths {
    fn is_recreated(old: &Veth, new: &Veth) -> bool {
        !is_same_veth(old, new)
    }

    async fn create(host: &Host, name: &String, veth: &Veth, _: &Links, _: Recorded) -> Result<(), HostError> {
        let netns = veth::open_netns(veth)?;
        host.make_veth(name, veth, &netns).await.map_err(HostError::netlink(format!("create {name}")))
    }

    async fn set(host: &Host, _: &String, veth: &Veth, link: &Link, links: &Links, _: Origin) -> Result<(), HostError> {
        host.set_veth(link, bridge_of(links, veth)?, veth, &veth::open_netns(veth)?).await
    }
}

impl Device for Members {
    const IS_LINK: bool = false;

    fn owned(name: &String) -> Owned {
        Owned::Port(name.clone())
    }

    /// It has to leave the other bridge first.
    fn is_recreated(_: &Vni, _: &Vni) -> bool {
        true
    }

    /// Adopted interfaces already exist.
    async fn create(_: &Host, _: &String, _: &Vni, _: &Links, _: Recorded) -> Result<(), HostError> {
        Ok(())
    }

    async fn set(host: &Host, _: &String, vni: &Vni, link: &Link, links: &Links, _: Origin) -> Result<(), HostError> {
        host.adopt(link, *vni, links).await
    }

    async fn remove(host: &Host, name: &String, vni: &Vni, links: &mut Links) -> Result<(), HostError> {
        host.release(name, *vni, links).await
    }
}

/// A kind of table entry.
trait TableEntry: Object {
    /// The entry with interface indices.
    ///
    /// # Errors
    /// [`HostError::NoLink`] when its device is missing.
    fn entry(key: &Self::Key, value: &Self::Value, links: &Links) -> Result<Entry, HostError>;
}

fn index(links: &Links, name: String) -> Result<u32, HostError> {
    links.get(&name).map(|link| link.index).ok_or(HostError::NoLink { name })
}

impl TableEntry for Flood {
    fn entry((vni, vtep): &(Vni, VtepAddr), (): &(), links: &Links) -> Result<Entry, HostError> {
        Ok(Entry::Vxlan { device: index(links, vxlan_name(*vni))?, mac: MacAddr::default(), vtep: *vtep })
    }
}

impl TableEntry for VxlanFdb {
    fn entry((vni, mac): &(Vni, MacAddr), vtep: &VtepAddr, links: &Links) -> Result<Entry, HostError> {
        Ok(Entry::Vxlan { device: index(links, vxlan_name(*vni))?, mac: *mac, vtep: *vtep })
    }
}

impl TableEntry for BridgeFdb {
    fn entry((vni, mac): &(Vni, MacAddr), port: &FdbPort, links: &Links) -> Result<Entry, HostError> {
        Ok(Entry::Bridge { port: index(links, port.interface(*vni))?, mac: *mac })
    }
}

impl TableEntry for Neighbours {
    fn entry((vni, ip): &(Vni, Ipv4Addr), mac: &MacAddr, links: &Links) -> Result<Entry, HostError> {
        Ok(Entry::Neighbour { bridge: index(links, bridge_name(*vni))?, ip: *ip, mac: *mac })
    }
}

fn bridge_of(links: &Links, veth: &Veth) -> Result<u32, HostError> {
    match veth.vni {
        Some(vni) => owned_link(links, &bridge_name(vni)).map(|bridge| bridge.index),
        None => Err(HostError::NoLink { name: "of an unknown bridge".into() }),
    }
}

/// The link of this name, if it has the owner mark.
fn owned_link<'a>(links: &'a Links, name: &str) -> Result<&'a Link, HostError> {
    let link = links.get(name).ok_or_else(|| HostError::NoLink { name: name.to_owned() })?;
    if link.is_owned() { Ok(link) } else { Err(not_owned(link)) }
}
