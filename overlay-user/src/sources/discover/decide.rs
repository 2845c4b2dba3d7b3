//! From what is known to the networks that there are. Pure.

use std::sync::Arc;

use super::{
    docker::DockerState,
    facts::{Facts, NetnsFacts},
    network::network,
};
use crate::{
    kernel::{Link, LinkKind, VxlanInfo},
    model::discovery::{NetnsRef, Settings},
    sources::Found,
};

/// Finds the VXLAN networks that others made on this host.
#[must_use]
pub(crate) fn decide(facts: &Facts, settings: &Settings) -> Found {
    let devices =
        facts.namespaces.iter().flat_map(|netns| vxlans(netns, settings).map(move |(link, info)| (netns, link, info)));
    let networks = devices.map(|(netns, link, info)| network(link, info, netns, facts, settings));
    Found {
        networks: Arc::new(networks.collect()),
        docker: DockerState { networks: Vec::new(), ..facts.docker.clone() },
    }
}

/// VXLAN devices of a namespace that are not ours and whose packets leave by the daemon's namespace.
pub(super) fn vxlans<'f>(
    netns: &'f NetnsFacts,
    settings: &'f Settings,
) -> impl Iterator<Item = (&'f Link, &'f VxlanInfo)> {
    let here = move |link: &Link| match netns.netns_ref {
        NetnsRef::Own => link.lower_netns.is_none(),
        NetnsRef::Other { .. } => link.lower_netns.is_some() && link.lower_netns == netns.underlay_netns,
    };
    let wanted = |name: &String| settings.vxlan.as_ref().is_none_or(|names| names.contains(name));
    netns.links.iter().filter_map(move |link| match &link.kind {
        LinkKind::Vxlan(info) if here(link) && !link.is_ours() && wanted(&link.name) => Some((link, info)),
        _ => None,
    })
}
