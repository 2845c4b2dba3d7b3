//! The plan against a reference model of the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use overlay_common::{MacAddr, Vni, VtepAddr};
use proptest::prelude::*;

use super::{
    objects::{FdbPort, Veth, Vxlan},
    *,
};
use crate::{
    apply::net::tests::*,
    kernel::bridge_name,
    model::{Attachment, Cluster, Endpoint, NetworkSpec, Parts},
    plan::{
        change::{self, Change},
        host::Phase,
    },
};

/// Applies the changes of one phase as the kernel does. Panics if the kernel would refuse a change.
pub(crate) fn apply(state: &mut HostState, changes: &HostChanges, phase: Phase) {
    match phase {
        Phase::Create => create(state, changes),
        Phase::Remove => remove(state, changes),
    }
}

fn has_port(state: &HostState, vni: Vni, port: &FdbPort) -> bool {
    match port {
        FdbPort::Vxlan => state.vxlans.get(&vni).is_some_and(|vxlan| vxlan.enslaved),
        FdbPort::Movable => false,
        FdbPort::Interface(name) => {
            state.ports.get(name) == Some(&vni) || state.veths.get(name).is_some_and(|veth| veth.vni == Some(vni))
        }
    }
}

/// Whether a VXLAN device with these options must be created again. The kernel refuses another port
/// (`vxlan_nl2conf` in drivers/net/vxlan/vxlan_core.c); the daemon changes no option in place.
fn is_recreated(found: &Vxlan, new: &Vxlan) -> bool {
    found.port != new.port || found.local != new.local || found.underlay != new.underlay || found.plain != new.plain
}

/// Whether a veth leaves its bridge: it gets another one, or is created again in another netns.
fn leaves_bridge(found: &Veth, new: &Veth) -> bool {
    found.vni != new.vni || found.netns != new.netns
}

/// Removes the entries of a port that leaves its bridge.
fn forget(state: &mut HostState, name: &str) {
    state.bridge_fdb.retain(|_, port| *port != FdbPort::Interface(name.to_owned()));
}

fn create(state: &mut HostState, changes: &HostChanges) {
    for Change { key: vni, old, new } in &changes.bridges {
        let Some(bridge) = new else { continue };
        let found = state.bridges.insert(*vni, bridge.clone());
        assert_eq!(&found, old);
        if found.is_some_and(|found| found.mac != bridge.mac && bridge.mac.is_some()) {
            state.neighbours.retain(|(of, _), _| of != vni);
        }
    }
    for Change { key: vni, old, new } in &changes.vxlans {
        let Some(vxlan) = new else { continue };
        assert!(state.bridges.contains_key(vni));
        let found = state.vxlans.insert(*vni, vxlan.clone());
        assert_eq!(&found, old);
        if found.is_some_and(|found| is_recreated(&found, vxlan)) {
            forget_vxlan(state, *vni);
        }
    }
    for Change { key: name, old, new } in &changes.veths {
        let Some(veth) = new else { continue };
        assert!(state.bridges.contains_key(&veth.vni.expect("wanted in a bridge")));
        let found = state.veths.insert(name.clone(), veth.clone());
        assert_eq!(&found, old);
        if found.is_some_and(|found| leaves_bridge(&found, veth)) {
            forget(state, name);
        }
    }
    for Change { key: name, old, new } in &changes.ports {
        let Some(vni) = new else { continue };
        assert!(state.bridges.contains_key(vni));
        let found = state.ports.insert(name.clone(), *vni);
        assert_eq!(&found, old);
        if found.is_some() {
            forget(state, name);
        }
    }
    for Change { key: (vni, vtep), new, .. } in &changes.flood {
        if new.is_some() {
            assert!(state.vxlans.contains_key(vni));
            assert!(state.flood.insert((*vni, *vtep), ()).is_none());
        }
    }
    for Change { key: (vni, mac), new, .. } in &changes.fdb {
        let Some(vtep) = new else { continue };
        assert!(state.vxlans.contains_key(vni));
        state.fdb.insert((*vni, *mac), *vtep);
    }
    for Change { key: (vni, mac), new, .. } in &changes.bridge_fdb {
        let Some(port) = new else { continue };
        assert!(has_port(state, *vni, port), "{mac} behind {port:?}");
        state.bridge_fdb.insert((*vni, *mac), port.clone());
    }
    for Change { key: (vni, ip), new, .. } in &changes.neighbours {
        let Some(mac) = new else { continue };
        assert!(state.bridges.contains_key(vni));
        state.neighbours.insert((*vni, *ip), *mac);
    }
}

