use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    path::PathBuf,
    sync::Arc,
};

use overlay_common::{Vni, VtepAddr, maps, outer::OuterHeader, wire::VXLAN_PORT};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    kernel::RouteQuery,
    model::{
        Attachment, Cluster, Endpoint, Finding, Host, HostNetworks, Network as AnyNetwork, NetworkSpec, Parts, Rx,
        View,
        discovery::NetnsRef,
        network::{self, Admission, Cause, External, ExternalPort, Refusal, Tunnel},
    },
    plan::order::{self, Writer},
};

const HERE: VtepAddr = VtepAddr::new(Ipv4Addr::new(192, 168, 1, 1));

/// A cluster drawn from small sets, so that two clusters often overlap.
fn cluster() -> impl Strategy<Value = Cluster> {
    let endpoint = (0u32..3, 1u8..20, 1u8..5, any::<bool>());
    (vec(endpoint, 0..30), vec((any::<bool>(), any::<bool>()), 3)).prop_map(|(endpoints, networks)| {
        let hosts =
            (1..5).map(|n| Host { name: format!("node{n}"), address: [192, 168, 1, n].into(), rx: Rx::Xdp }).collect();
        let vni = |n: u32| Vni::new(4096 + n).unwrap();
        let networks = networks
            .into_iter()
            .zip(0..)
            .map(|((strict, other_port), n)| NetworkSpec {
                name: format!("net{n}"),
                vni: vni(n),
                subnet: format!("10.0.{n}.0/24").parse().unwrap(),
                gateway: Ipv4Addr::new(10, 0, n as u8, 254),
                mtu: None,
                port: if other_port { 8472 } else { VXLAN_PORT },
                strict,
                overlap: false,
            })
            .collect();
        let mut all: BTreeMap<(u32, u8), Endpoint> = BTreeMap::new();
        for (network, number, host, _) in endpoints {
            let ip = Ipv4Addr::new(10, 0, network as u8, number);
            all.insert(
                (network, number),
                Endpoint {
                    name: format!("c{number}"),
                    vni: vni(network),
                    ip,
                    mac: MacAddr::from_ipv4(ip.octets()),
                    host: [192, 168, 1, host].into(),
                    attachment: Attachment::Netns(PathBuf::from("/run/netns/c")),
                },
            );
        }
        let endpoints = all.into_values().collect();
        Cluster::new(Parts { hosts, networks, endpoints, ..Parts::default() }).unwrap()
    })
}

const HOP: Hop = Hop { ifindex: 2, src_mac: MacAddr([2; 6]), dst_mac: MacAddr([4; 6]), mtu: 1500, hop_limit: None };

fn query(port: u16) -> RouteQuery {
    RouteQuery { source: Some(HERE), port, source_ports: (32_768, 65_535) }
}

fn facts(view: &View, resolved: bool) -> Facts {
    let ports = view
        .networks()
        .iter()
        .flat_map(|(vni, network)| network.local().iter().map(move |endpoint| (*vni, endpoint.name.clone())))
        .zip(10..)
        .map(|(key, ifindex)| (key, PortFact { ifindex, redirect_peer: ifindex % 3 != 0, ..PortFact::default() }))
        .collect();
    let queries: BTreeMap<Vni, RouteQuery> =
        view.networks().iter().map(|(vni, network)| (*vni, query(network.network().port))).collect();
    let hosts = view.networks().values().flat_map(|network| {
        network.remote().hosts().map(move |address| ((query(network.network().port), address), HOP))
    });
    Facts {
        underlay_ifindex: 2,
        underlay_mac: MacAddr([2; 6]),
        underlay_mtu: 1500,
        ports,
        default_ttl: 64,
        queries,
        next_hops: if resolved { hosts.collect() } else { BTreeMap::new() },
        ..Facts::default()
    }
}

/// Checks that every reference has its target.
fn assert_no_dangling_reference(tables: &Tables) -> Result<(), TestCaseError> {
    for (key, entry) in &tables.fdb {
        if entry.kind == FdbEntry::REMOTE {
            prop_assert!(tables.vteps.contains_key(&entry.target), "{:?} points to no VTEP", key);
        }
    }
    for (key, peer) in &tables.peers {
        let vtep = tables.vteps.get(&peer.vtep);
        prop_assert_eq!(vtep.map(|v| v.outer.dst), Some(key.addr), "peer {:?} is not its VTEP", key);
    }
    // A port has a copy of its network's fields, and may stay for a grace period longer.
    Ok(())
}

