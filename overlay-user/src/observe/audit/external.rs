//! External networks: their tables must agree with each other and with the maps.
//!
//! Docker writes an FDB entry and a neighbour for each container on another host, so one without the other is a
//! difference.

use std::{collections::BTreeMap, path::PathBuf};

use overlay_common::{MacAddr, VtepAddr};

use super::{Difference, Owner};
use crate::{
    kernel::{FdbEntry, FdbState, Neighbour},
    model::{Finding, network::External},
};

/// The kernel's tables in the namespace of a network.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExternalTables {
    /// Interface index of the VXLAN device.
    pub device: u32,
    /// The device answers ARP from its neighbours (`proxy` in ip-link(8)), and does not forward requests.
    pub proxy: bool,
    /// Entries of bridges and VXLAN devices.
    pub fdb: Vec<FdbEntry>,
    /// Permanent neighbours.
    pub neighbours: Vec<Neighbour>,
}

const FDB: &str = "fdb";
const NEIGHBOURS: &str = "neighbours";

/// Differences in an external network's tables.
#[must_use]
pub(crate) fn external(network: &External, tables: &ExternalTables) -> Vec<Difference> {
    let netns = network.netns.path().map(Into::into);
    let mut found = ExternalComparison { device: &network.device, netns, differences: Vec::new() };
    let own = tables.fdb.iter().filter(|entry| entry.ifindex == tables.device && entry.own);
    let vteps: BTreeMap<MacAddr, (VtepAddr, FdbState)> =
        own.filter_map(|entry| Some((entry.mac, (entry.dst?, entry.state)))).collect();
    found.compare_network(network, &vteps);
    found.neighbours(network, tables, &vteps);
    found.differences
}

struct ExternalComparison<'a> {
    device: &'a str,
    netns: Option<PathBuf>,
    differences: Vec<Difference>,
}

impl ExternalComparison<'_> {
    /// Adds a difference; `finding` is about an entry of the device.
    fn push(&mut self, table: &str, wanted: Option<String>, found: Option<String>, finding: Finding) {
        let object = format!("{} {}", self.device, finding.object);
        let difference = Difference::new(table, wanted, found, finding.about(object)).inside(self.netns.clone());
        self.differences.push(Difference { owner: Owner::External, ..difference });
    }

    /// Compares the entries in the maps with the kernel's.
    fn compare_network(&mut self, network: &External, vteps: &BTreeMap<MacAddr, (VtepAddr, FdbState)>) {
        for (mac, wanted) in &network.remote {
            let found = vteps.get(mac).map(|(vtep, _)| *vtep);
            if found != Some(*wanted) {
                let cause = "the FDB has changed and the maps are stale";
                let finding = Finding::new(mac.to_string(), cause, "see the daemon's log");
                let text = |vtep: VtepAddr| format!("VTEP {vtep}");
                self.push(FDB, Some(text(*wanted)), found.map(text), finding);
            }
        }
    }

    /// Compares FDB entries with neighbours.
    fn neighbours(
        &mut self,
        network: &External,
        tables: &ExternalTables,
        vteps: &BTreeMap<MacAddr, (VtepAddr, FdbState)>,
    ) {
        let neighbours: Vec<_> = tables.neighbours.iter().filter(|entry| entry.ifindex == tables.device).collect();
        // Behind one of the bridge's other ports.
        let is_local = |mac: MacAddr| {
            network.ports.values().any(|port| port.mac == Some(mac))
                || tables.fdb.iter().any(|entry| entry.mac == mac && !entry.own && entry.ifindex != tables.device)
        };
        let is_lost = |mac: &MacAddr| tables.proxy && !neighbours.iter().any(|neighbour| neighbour.mac == *mac);
        // Static entries (`permanent` in bridge(8)), not learned ones.
        let permanent = vteps.iter().filter(|(mac, (_, state))| {
            **mac != MacAddr::default() && mac.0[0] & 1 == 0 && *state != FdbState::Learned
        });
        let mut lost: Vec<(MacAddr, VtepAddr)> =
            permanent.filter(|(mac, _)| is_lost(mac)).map(|(mac, (vtep, _))| (*mac, *vtep)).collect();
        for Neighbour { ip, mac, .. } in &neighbours {
            if vteps.contains_key(mac) || network.remote.contains_key(mac) || is_local(*mac) {
                continue;
            }
            // Docker derives the MAC address from the IP address.
            let usual = MacAddr::from_ipv4(ip.octets());
            if let Some(position) = lost.iter().position(|(mac, _)| *mac == usual) {
                lost.remove(position);
                let cause = "another program changed the neighbour: no VTEP has its MAC address";
                let remedy = "restart the container's service, or correct the neighbour";
                let finding = Finding::new(ip.to_string(), cause, remedy);
                self.push(NEIGHBOURS, Some(usual.to_string()), Some(mac.to_string()), finding);
            } else {
                let cause = format!(
                    "neighbour {ip} has this MAC address: another program removed the FDB entry, or it was not created"
                );
                let remedy = "restart the container's service, or add the entry";
                let finding = Finding::new(mac.to_string(), cause, remedy);
                self.push(FDB, Some("a VTEP".to_owned()), None, finding);
            }
        }
        for (mac, vtep) in lost {
            let cause =
                format!("the FDB has VTEP {vtep} for {mac}, but no neighbour answers ARP: another program removed it");
            let remedy = "restart the container's service, or add the neighbour";
            let finding = Finding::new(format!("at {mac}"), cause, remedy);
            self.push(NEIGHBOURS, Some("an IP address".to_owned()), None, finding);
        }
    }
}