fn forget_vxlan(state: &mut HostState, vni: Vni) {
    state.fdb.retain(|(of, _), _| *of != vni);
    state.flood.retain(|(of, _), ()| *of != vni);
    state.bridge_fdb.retain(|(of, _), port| *of != vni || *port != FdbPort::Vxlan);
}

fn remove(state: &mut HostState, changes: &HostChanges) {
    let gone = |old: bool, new: bool| old && !new;
    for Change { key, old, new } in &changes.neighbours {
        assert!(new.is_some() || state.neighbours.remove(key) == *old);
    }
    for Change { key, old, new } in &changes.bridge_fdb {
        assert!(new.is_some() || state.bridge_fdb.remove(key) == *old);
    }
    for Change { key, old, new } in &changes.fdb {
        assert!(new.is_some() || state.fdb.remove(key) == *old);
    }
    for Change { key, old, new } in &changes.flood {
        assert!(new.is_some() || state.flood.remove(key) == *old);
    }
    for Change { key: name, .. } in changes.ports.iter().filter(|c| gone(c.old.is_some(), c.new.is_some())) {
        assert!(state.ports.remove(name).is_some());
        forget(state, name);
    }
    for Change { key: name, .. } in changes.veths.iter().filter(|c| gone(c.old.is_some(), c.new.is_some())) {
        assert!(state.veths.remove(name).is_some());
        forget(state, name);
    }
    for Change { key: vni, .. } in changes.vxlans.iter().filter(|c| gone(c.old.is_some(), c.new.is_some())) {
        assert!(state.vxlans.remove(vni).is_some());
        forget_vxlan(state, *vni);
    }
    for Change { key: vni, .. } in changes.bridges.iter().filter(|c| gone(c.old.is_some(), c.new.is_some())) {
        assert!(state.bridges.remove(vni).is_some());
        state.neighbours.retain(|(of, _), _| of != vni);
        state.bridge_fdb.retain(|(of, _), _| of != vni);
        state.ports.retain(|_, of| of != vni);
        state.veths.values_mut().filter(|veth| veth.vni == Some(*vni)).for_each(|veth| veth.vni = None);
        state.vxlans.entry(*vni).and_modify(|vxlan| vxlan.enslaved = false);
    }
}

/// The changes that remove one entry.
fn removing<T: Object>(state: &HostState, key: &T::Key) -> HostChanges {
    let mut changes = HostChanges::default();
    T::changes_mut(&mut changes).extend(change::removed(T::rows(state), |other, _| other == key));
    changes
}

/// The objects of the first host for up to four networks with up to six endpoints each on up to three hosts.
fn hosts() -> impl Strategy<Value = DesiredHost> {
    let network = (prop::option::of(1200u16..1204), 4789u16..4791, any::<bool>());
    let endpoint = ((1u32..5, 0u8..6), (0u8..3, 0u8..3, 0u8..3));
    let networks = prop::collection::vec(network, 4);
    let endpoints = prop::collection::btree_map(1u32..5, 0u8..6, 0..4).prop_flat_map(move |_| {
        prop::collection::vec(endpoint.clone(), 0..16).prop_map(|all| all.into_iter().collect::<BTreeMap<_, _>>())
    });
    (networks, endpoints, 2u32..4).prop_filter_map("invalid clusters", |(networks, endpoints, ifindex)| {
        let networks = networks.into_iter().zip(1u32..).map(|((mtu, port, overlap), n)| NetworkSpec {
            name: format!("n{n}"),
            vni: Vni::new(n).expect("a VNI"),
            subnet: format!("10.0.{n}.0/24").parse().expect("a subnet"),
            gateway: Ipv4Addr::new(10, 0, n as u8, 1),
            mtu,
            port,
            overlap,
            ..network_of_example()
        });
        let endpoints = endpoints.into_iter().map(|((n, id), (host, kind, mac))| Endpoint {
            vni: Vni::new(n).expect("a VNI"),
            ip: Ipv4Addr::new(10, 0, n as u8, 10 + id),
            // A MAC address may move to another endpoint.
            mac: MacAddr([2, 0, 0, 0, mac, id]),
            attachment: match kind {
                0 => Attachment::Netns(format!("/run/netns/c{id}").into()),
                1 => Attachment::Port(format!("tap{id}")),
                _ => Attachment::Unspecified,
            },
            ..endpoint_of_example(id, host)
        });
        let parts = Parts { networks: networks.collect(), endpoints: endpoints.collect(), ..empty() };
        let underlay = UnderlayDevice { ifindex, mtu: 1500, addr: NODE1 };
        desired(&Cluster::new(parts).ok()?.view(NODE1).expect("the host"), &underlay).ok()
    })
}

