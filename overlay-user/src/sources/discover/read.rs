//! Reads the facts. Writes nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use overlay_common::{MacAddr, VtepAddr};

use super::{facts::HostFacts, locations::is_unicast, watch::Important};
use crate::{
    kernel::{
        ChainsVersion, FdbEntry, FdbState, Host, KernelError, Link, LinkKind, Netfilter, PolicyMark, Reader,
        RouteQuery, TrafficControl, VethPeer, chains, chains_version, local_ports, netfilter, read_features,
        xfrm_policy_marks,
    },
    plan::bridged_path::BridgedRules,
    sys::netns::Netns,
};

/// The tables of a namespace, which have events.
#[derive(Clone, Debug, Default)]
pub(super) struct NetnsTables {
    pub(super) underlay_netns: Option<i32>,
    pub(super) links: Vec<Link>,
    pub(super) veth_peers: BTreeMap<u32, VethPeer>,
    pub(super) fdb: Vec<FdbEntry>,
    pub(super) local_ports: (u16, u16),
}

/// State of the underlay's namespace that shows encryption.
pub(super) struct Encryption {
    pub(super) xfrm: Result<Vec<PolicyMark>, String>,
    pub(super) netfilter: Result<Netfilter, String>,
}

/// The state of a namespace without events, which is polled.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) netfilter: Arc<Result<BridgedRules, String>>,
    /// The version of `netfilter`; `None`: they have none, or could not be read.
    pub(super) version: Option<ChainsVersion>,
    pub(super) tc: Result<TrafficControl, String>,
}

/// One visit to a namespace, in a thread inside it. Its sockets are opened once and closed at the end.
pub(super) struct Visit<'a> {
    reader: &'a Reader,
}

/// Visits a namespace.
pub(super) async fn visit<T: Send + 'static>(
    netns: &Netns,
    read: impl FnOnce(&Visit<'_>) -> Result<T, KernelError> + Send + 'static,
) -> Result<T, KernelError> {
    Reader::within(netns, |reader| read(&Visit { reader })).await
}

impl Visit<'_> {
    /// Reads the tables; only the links if there is no external VXLAN device.
    pub(super) fn tables(&self, underlay: &Netns) -> Result<NetnsTables, KernelError> {
        let mut links = self.reader.links()?;
        if external(&links).next().is_none() {
            return Ok(NetnsTables { links, ..NetnsTables::default() });
        }
        // Before the FDB: a link that is gone has no features, and no entries.
        read_features(links.iter_mut().filter(|link| link.master.is_some()));
        // After the links: the kernel assigns netns ids when links are listed.
        let underlay_netns = self.reader.netns_number(underlay)?;
        let mut veth_peers = BTreeMap::new();
        for port in links.iter().filter(|link| link.kind == LinkKind::Veth && link.master.is_some()) {
            let peer = match (port.lower, port.lower_netns) {
                // The interface of a removed container is missing.
                (Some(index), Some(netns)) => self.reader.link_in(netns, index).ok().flatten(),
                (Some(index), None) => links.iter().find(|link| link.index == index).cloned(),
                _ => None,
            };
            veth_peers.extend(peer.map(|peer| (port.index, peer.into())));
        }
        let fdb = self.fdb(&links, &veth_peers)?;
        let local_ports = local_ports().unwrap_or((1, u16::MAX));
        Ok(NetnsTables { underlay_netns, links, veth_peers, fdb, local_ports })
    }

    /// Reads the entries that the location of an address depends on: those of the VXLAN devices, and of their bridges the
    /// entries of these addresses and of the containers, one by one. The other addresses that a bridge has learned can
    /// be any number.
    fn fdb(&self, links: &[Link], peers: &BTreeMap<u32, VethPeer>) -> Result<Vec<FdbEntry>, KernelError> {
        let is_known = |port: &Link| peers.get(&port.index).is_some_and(|peer| !peer.enslaved);
        let mut found = Vec::new();
        for vxlan in external(links) {
            let members = || links.iter().filter(|link| link.master.is_some() && link.master == vxlan.master);
            let mut macs: HashSet<MacAddr> =
                members().filter(|port| is_known(port)).map(|port| peers[&port.index].mac).collect();
            let tunnel = self.reader.fdb(Some(vxlan.index), &macs)?;
            let tunnel = tunnel.into_iter().filter(|entry| entry.own);
            let before = found.len();
            found.extend(tunnel);
            let is_bridge = |link: &&Link| Some(link.index) == vxlan.master && link.kind == LinkKind::Bridge;
            let Some(bridge) = links.iter().find(is_bridge) else { continue };
            macs.extend(found[before..].iter().filter(|entry| entry.state != FdbState::Learned).map(|entry| entry.mac));
            let is_unknown = |port: &&Link| !is_known(port) && port.index != vxlan.index;
            let unknown: Vec<u32> = members().filter(is_unknown).map(|port| port.index).collect();
            for port in &unknown {
                found.extend(self.reader.fdb(Some(*port), &macs)?.into_iter().filter(|entry| !entry.own));
            }
            for mac in macs.into_iter().filter(|mac| is_unicast(*mac)) {
                let entry = self.reader.bridge_entry(bridge.index, mac)?;
                found.extend(entry.filter(|entry| !unknown.contains(&entry.ifindex)));
            }
        }
        Ok(found)
    }

    /// Reads the peers of these veths that are in other namespaces.
    pub(super) fn veth_peers(&self, ports: &[VethPort]) -> BTreeMap<u32, VethPeer> {
        let peers = ports.iter().filter_map(|(port, netns, index)| {
            let peer = self.reader.link_in(*netns, *index).ok().flatten()?;
            Some((*port, peer.into()))
        });
        peers.collect()
    }

    /// Reads the rules, unless they are the last ones, and traffic control of these devices.
    pub(super) fn rules(
        &self,
        devices: &[(u32, String)],
        last: Option<(ChainsVersion, Arc<Result<BridgedRules, String>>)>,
    ) -> Rules {
        // Read first: a change during the dump is read the next time.
        let version = chains_version();
        let netfilter = match last {
            Some((last, netfilter)) if version == Some(last) => netfilter,
            _ => Arc::new(chains().map(BridgedRules::new).map_err(|error| error.to_string())),
        };
        let tc = self.reader.traffic_control(devices).map_err(|error| error.to_string());
        Rules { version: version.filter(|_| netfilter.is_ok()), netfilter, tc }
    }

    /// Reads the state that shows encryption.
    pub(super) fn encryption(&self) -> Encryption {
        Encryption {
            xfrm: xfrm_policy_marks().map_err(|error| error.to_string()),
            netfilter: netfilter().map_err(|error| error.to_string()),
        }
    }
}

