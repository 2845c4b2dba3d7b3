//! From what is known to what is mirrored. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use overlay_common::{Vni, maps::UDP_PORTS};

use super::{
    facts::{Facts, SiteFacts},
    network::{Found, network},
    report::{Report, external},
};
use crate::{
    host::{Link, LinkKind, VxlanInfo},
    model::mirror::{Mirrored, Refusal, Settings, Site},
};

/// What follows from the facts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// For the data path.
    pub mirrored: Mirrored,
    /// For people.
    pub report: Report,
}

/// Finds the foreign networks of this host and decides which of them are accelerated.
#[must_use]
pub fn decide(facts: &Facts, settings: &Settings) -> Decision {
    let mut found: Vec<_> = facts
        .sites
        .iter()
        .flat_map(|site| vxlans(site, settings).map(move |(link, info)| (site, link, info)))
        .filter_map(|(site, link, info)| network(link, info, site, facts, settings))
        .collect();
    found.sort_by(|a, b| (a.vni, a.network.port, &a.network.site).cmp(&(b.vni, b.network.port, &b.network.site)));
    refuse_duplicates(&mut found);
    let address = common_address(&found, facts);
    refuse_other_addresses(&mut found, address);
    refuse_excess_ports(&mut found);
    let mut report = Report::new(address, &found, &facts.docker);
    let without_vni = |site| {
        vxlans(site, settings).filter(|(_, info)| Vni::new(info.vni).is_err()).map(move |(link, _)| (site, link))
    };
    report.networks.extend(facts.sites.iter().flat_map(without_vni).map(|(site, link)| external(link, &site.site)));
    let mut networks = BTreeMap::new();
    for Found { vni, network, .. } in found {
        // Of several with one VNI, all refused, the first stands for all.
        networks.entry(vni).or_insert(network);
    }
    Decision { mirrored: Mirrored { address, networks }, report }
}

/// Foreign VXLAN devices of a namespace whose packets leave by the daemon's namespace.
pub(super) fn vxlans<'f>(
    site: &'f SiteFacts,
    settings: &'f Settings,
) -> impl Iterator<Item = (&'f Link, &'f VxlanInfo)> {
    let here = move |link: &Link| match site.site {
        Site::Host => link.lower_netns.is_none(),
        Site::Netns { .. } => link.lower_netns.is_some() && link.lower_netns == site.underlay_netns,
    };
    let wanted = |name: &String| settings.vxlan.as_ref().is_none_or(|names| names.contains(name));
    site.links.iter().filter_map(move |link| match &link.kind {
        LinkKind::Vxlan(info) if here(link) && !link.is_ours() && wanted(&link.name) => Some((link, info)),
        _ => None,
    })
}

impl Found {
    /// The first reason stays.
    fn refuse(&mut self, reason: String) {
        self.network.refused.get_or_insert(Refusal(reason));
    }

    fn is_accelerated(&self) -> bool {
        self.network.refused.is_none()
    }

    fn label(&self) -> String {
        match &self.network.site {
            Site::Host => self.network.device.clone(),
            Site::Netns { path, .. } => format!("{} in {}", self.network.device, path.display()),
        }
    }
}

/// The maps have one network for each VNI.
fn refuse_duplicates(found: &mut [Found]) {
    let mut holders = BTreeMap::<Vni, Vec<String>>::new();
    for network in &*found {
        holders.entry(network.vni).or_default().push(network.label());
    }
    for network in found {
        let (vni, own) = (network.vni, network.label());
        let others: Vec<_> = holders[&vni].iter().filter(|label| **label != own).map(String::as_str).collect();
        if holders[&vni].len() > 1 {
            let others = if others.is_empty() { own } else { others.join(", ") };
            network.refuse(format!("VNI {vni} is also the one of {others}; use each VNI once on a host"));
        }
    }
}

/// The address that most networks send from; Docker's where it is one of them.
fn common_address(found: &[Found], facts: &Facts) -> Option<Ipv4Addr> {
    let mut counts = BTreeMap::<Ipv4Addr, usize>::new();
    for address in found.iter().filter(|network| network.is_accelerated()).filter_map(|network| network.address) {
        *counts.entry(address).or_default() += 1;
    }
    let docker = facts.docker.node_address.filter(|address| counts.contains_key(address));
    docker.or_else(|| {
        counts
            .into_iter()
            .max_by_key(|(address, count)| (*count, std::cmp::Reverse(*address)))
            .map(|(address, _)| address)
    })
}

fn refuse_other_addresses(found: &mut [Found], common: Option<Ipv4Addr>) {
    for network in found {
        if let (Some(address), Some(common)) = (network.address, common)
            && address != common
        {
            network.refuse(format!(
                "it is sent from {address}, and the other networks from {common}; use one underlay address for all"
            ));
        }
    }
}

/// The programs compare with a fixed number of UDP ports.
fn refuse_excess_ports(found: &mut [Found]) {
    let mut ports = BTreeSet::new();
    for network in found.iter_mut().filter(|network| network.is_accelerated()) {
        let port = network.network.port;
        if ports.contains(&port) || ports.len() < UDP_PORTS {
            ports.insert(port);
        } else {
            network.refuse(format!(
                "UDP port {port} is one too many beside {ports:?}; let networks share ports, at most {UDP_PORTS} on a host"
            ));
        }
    }
}
