//! Typed tables over the pinned BPF maps.

use std::{borrow::Borrow, collections::BTreeMap, net::Ipv4Addr, path::Path};

use aya::{
    Pod,
    maps::{Array, DevMapHash, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues},
};
use overlay_common::{
    MacAddr, Reason,
    maps::{self, Count, FdbEntry, FdbKey, Network, Port, PortKey, Sender, SenderKey, Traffic, Underlay, Vtep},
    names,
};

use crate::{
    fault::{self, Place},
    plan::tables::{TableChange, Tables},
};

/// A map that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableIoError {
    /// The map is not there, or has another type.
    #[error("cannot open the map {map}: {source}{}", hint(source))]
    Open {
        /// The map.
        map: &'static str,
        /// Why.
        source: MapError,
    },
    /// Reading failed.
    #[error("cannot read the map {map}: {source}")]
    Read {
        /// The map.
        map: &'static str,
        /// Why.
        source: MapError,
    },
    /// The map cannot be pinned.
    #[error("cannot pin the map {map}: {reason}")]
    Pin {
        /// The map.
        map: &'static str,
        /// Why.
        reason: String,
    },
    /// Writing failed; a full map answers E2BIG.
    #[error("cannot write {entry} into the map {map}: {source}{}", advice(map, source))]
    Write {
        /// The map.
        map: &'static str,
        /// The entry.
        entry: String,
        /// Why.
        source: MapError,
    },
}

/// Advice for errors whose number says enough.
fn hint(error: &MapError) -> &'static str {
    let may = |capability| caps::has_cap(None, caps::CapSet::Effective, capability).unwrap_or(true);
    let denied = match error {
        MapError::SyscallError(error) => matches!(error.io_error.raw_os_error(), Some(libc::EPERM | libc::EACCES)),
        // What the kernel has of device maps is found out by making one.
        MapError::InvalidValueSize { .. } => !may(caps::Capability::CAP_BPF) && !may(caps::Capability::CAP_SYS_ADMIN),
        _ => false,
    };
    if denied { "; run this as root, or as the daemon's user with CAP_BPF" } else { "" }
}

/// What mends a map that does not take an entry.
fn advice(map: &str, error: &MapError) -> &'static str {
    let full = match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::E2BIG),
        _ => false,
    };
    match (full, map) {
        (false, _) => "; the kernel carries its packets, and it is tried again",
        (true, names::FDB) => "; the map is full, and the kernel carries its packets; raise fdb_size",
        (true, _) => "; the map is full, and the kernel carries its packets; spread the endpoints over more hosts",
    }
}

/// The entry that a change is about, for people.
fn subject(change: &TableChange) -> String {
    use TableChange as C;
    match change {
        C::Underlay(_) => "the underlay".to_owned(),
        C::ResetVtepStats(index) => format!("the counters of VTEP #{index}"),
        C::ResetNetworkStats(slot) => format!("the counters of network #{slot}"),
        C::Vtep(_, vtep) => format!("VTEP {}", Ipv4Addr::from(vtep.outer.dst)),
        C::RemoveVtep(index) => format!("VTEP #{index}"),
        C::Network(vni, _) | C::RemoveNetwork(vni) => format!("VNI {vni}"),
        C::Sender(key, _) | C::RemoveSender(key) => format!("VNI {} sender {}", key.vni, Ipv4Addr::from(key.addr)),
        C::TxPort(key, _) | C::RemoveTxPort(key) => format!("device #{key}"),
        C::Fdb(key, _) | C::RemoveFdb(key) => format!("VNI {} {}", key.vni, MacAddr(key.mac)),
        C::Port(key, _) | C::RemovePort(key) => format!("port #{} in namespace #{}", key.ifindex, key.site),
    }
}

/// The maps of one data path.
pub struct Maps {
    ports: HashMap<MapData, PortKey, Port>,
    pub(super) fdb: HashMap<MapData, FdbKey, FdbEntry>,
    vteps: Array<MapData, Vtep>,
    senders: HashMap<MapData, SenderKey, Sender>,
    networks: HashMap<MapData, u32, Network>,
    underlay: Array<MapData, Underlay>,
    txports: DevMapHash<MapData>,
    reasons: PerCpuArray<MapData, Count>,
    vni_stats: PerCpuArray<MapData, Traffic>,
    vtep_stats: PerCpuArray<MapData, Traffic>,
    /// `None`: an earlier version's data path, which has no deadline.
    pub(super) lease: Option<Array<MapData, maps::Lease>>,
}