fn network_of_example() -> NetworkSpec {
    crate::apply::net::tests::network()
}

fn endpoint_of_example(id: u8, host: u8) -> Endpoint {
    let host = VtepAddr::from([192, 168, 1, 9 + host]);
    crate::apply::net::tests::endpoint(
        &format!("e{id}"),
        Ipv4Addr::new(10, 0, 1, 10 + id),
        host,
        Attachment::Unspecified,
    )
}

fn empty() -> Parts {
    cluster(network(), Vec::new())
}

/// Changes by another program.
fn modify(state: &mut HostState, kinds: &BTreeSet<u8>) {
    for kind in kinds {
        match kind {
            0 => {
                if let Some(vni) = state.bridges.keys().next().copied() {
                    remove(state, &removing::<Bridges>(state, &vni));
                }
            }
            1 => {
                if let Some(vni) = state.vxlans.keys().next_back().copied() {
                    remove(state, &removing::<Vxlans>(state, &vni));
                }
            }
            2 => {
                if let Some(name) = state.veths.keys().next().cloned() {
                    remove(state, &removing::<Veths>(state, &name));
                }
            }
            3 => state.veths.values_mut().for_each(|veth| veth.netns = None),
            4 => state.bridges.values_mut().for_each(|bridge| bridge.up = false),
            9 => state.bridges.values_mut().for_each(|bridge| bridge.mac = bridge.mac.and(Some(MacAddr::default()))),
            5 => state.vxlans.values_mut().for_each(|vxlan| vxlan.plain = false),
            6 => _ = state.fdb.pop_first(),
            7 => _ = state.flood.pop_first(),
            8 => _ = state.bridge_fdb.pop_last(),
            _ => _ = state.neighbours.pop_first(),
        }
    }
}

proptest! {
    #![proptest_config(crate::seed::property())]

    #[test]
    fn plan_leads_from_any_state_to_the_desired_state(
        (wanted, mut state) in (hosts(), hosts(), any::<bool>()).prop_map(|(wanted, other, is_converged)| {
            let state = if is_converged { wanted.clone() } else { other };
            (wanted, state)
        }),
        kinds in prop::collection::btree_set(0u8..11, 0..4),
    ) {
        modify(&mut state, &kinds);
        let plan = HostChanges::between(&state, &wanted);
        apply(&mut state, &plan, Phase::Create);
        // The BPF maps are changed at this point: all objects that they refer to exist.
        for (name, veth) in &wanted.veths {
            prop_assert_eq!(state.veths.get(name), Some(veth));
        }
        for (key, port) in &wanted.bridge_fdb {
            prop_assert_eq!(state.bridge_fdb.get(key), Some(port));
        }
        for (key, vtep) in &wanted.fdb {
            prop_assert_eq!(state.fdb.get(key), Some(vtep));
        }
        apply(&mut state, &plan, Phase::Remove);
        prop_assert_eq!(&state, &wanted);
        prop_assert!(HostChanges::between(&state, &wanted).is_empty());
    }

    #[test]
    fn plan_of_converged_host_is_empty(wanted in hosts()) {
        prop_assert!(HostChanges::between(&wanted, &wanted).is_empty());
    }
}

