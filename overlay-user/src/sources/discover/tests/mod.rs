//! Tests of `decide` with example facts.

use std::{collections::BTreeMap, sync::Arc};

use overlay_common::{MacAddr, Vni, VtepAddr};

use super::{Facts, decide, docker::DockerState, example::*};
use crate::{
    kernel::{
        Base, Chain, ChainRule, ChainTable, Chains, Deviation, FdbEntry, FdbState, Hooked, Interface, Link, LinkKind,
        Mark, Netfilter, NetfilterHook, NetfilterTable, Set, Tool, Verdict, VxlanInfo,
    },
    model::{
        Network,
        discovery::{NetnsRef, Settings},
        network::{External, Kind, Refusal},
    },
    plan::bridged_path::BridgedRules,
};

mod ambiguous;
mod encrypted;
mod events;
mod properties;
mod refused;

fn vni() -> Vni {
    Vni::new(VNI).unwrap()
}

/// The only network of the facts.
#[track_caller]
fn found(facts: &Facts, settings: &Settings) -> Network {
    let [network] = &decide(facts, settings).networks[..] else { panic!("not one network") };
    assert_eq!(network.vni, Some(vni()));
    network.clone()
}

/// Its external part.
#[track_caller]
fn network(facts: &Facts) -> External {
    found(facts, &Settings::default()).kind.external().expect("an external network").clone()
}

/// The reason why it falls back to the kernel path.
#[track_caller]
fn refusal(facts: &Facts, settings: &Settings) -> Option<Refusal> {
    found(facts, settings).kind.external()?.refusal.clone()
}

#[track_caller]
fn assert_refused(facts: &Facts, part: &str) {
    let Refusal { finding, .. } = network(facts).refusal.unwrap_or_else(|| panic!("accelerated despite {part:?}"));
    assert!(finding.to_string().contains(part), "{finding} lacks {part:?}");
    assert!(finding.object.contains("4097") && !finding.remedy.is_empty(), "{finding:?} has no remedy");
}

/// The VXLAN device of the first netns.
fn vxlan(facts: &mut Facts) -> (&mut Link, u32) {
    let link = facts.namespaces[0].links.iter_mut().find(|link| link.index == VXLAN).unwrap();
    (link, VXLAN)
}

fn info(facts: &mut Facts) -> &mut VxlanInfo {
    match &mut vxlan(facts).0.kind {
        LinkKind::Vxlan(info) => info,
        _ => unreachable!("a VXLAN device"),
    }
}

fn link_of(facts: &mut Facts, index: u32) -> &mut Link {
    facts.namespaces[0].links.iter_mut().find(|link| link.index == index).unwrap()
}

/// Gives a link a value that the table does not accept.
fn deviate(link: &mut Link, set: Set, number: u16, value: &[u8]) {
    link.deviations.push(Deviation::Value { set, number, value: value.to_vec() });
}

fn table(hook: NetfilterHook, marks: Vec<Mark>) -> Netfilter {
    let hooked = Hooked { hook, nat: false, acts: true };
    let vnis = marks.iter().filter_map(|mark| mark.vnis.clone()).flatten().collect();
    Netfilter { tables: vec![NetfilterTable { label: "table t".into(), hooks: vec![hooked], marks, vnis }] }
}

/// The rules of a namespace whose bridges pass packets to a chain at a hook with one rule.
fn dropping(tool: Tool, hook: NetfilterHook, devices: &[&str]) -> Chains {
    let interface = |name: &&str| Interface { name: (*name).to_owned(), is_prefix: false, is_inverted: false };
    let devices = devices.iter().map(interface).collect();
    let base = Some(Base { hook, drops: false, priority: 0, is_nat: false, devices });
    let rules = vec![ChainRule { verdict: Verdict::Drop, ..ChainRule::default() }];
    let chains = [("c".to_owned(), Chain { base, rules, ..Chain::default() })].into();
    Chains { ipv4: true, tables: vec![ChainTable { tool, name: "t".to_owned(), chains }], ..Chains::default() }
}