/// The learned entries that can change what is derived from the tables: of the addresses behind veths, of addresses
/// with an entry that is not learned, and at ports whose address is the only one that the bridge has learned.
pub(super) fn important(tables: &NetnsTables) -> Important {
    let mut important = Important::default();
    let mut add = |mac: MacAddr, ifindex: u32| {
        let place = important.macs.entry(mac).or_insert(Some(ifindex));
        *place = place.filter(|known| *known == ifindex);
    };
    let bridges: HashSet<u32> = external(&tables.links).filter_map(|vxlan| vxlan.master).collect();
    let is_port = |link: &&Link| {
        link.master.is_some_and(|master| bridges.contains(&master)) && !matches!(link.kind, LinkKind::Vxlan(_))
    };
    for port in tables.links.iter().filter(is_port) {
        match tables.veth_peers.get(&port.index).filter(|peer| !peer.enslaved) {
            Some(peer) => add(peer.mac, port.index),
            None => _ = important.ports.insert(port.index),
        }
    }
    let mut learned = HashMap::<u32, usize>::new();
    for entry in &tables.fdb {
        match entry.state {
            FdbState::Learned if !entry.own => *learned.entry(entry.ifindex).or_default() += 1,
            FdbState::Learned => {}
            FdbState::Static | FdbState::Permanent => add(entry.mac, entry.ifindex),
        }
    }
    important.ports.retain(|port| learned.get(port).is_none_or(|count| *count < 2));
    important
}

/// The external VXLAN devices.
fn external(links: &[Link]) -> impl Iterator<Item = &Link> {
    links.iter().filter(|link| matches!(link.kind, LinkKind::Vxlan(_)) && !link.is_owned())
}

/// A bridge port whose other end is in another namespace: its index, the netns id, and the index there.
pub(super) type VethPort = (u32, i32, u32);

/// The bridge ports whose other ends are in other namespaces.
pub(super) fn veth_ports(links: &[Link]) -> Vec<VethPort> {
    let veths = links.iter().filter(|link| link.kind == LinkKind::Veth && link.master.is_some());
    veths.filter_map(|link| Some((link.index, link.lower_netns?, link.lower?))).collect()
}

/// The bridges and their ports: the devices that bridged frames pass.
pub(super) fn on_path(links: &[Link]) -> Vec<(u32, String)> {
    let on_path = links.iter().filter(|link| link.master.is_some() || link.kind == LinkKind::Bridge);
    on_path.map(|link| (link.index, link.name.clone())).collect()
}

/// Reads the addresses of the daemon's own namespace, and the source address for each lookup.
pub(super) async fn sources(
    host: &Host,
    lookups: BTreeSet<(RouteQuery, VtepAddr)>,
    facts: &mut HostFacts,
) -> Result<(), KernelError> {
    let addresses = host.snapshot();
    let addresses = addresses.addresses().await?;
    facts.addresses = addresses.iter().map(|(index, address)| (*index, address.addr().into())).collect();
    facts.sources = host.sources(lookups).await?;
    Ok(())
}