/// The objects of the first host.
fn of_first_host(network: NetworkSpec, endpoints: Vec<Endpoint>) -> Result<DesiredHost, DesiredError> {
    let underlay = UnderlayDevice { ifindex: 2, mtu: 1500, addr: NODE1 };
    desired(&view(&cluster(network, endpoints), NODE1), &underlay)
}

#[test]
fn mtu_of_the_underlay_is_a_limit() {
    let mtu = |underlay, mtu| {
        let one = endpoint("gindemo1", GINDEMO1, NODE1, Attachment::Unspecified);
        let view = view(&cluster(NetworkSpec { mtu, ..network() }, vec![one]), NODE1);
        let host = desired(&view, &UnderlayDevice { ifindex: 2, mtu: underlay, addr: NODE1 })?;
        Ok((host.bridges[&vni()].mtu, host.vxlans[&vni()].mtu))
    };
    let network = || network().name;
    assert_eq!(mtu(1500, None), Ok((1450, 1450)));
    assert_eq!(mtu(118, None), Ok((68, 68)), "the smallest MTU of IPv4");
    assert_eq!(mtu(117, None), Err(DesiredError::Underlay { network: network(), underlay: 117 }));
    assert_eq!(mtu(1500, Some(1450)), Ok((1450, 1450)));
    assert_eq!(mtu(1500, Some(1200)), Ok((1200, 1200)));
    assert_eq!(mtu(1500, Some(1451)), Err(DesiredError::Mtu { network: network(), mtu: 1451, underlay: 1500 }));
}

/// The first host, with a local endpoint and a remote one.
fn with_two_endpoints(local: Attachment) -> HostState {
    let endpoints = vec![
        endpoint("gindemo1", GINDEMO1, NODE1, local),
        endpoint("gindemo2", GINDEMO2, NODE2, Attachment::Unspecified),
    ];
    of_first_host(network(), endpoints).expect("valid")
}

/// The kernel deletes the entries of a device; only the device is removed.
#[test]
fn removed_device_needs_no_removal_of_its_entries() {
    let found = with_two_endpoints(Attachment::Port("tap1".into()));
    assert_eq!((found.flood.len(), found.fdb.len(), found.bridge_fdb.len(), found.neighbours.len()), (1, 1, 2, 1));
    let HostChanges { bridges, vxlans, veths: _, ports, flood, fdb, bridge_fdb, neighbours } =
        HostChanges::between(&found, &HostState::default());
    assert_eq!((bridges.len(), vxlans.len(), ports.len()), (1, 1, 1));
    assert!(flood.is_empty() && fdb.is_empty() && bridge_fdb.is_empty() && neighbours.is_empty());
}

#[test]
fn only_networks_without_overlap_have_a_gateway() {
    for overlap in [false, true] {
        let one = endpoint("gindemo1", GINDEMO1, NODE1, Attachment::Netns("/run/netns/gindemo1".into()));
        let wanted = of_first_host(NetworkSpec { overlap, ..network() }, vec![one]).expect("valid");
        let gateway = (!overlap).then_some(Ipv4Addr::new(10, 0, 1, 1));
        let bridge = &wanted.bridges[&vni()];
        assert_eq!(bridge.mac, gateway.map(|gateway| MacAddr::from_ipv4(gateway.octets())));
        let addresses: Vec<_> = bridge.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, if overlap { [].as_slice() } else { &["10.0.1.1/24"] });
        let veths: Vec<_> =
            wanted.veths.values().map(|veth| (veth.address.unwrap().to_string(), veth.gateway)).collect();
        assert_eq!(veths, [("10.0.1.2/24".to_owned(), gateway)]);
    }
}

/// The names of these endpoints have the same hash.
#[test]
fn endpoints_with_one_interface_name_are_refused() {
    let both = [("be4cac5f", 2), ("de2ee314", 3)].map(|(name, number)| {
        endpoint(name, Ipv4Addr::new(10, 0, 1, number), NODE1, Attachment::Netns("/run/netns/gindemo1".into()))
    });
    assert_eq!(
        of_first_host(NetworkSpec { name: "blue".into(), ..network() }, both.into()).unwrap_err().to_string(),
        "endpoint \"blue/de2ee314\": its interface name ovl0a05b551ad is already used by another endpoint; \
         rename the endpoint"
    );
}