#[test]
fn docker_sandbox_is_discovered() {
    let found = found(&facts(), &Settings::default());
    assert_eq!(found.underlay, Some(HERE));
    assert!(matches!(found.kind, Kind::Bridged(_)));
    assert_eq!((found.name.as_deref(), found.port), (Some("my-overlay-network"), 4789));
    let network = found.kind.external().unwrap();
    assert_eq!((&network.refusal, network.mtu), (&None, 1450));
    assert_eq!(network.device, "vxlan0");
    assert_eq!(network.remote, BTreeMap::from([(REMOTE, THERE)]));
    assert_eq!(network.peers, [THERE].into());
    let port = &network.ports[&PORT];
    assert_eq!((network.ports.len(), port.mac, port.redirect_peer), (1, Some(LOCAL), true));
}

#[test]
fn network_of_the_host_is_discovered() {
    let mut facts = facts();
    let netns = &mut facts.namespaces[0];
    (netns.netns_ref, netns.underlay_netns) = (NetnsRef::Own, None);
    vxlan(&mut facts).0.lower_netns = None;
    facts.docker = DockerState::default();
    let network = network(&facts);
    assert_eq!((network.refusal, network.remote.len()), (None, 1));
    assert_eq!(found(&facts, &Settings::default()).name, None);
}

#[test]
fn devices_of_other_underlays_and_managed_devices_are_not_discovered() {
    let changes: [fn(&mut Facts); 5] = [
        // Created in another namespace, or in the sandbox itself.
        |facts| vxlan(facts).0.lower_netns = Some(3),
        |facts| vxlan(facts).0.lower_netns = None,
        |facts| facts.namespaces[0].underlay_netns = None,
        |facts| vxlan(facts).0.alias = Some("overlay my-overlay-network".into()),
        |facts| facts.namespaces.clear(),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut facts = facts();
        change(&mut facts);
        assert!(decide(&facts, &Settings::default()).networks.is_empty(), "change {index}");
    }
    let named = Settings { vxlan: Some(["vxlan7".into()].into()), ..Settings::default() };
    assert!(decide(&facts(), &named).networks.is_empty());
}

#[test]
fn sandbox_file_name_has_prefix_of_network_id() {
    for (file, known) in [("2-abcdefghij", true), ("10-abcdefghi", true), ("1-abc", false), ("lb_abcdefghi", false)] {
        let mut facts = facts();
        facts.namespaces[0].netns_ref = NetnsRef::Other { path: format!("/run/docker/netns/{file}").into(), inode: 1 };
        assert_eq!(found(&facts, &Settings::default()).name.is_some(), known, "{file}");
    }
    // Docker may have reused the file name for another network with the same ID prefix.
    let mut facts = facts();
    facts.docker.networks[0].vnis = vec![VNI + 1];
    assert_eq!(found(&facts, &Settings::default()).name, None);
}

#[test]
fn source_is_the_routes_or_the_advertised_address_of_its_device() {
    let other = VtepAddr::from([192, 168, 1, 99]);
    let mut facts = facts();
    facts.host.addresses.push((NIC, other));
    facts.host.sources.insert((query(), THERE), Some((NIC, other)));
    assert_eq!(found(&facts, &Settings::default()).underlay, Some(HERE), "advertised, on the same device");
    facts.docker.node_address = None;
    assert_eq!(found(&facts, &Settings::default()).underlay, Some(other), "the route's");
    facts.docker.node_address = Some(HERE);
    facts.host.addresses = vec![(NIC, other), (NIC + 1, HERE)];
    assert_eq!(found(&facts, &Settings::default()).underlay, Some(other), "advertised on another device");
    info(&mut facts).local = Some(HERE);
    assert_eq!(found(&facts, &Settings::default()).underlay, Some(HERE), "the device's own");
}

#[test]
fn vtep_with_another_source_address_falls_back_to_kernel() {
    let (far, mac) = (VtepAddr::from([172, 16, 0, 1]), MacAddr([2, 0x42, 10, 0, 1, 7]));
    let mut facts = facts();
    facts.namespaces[0].fdb.push(tunnel(mac, far));
    facts.host.sources.insert((query(), far), Some((NIC + 1, [172, 16, 0, 9].into())));
    let network = network(&facts);
    assert_eq!(network.remote, BTreeMap::from([(REMOTE, THERE)]));
    assert!(network.refusal.is_none() && network.peers.contains(&far));
}
