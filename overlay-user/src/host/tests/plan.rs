//! The plan against a model of what the kernel does.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    super::{FdbPort, HostChange, bridge_name, plan},
    *,
};

/// What the kernel does on a change. Panics where it would refuse.
pub(crate) fn apply(state: &mut HostState, change: &HostChange) {
    let has_port = |state: &HostState, vni: Vni, port: &FdbPort| match port {
        FdbPort::Vxlan => state.vxlans.get(&vni).is_some_and(|vxlan| vxlan.enslaved),
        FdbPort::Movable => false,
        FdbPort::Interface(name) => {
            state.ports.get(name) == Some(&vni) || state.veths.get(name).is_some_and(|veth| veth.vni == Some(vni))
        }
    };
    let forget = |state: &mut HostState, name: &str| {
        state.bridge_fdb.retain(|_, port| *port != FdbPort::Interface(name.to_owned()));
    };
    match change.clone() {
        HostChange::CreateBridge(vni, bridge) => assert!(state.bridges.insert(vni, *bridge).is_none()),
        HostChange::SetBridge(vni, bridge) => {
            let mac = bridge.mac;
            if state.bridges.insert(vni, *bridge).expect("exists").mac != mac && mac.is_some() {
                state.neighbours.retain(|(of, _), _| *of != vni);
            }
        }
        HostChange::DeleteBridge(vni) => {
            assert!(state.bridges.remove(&vni).is_some());
            state.neighbours.retain(|(of, _), _| *of != vni);
            state.bridge_fdb.retain(|(of, _), _| *of != vni);
            state.ports.retain(|_, of| *of != vni);
            state.veths.values_mut().filter(|veth| veth.vni == Some(vni)).for_each(|veth| veth.vni = None);
            state.vxlans.entry(vni).and_modify(|vxlan| vxlan.enslaved = false);
        }
        HostChange::CreateVxlan(vni, vxlan) => {
            assert!(state.bridges.contains_key(&vni));
            assert!(state.vxlans.insert(vni, *vxlan).is_none());
        }
        HostChange::SetVxlan(vni, vxlan) => {
            assert!(state.bridges.contains_key(&vni));
            assert!(state.vxlans.insert(vni, *vxlan).is_some());
        }
        HostChange::DeleteVxlan(vni) => {
            assert!(state.vxlans.remove(&vni).is_some());
            state.fdb.retain(|(of, _), _| *of != vni);
            state.flood.retain(|(of, _)| *of != vni);
            state.bridge_fdb.retain(|(of, _), port| *of != vni || *port != FdbPort::Vxlan);
        }
        HostChange::CreateVeth(name, veth) => {
            assert!(state.bridges.contains_key(&veth.vni.expect("wanted in a bridge")));
            assert!(state.veths.insert(name, *veth).is_none());
        }
        HostChange::SetVeth(name, veth) => {
            assert!(state.bridges.contains_key(&veth.vni.expect("wanted in a bridge")));
            let vni = veth.vni;
            if state.veths.insert(name.clone(), *veth).expect("exists").vni != vni {
                forget(state, &name);
            }
        }
        HostChange::DeleteVeth(name) => {
            assert!(state.veths.remove(&name).is_some());
            forget(state, &name);
        }
        HostChange::AdoptPort(name, vni) => {
            assert!(state.bridges.contains_key(&vni));
            assert!(state.ports.insert(name, vni).is_none());
        }
        HostChange::ReleasePort(name, vni) => {
            assert_eq!(state.ports.remove(&name), Some(vni));
            forget(state, &name);
        }
        HostChange::SetFdb(vni, mac, vtep) => {
            assert!(state.vxlans.contains_key(&vni));
            state.fdb.insert((vni, mac), vtep);
        }
        HostChange::DeleteFdb(vni, mac, vtep) => assert_eq!(state.fdb.remove(&(vni, mac)), Some(vtep)),
        HostChange::AddFlood(vni, vtep) => {
            assert!(state.vxlans.contains_key(&vni));
            assert!(state.flood.insert((vni, vtep)));
        }
        HostChange::DeleteFlood(vni, vtep) => assert!(state.flood.remove(&(vni, vtep))),
        HostChange::SetBridgeFdb(vni, mac, port) => {
            assert!(has_port(state, vni, &port), "{change}");
            state.bridge_fdb.insert((vni, mac), port);
        }
        HostChange::DeleteBridgeFdb(vni, mac, port) => {
            assert_eq!(state.bridge_fdb.remove(&(vni, mac)), Some(port));
        }
        HostChange::SetNeighbour(vni, ip, mac) => {
            assert!(state.bridges.contains_key(&vni));
            state.neighbours.insert((vni, ip), mac);
        }
        HostChange::DeleteNeighbour(vni, ip) => assert!(state.neighbours.remove(&(vni, ip)).is_some()),
    }
}

