//! The existing owned objects.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use overlay_common::{MacAddr, Vni, VtepAddr};

use crate::{
    apply::{ledger::Owned, net::HostError},
    kernel::{
        FdbState, KernelError, Link, LinkKind, Snapshot,
        names::{self, vxlan_name},
    },
    plan::host::objects::{Bridge, DesiredHost, FdbPort, HostState, Veth, Vxlan},
    sys::netns::Netns,
};

impl Snapshot {
    /// All devices with the owner mark, for a caller without a record that removes everything. Excludes adopted ports.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) async fn marked(&self) -> Result<BTreeSet<Owned>, KernelError> {
        Ok(self.links().await?.iter().filter(|link| link.is_owned()).map(Owned::link).collect())
    }

    /// The existing owned objects of this network namespace.
    ///
    /// Owned are: a device with the owner mark ([`crate::kernel::ALIAS_PREFIX`]) that is either desired or in the
    /// caller's ownership record `owned` (see [`crate::apply::ledger`]); an interface in an owned bridge that is either
    /// desired or in the record; and every static entry on these. Properties that cannot be read back (a random MAC
    /// address that must not change, a container's default route) are reported as desired.
    ///
    /// # Errors
    /// [`KernelError::Netlink`] when a table cannot be read.
    pub(crate) async fn state(&self, desired: &DesiredHost, owned: &BTreeSet<Owned>) -> Result<HostState, HostError> {
        let links = self.links().await?;
        let by_index: HashMap<u32, &Link> = links.iter().map(|link| (link.index, link)).collect();
        let mut state = HostState::default();

        let mut addresses = BTreeMap::<u32, BTreeSet<_>>::new();
        for (index, address) in self.addresses().await? {
            addresses.entry(*index).or_default().insert(*address);
        }
        let mut bridges = HashMap::new();
        for link in links.iter().filter(|link| link.is_owned() && link.kind == LinkKind::Bridge) {
            let Some(vni) = names::vni_of_bridge(&link.name) else { continue };
            let wanted = desired.bridges.get(&vni);
            if wanted.is_some() || owned.contains(&Owned::link(link)) {
                let addresses = addresses.remove(&link.index).unwrap_or_default();
                let free_mac = wanted.is_some_and(|bridge| bridge.mac.is_none());
                let bridge = Bridge {
                    alias: alias(link),
                    mtu: mtu(link),
                    mac: (!free_mac).then_some(link.mac),
                    addresses,
                    up: link.up,
                };
                state.bridges.insert(vni, bridge);
                bridges.insert(link.index, vni);
            }
        }
        for link in links {
            // The VNI of its bridge, if that is owned.
            let vni = link.master.and_then(|master| bridges.get(&master)).copied();
            match &link.kind {
                LinkKind::Vxlan(info) if link.is_owned() && names::vni_of_vxlan(&link.name).is_some() => {
                    let Some(own) = names::vni_of_vxlan(&link.name) else { continue };
                    if desired.vxlans.contains_key(&own) || owned.contains(&Owned::link(link)) {
                        let quiet = link.bridge_port.is_some_and(|port| !port.learning && port.neigh_suppress);
                        let vxlan = Vxlan {
                            alias: alias(link),
                            mtu: mtu(link),
                            port: info.port,
                            local: info.local.unwrap_or(VtepAddr::UNSPECIFIED),
                            underlay: info.underlay.unwrap_or(0),
                            ttl: info.ttl,
                            plain: info.vni == own.get() && !(info.learning || info.proxy || info.udp_csum),
                            enslaved: vni == Some(own) && quiet,
                            up: link.up,
                        };
                        state.vxlans.insert(own, vxlan);
                    }
                }
                LinkKind::Veth if link.is_owned() && names::is_veth(&link.name) => {
                    let wanted = desired.veths.get(&link.name);
                    if wanted.is_some() || owned.contains(&Owned::link(link)) {
                        let veth = self.veth_state(link, vni, wanted).await?;
                        state.veths.insert(link.name.clone(), veth);
                    }
                }
                _ => {
                    let Some(vni) = vni else { continue };
                    if desired.ports.contains_key(&link.name) || owned.contains(&Owned::Port(link.name.clone())) {
                        state.ports.insert(link.name.clone(), vni);
                    }
                }
            }
        }
        self.read_entries(&mut state, desired, &by_index, &bridges).await?;
        Ok(state)
    }

    async fn veth_state(&self, host: &Link, vni: Option<Vni>, wanted: Option<&Veth>) -> Result<Veth, HostError> {
        let mut veth = Veth {
            alias: alias(host),
            vni,
            netns: None,
            mtu: 0,
            mac: MacAddr::default(),
            address: None,
            gateway: wanted.and_then(|wanted| wanted.gateway),
            checked: wanted.is_some_and(|wanted| wanted.checked),
            up: false,
        };
        // Read from here by the netns id: no thread has to enter the namespace.
        let (Some(peer), Some(netns)) = (host.lower, host.lower_netns) else { return Ok(veth) };
        let Ok(Some(container)) = self.host().link_in(netns, peer).await else { return Ok(veth) };
        let addresses = self.host().addresses(Some(peer), Some(netns)).await?;
        if let Some(path) = wanted.and_then(|wanted| wanted.netns.as_ref()) {
            // A dangling path must not disconnect a running container.
            let same = match Netns::open(path) {
                Ok(wanted) => self.host().netns_number(&wanted).await? == Some(netns),
                Err(_) => true,
            };
            veth.netns = same.then(|| path.clone());
        }
        veth.mtu = if host.mtu == container.mtu { mtu(host) } else { 0 };
        veth.mac = container.mac;
        let wanted_address = wanted.and_then(|wanted| wanted.address);
        let mut found = addresses.into_iter().map(|(_, address)| address);
        veth.address = found.clone().find(|address| Some(*address) == wanted_address).or_else(|| found.next());
        // The port is set up once. An operator may set it down afterwards.
        veth.up = (host.up || host.was_up) && container.up;
        Ok(veth)
    }

    async fn read_entries(
        &self,
        state: &mut HostState,
        desired: &DesiredHost,
        links: &HashMap<u32, &Link>,
        bridges: &HashMap<u32, Vni>,
    ) -> Result<(), HostError> {
        for entry in self.fdb().await? {
            let (Some(link), mac) = (links.get(&entry.ifindex), entry.mac) else { continue };
            if entry.own {
                let Some(vni) = names::vni_of_vxlan(&link.name).filter(|vni| state.vxlans.contains_key(vni)) else {
                    continue;
                };
                let Some(vtep) = entry.dst else { continue };
                if mac == MacAddr::default() {
                    state.flood.insert((vni, vtep), ());
                } else {
                    // An entry that ages or has options is not owned.
                    let plain = !entry.special && entry.state != FdbState::Learned;
                    state.fdb.insert((vni, mac), if plain { vtep } else { VtepAddr::UNSPECIFIED });
                }
            } else if entry.state == FdbState::Static {
                let Some(&vni) = link.master.and_then(|master| bridges.get(&master)) else { continue };
                let port = if !entry.sticky && desired.bridge_fdb.contains_key(&(vni, mac)) {
                    FdbPort::Movable
                } else if link.name == vxlan_name(vni) {
                    FdbPort::Vxlan
                } else {
                    FdbPort::Interface(link.name.clone())
                };
                state.bridge_fdb.insert((vni, mac), port);
            }
        }
        for entry in self.permanent_neighbours().await? {
            if let Some(&vni) = bridges.get(&entry.ifindex) {
                state.neighbours.insert((vni, entry.ip), entry.mac);
            }
        }
        Ok(())
    }
}

fn alias(link: &Link) -> String {
    link.alias.clone().unwrap_or_default()
}

/// The MTU of a link; 0, which is never desired, if it does not fit.
fn mtu(link: &Link) -> u16 {
    u16::try_from(link.mtu).unwrap_or(0)
}
