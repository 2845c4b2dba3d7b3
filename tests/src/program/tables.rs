//! Conversion of all tables from and to the [reference model](crate::reference).

use crate::reference::{Slots, Tables};
use aya::maps::{HashMap, xdp::DevMapHash};
use bytemuck::Zeroable as _;
use overlay_common::{
    Reason,
    maps::{self, Count, FdbEntry, FdbKey, Network, Peer, PeerKey, Port, PortKey, Traffic, Vtep},
};

use super::Programs;

/// Entries of each map of the programs under test, except those with one entry or one for each reason.
pub const SIZE: u32 = 16;

impl Programs {
    /// Replaces the contents `old` of the maps by `new`. Counters are not changed.
    ///
    /// # Panics
    /// When the maps do not contain `old`, or have no room for `new`.
    pub fn replace(&mut self, old: &Tables, new: &Tables) {
        self.replace_in::<PortKey, Port>(maps::PORTS.name, &old.ports, &new.ports);
        self.replace_in::<FdbKey, FdbEntry>(maps::FDB.name, &old.fdb, &new.fdb);
        self.replace_in::<PeerKey, Peer>(maps::PEERS.name, &old.peers, &new.peers);
        self.replace_in::<u32, Network>(maps::NETWORKS.name, &old.networks, &new.networks);
        for index in 0..SIZE {
            let vtep = new.vteps.used.get(&index).copied();
            if vtep.is_some() || old.vteps.used.contains_key(&index) {
                self.vtep(index, vtep.unwrap_or(Vtep::zeroed()));
            }
        }
        self.underlay(new.underlay);
        // A test run does not show the target device.
        let device = self.port;
        let map = self.ebpf.map_mut(maps::TXPORTS.name).expect("the object has the map");
        let mut map = DevMapHash::try_from(map).expect("the map is a devmap");
        for key in &old.txports {
            map.remove(*key).expect("the map has the key");
        }
        for key in &new.txports {
            map.insert(*key, device, None, 0).expect("the map has room");
        }
        self.deadline(Some(if new.expired { -1 } else { 1000 }));
    }

    fn replace_in<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &str,
        old: &std::collections::BTreeMap<K, V>,
        new: &std::collections::BTreeMap<K, V>,
    ) {
        let map = self.ebpf.map_mut(name).expect("the object has the map");
        let mut map = HashMap::<_, K, V>::try_from(map).expect("the map is a hash of these types");
        for key in old.keys() {
            map.remove(key).expect("the map has the key");
        }
        for (key, value) in new {
            map.insert(key, value, 0).expect("the map has room");
        }
    }

    /// Reads all counters into the tables of the reference model.
    ///
    /// # Panics
    /// When a map cannot be read.
    pub fn read_counters(&self, tables: &mut Tables) {
        let counts = Reason::ALL.into_iter().map(|reason| (reason as u32, self.count(reason)));
        tables.reasons = counts.filter(|(_, count)| *count != Count::default()).collect();
        let slots = |read: &dyn Fn(u32) -> Traffic| Slots {
            used: (0..SIZE)
                .map(|index| (index, read(index)))
                .filter(|(_, traffic)| *traffic != Traffic::default())
                .collect(),
            size: SIZE,
        };
        tables.vni_stats = slots(&|index| self.vni_stats(index));
        tables.vtep_stats = slots(&|index| self.vtep_stats(index));
        let ids = (0..SIZE).map(|index| (index, self.next_id(index)));
        tables.ip_ids = ids.filter(|(_, next)| *next != 0).collect();
    }
}