/// An entry: its map, and the bytes of its key.
type Entry = (&'static str, Vec<u8>);

fn entry<T: Planned>(key: &T::Key) -> Entry {
    (T::MAP.name, bytemuck::bytes_of(key).to_vec())
}

/// The entries that get another value and must not be missing in between: without them a strict network would drop
/// valid packets, or packets would pass unchecked. Devices are replaced too.
fn replaced(changes: &Changes, tables: &Tables) -> BTreeSet<Entry> {
    fn of<T: Planned>(
        changes: &[Change<T::Key, T::Value>],
        which: impl Fn(&T::Key, &T::Value, &T::Value) -> bool,
    ) -> impl Iterator<Item = Entry> {
        changes.iter().filter_map(
            move |Change { key, old, new }| {
                if which(key, old.as_ref()?, new.as_ref()?) { Some(entry::<T>(key)) } else { None }
            },
        )
    }
    let strict = flags::STRICT;
    let is_strict_host = |underlay: Option<&Underlay>| underlay.is_some_and(|found| found.flags & strict as u16 != 0);
    let becomes_strict = changes.underlay.iter().any(|change| is_strict_host(change.new.as_ref()));
    let has_strict = is_strict_host(tables.underlay.get(&0)) || becomes_strict;
    let is_strict = |key: &FdbKey| tables.networks.get(&key.vni).is_some_and(|network| network.flags & strict != 0);
    of::<Fdb>(&changes.fdb, |key, _, _| is_strict(key))
        .chain(of::<Peers>(&changes.peers, |_, old, new| old.flags & new.flags & strict as u16 != 0))
        .chain(of::<Networks>(&changes.networks, |_, old, new| old.flags & new.flags & strict != 0))
        .chain(of::<Ports>(&changes.ports, |_, _, _| has_strict))
        .chain(of::<TxPorts>(&changes.txports, |_, _, _| true))
        .collect()
}

/// Model of the maps. Panics if a program could read a value while it is overwritten, or follow a dangling reference,
/// or if an entry is replaced that should be withdrawn or the reverse.
struct Fake {
    tables: Tables,
    replaced: BTreeSet<Entry>,
    /// Entries that the kernel refuses to write and to remove, and whether it refuses grace periods.
    refused: (BTreeSet<Entry>, bool),
    /// Number of refusals.
    refusals: usize,
    /// Entries of arrays that were disabled, and elements of hashes that were freed, since the last grace period.
    read: BTreeSet<Entry>,
    freed: BTreeSet<&'static str>,
}

impl Fake {
    fn new(tables: &Tables, changes: &Changes, refused: (BTreeSet<Entry>, bool)) -> Self {
        Self {
            tables: tables.clone(),
            replaced: replaced(changes, tables),
            refused,
            refusals: 0,
            read: BTreeSet::new(),
            freed: BTreeSet::new(),
        }
    }

    /// Checks that the old value was withdrawn a grace period ago, and writes the new one.
    fn overwrite<T: Planned>(&mut self, key: T::Key, new: Option<T::Value>) -> Result<(), Refused> {
        let name = entry::<T>(&key);
        if self.refused.0.contains(&name) {
            self.refusals += 1;
            return Err(Refused);
        }
        let old = T::rows(&self.tables).get(&key).copied();
        if T::KIND != MapKind::Array && old.is_some() {
            assert_eq!(new.is_some(), self.replaced.contains(&name), "{name:?}: {old:?} to {new:?}");
        }
        match T::KIND {
            MapKind::Array => {
                let disables = old.is_some() && new.is_some() && old.and_then(T::disabled) == new;
                let enables = old.is_some() && old == new.and_then(T::disabled) && !self.read.contains(&name);
                let written = old.and_then(T::disabled).is_none_or(|disabled| Some(disabled) == old);
                let mixed = old.zip(new).is_some_and(|(old, new)| T::is_safe_mix(&old, &new));
                let is_right = disables || enables || mixed || written && !self.read.contains(&name);
                assert!(is_right, "{name:?}: {old:?} to {new:?}");
                if disables && old != new {
                    self.read.insert(name);
                }
            }
            MapKind::Hash => {
                assert!(new.is_none() || !self.freed.contains(T::MAP.name), "{name:?} reuses an element that is read");
                if old.is_some() {
                    self.freed.insert(T::MAP.name);
                }
            }
            MapKind::Devices => {}
        }
        match new {
            Some(value) => _ = T::rows_mut(&mut self.tables).insert(key, value),
            None => _ = T::rows_mut(&mut self.tables).remove(&key),
        }
        // A reference to an entry that could not be written is not followed: the entry is missing.
        if self.refusals == 0 {
            assert_no_dangling_reference(&self.tables).unwrap();
        }
        Ok(())
    }
}

/// The kernel refuses a change.
#[derive(Debug)]
struct Refused;

impl Writer for Fake {
    type Error = Refused;

    fn remove<T: Planned>(&mut self, keys: &[T::Key]) -> Vec<(usize, Refused)> {
        let refused = |(position, key): (usize, &T::Key)| Some((position, self.overwrite::<T>(*key, None).err()?));
        keys.iter().enumerate().filter_map(refused).collect()
    }

    fn write<T: Planned>(&mut self, rows: &[(T::Key, T::Value)]) -> Vec<(usize, Refused)> {
        let rows = rows.iter().enumerate();
        rows.filter_map(|(position, (key, value))| Some((position, self.overwrite::<T>(*key, Some(*value)).err()?)))
            .collect()
    }

    fn reset(&mut self, map: Map, index: u32) -> Result<(), Refused> {
        let used = match map {
            maps::VTEP_STATS => self.tables.vteps.contains_key(&index),
            _ => self.tables.networks.values().any(|network| network.slot == index),
        };
        assert!(!used, "a counter in use is reset");
        Ok(())
    }

    fn grace(&mut self) -> Result<(), Refused> {
        if self.refused.1 {
            self.refusals += 1;
            return Err(Refused);
        }
        self.read.clear();
        self.freed.clear();
        Ok(())
    }
}

/// The changed entries.
#[derive(Default)]
struct Entries(Vec<Entry>);

impl Visitor for Entries {
    fn table<T: Planned>(&mut self, changes: &[Change<T::Key, T::Value>]) {
        self.0.extend(changes.iter().map(|change| entry::<T>(&change.key)));
    }
}

/// What changes have left in the tables.
struct Rest<'a> {
    tables: &'a Tables,
    refused: BTreeSet<Entry>,
    /// Programs use an entry that should have changed.
    is_stale: bool,
    /// An entry has not changed, and was not refused.
    is_missed: bool,
}

impl Visitor for Rest<'_> {
    fn table<T: Planned>(&mut self, changes: &[Change<T::Key, T::Value>]) {
        for Change { key, new, .. } in changes {
            let found = T::rows(self.tables).get(key);
            let is_used = found.is_some_and(|found| T::disabled(*found) != Some(*found));
            self.is_stale |= is_used && found != new.as_ref();
            self.is_missed |= found != new.as_ref() && !self.refused.contains(&entry::<T>(key));
        }
    }
}

/// Applies changes, and checks every step.
fn apply(changes: &Changes, tables: &mut Tables) {
    let mut maps = Fake::new(tables, changes, Default::default());
    let outcome = order::apply(changes, tables, &mut false, &mut maps);
    assert!(outcome.failed.is_empty() && !outcome.is_stale);
    assert_eq!(&maps.tables, tables);
}