/// Verbs, objects, values and parents of one kind of object.
#[allow(clippy::needless_pass_by_value, reason = "the arguments are made for the call")]
fn described<T: Object>(key: T::Key, value: T::Value) -> (String, String, Vec<String>) {
    let change = |old: Option<&T::Value>, new: Option<&T::Value>| {
        T::action(&Change { key: key.clone(), old: old.cloned(), new: new.cloned() })
    };
    let created = change(None, Some(&value));
    let object = created.strip_prefix("create ").expect("a verb").to_owned();
    assert_eq!(change(Some(&value), None), format!("remove {object}"));
    assert_eq!(change(Some(&value), Some(&value)), format!("change {object}"));
    assert!(object.ends_with(&T::name(&key)), "{object}");
    let parents = T::parents(&key, &value).into_iter().flatten();
    (object, T::text(&key, &value), parents.map(objects::Parent::device).collect())
}

#[test]
fn objects_and_their_parents_are_described() {
    let (mac, vtep) = (MacAddr::from_ipv4(GINDEMO1.octets()), NODE2);
    let netns = Attachment::Netns("/run/netns/gindemo1".into());
    let host = of_first_host(network(), vec![endpoint("gindemo1", GINDEMO1, NODE1, netns)]).expect("valid");
    let (veth_name, veth) = host.veths.first_key_value().expect("a veth");
    let (bridge, vxlan) = (host.bridges[&vni()].clone(), host.vxlans[&vni()].clone());
    let down = (
        objects::Bridge { mac: None, addresses: BTreeSet::new(), up: false, ..bridge.clone() },
        Vxlan { plain: false, enslaved: false, up: false, ..vxlan.clone() },
        Veth { vni: None, netns: None, address: None, up: false, ..veth.clone() },
    );
    let fdb = |port| described::<objects::BridgeFdb>((vni(), mac), port);
    let alias = "alias \"overlay my-overlay-network\"";
    let of_veth = "alias \"overlay my-overlay-network/gindemo1\"";
    let expected = [
        (
            described::<Bridges>(vni(), bridge),
            "bridge ovlbr4097",
            &*format!("up, MTU 1450, MAC 02:42:0a:00:01:01, addresses [10.0.1.1/24], {alias}"),
            [].as_slice(),
        ),
        (
            described::<Bridges>(vni(), down.0),
            "bridge ovlbr4097",
            &format!("down, MTU 1450, MAC any, addresses [], {alias}"),
            &[],
        ),
        (
            described::<Vxlans>(vni(), vxlan),
            "VXLAN device ovlvx4097",
            &format!(
                "up, MTU 1450, UDP 4789, local 192.168.1.9, underlay interface 2, TTL 64, nolearning noproxy noudpcsum, \
                 bridge port, {alias}"
            ),
            &["ovlbr4097"],
        ),
        (
            described::<Vxlans>(vni(), down.1),
            "VXLAN device ovlvx4097",
            &format!(
                "down, MTU 1450, UDP 4789, local 192.168.1.9, underlay interface 2, TTL 64, other options, \
                 no bridge port, or one with other options, {alias}"
            ),
            &["ovlbr4097"],
        ),
        (
            described::<Veths>(veth_name.clone(), veth.clone()),
            "veth ovlaf7b97732a",
            &format!(
                "up, in ovlbr4097, MTU 1450, eth0 in /run/netns/gindemo1 with 02:42:0a:00:01:02 and 10.0.1.2/24, {of_veth}"
            ),
            &["ovlbr4097"],
        ),
        (
            described::<Veths>(veth_name.clone(), down.2),
            "veth ovlaf7b97732a",
            &format!(
                "down, in no bridge, MTU 1450, eth0 in another netns with 02:42:0a:00:01:02 and no address, {of_veth}"
            ),
            &[],
        ),
        (described::<Members>("tap1".into(), vni()), "bridge port tap1", "port of ovlbr4097", &["ovlbr4097"]),
        (
            described::<objects::Flood>((vni(), vtep), ()),
            "flood entry ovlvx4097 192.168.1.10",
            "VTEP 192.168.1.10",
            &["ovlvx4097"],
        ),
        (
            described::<objects::VxlanFdb>((vni(), mac), vtep),
            "FDB entry ovlvx4097 02:42:0a:00:01:02",
            "VTEP 192.168.1.10",
            &["ovlvx4097"],
        ),
        (
            described::<objects::VxlanFdb>((vni(), mac), VtepAddr::UNSPECIFIED),
            "FDB entry ovlvx4097 02:42:0a:00:01:02",
            "a dynamic entry or one with options",
            &["ovlvx4097"],
        ),
        (fdb(FdbPort::Vxlan), "FDB entry ovlbr4097 02:42:0a:00:01:02", "port ovlvx4097", &["ovlbr4097", "ovlvx4097"]),
        (
            fdb(FdbPort::Interface("tap1".into())),
            "FDB entry ovlbr4097 02:42:0a:00:01:02",
            "port tap1",
            &["ovlbr4097", "tap1"],
        ),
        (fdb(FdbPort::Movable), "FDB entry ovlbr4097 02:42:0a:00:01:02", "an entry without sticky", &["ovlbr4097"]),
        (
            described::<objects::Neighbours>((vni(), GINDEMO1), mac),
            "neighbour ovlbr4097 10.0.1.2",
            "02:42:0a:00:01:02",
            &["ovlbr4097", "ovlbr4097"],
        ),
    ];
    for ((object, text, parents), expected, expected_text, expected_parents) in expected {
        assert_eq!((&*object, &*text), (expected, expected_text));
        assert_eq!(parents, expected_parents, "{object}");
    }
}

