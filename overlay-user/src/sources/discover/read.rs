//! Reads the facts. Writes nothing.

use std::collections::{BTreeMap, BTreeSet};

use overlay_common::VtepAddr;

use super::facts::HostFacts;
use crate::{
    kernel::{
        FdbEntry, Host, KernelError, Link, LinkKind, Netfilter, PolicyMark, Reader, RouteQuery, TrafficControl,
        VethPeer, bridge_nf, local_ports, netfilter, read_features, xfrm_policy_marks,
    },
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) netfilter: Result<Netfilter, String>,
    pub(super) bridge_nf: bool,
    pub(super) tc: Result<TrafficControl, String>,
}

/// One visit to a namespace, in a thread inside it. Its sockets are opened once and closed at the end.
pub(super) struct Visit<'a> {
    reader: &'a Reader,
    /// Cached for this visit.
    netfilter: Option<Result<Netfilter, String>>,
}

/// Visits a namespace.
pub(super) async fn visit<T: Send + 'static>(
    netns: &Netns,
    read: impl FnOnce(&mut Visit<'_>) -> Result<T, KernelError> + Send + 'static,
) -> Result<T, KernelError> {
    Reader::within(netns, |reader| read(&mut Visit { reader, netfilter: None })).await
}

impl Visit<'_> {
    /// Reads the tables; only the links if there is no external VXLAN device.
    pub(super) fn tables(&self, underlay: &Netns) -> Result<NetnsTables, KernelError> {
        let mut links = self.reader.links()?;
        if !links.iter().any(|link| matches!(link.kind, LinkKind::Vxlan(_)) && !link.is_owned()) {
            return Ok(NetnsTables { links, ..NetnsTables::default() });
        }
        // Before the FDB: a link that is gone has no features, and no entries.
        read_features(links.iter_mut().filter(|link| link.master.is_some()));
        // After the links: the kernel assigns netns ids when links are listed.
        let underlay_netns = self.reader.netns_number(underlay)?;
        let fdb = self.reader.fdb()?;
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
        let local_ports = local_ports().unwrap_or((1, u16::MAX));
        Ok(NetnsTables { underlay_netns, links, veth_peers, fdb, local_ports })
    }

    /// Reads the peers of these veths that are in other namespaces.
    pub(super) fn veth_peers(&self, ports: &[VethPort]) -> BTreeMap<u32, VethPeer> {
        let peers = ports.iter().filter_map(|(port, netns, index)| {
            let peer = self.reader.link_in(*netns, *index).ok().flatten()?;
            Some((*port, peer.into()))
        });
        peers.collect()
    }

    /// Reads the rules, and traffic control of these devices.
    pub(super) fn rules(&mut self, devices: &[(u32, String)]) -> Rules {
        Rules {
            netfilter: self.netfilter(),
            bridge_nf: ["iptables", "ip6tables"].iter().any(|which| bridge_nf(which)),
            tc: self.reader.traffic_control(devices).map_err(|error| error.to_string()),
        }
    }

    /// Reads the state that shows encryption.
    pub(super) fn encryption(&mut self) -> Encryption {
        Encryption { xfrm: xfrm_policy_marks().map_err(|error| error.to_string()), netfilter: self.netfilter() }
    }

    fn netfilter(&mut self) -> Result<Netfilter, String> {
        self.netfilter.get_or_insert_with(|| netfilter().map_err(|error| error.to_string())).clone()
    }
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
