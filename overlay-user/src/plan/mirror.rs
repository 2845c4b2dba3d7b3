//! Which foreign networks can be accelerated beside the configured ones.

use std::collections::BTreeSet;

use overlay_common::{
    Vni,
    maps::{self, UDP_PORTS},
};

use crate::model::{
    View,
    mirror::{Mirrored, MirroredNetwork, Refusal},
};

/// The networks that are accelerated, by VNI.
pub fn accelerated(mirrored: &Mirrored) -> impl Iterator<Item = (Vni, &MirroredNetwork)> {
    mirrored.networks.iter().filter(|(_, network)| network.refused.is_none()).map(|(vni, network)| (*vni, network))
}

/// What a table has left.
struct Room {
    entries: usize,
    senders: usize,
    ports: usize,
    networks: usize,
    vteps: usize,
}

impl Room {
    /// Takes what a network needs at most; `None`, and nothing is taken, when there is not so much.
    fn take(&mut self, network: &MirroredNetwork) -> Option<()> {
        let vteps: BTreeSet<_> = network.remote.values().chain(&network.senders).collect();
        let left = Self {
            entries: self.entries.checked_sub(network.remote.len() + network.ports.len())?,
            senders: self.senders.checked_sub(network.senders.len())?,
            ports: self.ports.checked_sub(network.ports.len())?,
            networks: self.networks.checked_sub(1)?,
            vteps: self.vteps.checked_sub(vteps.len())?,
        };
        *self = left;
        Some(())
    }
}

/// The same networks, with a refusal at each that cannot be accelerated beside `view`: a VNI that the configuration has,
/// another address of this host, too many UDP ports, too little room in the maps (`fdb_size`: entries of `OVL_FDB`).
///
/// One that was refused before stays so, and takes no room.
#[must_use]
pub fn admit(mut mirrored: Mirrored, view: Option<&View>, fdb_size: u32) -> Mirrored {
    let configured = || view.into_iter().flat_map(|view| view.networks().values());
    let mut udp_ports: BTreeSet<u16> = configured().map(|network| network.network().port).collect();
    let count = |of: fn(&crate::model::NetworkView) -> usize| configured().map(of).sum::<usize>();
    let (local, remote, vteps) = (
        count(|network| network.local().len()),
        count(|network| network.remote().len()),
        count(|n| n.remote().hosts().count()),
    );
    let mut room = Room {
        entries: (fdb_size as usize).saturating_sub(local + remote),
        senders: (maps::SENDERS.entries as usize).saturating_sub(vteps),
        ports: (maps::PORTS.entries as usize).saturating_sub(local),
        networks: (maps::NETWORKS.entries as usize).saturating_sub(configured().count()),
        vteps: (maps::VTEPS.entries as usize).saturating_sub(vteps),
    };
    let address = mirrored.address;
    for (vni, network) in &mut mirrored.networks {
        if network.refused.is_some() {
            continue;
        }
        let refusal = match (address, view) {
            (None, _) => Some("the address that outer packets are sent from is not known yet; wait".to_owned()),
            (Some(address), Some(view)) if view.host().address != address => Some(format!(
                "its packets are sent from {address} and those of the configured networks from {}; give both the same \
                 address",
                view.host().address
            )),
            (_, Some(view)) if view.networks().contains_key(vni) => {
                Some(format!("the configuration has a network with VNI {vni}; remove one of the two"))
            }
            _ if !udp_ports.contains(&network.port) && udp_ports.len() == UDP_PORTS => Some(format!(
                "the networks of this host use more than {UDP_PORTS} different UDP ports; give networks the same port"
            )),
            _ => {
                room.take(network).is_none().then(|| "there is no room for it in the maps; raise `fdb_size`".to_owned())
            }
        };
        if refusal.is_none() {
            udp_ports.insert(network.port);
        }
        network.refused = refusal.map(Refusal);
    }
    mirrored
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;