#[test]
fn names_of_devices_are_stable() {
    let wanted = of_first_host(network(), vec![endpoint("gindemo1", GINDEMO1, NODE1, Attachment::Port("tap1".into()))])
        .expect("valid");
    let plan = HostChanges::between(&HostState::default(), &wanted);
    let created = plan.bridges.iter().map(|change| Bridges::name(&change.key));
    let created = created.chain(plan.vxlans.iter().map(|change| Vxlans::name(&change.key)));
    let created: Vec<_> = created.chain(plan.ports.iter().map(|change| change.key.clone())).collect();
    assert_eq!(created, ["ovlbr4097", "ovlvx4097", "tap1"]);
    assert_eq!(bridge_name(vni()), "ovlbr4097");
}

/// The kernel deletes the entries of a device that is created again, and those of a port that leaves its bridge.
#[test]
fn entries_are_written_again_only_after_their_device() {
    let wanted = with_two_endpoints(Attachment::Netns("/run/netns/gindemo1".into()));
    // Numbers of changed devices, VXLAN entries and bridge entries.
    let changed = |modify: &dyn Fn(&mut HostState)| {
        let mut found = wanted.clone();
        modify(&mut found);
        let changes = HostChanges::between(&found, &wanted);
        (changes.vxlans.len() + changes.veths.len(), changes.flood.len() + changes.fdb.len(), changes.bridge_fdb.len())
    };
    let veth = |modify: fn(&mut Veth)| changed(&move |found| found.veths.values_mut().for_each(modify));
    assert_eq!(veth(|_| ()), (0, 0, 0));
    assert_eq!(veth(|veth| veth.mtu = 1400), (1, 0, 0));
    assert_eq!(veth(|veth| veth.netns = None), (1, 0, 1));
    assert_eq!(veth(|veth| veth.vni = None), (1, 0, 1));
    let vxlan = |modify: fn(&mut Vxlan)| changed(&move |found| found.vxlans.values_mut().for_each(modify));
    assert_eq!(vxlan(|vxlan| vxlan.mtu = 1400), (1, 0, 0));
    assert_eq!(vxlan(|vxlan| vxlan.port = 8472), (1, 2, 1));
    assert_eq!(vxlan(|vxlan| vxlan.local = NODE2), (1, 2, 1));
    assert_eq!(vxlan(|vxlan| vxlan.underlay = 3), (1, 2, 1));
    assert_eq!(vxlan(|vxlan| vxlan.plain = false), (1, 2, 1));
}