proptest! {
    #![proptest_config(crate::seed::property())]

    #[test]
    fn applied_plan_gives_desired_tables(before in cluster(), after in cluster(), up: bool, hop in (0u8..2, 0u32..2)) {
        let first = before.view(HERE).unwrap();
        let mut tables = desired(Some(&first), &no_others(), &facts(&first, true), &Tables::default()).unwrap();
        let second = after.view(HERE).unwrap();
        let mut facts = facts(&second, up);
        for changed in facts.next_hops.values_mut() {
            (changed.dst_mac.0[5], changed.mtu) = (4 + hop.0, 1500 + hop.1);
        }
        let goal = desired(Some(&second), &no_others(), &facts, &tables).unwrap();
        let changes = Changes::between(&tables, &goal);
        apply(&changes, &mut tables);
        prop_assert_eq!(tables, goal);
    }

    #[test]
    fn refused_changes_are_reported_and_others_applied(
        before in cluster(), after in cluster(), up: bool, refused in vec(0u8..6, 8), is_grace_refused: bool,
    ) {
        let first = before.view(HERE).unwrap();
        let mut tables = desired(Some(&first), &no_others(), &facts(&first, true), &Tables::default()).unwrap();
        let second = after.view(HERE).unwrap();
        let mut facts = facts(&second, up);
        facts.next_hops.values_mut().for_each(|hop| hop.dst_mac = MacAddr([6; 6]));
        let goal = desired(Some(&second), &no_others(), &facts, &tables).unwrap();
        let changes = Changes::between(&tables, &goal);
        let mut entries = Entries::default();
        changes.visit(&mut entries);
        let entries = entries.0.into_iter().zip(refused.into_iter().cycle());
        let refused: BTreeSet<_> = entries.filter(|(_, number)| *number == 0).map(|(entry, _)| entry).collect();
        let mut maps = Fake::new(&tables, &changes, (refused.clone(), is_grace_refused));
        let outcome = order::apply(&changes, &mut tables, &mut false, &mut maps);
        // The tables are those in the kernel.
        prop_assert_eq!(&maps.tables, &tables);
        prop_assert_eq!(outcome.failed.len(), maps.refusals);
        let mut rest = Rest { tables: &tables, refused, is_stale: false, is_missed: false };
        changes.visit(&mut rest);
        prop_assert_eq!(outcome.is_stale, rest.is_stale);
        prop_assert!(is_grace_refused || !rest.is_missed, "a change was not applied that was not refused");
    }

    #[test]
    fn plan_of_converged_tables_is_empty(cluster in cluster()) {
        let view = cluster.view(HERE).unwrap();
        let tables = desired(Some(&view), &no_others(), &facts(&view, true), &Tables::default()).unwrap();
        let again = desired(Some(&view), &no_others(), &facts(&view, true), &tables).unwrap();
        prop_assert!(Changes::between(&tables, &again).is_empty());
    }

    /// The outer IPv4 packet has 16 bits for its length.
    #[test]
    fn maps_and_kernel_objects_have_one_mtu(cluster in cluster(), mtu in prop_oneof![118..70_000_u32, 65_530..65_540_u32]) {
        let view = cluster.view(HERE).unwrap();
        let mut facts = Facts { underlay_mtu: mtu, ..facts(&view, true) };
        facts.next_hops.values_mut().for_each(|hop| hop.mtu = mtu);
        let tables = desired(Some(&view), &no_others(), &facts, &Tables::default()).unwrap();
        let underlay = crate::plan::host::UnderlayDevice { ifindex: 2, mtu, addr: HERE };
        let objects = crate::plan::host::desired(&view, &underlay).unwrap();
        for (vni, vxlan) in &objects.vxlans {
            prop_assert_eq!(u32::from(vxlan.mtu), mtu.min(65_535) - 50);
            prop_assert_eq!(tables.networks[&vni.get()].mtu, vxlan.mtu);
        }
        for (port, vtep) in tables.ports.values().flat_map(|port| tables.vteps.values().map(move |vtep| (port, vtep))) {
            prop_assert_eq!((u32::from(port.mtu), u32::from(vtep.mtu)), (mtu.min(65_535) - 50, mtu.min(65_535) - 50));
        }
    }

    #[test]
    fn index_never_changes_its_meaning(before in cluster(), after in cluster()) {
        let first = before.view(HERE).unwrap();
        let old = desired(Some(&first), &no_others(), &facts(&first, true), &Tables::default()).unwrap();
        let second = after.view(HERE).unwrap();
        let new = desired(Some(&second), &no_others(), &facts(&second, true), &old).unwrap();
        for (index, vtep) in &new.vteps {
            if let Some(was) = old.vteps.get(index) {
                prop_assert_eq!((was.outer.dst, was.outer.udp_dst), (vtep.outer.dst, vtep.outer.udp_dst));
            }
        }
        for (vni, network) in &new.networks {
            if let Some((was, _)) = old.networks.iter().find(|(_, old)| old.slot == network.slot) {
                prop_assert_eq!(was, vni);
            }
        }
    }

    #[test]
    fn xfrm_policies_disable_configured_networks(cluster in cluster()) {
        let view = cluster.view(HERE).unwrap();
        let facts = Facts { xfrm: true, ..facts(&view, true) };
        let tables = desired(Some(&view), &no_others(), &facts, &Tables::default()).unwrap();
        prop_assert!(tables.vteps.values().all(|vtep| vtep.resolved == 0));
        prop_assert!(tables.peers.is_empty());
        // Without peers a strict network would drop packets that are for the kernel.
        prop_assert!(tables.networks.values().all(|network| network.flags == 0));
        prop_assert_eq!(tables.underlay().flags, 0);
        for port in tables.ports.values() {
            let strict = view.networks()[&Vni::new(port.vni).unwrap()].network().strict;
            prop_assert_eq!(port.flags != 0, strict);
        }
    }

    #[test]
    fn lookup_of_a_strict_peer_finds_its_fdb_entries(cluster in cluster()) {
        let view = cluster.view(HERE).unwrap();
        let tables = desired(Some(&view), &no_others(), &facts(&view, true), &Tables::default()).unwrap();
        for (vni, network) in view.networks() {
            let flags = if network.network().strict { flags::STRICT } else { 0 };
            prop_assert_eq!(tables.networks[&vni.get()].flags, flags);
            for (_, peer) in tables.peers.iter().filter(|(key, _)| key.vni == vni.get()) {
                prop_assert_eq!(u32::from(peer.flags), flags);
            }
            for endpoint in network.remote().iter() {
                let entry = tables.fdb[&FdbKey::new(vni.get(), endpoint.mac)];
                let peer = tables.peers[&PeerKey { vni: vni.get(), addr: endpoint.host.octets() }];
                prop_assert_eq!((entry.target, entry.remote_ip()), (peer.vtep, endpoint.ip.octets()));
            }
        }
        let any = view.networks().values().any(|network| network.network().strict);
        let strict = if any { flags::STRICT } else { 0 };
        prop_assert_eq!(u32::from(tables.underlay().flags), strict);
        let facts = Facts { underlay_segments: true, ..facts(&view, true) };
        let tables = desired(Some(&view), &no_others(), &facts, &Tables::default()).unwrap();
        let expected = if tables.networks.is_empty() { 0 } else { strict | flags::SEGMENTS };
        prop_assert_eq!(u32::from(tables.underlay().flags), expected);
    }

    #[test]
    fn vtep_without_next_hop_is_not_resolved(cluster in cluster()) {
        let view = cluster.view(HERE).unwrap();
        let tables = desired(Some(&view), &no_others(), &facts(&view, false), &Tables::default()).unwrap();
        prop_assert!(tables.vteps.values().all(|vtep| vtep.resolved == 0));
    }
}

/// Tables with these networks only.
fn of_networks(vnis: &[u32], current: &Tables) -> Tables {
    let network = |vni: &u32| {
        let external = External {
            mtu: 1450,
            tunnel: Tunnel::default(),
            netns: NetnsRef::Own,
            device: "vxlan0".into(),
            ports: BTreeMap::new(),
            remote: BTreeMap::new(),
            peers: [Ipv4Addr::from(0x0a00_0000 + vni).into()].into(),
            refusal: None,
        };
        AnyNetwork {
            vni: Vni::new(*vni).ok(),
            name: None,
            port: VXLAN_PORT,
            underlay: Some(HERE),
            kind: network::Kind::Bridged(Arc::new(external)),
            admission: Admission::Accelerated,
        }
    };
    let networks = HostNetworks { list: vnis.iter().map(network).collect(), ..no_others() };
    desired(None, &networks, &Facts::default(), current).unwrap()
}

