//! Reading the facts. Nothing is written anywhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::Ipv4Addr,
};

use super::facts::{HostFacts, VethPeer};
use crate::host::{
    FdbEntry, Host, HostError, Link, LinkKind, Netfilter, TrafficControl, netfilter,
    netns::{Netns, NetnsError},
    traffic_control, xfrm_policy_marks,
};

/// The tables of a namespace that have events.
#[derive(Clone, Debug, Default)]
pub(super) struct NetnsTables {
    pub(super) underlay_netns: Option<i32>,
    pub(super) links: Vec<Link>,
    pub(super) peers: BTreeMap<u32, VethPeer>,
    pub(super) fdb: Vec<FdbEntry>,
}

/// What of a namespace has to be looked at again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) netfilter: Result<Netfilter, String>,
    pub(super) bridge_nf: bool,
    pub(super) tc: Result<TrafficControl, String>,
}

/// Reads a namespace's tables. Where it has no VXLAN device, the links alone.
pub(super) async fn tables(netns: &Netns, underlay: &Netns) -> Result<NetnsTables, HostError> {
    let host = Host::open_in(netns)?;
    let links = host.links().await?;
    if !links.iter().any(|link| matches!(link.kind, LinkKind::Vxlan(_)) && !link.is_ours()) {
        return Ok(NetnsTables { links, ..NetnsTables::default() });
    }
    // After the links: listing them is what makes the kernel number the other namespaces.
    let underlay_netns = host.netns_number(underlay).await?;
    let fdb = host.fdb().await?;
    let mut peers = BTreeMap::new();
    for port in links.iter().filter(|link| link.kind == LinkKind::Veth && link.master.is_some()) {
        let peer = match (port.lower, port.lower_netns) {
            // A container that has just gone has no interface any more.
            (Some(index), Some(netns)) => host.link_in(netns, index).await.ok().flatten(),
            (Some(index), None) => links.iter().find(|link| link.index == index).cloned(),
            _ => None,
        };
        if let Some(peer) = peer {
            peers.insert(port.index, VethPeer { mac: peer.mac, enslaved: peer.master.is_some(), xdp: peer.xdp });
        }
    }
    Ok(NetnsTables { underlay_netns, links, peers, fdb })
}

/// Reads a namespace's rules. Of its `links` those that frames of a bridge pass matter.
pub(super) async fn rules(netns: &Netns, links: &[Link]) -> Result<Rules, NetnsError> {
    let on_path = links.iter().filter(|link| link.master.is_some() || link.kind == LinkKind::Bridge);
    let devices: Vec<_> = on_path.map(|link| (link.index, link.name.clone())).collect();
    within(netns, move || Rules {
        netfilter: netfilter().map_err(|error| error.to_string()),
        bridge_nf: ["iptables", "ip6tables"].iter().any(|which| bridge_nf(which)),
        tc: traffic_control(&devices).map_err(|error| error.to_string()),
    })
    .await
}

/// Without the module, bridged frames are not handed over.
fn bridge_nf(which: &str) -> bool {
    match fs::read_to_string(format!("/proc/sys/net/bridge/bridge-nf-call-{which}")) {
        Ok(value) => value.trim() != "0",
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Reads what the underlay's namespace says of encryption.
pub(super) async fn encryption(underlay: &Netns, facts: &mut HostFacts) -> Result<(), NetnsError> {
    (facts.xfrm, facts.netfilter, facts.default_ttl) = within(underlay, || {
        let ttl = fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl");
        (
            xfrm_policy_marks().map_err(|error| error.to_string()),
            netfilter().map_err(|error| error.to_string()),
            ttl.ok().and_then(|ttl| ttl.trim().parse().ok()).unwrap_or(0),
        )
    })
    .await?;
    Ok(())
}

/// Reads addresses of this host, and how each VTEP is reached.
pub(super) async fn sources(vteps: BTreeSet<Ipv4Addr>, facts: &mut HostFacts) -> Result<(), HostError> {
    let host = Host::open()?;
    facts.addresses =
        host.addresses(None, None).await?.into_iter().map(|(index, address)| (index, address.addr())).collect();
    facts.sources.clear();
    for vtep in vteps {
        facts.sources.insert(vtep, host.source(vtep).await?);
    }
    Ok(())
}

/// Runs what blocks on a thread of its own, inside a namespace.
async fn within<T: Send + 'static>(netns: &Netns, work: impl FnOnce() -> T + Send + 'static) -> Result<T, NetnsError> {
    let inside = netns.clone();
    match tokio::task::spawn_blocking(move || inside.within(work)).await {
        Ok(result) => result,
        Err(error) => Err(NetnsError::Thread { path: netns.path().to_owned(), reason: error.to_string() }),
    }
}