/// Up to four networks with up to six endpoints each, on up to three hosts, as the first host wants them.
fn hosts() -> impl Strategy<Value = DesiredHost> {
    let network = (prop::option::of(1200u16..1204), 4789u16..4791, any::<bool>());
    let endpoint = ((1u32..5, 0u8..6), (0u8..3, 0u8..3, 0u8..3));
    let networks = prop::collection::vec(network, 4);
    let endpoints = prop::collection::btree_map(1u32..5, 0u8..6, 0..4).prop_flat_map(move |_| {
        prop::collection::vec(endpoint.clone(), 0..16).prop_map(|all| all.into_iter().collect::<BTreeMap<_, _>>())
    });
    (networks, endpoints, 2u32..4).prop_filter_map("one port in two networks", |(networks, endpoints, ifindex)| {
        let networks = networks.into_iter().zip(1u32..).map(|((mtu, port, overlap), n)| Network {
            name: format!("n{n}"),
            vni: Vni::new(n).expect("a VNI"),
            mtu,
            port,
            overlap,
            ..network_of_example()
        });
        let endpoints = endpoints.into_iter().map(|((n, id), (host, kind, mac))| Endpoint {
            vni: Vni::new(n).expect("a VNI"),
            // The same MAC address may come to be at another endpoint.
            mac: MacAddr([2, 0, 0, 0, mac, id]),
            attachment: match kind {
                0 => Attachment::Netns(format!("/run/netns/c{id}").into()),
                1 => Attachment::Port(format!("tap{id}")),
                _ => Attachment::Unspecified,
            },
            ..endpoint_of_example(id, host)
        });
        let cluster = Cluster { networks: networks.collect(), endpoints: endpoints.collect(), ..empty() };
        let underlay = Underlay { ifindex, mtu: 1500, addr: NODE1 };
        desired(&cluster.view(NODE1).expect("the host"), &underlay).ok()
    })
}

fn network_of_example() -> Network {
    super::network()
}

fn endpoint_of_example(id: u8, host: u8) -> Endpoint {
    let host = Ipv4Addr::new(192, 168, 1, 9 + host);
    super::endpoint(&format!("e{id}"), Ipv4Addr::new(10, 0, 1, 10 + id), host, Attachment::Unspecified)
}

fn empty() -> Cluster {
    cluster(network(), Vec::new())
}

/// Damage that somebody else may do.
fn damage(state: &mut HostState, kinds: &BTreeSet<u8>) {
    for kind in kinds {
        match kind {
            0 => {
                if let Some(vni) = state.bridges.keys().next().copied() {
                    apply(state, &HostChange::DeleteBridge(vni));
                }
            }
            1 => {
                if let Some(vni) = state.vxlans.keys().next_back().copied() {
                    apply(state, &HostChange::DeleteVxlan(vni));
                }
            }
            2 => {
                if let Some(name) = state.veths.keys().next().cloned() {
                    apply(state, &HostChange::DeleteVeth(name));
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
    #[test]
    fn a_plan_leads_from_any_state_to_the_wanted_one(
        wanted in hosts(),
        mut state in hosts(),
        kinds in prop::collection::btree_set(0u8..11, 0..4),
    ) {
        damage(&mut state, &kinds);
        let plan = plan(&wanted, &state);
        for change in &plan.before {
            apply(&mut state, change);
        }
        // The BPF maps are changed here: all that they will point to exists.
        for (name, veth) in &wanted.veths {
            prop_assert_eq!(state.veths.get(name), Some(veth));
        }
        for (key, port) in &wanted.bridge_fdb {
            prop_assert_eq!(state.bridge_fdb.get(key), Some(port));
        }
        for (key, vtep) in &wanted.fdb {
            prop_assert_eq!(state.fdb.get(key), Some(vtep));
        }
        for change in &plan.after {
            apply(&mut state, change);
        }
        prop_assert_eq!(&state, &wanted);
        prop_assert!(super::super::plan(&wanted, &state).is_empty());
    }

    #[test]
    fn what_is_as_wanted_is_not_touched(wanted in hosts()) {
        prop_assert!(plan(&wanted, &wanted).is_empty());
    }

    #[test]
    fn what_was_made_is_unmade_again(wanted in hosts()) {
        let keys = |changes: &[HostChange], key: fn(&HostChange) -> Option<String>| -> BTreeSet<String> {
            changes.iter().filter_map(key).collect()
        };
        let up = plan(&wanted, &HostState::default());
        let down = plan(&HostState::default(), &wanted);
        prop_assert!(up.after.is_empty() && down.before.is_empty());
        prop_assert_eq!(keys(&up.before, HostChange::made), keys(&down.after, HostChange::unmade));
    }
}

#[test]
fn keys_are_stable_text() {
    let wanted = desired(
        &cluster(network(), vec![endpoint("gindemo1", GINDEMO1, NODE1, Attachment::Port("tap1".into()))])
            .view(NODE1)
            .expect("the host"),
        &Underlay { ifindex: 2, mtu: 1500, addr: NODE1 },
    )
    .expect("sound");
    let plan = plan(&wanted, &HostState::default());
    let made: Vec<_> = plan.before.iter().filter_map(HostChange::made).collect();
    assert_eq!(made, ["link:ovlbr4097", "link:ovlvx4097", "port:tap1"]);
    assert_eq!(bridge_name(vni()), "ovlbr4097");
}
