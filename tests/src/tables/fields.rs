//! The fields of the keys and values of all maps.

use std::{collections::BTreeMap, mem::offset_of, ops::Range, path::Path};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map as AyaMap, MapData};
use bytemuck::{Pod, Zeroable};
use overlay_common::{
    maps::{self, FdbEntry, FdbKey, Heartbeat, Map, Network, Peer, PeerKey, Port, PortKey, Underlay, Vtep},
    outer::OuterHeader,
};

/// The compared maps, which the daemon fills.
pub const TABLES: [Table; 8] = [
    table::<u32, Underlay>(maps::UNDERLAY),
    table::<u32, Vtep>(maps::VTEPS),
    table::<u32, Device>(maps::TXPORTS),
    table::<FdbKey, FdbEntry>(maps::FDB),
    table::<PeerKey, Peer>(maps::PEERS),
    table::<u32, Network>(maps::NETWORKS),
    table::<PortKey, Port>(maps::PORTS),
    table::<u32, Heartbeat>(maps::HEARTBEAT),
];

/// The other maps. Only the packets determine their contents, so nothing else has the same values.
pub const EXCEPTIONS: [(Map, &str); 7] = [
    (maps::IP_IDS, "counters of packets"),
    (maps::FLOWS, "numbers of packets in a tick"),
    (maps::REASONS, "counters"),
    (maps::VNI_STATS, "counters"),
    (maps::VTEP_STATS, "counters"),
    (maps::EVENTS, "samples of packets, each read once"),
    (maps::SAMPLED, "times and losses of the samples"),
];

/// Value of `OVL_TXPORTS`: `struct bpf_devmap_val` (`include/uapi/linux/bpf.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct Device {
    pub(super) ifindex: u32,
    /// Id of a program that runs at the device; 0: none.
    pub(super) program: u32,
}

// SAFETY: the type implements bytemuck::Pod: any bytes are a value, and there is no padding.
unsafe impl aya::Pod for Device {}

/// A map with its fields, as bytes.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The map.
    pub map: Map,
    /// Names and values of a key's fields.
    pub key: fn(&[u8]) -> Vec<Field>,
    /// Names and values of a value's fields.
    pub value: fn(&[u8]) -> Vec<Field>,
    /// Bytes of a key and of a value.
    pub sizes: [usize; 2],
    read: fn(MapData) -> Result<Rows>,
    write: Write,
}

/// Writes the value at a key; `None` removes it.
type Write = fn(MapData, &[u8], Option<&[u8]>) -> Result<()>;

/// Entries of a map.
pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A field of a key or a value.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name; of a field in a field `outer.ttl`, of a key without fields `key`.
    pub name: String,
    /// Its place in the key or value.
    pub bytes: Range<usize>,
    /// Its value.
    pub text: String,
}

impl Table {
    /// Reads the entries in use: those of an array are not zero.
    ///
    /// # Errors
    /// When the map is missing or has another layout.
    pub fn read(&self, pin_root: &Path) -> Result<Rows> {
        let mut rows =
            self.open(pin_root).and_then(self.read).with_context(|| format!("cannot read {}", self.map.name))?;
        rows.retain(|_, value| value.iter().any(|byte| *byte != 0));
        Ok(rows)
    }

    /// Writes an entry without notice to the daemon; `None` removes it, and sets one of an array to zero.
    ///
    /// # Errors
    /// When the map is missing or the kernel refuses the value.
    pub fn write(&self, pin_root: &Path, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let written = self.open(pin_root).and_then(|map| (self.write)(map, key, value));
        written.with_context(|| format!("cannot write {}", self.map.name))
    }

    /// Name of an entry: the map, and the key's fields.
    #[must_use]
    pub fn object(&self, key: &[u8]) -> String {
        let fields = (self.key)(key).into_iter().map(|Field { name, text, .. }| format!(" {name} {text}"));
        std::iter::once(self.map.name.to_owned()).chain(fields).collect()
    }

    fn open(&self, pin_root: &Path) -> Result<MapData> {
        Ok(MapData::from_pin(pin_root.join(self.map.name))?)
    }
}

const fn table<K: Entry, V: Entry>(map: Map) -> Table {
    let sizes = [size_of::<K>(), size_of::<V>()];
    Table { map, key: list::<K>, value: list::<V>, sizes, read: read::<K, V>, write: write::<K, V> }
}

fn list<T: Entry>(bytes: &[u8]) -> Vec<Field> {
    let mut found = Vec::new();
    bytemuck::pod_read_unaligned::<T>(bytes).list("", 0, &mut found);
    found
}

/// A map of any kind: the library checks only the sizes, and the kernel has the same commands for all kinds.
pub(super) fn entries<K: aya::Pod, V: aya::Pod>(map: MapData) -> Result<HashMap<MapData, K, V>> {
    Ok(HashMap::try_from(AyaMap::HashMap(map))?)
}