/// What the programs counted, summed over the CPUs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// In the order of [`Reason::ALL`].
    pub reasons: Vec<(Reason, Count)>,
    /// By network slot; only the slots asked for.
    pub networks: BTreeMap<u32, Traffic>,
    /// By VTEP index; only the indices asked for.
    pub vteps: BTreeMap<u32, Traffic>,
}

impl Maps {
    /// Opens the maps that are pinned below `root`.
    ///
    /// # Errors
    /// [`TableIoError::Open`].
    pub fn open(root: &Path) -> Result<Self, TableIoError> {
        fn open<T: TryFrom<Map, Error = MapError>>(root: &Path, map: &'static str) -> Result<T, TableIoError> {
            MapData::from_pin(root.join(map))
                .and_then(Map::from_map_data)
                .and_then(T::try_from)
                .map_err(|source| TableIoError::Open { map, source })
        }
        Ok(Self {
            ports: open(root, names::PORTS)?,
            fdb: open(root, names::FDB)?,
            vteps: open(root, names::VTEPS)?,
            senders: open(root, names::SENDERS)?,
            networks: open(root, names::NETWORKS)?,
            underlay: open(root, names::UNDERLAY)?,
            txports: open(root, names::TXPORTS)?,
            reasons: open(root, names::REASONS)?,
            vni_stats: open(root, names::VNI_STATS)?,
            vtep_stats: open(root, names::VTEP_STATS)?,
            lease: if root.join(names::LEASE).exists() { Some(open(root, names::LEASE)?) } else { None },
        })
    }

    /// Reads all tables.
    ///
    /// # Errors
    /// [`TableIoError::Read`].
    pub fn read(&self) -> Result<Tables, TableIoError> {
        let read = |map| move |source| TableIoError::Read { map, source };
        let mut vteps = BTreeMap::new();
        for (index, vtep) in self.vteps.iter().enumerate() {
            let vtep = vtep.map_err(read(names::VTEPS))?;
            if vtep.outer.version_ihl != 0 {
                vteps.insert(index as u32, vtep);
            }
        }
        let fdb = collect(&self.fdb).map_err(read(names::FDB))?;
        Ok(Tables {
            underlay: self.underlay.get(&0, 0).map_err(read(names::UNDERLAY))?,
            vteps,
            networks: collect(&self.networks).map_err(read(names::NETWORKS))?,
            senders: collect(&self.senders).map_err(read(names::SENDERS))?,
            txports: txports(&self.txports, &fdb).map_err(read(names::TXPORTS))?,
            fdb,
            ports: collect(&self.ports).map_err(read(names::PORTS))?,
        })
    }

    /// Makes one change. [`TableChange::TxPort`] has to be made in the interface's network namespace.
    ///
    /// # Errors
    /// [`TableIoError::Write`] with the map and the entry. Removing what is not there is not an error.
    pub fn apply(&mut self, change: &TableChange) -> Result<(), TableIoError> {
        let map = map(change);
        let result = fault::at(Place::Map(map)).map_err(MapError::IoError).and_then(|()| self.write(change));
        result.map_err(|source| TableIoError::Write { map, entry: subject(change), source })
    }

    fn write(&mut self, change: &TableChange) -> Result<(), MapError> {
        match change {
            TableChange::Underlay(underlay) => self.underlay.set(0, underlay, 0),
            TableChange::ResetVtepStats(index) => reset(&mut self.vtep_stats, *index),
            TableChange::ResetNetworkStats(slot) => reset(&mut self.vni_stats, *slot),
            TableChange::Vtep(index, vtep) => self.vteps.set(*index, vtep, 0),
            TableChange::Network(vni, network) => self.networks.insert(vni, network, 0),
            TableChange::Sender(key, sender) => self.senders.insert(key, sender, 0),
            TableChange::TxPort(key, port) => insert_txport(&mut self.txports, *key, port.ifindex),
            TableChange::Fdb(key, entry) => self.fdb.insert(key, entry, 0),
            TableChange::Port(key, port) => self.ports.insert(key, port, 0),
            TableChange::RemovePort(key) => absent_is_fine(self.ports.remove(key)),
            TableChange::RemoveFdb(key) => absent_is_fine(self.fdb.remove(key)),
            TableChange::RemoveTxPort(key) => absent_is_fine(self.txports.remove(*key)),
            TableChange::RemoveSender(key) => absent_is_fine(self.senders.remove(key)),
            TableChange::RemoveNetwork(vni) => absent_is_fine(self.networks.remove(vni)),
            TableChange::RemoveVtep(index) => {
                let unused: Vtep = bytemuck::Zeroable::zeroed();
                self.vteps.set(*index, unused, 0)
            }
        }
    }

