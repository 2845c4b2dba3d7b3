//! The layout of the maps: that of this version's programs, and that of the pinned maps.

use std::{collections::BTreeMap, fmt, path::Path};

use aya::{
    EbpfError,
    maps::{MapData, MapType},
};
use aya_obj::{Object, generated::bpf_map_type};
use overlay_common::maps::{self, LAYOUT};

use super::{LoadError, object};
use crate::apply::ledger::{Fact, PinRoot};

/// The layout of maps without a recorded layout.
const FIRST: u32 = 1;

/// The shape of a map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    kind: Option<MapType>,
    key: u32,
    value: u32,
    entries: u32,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, key, value, entries } = self;
        match kind {
            Some(kind) => write!(f, "{kind:?}, {key} → {value} bytes × {entries}"),
            None => write!(f, "{key} → {value} bytes × {entries}"),
        }
    }
}

/// The shapes of all pinned maps that the compiled programs require.
pub(crate) fn needed(fdb_size: u32) -> Result<BTreeMap<&'static str, Shape>, LoadError> {
    let object = Object::parse(object()).map_err(|error| Box::new(EbpfError::from(error)))?;
    let shape = |maps::Map { name, .. }| {
        let map = object.maps.get(name)?;
        let kind = bpf_map_type::try_from(map.map_type()).ok().and_then(|kind| kind.try_into().ok());
        let entries = if name == maps::FDB.name { fdb_size } else { map.max_entries() };
        Some((name, Shape { kind, key: map.key_size(), value: map.value_size(), entries }))
    };
    Ok(maps::MAPS.into_iter().filter_map(shape).collect())
}

/// The shape of a pinned map; `None`: it does not exist.
pub(crate) fn found(path: &Path) -> Result<Option<Shape>, LoadError> {
    if !path.exists() {
        return Ok(None);
    }
    let info = MapData::from_pin(path)
        .and_then(|map| map.info())
        .map_err(|source| LoadError::Map { path: path.into(), source })?;
    let kind = info.map_type().ok();
    Ok(Some(Shape { kind, key: info.key_size(), value: info.value_size(), entries: info.max_entries() }))
}

/// The differences between the maps below a pin root and those of this version; empty without maps.
///
/// A missing map is not a difference: no program uses it yet.
pub(crate) fn differences(root: &PinRoot, needed: &BTreeMap<&'static str, Shape>) -> Result<Vec<String>, LoadError> {
    let (mut differences, mut empty) = (Vec::new(), true);
    for (name, needed) in needed {
        let Some(found) = found(&root.map(name))? else { continue };
        empty = false;
        if found != *needed {
            differences.push(format!("{name} is {found} instead of {needed}"));
        }
    }
    let version = recorded(root)?;
    if !empty && version != LAYOUT {
        differences.insert(0, format!("layout {version} instead of {LAYOUT}"));
    }
    Ok(differences)
}

impl PinRoot {
    /// Checks that this version can read the maps.
    ///
    /// # Errors
    /// [`LoadError::Layout`] for another layout.
    pub fn check_layout(&self) -> Result<(), LoadError> {
        match recorded(self)? {
            LAYOUT => Ok(()),
            found => Err(LoadError::Layout { path: self.path().into(), found }),
        }
    }
}

/// The recorded layout of a pin root's maps.
pub(crate) fn recorded(root: &PinRoot) -> Result<u32, LoadError> {
    Ok(root.fact(Fact::LAYOUT)?.unwrap_or(FIRST))
}

#[cfg(test)]
mod tests {
    use overlay_common::maps;

    use super::*;

    #[test]
    fn programs_declare_the_shape_of_every_map() {
        let needed = needed(7).unwrap();
        assert_eq!(needed.len(), maps::MAPS.len());
        let fdb = Shape {
            kind: Some(MapType::Hash),
            key: size_of::<maps::FdbKey>() as u32,
            value: size_of::<maps::FdbEntry>() as u32,
            entries: 7,
        };
        assert_eq!(needed[maps::FDB.name], fdb);
        assert_eq!(needed[maps::REASONS.name].entries, maps::REASONS.entries);
    }
}
