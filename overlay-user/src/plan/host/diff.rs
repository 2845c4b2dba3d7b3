//! From wanted and found objects to changes. Pure.

use std::collections::BTreeSet;

use super::objects::{BridgeFdb, Flood, HostChanges, HostState, Neighbours, Object, Parent, Veth, Vxlan, VxlanFdb};
use crate::plan::change::{self, Change, ChangeOf};

/// Whether one VXLAN device can become the other without being made anew.
pub(crate) fn is_same_tunnel(a: &Vxlan, b: &Vxlan) -> bool {
    (a.port, a.local, a.underlay, a.plain) == (b.port, b.local, b.underlay, b.plain)
}

/// Whether one veth can become the other without being made anew.
pub(crate) fn is_same_veth(a: &Veth, b: &Veth) -> bool {
    a.netns == b.netns
}

impl HostChanges {
    /// What leads from `found` to `wanted`, and leaves what is right already. What falls with a device that is removed or
    /// made anew counts as not there.
    #[must_use]
    pub(crate) fn between(found: &HostState, wanted: &HostState) -> Self {
        let bridges = change::between(&found.bridges, &wanted.bridges);
        let vxlans = change::between(&found.vxlans, &wanted.vxlans);
        let veths = change::between(&found.veths, &wanted.veths);
        let ports = change::between(&found.ports, &wanted.ports);

        let mut fallen = BTreeSet::new();
        for Change { key: vni, old, new } in &bridges {
            match (old, new) {
                (Some(_), None) => _ = fallen.insert(Parent::Bridge(*vni)),
                (Some(old), Some(new)) if new.mac.is_some() && new.mac != old.mac => {
                    fallen.insert(Parent::Neighbours(*vni));
                }
                _ => {}
            }
        }
        fallen.extend(gone(&vxlans, is_same_tunnel).map(|vni| Parent::Vxlan(*vni)));
        // To leave a bridge is to lose the entries there.
        let stays = |old: &Veth, new: &Veth| is_same_veth(old, new) && old.vni == new.vni;
        fallen.extend(gone(&veths, stays).map(|name| Parent::Interface(name)));
        fallen.extend(gone(&ports, |_, _| false).map(|name| Parent::Interface(name)));

        let flood = entries::<Flood>(found, wanted, &fallen);
        let fdb = entries::<VxlanFdb>(found, wanted, &fallen);
        let bridge_fdb = entries::<BridgeFdb>(found, wanted, &fallen);
        let neighbours = entries::<Neighbours>(found, wanted, &fallen);
        Self { flood, fdb, bridge_fdb, neighbours, bridges, vxlans, veths, ports }
    }
}

/// The keys of what was there and does not stay.
fn gone<K, V>(changes: &[Change<K, V>], stays: impl Fn(&V, &V) -> bool) -> impl Iterator<Item = &K> {
    let is_gone = move |change: &&Change<K, V>| match (&change.old, &change.new) {
        (Some(old), Some(new)) => !stays(old, new),
        (old, _) => old.is_some(),
    };
    changes.iter().filter(is_gone).map(|change| &change.key)
}

/// The changes of a table whose entries fall with their parents.
fn entries<T: Object>(found: &HostState, wanted: &HostState, fallen: &BTreeSet<Parent<'_>>) -> Vec<ChangeOf<T>> {
    let stands = |key: &T::Key, value: &T::Value| {
        fallen.is_empty() || !T::parents(key, value).iter().flatten().any(|parent| fallen.contains(parent))
    };
    change::between_those(T::rows(found), T::rows(wanted), stands)
}