fn read<K: Entry, V: Entry>(map: MapData) -> Result<Rows> {
    let bytes = |entry: (K, V)| (bytemuck::bytes_of(&entry.0).to_vec(), bytemuck::bytes_of(&entry.1).to_vec());
    entries::<K, V>(map)?.iter().map(|entry| Ok(bytes(entry?))).collect()
}

fn write<K: Entry, V: Entry>(map: MapData, key: &[u8], value: Option<&[u8]>) -> Result<()> {
    let key = bytemuck::pod_read_unaligned::<K>(key);
    let mut map = entries::<K, V>(map)?;
    match value {
        Some(value) => map.insert(key, bytemuck::pod_read_unaligned::<V>(value), 0)?,
        None if map.remove(&key).is_err() => map.insert(key, V::zeroed(), 0)?,
        None => {}
    }
    Ok(())
}

/// A type whose fields are listed.
trait Fields {
    /// Adds the fields; `name` and `start`: those of the field that has this type.
    fn list(&self, name: &str, start: usize, found: &mut Vec<Field>);
}

/// A key or a value of a map.
trait Entry: Fields + Pod + aya::Pod {}

impl<T: Fields + Pod + aya::Pod> Entry for T {}

/// `outer`, `ttl` → `outer.ttl`.
fn join(name: &str, field: &str) -> String {
    if name.is_empty() { field.to_owned() } else { format!("{name}.{field}") }
}

fn value(name: &str, bytes: Range<usize>, text: String) -> Field {
    Field { name: if name.is_empty() { "key".to_owned() } else { name.to_owned() }, bytes, text }
}

macro_rules! fields {
    ($($type:ident { $($field:ident),* })*) => { $(
        impl Fields for $type {
            fn list(&self, name: &str, start: usize, found: &mut Vec<Field>) {
                // Without `..`: a new field does not compile until it is listed.
                let Self { $($field),* } = self;
                $($field.list(&join(name, stringify!($field)), start + offset_of!($type, $field), found);)*
            }
        }
    )* };
}

macro_rules! values {
    ($($type:ty),*) => { $(
        impl Fields for $type {
            fn list(&self, name: &str, start: usize, found: &mut Vec<Field>) {
                found.push(value(name, start..start + size_of::<Self>(), format!("{self:?}")));
            }
        }
    )* };
}

values!(u8, u16, u32, u64, [u8; 2], [u8; 3], [u8; 4], [u8; 6], [u16; maps::UDP_PORTS]);

fields! {
    Underlay { addr, mac, ports, flags, ifindex }
    Vtep { outer, mtu, ifindex, ip_sum, resolved }
    OuterHeader {
        eth_dst, eth_src, eth_type, version_ihl, tos, total_len, id, fragment, ttl, protocol, checksum, src, dst,
        udp_src, udp_dst, udp_len, udp_checksum, vxlan_flags, vxlan_reserved1, vni, vxlan_reserved2
    }
    Device { ifindex, program }
    FdbEntry { kind, netns_id, target, shim_or_ip, tx }
    PeerKey { vni, addr }
    Peer { vtep, slot, device_mac, mtu, port, flags }
    Network { slot, flags, mtu, port }
    PortKey { netns_id, ifindex }
    Port { vni, slot, flags, ip, mac, mtu, udp_src_first, udp_src_span }
    Heartbeat { epoch, deadline_jiffies, deadline_ns }
}

/// The padding is private.
impl Fields for FdbKey {
    fn list(&self, name: &str, start: usize, found: &mut Vec<Field>) {
        self.vni.list(&join(name, "vni"), start + offset_of!(Self, vni), found);
        self.mac.list(&join(name, "mac"), start + offset_of!(Self, mac), found);
        let [.., a, b] = bytemuck::cast::<Self, [u8; 12]>(*self);
        [a, b].list(&join(name, "padding"), start + 10, found);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_map_is_compared_or_an_exception() {
        let names = TABLES.iter().map(|table| table.map.name).chain(EXCEPTIONS.map(|(map, _)| map.name));
        let (all, distinct): (Vec<_>, BTreeSet<_>) = (names.clone().collect(), names.collect());
        assert_eq!(all.len(), distinct.len());
        assert_eq!(distinct, maps::MAPS.map(|map| map.name).into());
        let planned = maps::MAPS.iter().filter(|map| map.class == maps::Class::Planned);
        assert!(planned.clone().all(|map| TABLES.iter().any(|table| table.map == *map)));
    }

    #[test]
    fn fields_cover_every_byte() {
        for Table { map, key, value, sizes: [key_size, value_size], .. } in TABLES {
            for (size, fields) in [(key_size, key(&vec![0; key_size])), (value_size, value(&vec![0; value_size]))] {
                let end = fields.iter().fold(0, |end, field| {
                    assert_eq!(field.bytes.start, end, "{}: {}", map.name, field.name);
                    field.bytes.end
                });
                assert_eq!(end, size, "{}", map.name);
            }
        }
    }
}