/// Records the counters that are reset.
#[derive(Default)]
struct Resets(BTreeSet<(&'static str, u32)>);

impl Writer for Resets {
    type Error = Infallible;

    fn remove<T: Planned>(&mut self, _: &[T::Key]) -> Vec<(usize, Infallible)> {
        Vec::new()
    }

    fn write<T: Planned>(&mut self, _: &[(T::Key, T::Value)]) -> Vec<(usize, Infallible)> {
        Vec::new()
    }

    fn reset(&mut self, map: Map, index: u32) -> Result<(), Infallible> {
        self.0.insert((map.name, index));
        Ok(())
    }

    fn grace(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Replaces the networks in the tables; returns the counters that are reset, of networks and of VTEPs.
fn become_networks(vnis: &[u32], tables: &mut Tables) -> (Vec<u32>, Vec<u32>) {
    let goal = of_networks(vnis, tables);
    let mut resets = Resets::default();
    order::apply(&Changes::between(tables, &goal), tables, &mut false, &mut resets);
    assert_eq!(*tables, goal);
    let of = |map: Map| resets.0.iter().filter(|(name, _)| *name == map.name).map(|(_, index)| *index).collect();
    (of(maps::VNI_STATS), of(maps::VTEP_STATS))
}

#[test]
fn returning_network_keeps_its_slot_and_new_network_takes_another() {
    let mut tables = Tables::default();
    assert_eq!(become_networks(&[1, 2], &mut tables), (vec![0, 1], vec![0, 1]));
    let slot = |tables: &Tables, vni: u32| tables.networks[&vni].slot;
    let (one, two) = (slot(&tables, 1), slot(&tables, 2));
    assert_eq!(become_networks(&[2], &mut tables), (vec![], vec![]));
    // The slot of the removed network is not reused.
    assert_eq!(become_networks(&[2, 3], &mut tables), (vec![2], vec![2]));
    assert_eq!(become_networks(&[], &mut tables), (vec![], vec![]));
    assert_eq!(become_networks(&[1, 2, 3], &mut tables), (vec![], vec![]));
    assert_eq!((slot(&tables, 1), slot(&tables, 2), slot(&tables, 3)), (one, two, 2));
}

#[test]
fn pruned_network_keeps_its_slot() {
    let mut tables = Tables::default();
    become_networks(&[1, 2], &mut tables);
    let goal = of_networks(&[2], &tables);
    order::apply(&Changes::pruning(&tables, &goal), &mut tables, &mut false, &mut Resets::default());
    assert_eq!(become_networks(&[2], &mut tables), (vec![], vec![]));
    assert_eq!(become_networks(&[1, 2], &mut tables), (vec![], vec![]));
}

#[test]
fn full_map_reuses_slot_that_was_retired_first() {
    let most = maps::NETWORKS.entries;
    let mut tables = Tables::default();
    let vnis: Vec<_> = (1..=most).collect();
    become_networks(&vnis, &mut tables);
    let slot = |tables: &Tables, vni: u32| tables.networks[&vni].slot;
    let (second, third) = (slot(&tables, 2), slot(&tables, 3));
    let without = |gone: &[u32]| vnis.iter().copied().filter(|vni| !gone.contains(vni)).collect::<Vec<_>>();
    become_networks(&without(&[3]), &mut tables);
    become_networks(&without(&[2, 3]), &mut tables);
    let (resets, _) = become_networks(&[without(&[2, 3]), vec![most + 1]].concat(), &mut tables);
    assert_eq!((resets, slot(&tables, most + 1)), (vec![third], third));
    // The other network still has its counter.
    let (resets, _) = become_networks(&[without(&[3]), vec![most + 1]].concat(), &mut tables);
    assert_eq!((resets, slot(&tables, 2)), (vec![], second));
}

#[test]
fn one_changed_endpoint_changes_one_entry() {
    let mac = |n: u8| MacAddr([2, 0, 0, 0, 0, n]);
    let mut old = Tables::default();
    for n in 0..100 {
        old.fdb.insert(FdbKey::new(4097, mac(n)), FdbEntry::remote(0));
    }
    let mut new = old.clone();
    new.fdb.insert(FdbKey::new(4097, mac(7)), FdbEntry::remote(1));
    let change =
        Change { key: FdbKey::new(4097, mac(7)), old: Some(FdbEntry::remote(0)), new: Some(FdbEntry::remote(1)) };
    assert_eq!(Changes::between(&old, &new), Changes { fdb: vec![change], ..Changes::default() });
}

#[test]
fn single_entry_is_set_and_removed() {
    let (key, other) = (FdbKey::new(4097, MacAddr([2; 6])), FdbKey::new(4097, MacAddr([4; 6])));
    let mut tables = Tables::default();
    tables.apply(&Changes::set::<Fdb>(key, FdbEntry::remote(1)));
    tables.apply(&Changes::set::<Fdb>(other, FdbEntry::remote(2)));
    tables.apply(&Changes::remove::<Fdb>(key));
    assert_eq!(tables, Tables { fdb: BTreeMap::from([(other, FdbEntry::remote(2))]), ..Tables::default() });
}

#[test]
fn xdp_delivers_only_to_veths_of_the_daemon() {
    let endpoint = |name: &str, number: u8, attachment| Endpoint {
        name: name.into(),
        vni: Vni::new(4097).unwrap(),
        ip: Ipv4Addr::new(10, 0, 1, number),
        mac: MacAddr::from_ipv4([10, 0, 1, number]),
        host: HERE,
        attachment,
    };
    let cluster = Cluster::new(Parts {
        hosts: vec![Host { name: "node01".into(), address: HERE, rx: Rx::Xdp }],
        networks: vec![NetworkSpec {
            name: "net".into(),
            vni: Vni::new(4097).unwrap(),
            subnet: "10.0.1.0/24".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 0, 1, 1),
            mtu: None,
            port: VXLAN_PORT,
            strict: false,
            overlap: false,
        }],
        endpoints: vec![
            endpoint("veth", 2, Attachment::Netns("/run/netns/veth".into())),
            endpoint("found", 3, Attachment::Port("veth0".into())),
        ],
        ..Parts::default()
    })
    .unwrap();
    let view = cluster.view(HERE).unwrap();
    let mut facts = facts(&view, true);
    for (index, fact) in facts.ports.values_mut().enumerate() {
        *fact = PortFact { ifindex: 10 + index as u32, redirect_peer: true, ..PortFact::default() };
    }
    let veth = facts.ports[&(Vni::new(4097).unwrap(), "veth".to_owned())].ifindex;
    assert_eq!(
        desired(Some(&view), &no_others(), &facts, &Tables::default()).unwrap().txports,
        BTreeMap::from([(veth, PortKey::host(veth))])
    );
}

/// No external networks.
fn no_others() -> HostNetworks {
    HostNetworks { served: Some(HERE), ..HostNetworks::default() }
}

/// External networks drawn from small sets, in the host's namespace and in others.
fn external() -> impl Strategy<Value = HostNetworks> {
    let network = (0u64..3, vec((0u8..20, 0u8..4), 0..12), any::<bool>(), any::<bool>());
    vec(network, 3).prop_map(|networks| {
        let networks = networks.into_iter().zip(0..).map(|((inode, stations, refused, xdp), n)| {
            let vtep = |host: u8| VtepAddr::from([192, 168, 1, 1 + host]);
            let mac = |number: u8| MacAddr([2, 0, 0, 0, n, number]);
            let (local, remote): (Vec<_>, Vec<_>) = stations.into_iter().partition(|(_, host)| *host == 0);
            let port = |number: u8| ExternalPort {
                name: format!("veth{number}"),
                mac: (!number.is_multiple_of(5)).then_some(mac(number)),
                container: None,
                redirect_peer: !number.is_multiple_of(3),
                xdp,
                finding: None,
            };
            let path = PathBuf::from(format!("/run/netns/{inode}"));
            let external = External {
                mtu: 1450,
                tunnel: Tunnel::default(),
                netns: if inode == 0 { NetnsRef::Own } else { NetnsRef::Other { path, inode } },
                device: "vxlan0".into(),
                // Interface indices of different namespaces collide.
                ports: local
                    .iter()
                    .map(|(number, _)| (u32::from(n) * 20 + u32::from(*number), port(*number)))
                    .collect(),
                remote: remote.iter().map(|(number, host)| (mac(20 + *number), vtep(*host))).collect(),
                peers: remote.iter().map(|(_, host)| vtep(*host)).collect(),
                refusal: None,
            };
            let finding = Finding::new("network", "refused", "there is no remedy");
            AnyNetwork {
                // VNIs that the configured networks do not use.
                vni: Vni::new(5000 + u32::from(n)).ok(),
                name: None,
                port: VXLAN_PORT,
                underlay: Some(HERE),
                kind: network::Kind::Bridged(Arc::new(external)),
                admission: if refused {
                    Admission::Kernel(Refusal { cause: Cause::Encrypted, finding })
                } else {
                    Admission::Accelerated
                },
            }
        });
        HostNetworks { list: networks.collect(), ..no_others() }
    })
}

/// The entries that two tables have in common.
fn common<K: Ord + Copy, V: PartialEq + Copy>(one: &BTreeMap<K, V>, other: &BTreeMap<K, V>) -> BTreeMap<K, V> {
    one.iter().filter(|(key, value)| other.get(key) == Some(value)).map(|(key, value)| (*key, *value)).collect()
}

/// Facts with a shim for each namespace, and every next hop.
fn external_facts(view: &View, networks: &HostNetworks) -> Facts {
    let shims = networks.accelerated().filter_map(|(vni, _, external)| match &external.netns {
        NetnsRef::Own => None,
        NetnsRef::Other { inode, .. } => Some((vni, Shim { netns_id: *inode as u16, outer: 100 + vni.get() })),
    });
    let mut facts = Facts { shims: shims.collect(), xdp: true, ..facts(view, true) };
    for (vni, network, _) in networks.accelerated() {
        facts.queries.insert(vni, query(network.port));
        let hosts = (1..6).map(|n| VtepAddr::from([192, 168, 1, n]));
        facts.next_hops.extend(hosts.map(|vtep| ((query(network.port), vtep), HOP)));
    }
    facts
}

proptest! {
    #![proptest_config(crate::seed::property())]

    #[test]
    fn tables_follow_external_and_managed_networks(
        cluster in cluster(), before in external(), after in external(), xfrm: bool,
    ) {
        let view = cluster.view(HERE).unwrap();
        let mut tables = desired(Some(&view), &before, &external_facts(&view, &before), &Tables::default()).unwrap();
        let facts = Facts { xfrm, ..external_facts(&view, &after) };
        let goal = desired(Some(&view), &after, &facts, &tables).unwrap();
        let current = tables.clone();
        let changes = Changes::pruning(&tables, &goal);
        apply(&changes, &mut tables);
        // The remaining entries are up to date, and no other entry is removed.
        prop_assert_eq!(&tables.fdb, &common(&current.fdb, &goal.fdb));
        prop_assert_eq!(&tables.txports, &common(&current.txports, &goal.txports));
        let is_right = |port: &Port, wanted: Option<&Port>| {
            wanted == Some(port)
        };
        prop_assert!(tables.ports.iter().all(|(key, port)| is_right(port, goal.ports.get(key))));
        prop_assert!(tables.peers.keys().all(|key| goal.peers.contains_key(key)));
        let changes = Changes::between(&tables, &goal);
        apply(&changes, &mut tables);
        prop_assert_eq!(&tables, &goal);
        prop_assert!(Changes::between(&tables, &desired(Some(&view), &after, &facts, &tables).unwrap()).is_empty());
    }

    #[test]
    fn external_entries_name_their_netns(networks in external()) {
        let hosts = vec![Host { name: "node1".into(), address: HERE, rx: Rx::Tc }];
        let view = Cluster::new(Parts { hosts, ..Parts::default() }).unwrap().view(HERE).unwrap();
        let facts = external_facts(&view, &networks);
        let tables = desired(None, &networks, &facts, &Tables::default()).unwrap();
        let mut keys = BTreeSet::new();
        for (key, entry) in tables.fdb.iter().filter(|(_, entry)| entry.is_local()) {
            let shim = facts.shims.get(&Vni::new(key.vni).unwrap());
            prop_assert_eq!((entry.netns_id, entry.shim_or_ip), shim.map_or((0, 0), |shim| (shim.netns_id, shim.outer)));
            let port = PortKey { netns_id: entry.netns_id.into(), ifindex: entry.target };
            prop_assert!(tables.ports.contains_key(&port));
            if entry.tx != 0 {
                prop_assert_eq!(tables.txports.get(&entry.tx), Some(&port));
                prop_assert!(keys.insert(entry.tx), "each port has its own key");
            }
        }
        // The map does not contain the namespaces.
        let mut read = tables.clone();
        read.txports.values_mut().for_each(|port| *port = TxPorts::loaded(TxPorts::stored(*port)));
        let mut copied = read.clone();
        read.set_txport_netns();
        copied.copy_txport_netns(&tables);
        prop_assert_eq!((&read, &copied), (&tables, &tables));
        let refused = networks.list.iter().filter(|network| !network.is_accelerated());
        for vni in refused.filter_map(|network| network.vni) {
            prop_assert!(!tables.networks.contains_key(&vni.get()));
            prop_assert!(tables.fdb.keys().all(|key| key.vni != vni.get()));
            prop_assert!(tables.peers.keys().all(|key| key.vni != vni.get()));
        }
    }

    #[test]
    fn xfrm_policies_leave_only_external_networks_accelerated(cluster in cluster(), networks in external()) {
        let view = cluster.view(HERE).unwrap();
        let facts = Facts { xfrm: true, ..external_facts(&view, &networks) };
        let tables = desired(Some(&view), &networks, &facts, &Tables::default()).unwrap();
        for (key, entry) in &tables.fdb {
            if view.networks().keys().any(|vni| vni.get() == key.vni) && entry.kind == FdbEntry::REMOTE {
                prop_assert_eq!(tables.vteps[&entry.target].resolved, 0);
            }
        }
        prop_assert!(tables.peers.keys().all(|key| view.networks().keys().all(|vni| vni.get() != key.vni)));
    }
}

/// Two networks on UDP port 4789 with one VTEP each, which is the same: a managed one or an external one first.
struct TwoRoutes {
    view: View,
    networks: HostNetworks,
    facts: Facts,
}

const THERE: VtepAddr = VtepAddr::new(Ipv4Addr::new(192, 168, 1, 2));
const FIRST: u32 = 4097;
const SECOND: u32 = 4098;

fn two_routes(has_managed: bool) -> TwoRoutes {
    let hosts = [1, 2].map(|n| Host { name: format!("node{n}"), address: [192, 168, 1, n].into(), rx: Rx::Tc });
    let spec = NetworkSpec {
        name: "managed".into(),
        vni: Vni::new(FIRST).unwrap(),
        subnet: "10.0.1.0/24".parse().unwrap(),
        gateway: [10, 0, 1, 254].into(),
        mtu: None,
        port: VXLAN_PORT,
        strict: true,
        overlap: false,
    };
    let endpoint = |n: u8| Endpoint {
        name: format!("e{n}"),
        vni: spec.vni,
        ip: [10, 0, 1, n].into(),
        mac: MacAddr([2, 0, 0, 0, 0, n]),
        host: [192, 168, 1, n].into(),
        attachment: Attachment::Netns(format!("/run/netns/e{n}").into()),
    };
    let (networks, endpoints) =
        if has_managed { (vec![spec.clone()], vec![endpoint(1), endpoint(2)]) } else { (Vec::new(), Vec::new()) };
    let parts = Parts { hosts: hosts.to_vec(), networks, endpoints, ..Parts::default() };
    let view = Cluster::new(parts).unwrap().view(HERE).unwrap();
    let external = |vni: u32, ttl| AnyNetwork {
        vni: Vni::new(vni).ok(),
        name: None,
        port: VXLAN_PORT,
        underlay: Some(HERE),
        kind: network::Kind::Bridged(Arc::new(External {
            netns: NetnsRef::Own,
            device: "vxlan0".into(),
            mtu: 1450,
            tunnel: Tunnel { ttl, ..Tunnel::default() },
            ports: BTreeMap::new(),
            remote: BTreeMap::from([(MacAddr([2, 0, 0, 0, 1, 2]), THERE)]),
            peers: [THERE].into(),
            refusal: None,
        })),
        admission: Admission::Accelerated,
    };
    let list = if has_managed { vec![external(SECOND, 64)] } else { vec![external(FIRST, 0), external(SECOND, 64)] };
    let networks = HostNetworks { list, ..no_others() };
    let facts = external_facts(&view, &networks);
    TwoRoutes { view, networks, facts }
}

impl TwoRoutes {
    /// The entries of remote MACs and the networks that take the kernel path.
    fn outcome(&self) -> (BTreeSet<u32>, Vec<(Option<u32>, u32)>) {
        let Self { view, networks, facts } = self;
        let tables = desired(Some(view), networks, facts, &Tables::default()).unwrap();
        let paths = kernel_paths(Some(view), networks, facts).into_iter().map(|path| {
            assert_eq!((path.vtep, path.port), (THERE, VXLAN_PORT));
            (path.vni.map(Vni::get), path.chosen.get())
        });
        let remote = tables.fdb.iter().filter(|(_, entry)| !entry.is_local()).map(|(key, _)| key.vni);
        assert_eq!(tables.peers.len(), facts.queries.len(), "packets are received from all VTEPs");
        (remote.collect(), paths.collect())
    }

    fn hop(&mut self, vni: u32) -> &mut Hop {
        let query = self.facts.queries[&Vni::new(vni).unwrap()];
        self.facts.next_hops.get_mut(&(query, THERE)).unwrap()
    }
}

#[test]
fn network_with_another_route_to_a_vtep_takes_the_kernel_path() {
    for has_managed in [true, false] {
        let mut world = two_routes(has_managed);
        let both: BTreeSet<u32> = [FIRST, SECOND].into();
        assert_eq!(world.outcome(), (both.clone(), vec![]));
        // The hop limit matters to devices without `ttl`; those of managed networks have one.
        world.hop(FIRST).hop_limit = Some(33);
        let expected = if has_managed { (both.clone(), vec![]) } else { ([FIRST].into(), vec![(Some(SECOND), FIRST)]) };
        assert_eq!(world.outcome(), expected);
        world.hop(FIRST).hop_limit = None;
        // Another lookup, without a source address.
        let query = RouteQuery { source: None, ..query(VXLAN_PORT) };
        world.facts.queries.insert(Vni::new(SECOND).unwrap(), query);
        world.facts.next_hops.insert((query, THERE), Hop { ifindex: 7, ..HOP });
        assert_eq!(world.outcome(), ([FIRST].into(), vec![(Some(SECOND), FIRST)]));
        // Without a next hop, the entries stay in strict networks: the programs compare sources with them.
        let first = world.facts.queries[&Vni::new(FIRST).unwrap()];
        world.facts.next_hops.remove(&(first, THERE));
        let expected = if has_managed {
            ([FIRST].into(), vec![(None, FIRST), (Some(SECOND), FIRST)])
        } else {
            ([SECOND].into(), vec![(Some(FIRST), SECOND)])
        };
        assert_eq!(world.outcome(), expected);
        world.facts.next_hops.clear();
        assert_eq!(world.outcome(), (both, vec![(None, FIRST)]));
    }
}

#[test]
fn ttl_is_the_devices_the_routes_or_the_hosts() {
    for (ttl, hop_limit, expected) in [(0, None, 77), (0, Some(33), 33), (5, Some(33), 5), (5, None, 5)] {
        let mut world = two_routes(false);
        world.networks.list.truncate(1);
        let network::Kind::Bridged(external) = &mut world.networks.list[0].kind else { unreachable!("bridged") };
        Arc::make_mut(external).tunnel.ttl = ttl;
        world.facts.default_ttl = 77;
        world.hop(FIRST).hop_limit = hop_limit;
        let tables = desired(None, &world.networks, &world.facts, &Tables::default()).unwrap();
        let vtep = tables.vteps[&0];
        assert_eq!((vtep.outer.ttl, vtep.ip_sum), (expected, vtep.outer.ip_sum()));
    }
}

/// Each direction for itself, and each network.
#[test]
fn refused_packets_of_a_vtep_take_the_kernel_path() {
    let mut world = two_routes(false);
    let first = (Vni::new(FIRST).unwrap(), THERE);
    world.facts.not_received.insert(first);
    assert_eq!(world.outcome(), ([FIRST, SECOND].into(), vec![]));
    let tables = desired(Some(&world.view), &world.networks, &world.facts, &Tables::default()).unwrap();
    // No packet has this port: the programs pass all packets of the peer to the kernel, and strict networks know it.
    let ports: Vec<_> = tables.peers.iter().map(|(key, peer)| (key.vni, peer.port)).collect();
    assert_eq!(ports, [(FIRST, 0), (SECOND, VXLAN_PORT)]);
    world.facts.not_received.clear();
    world.facts.not_sent.insert(first);
    assert_eq!(world.outcome(), ([SECOND].into(), vec![(Some(FIRST), SECOND)]));
    let tables = desired(Some(&world.view), &world.networks, &world.facts, &Tables::default()).unwrap();
    assert!(tables.peers.values().all(|peer| peer.port == VXLAN_PORT));
}

/// A network whose lookup is not known neither sends nor receives, and a strict one passes packets to the kernel.
#[test]
fn network_without_lookup_takes_the_kernel_path() {
    let mut world = two_routes(true);
    world.facts.queries.clear();
    let tables = desired(Some(&world.view), &world.networks, &world.facts, &Tables::default()).unwrap();
    assert!(tables.peers.is_empty() && tables.vteps.values().all(|vtep| vtep.resolved == 0));
    assert!(tables.networks.values().all(|network| network.flags == 0));
}

proptest! {
    #![proptest_config(crate::seed::property())]

    /// Where the devices of a network or a port do not suit the fast path, nothing is forwarded to or from it. Ports of
    /// strict networks stay for their checks, with the MTU 0: their packets take the kernel path.
    #[test]
    fn refused_devices_keep_only_the_checks_of_strict_networks(cluster in cluster(), refused in 0u32..3) {
        let Some(view) = cluster.view(HERE) else { return Ok(()) };
        let mut facts = facts(&view, true);
        let whole = desired(Some(&view), &no_others(), &facts, &Tables::default()).unwrap();
        let vni = Vni::new(4096 + refused).unwrap();
        let refusal = network::Refusal::new(network::Cause::Bridge, "it filters VLANs", "");
        let network = network::Network {
            vni: Some(vni),
            name: None,
            port: VXLAN_PORT,
            underlay: Some(HERE),
            kind: network::Kind::Managed,
            admission: network::Admission::Kernel(refusal),
        };
        let networks = HostNetworks { list: vec![network], ..no_others() };
        let mut ports = BTreeSet::new();
        for ((of, _), fact) in facts.ports.iter_mut() {
            if *of == vni || fact.ifindex % 2 == 0 {
                fact.is_refused = *of != vni;
                ports.insert(fact.ifindex);
            }
        }
        let tables = desired(Some(&view), &networks, &facts, &Tables::default()).unwrap();
        for (key, port) in &whole.ports {
            let is_strict = port.flags & flags::STRICT != 0;
            let expected = match ports.contains(&key.ifindex) {
                false => Some(*port),
                true => is_strict.then_some(Port { mtu: 0, ..*port }),
            };
            let found = tables.ports.get(key).map(|found| Port { slot: port.slot, ..*found });
            prop_assert_eq!(found, expected);
            let key = FdbKey::new(port.vni, MacAddr(port.mac));
            prop_assert_eq!(tables.fdb.contains_key(&key), expected == Some(*port));
        }
        // Received packets of a strict network are compared with its peers and their addresses.
        let is_strict = |vni: u32| whole.networks[&vni].flags & flags::STRICT != 0;
        for key in whole.peers.keys() {
            prop_assert_eq!(tables.peers.contains_key(key), key.vni != vni.get() || is_strict(key.vni));
        }
        for (key, _) in whole.fdb.iter().filter(|(_, entry)| !entry.is_local()) {
            prop_assert_eq!(tables.fdb.contains_key(key), key.vni != vni.get() || is_strict(key.vni));
        }
    }
}

/// Also if the desired tables exceed a limit.
#[test]
fn pruning_disables_stale_vteps() {
    let mut tables = Tables::default();
    become_networks(&[1, 2, 3], &mut tables);
    tables.vteps.values_mut().for_each(|vtep| vtep.resolved = 1);
    let mut desired = tables.clone();
    // Another next hop, and a removed VTEP.
    desired.vteps.get_mut(&0).unwrap().outer.eth_dst = [9; 6];
    desired.vteps.remove(&1);
    let changes = Changes::pruning(&tables, &desired);
    apply(&changes, &mut tables);
    assert_eq!(tables.vteps.values().map(|vtep| vtep.resolved).collect::<Vec<_>>(), [0, 0, 1]);
}

#[test]
fn tables_read_from_maps_inherit_retired_indices() {
    let mut tables = Tables::default();
    become_networks(&[1, 2], &mut tables);
    become_networks(&[2], &mut tables);
    let mut read = tables.clone();
    read.retired = RetiredIndices::default();
    read.inherit(tables.retired.clone());
    assert_eq!(become_networks(&[1, 2], &mut read), (vec![], vec![]), "the counter continues");
    // An index in use belongs to one network.
    let mut other = of_networks(&[7], &Tables::default());
    assert_eq!(tables.retired.index(Counted::Network(1)), Some(other.networks[&7].slot));
    other.inherit(std::mem::take(&mut tables.retired));
    assert_eq!((other.networks[&7].slot, other.retired.index(Counted::Network(1))), (0, None));
    assert_eq!(become_networks(&[1, 7], &mut other).0.len(), 1);
}

/// The texts of an entry, its namespace, and the netns id of its device.
fn described<T: Planned>(key: T::Key, value: T::Value, names: &Names) -> (String, String, Option<PathBuf>, u32) {
    (T::object(key, names), T::text(&value, names), T::netns(key, names), T::netns_id(&value))
}

#[test]
fn entries_and_their_namespaces_are_described() {
    let names = Names {
        devices: [(PortKey::host(2), "enp0s3"), (PortKey { netns_id: 1, ifindex: 7 }, "veth7")]
            .map(|(key, name)| (key, name.to_owned()))
            .into(),
        namespaces: BTreeMap::from([(1, PathBuf::from("/run/netns/blue"))]),
        vteps: BTreeMap::from([(3, HERE)]),
    };
    let (mac, remote) = (MacAddr([2, 0, 0, 0, 0, 1]), VtepAddr::from([192, 168, 1, 10]));
    let outer = OuterHeader { eth_dst: mac.0, ..OuterHeader::template(HERE.octets(), remote.octets(), 4789) };
    let vtep = Vtep { outer, mtu: 1450, ifindex: 2, ip_sum: outer.ip_sum(), resolved: 1 };
    let fdb = |entry| described::<Fdb>(FdbKey::new(4097, mac), entry, &names);
    let local = |kind| FdbEntry { kind, netns_id: 1, target: 7, shim_or_ip: 5, tx: 9 };
    let port = Port {
        vni: 4097,
        slot: 3,
        flags: 1,
        ip: [10, 0, 1, 2],
        mac: mac.0,
        mtu: 1450,
        udp_src_first: 32768,
        udp_src_span: 28232,
    };
    let port = |netns_id, ifindex| described::<Ports>(PortKey { netns_id, ifindex }, port, &names);
    let of_port = "VNI 4097, 10.0.1.2, 02:00:00:00:00:01, MTU 1450, source ports 32768+28232, slot 3, flags 1";
    let blue = || Some(PathBuf::from("/run/netns/blue"));
    let expected = [
        (
            described::<Underlays>(0, Underlay::new(HERE.octets(), mac, 2, &[4789, 8472]).unwrap(), &names),
            "index 0",
            "enp0s3 192.168.1.1 02:00:00:00:00:01, UDP 4789, 8472",
            None,
            0,
        ),
        (
            described::<Vteps>(3, vtep, &names),
            "index 3",
            "192.168.1.10 UDP 4789 from 192.168.1.1 through enp0s3, next hop 02:00:00:00:00:01, MTU 1450",
            None,
            0,
        ),
        (
            described::<Vteps>(3, Vtep { resolved: 0, ..vtep }, &names),
            "index 3",
            "192.168.1.10 UDP 4789, not resolved",
            None,
            0,
        ),
        (described::<TxPorts>(9, PortKey { netns_id: 1, ifindex: 7 }, &names), "key 9", "veth7 (interface 7)", None, 1),
        (described::<TxPorts>(2, PortKey::host(2), &names), "key 2", "enp0s3 (interface 2)", None, 0),
        (fdb(FdbEntry::remote(3)), "VNI 4097 02:00:00:00:00:01", "VTEP 192.168.1.1 (index 3)", None, 0),
        (fdb(FdbEntry::remote(4)), "VNI 4097 02:00:00:00:00:01", "VTEP unknown (index 4)", None, 0),
        (
            fdb(local(FdbEntry::LOCAL)),
            "VNI 4097 02:00:00:00:00:01",
            "port veth7 (interface 7, netns 1, shim 5, transmit key 9)",
            None,
            0,
        ),
        (
            fdb(local(FdbEntry::LOCAL_PEER)),
            "VNI 4097 02:00:00:00:00:01",
            "port veth7 (interface 7, netns 1, shim 5, transmit key 9, redirect to its peer)",
            None,
            0,
        ),
        (fdb(local(77)), "VNI 4097 02:00:00:00:00:01", "kind 77, target 7", None, 0),
        (
            described::<Peers>(
                PeerKey { vni: 4097, addr: remote.octets() },
                Peer { vtep: 3, slot: 1, device_mac: [2; 6], mtu: 1450, port: 4789, flags: 1 },
                &names,
            ),
            "VNI 4097 192.168.1.10",
            "VTEP index 3, slot 1, device 02:02:02:02:02:02, MTU 1450, UDP 4789, flags 1",
            None,
            0,
        ),
        (
            described::<Networks>(4097, Network { slot: 1, flags: 1, mtu: 1450, port: 4789 }, &names),
            "VNI 4097",
            "UDP 4789, MTU 1450, slot 1, flags 1",
            None,
            0,
        ),
        (port(1, 7), "veth7", of_port, blue(), 0),
        (port(0, 2), "enp0s3", of_port, None, 0),
        // The interfaces are gone.
        (port(1, 8), "interface 8 in netns 1", of_port, blue(), 0),
        (port(0, 8), "interface 8", of_port, None, 0),
    ];
    for ((object, text, netns, netns_id), expected, expected_text, expected_netns, expected_id) in expected {
        assert_eq!((&*object, &*text), (expected, expected_text));
        assert_eq!((netns, netns_id), (expected_netns, expected_id), "{object} {text}");
    }
    // A program ignores the entry that the daemon has not written.
    assert_eq!(Underlays::unwritten(), Some(Underlay::default()));
    assert_eq!(Vteps::unwritten(), None);
}

/// The steps in which the maps are changed.
#[derive(Default)]
struct Steps(Vec<&'static str>);

impl Writer for Steps {
    type Error = Infallible;

    fn remove<T: Planned>(&mut self, _: &[T::Key]) -> Vec<(usize, Infallible)> {
        self.0.push("remove");
        Vec::new()
    }

    fn write<T: Planned>(&mut self, _: &[(T::Key, T::Value)]) -> Vec<(usize, Infallible)> {
        self.0.push("write");
        Vec::new()
    }

    fn reset(&mut self, _: Map, _: u32) -> Result<(), Infallible> {
        self.0.push("reset");
        Ok(())
    }

    fn grace(&mut self) -> Result<(), Infallible> {
        self.0.push("grace");
        Ok(())
    }
}

/// A packet may get one header from the old next hop and another from the new one.
#[test]
fn next_hop_is_disabled_while_it_changes() {
    let outer = OuterHeader::template(HERE.octets(), [192, 168, 1, 10], 4789);
    let vtep = Vtep { outer, mtu: 1450, ifindex: 2, ip_sum: outer.ip_sum(), resolved: 1 };
    let steps = |old: Vtep, new: Vtep| {
        let tables = |vtep| Tables { vteps: BTreeMap::from([(0, vtep)]), ..Tables::default() };
        let (mut current, goal) = (tables(old), tables(new));
        let mut steps = Steps::default();
        order::apply(&Changes::between(&current, &goal), &mut current, &mut false, &mut steps);
        assert_eq!(current, goal);
        steps.0
    };
    let unresolved = Vtep { resolved: 0, ..vtep };
    assert_eq!(steps(vtep, Vtep { mtu: 1400, ..vtep }), ["write"]);
    assert_eq!(steps(vtep, unresolved), ["write"]);
    assert_eq!(steps(unresolved, vtep), ["write"]);
    let disabled = ["write", "grace", "write", "grace", "write"];
    let other = OuterHeader { eth_dst: [4; 6], ..outer };
    assert_eq!(steps(vtep, Vtep { outer: other, ..vtep }), disabled);
    assert_eq!(steps(vtep, Vtep { ifindex: 3, ..vtep }), disabled);
    assert_eq!(steps(unresolved, Vtep { ifindex: 3, ..vtep }), ["write", "grace", "write"]);
}
