//! The networks of a host, merged from the daemon's report and the maps.

use overlay_common::{
    MacAddr, Vni,
    maps::{Network, PortKey, flags},
};

use super::{Snapshot, device_count};
use crate::{
    api::types::{NetworkKind, NetworkState, NetworkStatus, PortStatus},
    kernel::vxlan_name,
};

impl Snapshot {
    /// Every network of the daemon's report and of the maps, in the order of their VNIs.
    pub(super) fn networks(&self) -> Vec<NetworkStatus> {
        let mut networks = self.daemon.as_ref().map(|daemon| daemon.networks.clone()).unwrap_or_default();
        for (&vni, loaded) in &self.tables.networks {
            let index = self.loaded(&networks, vni).unwrap_or_else(|| {
                networks.push(self.unreported(vni));
                networks.len() - 1
            });
            self.fill(&mut networks[index], loaded);
        }
        for network in &mut networks {
            if network.kind == NetworkKind::Managed && network.name.is_none() {
                network.name = self.bridge_alias(network.vni);
            }
            if network.tx.is_none() && network.state == NetworkState::Accelerated {
                (network.state, network.cause) = (NetworkState::Kernel, Some("pending".to_owned()));
            }
            if self.is_expired() && network.state == NetworkState::Accelerated {
                (network.state, network.cause) = (NetworkState::Kernel, Some("deadline expired".to_owned()));
            }
            network.kernel = device_count(network.sandbox.as_deref(), &network.device);
        }
        networks.sort_by_key(|network| network.vni);
        networks
    }

    /// The name of a network in the maps, from the daemon's report or from its bridge.
    pub(super) fn network_name(&self, vni: u32) -> Option<String> {
        let known = self.daemon.as_ref().map(|daemon| daemon.networks.as_slice()).unwrap_or_default();
        let named = self.loaded(known, vni).and_then(|index| known[index].name.clone());
        named.or_else(|| self.bridge_alias(vni))
    }

    /// The container with a MAC address, from the daemon's report.
    pub(super) fn container(&self, vni: u32, mac: &str) -> Option<String> {
        let known = self.daemon.as_ref()?.networks.as_slice();
        let port = known[self.loaded(known, vni)?].ports.iter().find(|port| port.mac.as_deref() == Some(mac))?;
        port.container.clone()
    }

    /// Index of the network in the maps among those with a VNI; the others are not accelerated.
    fn loaded(&self, networks: &[NetworkStatus], vni: u32) -> Option<usize> {
        let of_vni = || networks.iter().enumerate().filter(|(_, network)| network.vni == vni);
        let accelerated = of_vni().find(|(_, network)| network.state == NetworkState::Accelerated);
        accelerated.or_else(|| of_vni().next()).map(|(index, _)| index)
    }

    /// A network in the maps that is not in the daemon's report.
    fn unreported(&self, vni: u32) -> NetworkStatus {
        let name = self.bridge_alias(vni);
        let netns_id = self.tables.ports.iter().find(|(_, port)| port.vni == vni).map_or(0, |(key, _)| key.netns_id);
        let device = self.vxlan(netns_id, vni).map(|link| link.name.clone());
        let own_device = || Vni::new(vni).map(vxlan_name).unwrap_or_default();
        NetworkStatus {
            kind: if name.is_some() { NetworkKind::Managed } else { NetworkKind::Bridged },
            name,
            vni,
            state: NetworkState::Accelerated,
            cause: None,
            finding: None,
            device: device.unwrap_or_else(own_device),
            sandbox: self.sandbox(netns_id),
            port: 0,
            mtu: 0,
            strict: false,
            local: 0,
            ports: Vec::new(),
            remote: 0,
            vteps: std::collections::BTreeSet::new(),
            tx: None,
            rx: None,
            kernel: None,
        }
    }

    /// Fills in the fields that are read from the maps.
    fn fill(&self, network: &mut NetworkStatus, loaded: &Network) {
        let vni = network.vni;
        let (tx, rx) = self.traffic(loaded.slot);
        (network.tx, network.rx) = (Some(tx), Some(rx));
        (network.port, network.mtu, network.strict) = (loaded.port, loaded.mtu, loaded.flags & flags::STRICT != 0);
        network.vteps = self.tables.peers.keys().filter(|key| key.vni == vni).map(|key| key.addr.into()).collect();
        let remote = self.tables.fdb.iter().filter(|(key, entry)| key.vni == vni && !entry.is_local());
        network.remote = remote.count();
        let ports = self.tables.ports.iter().filter(|(_, port)| port.vni == vni);
        let ports: Vec<(PortKey, String)> = ports.map(|(key, port)| (*key, MacAddr(port.mac).to_string())).collect();
        network.local = ports.len();
        for (key, mac) in ports {
            let known = network.ports.iter_mut().find(|known| known.mac.as_ref() == Some(&mac));
            match known {
                Some(known) => known.name = self.port_name(key),
                None => network.ports.push(PortStatus {
                    name: self.port_name(key),
                    container: self.endpoint(key),
                    mac: Some(mac),
                    finding: None,
                }),
            }
        }
    }
}
