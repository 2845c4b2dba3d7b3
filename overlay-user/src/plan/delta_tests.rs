use std::{collections::BTreeSet, net::Ipv4Addr};

use overlay_common::VtepAddr;
use proptest::prelude::*;

use super::*;
use crate::{
    kernel::RouteQuery,
    model::{Host, NetworkSpec, Rx},
    plan::host::Phase,
    plan::{
        admission::{self, AdmissionInputs, Device, Devices},
        tables::{self, Facts, Hop},
    },
};

const VNI: u32 = 4096;

fn vni() -> Vni {
    Vni::new(VNI).unwrap()
}

fn endpoint(last: u8, host: u8) -> RemoteEndpoint {
    let ip = Ipv4Addr::new(10, 0, 0, last);
    let mac = overlay_common::MacAddr::from_ipv4(ip.octets());
    RemoteEndpoint { ip, mac, host: [192, 168, 1, host].into() }
}

fn change(name: &str, endpoint: Option<RemoteEndpoint>) -> RemoteChange {
    RemoteChange { vni: vni(), name: name.into(), endpoint }
}

fn remote<'a>(endpoints: impl IntoIterator<Item = (&'a str, RemoteEndpoint)>) -> RemoteEndpoints {
    let mut remote = RemoteEndpoints::default();
    for (name, endpoint) in endpoints {
        remote.insert(name, endpoint);
    }
    remote
}

fn network() -> NetworkSpec {
    NetworkSpec {
        name: "blue".into(),
        vni: vni(),
        subnet: "10.0.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 0, 0, 1),
        mtu: None,
        port: 4789,
        strict: false,
        overlap: false,
    }
}

fn view<'a>(endpoints: impl IntoIterator<Item = (&'a str, RemoteEndpoint)>) -> View {
    let host = Host { name: "node01".into(), address: [192, 168, 1, 9].into(), rx: Rx::Tc };
    let RemoteEndpoint { ip, mac, .. } = endpoint(250, 9);
    let (name, attachment) = ("local".into(), Attachment::Unspecified);
    let local = Endpoint { name, vni: vni(), ip, mac, host: host.address, attachment };
    let parts = Parts { hosts: vec![host], networks: vec![network()], endpoints: vec![local], ..Parts::default() };
    let mut view = Cluster::new(parts).unwrap().view([192, 168, 1, 9].into()).unwrap();
    view.retain_local(|_, _| false);
    for (name, endpoint) in endpoints {
        assert!(view.insert_remote(vni(), name, endpoint));
    }
    view
}

#[test]
fn changes_replace_endpoints_by_name() {
    let mut view = view([("a", endpoint(2, 10)), ("b", endpoint(3, 10)), ("c", endpoint(4, 11))]);
    let moved = endpoint(7, 11);
    // A move between hosts: the addition there and the removal here, in the order of the hosts' names.
    let changes = vec![change("a", Some(moved)), change("a", None), change("d", None)];
    let (old, new, same) = apply_to_view(&mut view, &changes);
    assert_eq!((&old[&vni()], &new[&vni()], same), (&remote([("a", endpoint(2, 10))]), &remote([("a", moved)]), true));
    let expected = remote([("a", moved), ("b", endpoint(3, 10)), ("c", endpoint(4, 11))]);
    assert_eq!(view.networks()[&vni()].remote(), &expected);
    let (old, new, same) = apply_to_view(&mut view, &[change("b", None)]);
    assert_eq!((old[&vni()].len(), new.len()), (1, 0));
    assert!(!same, "192.168.1.10 has no endpoint any more");
}

#[test]
fn changes_in_unknown_networks_are_ignored() {
    let mut view = view([("a", endpoint(2, 10))]);
    let other = RemoteChange { vni: Vni::new(1).unwrap(), name: "a".into(), endpoint: Some(endpoint(2, 10)) };
    let (old, new, same) = apply_to_view(&mut view, &[other]);
    assert!(old.is_empty() && new.is_empty() && same);
    assert_eq!(view.networks()[&vni()].remote().len(), 1);
}

#[test]
fn local_endpoint_is_not_a_remote_endpoint() {
    let mut view = view([("a", endpoint(2, 10))]);
    let (old, new, same) = apply_to_view(&mut view, &[change("b", Some(endpoint(3, 9)))]);
    assert!(old.is_empty() && new.is_empty() && same);
    assert_eq!(view.networks()[&vni()].remote(), &remote([("a", endpoint(2, 10))]));
}

