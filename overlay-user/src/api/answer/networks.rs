//! Managed networks in the store.

use std::collections::BTreeMap;

use overlay_common::{Vni, VtepAddr, wire::VXLAN_PORT};

use super::Answers;
use crate::{
    api::types::{Failure, NetworkCreate, NetworkList, NetworkReport, Peer, Removed},
    daemon,
    model::{Finding, NetworkSpec},
    store::{NetworkRequest, Removal, Snapshot, StoreError, StoredEndpoint},
};

impl Answers {
    pub(super) async fn create_network(&self, request: NetworkCreate) -> Result<NetworkReport, Failure> {
        let (store, _) = self.store()?;
        let name = request.name;
        let vni = request.vni.map(Vni::new).transpose();
        let vni =
            vni.map_err(|error| Failure::refused(Finding::new(format!("network {name:?}"), error.to_string(), "")))?;
        let NetworkCreate { subnet, gateway, mtu, strict, overlap, .. } = request;
        let request = NetworkRequest { name, subnet, gateway, vni, mtu, port: VXLAN_PORT, strict, overlap };
        let network = store.create_network(request).await?;
        self.wait_until_followed(&format!("network {:?}", network.name), "is created", "network ls").await?;
        let warnings = daemon::rule_findings([network.clone()]).await;
        Ok(NetworkReport { warnings, ..report(&network, 0) })
    }

    pub(super) async fn remove_network(&self, name: &str, removal: Removal) -> Result<Removed, Failure> {
        let (store, _) = self.store()?;
        let (_, endpoints) = store.remove_network(name, removal).await?;
        self.wait_until_followed(&format!("network {name:?}"), "is removed", "network ls").await?;
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.node == self.about.node) {
            self.wait_until_removed(endpoint).await?;
        }
        Ok(Removed { removed: name.to_owned(), endpoints: endpoints.len() })
    }

    pub(super) fn networks(&self) -> Result<NetworkList, Failure> {
        let snapshot = self.snapshot()?;
        let mut counts = BTreeMap::<Vni, usize>::new();
        for stored in &snapshot.endpoints {
            *counts.entry(stored.endpoint.vni).or_default() += 1;
        }
        let count = |network: &NetworkSpec| counts.get(&network.vni).copied().unwrap_or_default();
        Ok(NetworkList {
            networks: snapshot.networks.iter().map(|network| report(network, count(network))).collect(),
            store: self.store_report().unwrap_or_default(),
        })
    }

    pub(super) fn network(&self, name: &str) -> Result<NetworkReport, Failure> {
        let snapshot = self.snapshot()?;
        let network = find(&snapshot, name)?;
        let inside: Vec<_> = snapshot.endpoints.iter().filter(|stored| stored.network == name).collect();
        Ok(NetworkReport {
            peers: Some(peers(&snapshot, &inside)),
            containers: Some(inside.iter().map(|stored| self.endpoint_report(&snapshot, stored)).collect()),
            store: self.store_report(),
            ..report(network, inside.len())
        })
    }
}

/// The network with this name.
pub(super) fn find<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a NetworkSpec, StoreError> {
    let network = snapshot.networks.iter().find(|network| network.name == name);
    network.ok_or_else(|| StoreError::NoSuchNetwork { name: name.to_owned() })
}

fn report(network: &NetworkSpec, endpoints: usize) -> NetworkReport {
    NetworkReport {
        name: network.name.clone(),
        vni: network.vni.get(),
        subnet: network.subnet,
        gateway: network.gateway,
        mtu: network.mtu,
        port: network.port,
        strict: network.strict,
        overlap: network.overlap,
        endpoints,
        containers: None,
        peers: None,
        store: None,
        warnings: Vec::new(),
    }
}

fn peers(snapshot: &Snapshot, inside: &[&StoredEndpoint]) -> Vec<Peer> {
    let mut counts = BTreeMap::<(&str, VtepAddr), usize>::new();
    for stored in inside {
        *counts.entry((&stored.node, stored.endpoint.host)).or_default() += 1;
    }
    let alive = |node: &str| snapshot.nodes.iter().any(|other| other.host.name == node && other.live);
    let peers = counts.into_iter().map(|((node, address), endpoints)| Peer {
        node: node.to_owned(),
        address,
        endpoints,
        alive: alive(node),
    });
    peers.collect()
}
