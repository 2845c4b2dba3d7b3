//! The changes from found to desired objects. Pure.

use std::collections::BTreeSet;

use super::objects::{BridgeFdb, Flood, HostChanges, HostState, Neighbours, Object, Parent, Veth, Vxlan, VxlanFdb};
use crate::plan::change::{self, Change, ChangeOf};

/// Whether one VXLAN device can be changed to the other without recreating it.
pub(crate) fn is_same_tunnel(a: &Vxlan, b: &Vxlan) -> bool {
    (a.port, a.local, a.underlay, a.plain) == (b.port, b.local, b.underlay, b.plain)
}

/// Whether one veth can be changed to the other without recreating it.
pub(crate) fn is_same_veth(a: &Veth, b: &Veth) -> bool {
    a.netns == b.netns
}

impl HostChanges {
    /// The changes from `found` to `wanted`. Entries that the kernel deletes with a removed or recreated device count
    /// as missing.
    #[must_use]
    pub(crate) fn between(found: &HostState, wanted: &HostState) -> Self {
        let bridges = change::between(&found.bridges, &wanted.bridges);
        let vxlans = change::between(&found.vxlans, &wanted.vxlans);
        let veths = change::between(&found.veths, &wanted.veths);
        let ports = change::between(&found.ports, &wanted.ports);

        let mut deleted = BTreeSet::new();
        for Change { key: vni, old, new } in &bridges {
            match (old, new) {
                (Some(_), None) => _ = deleted.insert(Parent::Bridge(*vni)),
                (Some(old), Some(new)) if new.mac.is_some() && new.mac != old.mac => {
                    deleted.insert(Parent::Neighbours(*vni));
                }
                _ => {}
            }
        }
        deleted.extend(gone(&vxlans, is_same_tunnel).map(|vni| Parent::Vxlan(*vni)));
        // A port that leaves a bridge loses its entries there.
        let stays = |old: &Veth, new: &Veth| is_same_veth(old, new) && old.vni == new.vni;
        deleted.extend(gone(&veths, stays).map(|name| Parent::Interface(name)));
        deleted.extend(gone(&ports, |_, _| false).map(|name| Parent::Interface(name)));

        let flood = entries::<Flood>(found, wanted, &deleted);
        let fdb = entries::<VxlanFdb>(found, wanted, &deleted);
        let bridge_fdb = entries::<BridgeFdb>(found, wanted, &deleted);
        let neighbours = entries::<Neighbours>(found, wanted, &deleted);
        Self { flood, fdb, bridge_fdb, neighbours, bridges, vxlans, veths, ports }
    }
}

/// The keys of entries that are removed or replaced.
fn gone<K, V>(changes: &[Change<K, V>], stays: impl Fn(&V, &V) -> bool) -> impl Iterator<Item = &K> {
    let is_gone = move |change: &&Change<K, V>| match (&change.old, &change.new) {
        (Some(old), Some(new)) => !stays(old, new),
        (old, _) => old.is_some(),
    };
    changes.iter().filter(is_gone).map(|change| &change.key)
}

/// The changes of a table whose entries are deleted with their parents.
fn entries<T: Object>(found: &HostState, wanted: &HostState, deleted: &BTreeSet<Parent<'_>>) -> Vec<ChangeOf<T>> {
    let remains = |key: &T::Key, value: &T::Value| {
        deleted.is_empty() || !T::parents(key, value).iter().flatten().any(|parent| deleted.contains(parent))
    };
    change::between_existing(T::rows(found), T::rows(wanted), remains)
}