#[test]
fn changes_that_violate_a_rule_do_not_apply_to_pending_configuration() {
    let cluster = || {
        let host = |name: &str, last| Host { name: name.into(), address: [192, 168, 1, last].into(), rx: Rx::Tc };
        let hosts = vec![host("node01", 9), host("node02", 10)];
        Cluster::new(Parts { hosts, networks: vec![network()], ..Parts::default() }).unwrap()
    };
    let (one, other) = (change("a", Some(endpoint(2, 10))), change("b", Some(endpoint(3, 10))));
    let applied = apply_to_cluster(cluster(), &[one.clone(), other]).unwrap();
    let names = |cluster: &Cluster| cluster.endpoints.iter().map(|endpoint| endpoint.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&applied), ["a", "b"]);
    assert_eq!(names(&apply_to_cluster(applied, &[change("a", None)]).unwrap()), ["b"]);
    assert!(apply_to_cluster(cluster(), &[one, change("b", Some(endpoint(2, 10)))]).is_err());
    assert!(apply_to_cluster(cluster(), &[change("a", Some(endpoint(2, 77)))]).is_err());
}

const UNDERLAY: UnderlayDevice =
    UnderlayDevice { ifindex: 2, mtu: 1500, addr: VtepAddr::new(Ipv4Addr::new(192, 168, 1, 9)) };

fn facts() -> Facts {
    let mac = overlay_common::MacAddr([2, 0, 0, 0, 0, 1]);
    let hop = Hop { ifindex: 2, src_mac: mac, dst_mac: mac, mtu: 1500, hop_limit: None };
    let query = RouteQuery { source: Some(UNDERLAY.addr), port: 4789, source_ports: (32_768, 65_535) };
    Facts {
        underlay_ifindex: 2,
        underlay_mac: mac,
        underlay_mtu: 1500,
        default_ttl: 64,
        queries: [(vni(), query)].into(),
        next_hops: (10..13).map(|host| ((query, VtepAddr::from([192, 168, 1, host])), hop)).collect(),
        ..Facts::default()
    }
}

/// New states of eight names: removed, or on one of three hosts with one of ten addresses.
fn batch() -> impl Strategy<Value = Vec<(u8, Option<(u8, u8)>)>> {
    let states = prop::option::weighted(0.7, (10u8..13, 2u8..12));
    prop::collection::btree_map(0u8..8, states, 0..5).prop_map(|states| states.into_iter().collect())
}

fn has_unique_ips(view: &View) -> bool {
    let remote = view.networks()[&vni()].remote();
    remote.iter().map(|endpoint| endpoint.ip).collect::<BTreeSet<_>>().len() == remote.len()
}

proptest! {
    #![proptest_config(crate::seed::property())]

    #[test]
    fn delta_plans_and_full_plans_give_the_same_tables(batches in prop::collection::vec(batch(), 1..12)) {
        let (mut view, facts) = (view([("fixed", endpoint(200, 10)), ("also", endpoint(201, 11))]), facts());
        let underlay = Device { name: "eth0".into(), ethernet: true, master: None };
        let devices = Devices::from([([192, 168, 1, 9].into(), vec![underlay])]);
        let full_plan = |view: &View, current: &Tables| {
            let around =
                AdmissionInputs { view: Some(view), devices: &devices, last_served: None, docker: None, xfrm: false, refused: &BTreeMap::new(), fdb_size: 1000 };
            tables::desired(Some(view), &admission::admit([], &around), &facts, current).expect("fits")
        };
        let mut maps = full_plan(&view, &Tables::default());
        let mut kernel = host::desired(&view, &UNDERLAY).expect("fits");
        for batch in batches {
            let changes = batch.into_iter().map(|(id, states)| {
                let name = format!("e{id}");
                change(&name, states.map(|(host, last)| endpoint(last, host)))
            });
            let mut next = view.clone();
            let delta = Delta::apply(&mut next, &changes.collect::<Vec<_>>());
            // Sources do not report endpoints with an address in use.
            if !has_unique_ips(&next) {
                continue;
            }
            let hosts = |view: &View| view.networks()[&vni()].remote().hosts().collect::<BTreeSet<_>>();
            let has_same_hosts = hosts(&view) == hosts(&next);
            view = next;
            let plan = delta.plan(&view, &UNDERLAY, &maps).expect("fits");
            prop_assert_eq!(plan.is_some(), has_same_hosts, "only other hosts need a full plan");
            if let Some(plan) = plan {
                host::tests::apply(&mut kernel, &plan.objects, Phase::Create);
                maps.apply(&plan.maps);
                host::tests::apply(&mut kernel, &plan.objects, Phase::Remove);
            } else {
                maps = full_plan(&view, &maps);
                kernel = host::desired(&view, &UNDERLAY).expect("fits");
            }
            prop_assert_eq!(&maps, &full_plan(&view, &maps));
            prop_assert_eq!(&kernel, &host::desired(&view, &UNDERLAY).expect("fits"));
        }
    }
}