    /// Reads the counters of all reasons, and of the given network slots and VTEP indices.
    ///
    /// # Errors
    /// [`TableIoError::Read`].
    pub fn counters(
        &self,
        slots: impl IntoIterator<Item = u32>,
        vteps: impl IntoIterator<Item = u32>,
    ) -> Result<Counters, TableIoError> {
        let mut counters = Counters::default();
        for reason in Reason::ALL {
            let per_cpu = self
                .reasons
                .get(&(reason as u32), 0)
                .map_err(|source| TableIoError::Read { map: names::REASONS, source })?;
            counters.reasons.push((reason, sum(per_cpu.iter())));
        }
        counters.networks = traffic(&self.vni_stats, names::VNI_STATS, slots)?;
        counters.vteps = traffic(&self.vtep_stats, names::VTEP_STATS, vteps)?;
        Ok(counters)
    }
}

/// The map that a change is made in.
fn map(change: &TableChange) -> &'static str {
    use TableChange as C;
    match change {
        C::Underlay(_) => names::UNDERLAY,
        C::ResetVtepStats(_) => names::VTEP_STATS,
        C::ResetNetworkStats(_) => names::VNI_STATS,
        C::Vtep(..) | C::RemoveVtep(_) => names::VTEPS,
        C::Network(..) | C::RemoveNetwork(_) => names::NETWORKS,
        C::Sender(..) | C::RemoveSender(_) => names::SENDERS,
        C::TxPort(..) | C::RemoveTxPort(_) => names::TXPORTS,
        C::Fdb(..) | C::RemoveFdb(_) => names::FDB,
        C::Port(..) | C::RemovePort(_) => names::PORTS,
    }
}

fn collect<K: Pod + Ord, V: Pod>(map: &HashMap<MapData, K, V>) -> Result<BTreeMap<K, V>, MapError> {
    map.iter().collect()
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// The map knows the interface index; in which namespace it counts is in the FDB. Where no FDB entry leads, it does not
/// matter.
fn txports(map: &DevMapHash<MapData>, fdb: &BTreeMap<FdbKey, FdbEntry>) -> Result<BTreeMap<u32, PortKey>, MapError> {
    let sites: BTreeMap<u32, u16> = fdb.values().map(|entry| (entry.tx, entry.site)).collect();
    let mut ports = BTreeMap::new();
    for key in map.keys() {
        let key = key?;
        // The kernel takes out devices that vanish.
        if let Some(device) = found(map.get(key, 0))? {
            let site = sites.get(&key).copied().unwrap_or(0).into();
            ports.insert(key, PortKey { site, ifindex: device.if_index });
        }
    }
    Ok(ports)
}

fn found<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(None),
        other => other.map(Some),
    }
}

/// The interface index is resolved in the network namespace of the calling thread.
fn insert_txport(map: &mut DevMapHash<MapData>, key: u32, ifindex: u32) -> Result<(), MapError> {
    map.insert(key, ifindex, None, 0).map_err(|error| match error {
        aya::maps::xdp::XdpMapError::MapError(error) => error,
        aya::maps::xdp::XdpMapError::ChainedProgramNotSupported => MapError::KeyNotFound,
    })
}

fn reset(map: &mut PerCpuArray<MapData, Traffic>, index: u32) -> Result<(), MapError> {
    let cpus = aya::util::nr_cpus().map_err(|(_, io_error)| MapError::IoError(io_error))?;
    let zero = PerCpuValues::try_from(vec![Traffic::default(); cpus]).map_err(MapError::IoError)?;
    map.set(index, zero, 0)
}

fn sum(counts: impl Iterator<Item = impl Borrow<Count>>) -> Count {
    counts.fold(Count::default(), |mut total, count| {
        total.add(count.borrow().packets, count.borrow().bytes);
        total
    })
}

fn traffic(
    map: &PerCpuArray<MapData, Traffic>,
    name: &'static str,
    indices: impl IntoIterator<Item = u32>,
) -> Result<BTreeMap<u32, Traffic>, TableIoError> {
    indices
        .into_iter()
        .map(|index| {
            let per_cpu = map.get(&index, 0).map_err(|source| TableIoError::Read { map: name, source })?;
            let tx = sum(per_cpu.iter().map(|traffic| traffic.tx));
            let rx = sum(per_cpu.iter().map(|traffic| traffic.rx));
            Ok((index, Traffic::new(tx, rx)))
        })
        .collect()
}
