//! The external networks as a pure function of the facts.

use std::sync::Arc;

use super::{
    docker::DockerState,
    facts::{Facts, NetnsFacts},
    network::network,
};
use crate::{
    kernel::{Link, LinkKind, VxlanInfo},
    model::discovery::{NetnsRef, Settings},
    sources::Discovered,
};

/// Derives the external VXLAN networks of this host.
#[must_use]
pub(crate) fn decide(facts: &Facts, settings: &Settings) -> Discovered {
    let devices =
        facts.namespaces.iter().flat_map(|netns| vxlans(netns, settings).map(move |(link, info)| (netns, link, info)));
    let networks = devices.map(|(netns, link, info)| network(link, info, netns, facts, settings));
    Discovered {
        networks: Arc::new(networks.collect()),
        docker: DockerState { networks: Vec::new(), ..facts.docker.clone() },
    }
}

/// The external VXLAN devices of a netns whose underlay is the daemon's netns.
pub(super) fn vxlans<'f>(
    netns: &'f NetnsFacts,
    settings: &'f Settings,
) -> impl Iterator<Item = (&'f Link, &'f VxlanInfo)> {
    let has_own_underlay = move |link: &Link| match netns.netns_ref {
        NetnsRef::Own => link.lower_netns.is_none(),
        NetnsRef::Other { .. } => link.lower_netns.is_some() && link.lower_netns == netns.underlay_netns,
    };
    let is_selected = |name: &String| settings.vxlan.as_ref().is_none_or(|names| names.contains(name));
    netns.links.iter().filter_map(move |link| match &link.kind {
        LinkKind::Vxlan(info) if has_own_underlay(link) && !link.is_owned() && is_selected(&link.name) => {
            Some((link, info))
        }
        _ => None,
    })
}
