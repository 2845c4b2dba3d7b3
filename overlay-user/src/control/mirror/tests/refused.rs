//! Networks and ports that are left to the kernel.

use super::*;
use crate::{
    host::{BridgeOptions, BridgePort},
    model::mirror::Selector,
};

/// What is changed, and what is said of it.
type Change = (fn(&mut Facts), &'static str);

#[test]
fn options_that_the_programs_do_not_have() {
    let changes: [Change; 15] = [
        (|facts| info(facts).external = true, "collect-metadata"),
        (|facts| info(facts).special = Some("gbp"), "gbp"),
        (|facts| info(facts).ipv6 = true, "IPv6"),
        (|facts| info(facts).group = Some(Ipv4Addr::new(239, 1, 1, 1)), "multicast group"),
        (|facts| info(facts).ttl = 8, "TTL 8"),
        (|facts| facts.host.default_ttl = 128, "TTL 128"),
        (|facts| info(facts).tos = 1, "of the inner packet"),
        (|facts| vxlan(facts).0.up = false, "is down"),
        (|facts| vxlan(facts).0.master = None, "not in a bridge"),
        (|facts| link_of(facts, BRIDGE).up = false, "br0 is down"),
        (|facts| link_of(facts, BRIDGE).bridge = Some(BridgeOptions { vlan_filtering: true, nf_call: false }), "VLANs"),
        (|facts| vxlan(facts).0.bridge_port = Some(BridgePort::default()), "spanning tree"),
        (|facts| vxlan(facts).0.bridge_port.as_mut().unwrap().isolated = true, "isolated"),
        (|facts| info(facts).underlay = Some(NIC + 5), "bound to interface"),
        (|facts| vxlan(facts).0.mtu = 70_000, "MTU"),
    ];
    for (change, part) in changes {
        let mut facts = facts();
        change(&mut facts);
        assert_refused(&facts, part);
    }
}

#[test]
fn options_that_do_not_matter() {
    let changes: [fn(&mut Facts); 4] = [
        |facts| info(facts).ttl = 64,
        |facts| info(facts).underlay = Some(NIC),
        |facts| info(facts).group = Some(THERE),
        |facts| info(facts).udp_csum = false,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut facts = facts();
        change(&mut facts);
        assert_eq!(network(&facts).refused, None, "change {index}");
    }
}

#[test]
fn rules_and_programs_that_see_the_frames() {
    let device = |hook, name: &str| {
        let mut netfilter = table(Family::Netdev, hook, Vec::new());
        netfilter.tables[0].hooks[0].devices = vec![name.into()];
        netfilter
    };
    let seen = [
        table(Family::Bridge, NetfilterHook::Forward, Vec::new()),
        table(Family::Bridge, NetfilterHook::Prerouting, Vec::new()),
        table(Family::Ip, NetfilterHook::Forward, Vec::new()),
        device(NetfilterHook::Ingress, "veth0"),
        device(NetfilterHook::Ingress, "gone"),
    ];
    for netfilter in seen {
        let mut facts = facts();
        facts.sites[0].netfilter = Ok(netfilter);
        assert_refused(&facts, "table t has rules");
    }
    let mut idle = table(Family::Bridge, NetfilterHook::Forward, Vec::new());
    idle.tables[0].hooks[0].acts = false;
    for netfilter in [
        idle,
        table(Family::Ip, NetfilterHook::Input, Vec::new()),
        table(Family::Other, NetfilterHook::Forward, Vec::new()),
    ] {
        let mut facts = facts();
        facts.sites[0].netfilter = Ok(netfilter);
        assert_eq!(network(&facts).refused, None);
    }
    let changes: [Change; 7] = [
        (|facts| facts.sites[0].netfilter = Err("EPERM".into()), "cannot be read"),
        (|facts| facts.sites[0].tc = Err("EAGAIN".into()), "filters cannot be read"),
        (|facts| _ = facts.sites[0].tc.as_mut().unwrap().egress.insert(VXLAN), "traffic control"),
        (|facts| _ = facts.sites[0].tc.as_mut().unwrap().ingress.insert(BRIDGE), "traffic control"),
        (|facts| _ = facts.sites[0].tc.as_mut().unwrap().shaped.insert(VXLAN, "tbf".into()), "tbf"),
        (|facts| vxlan(facts).0.xdp = true, "XDP"),
        (
            |facts| {
                facts.sites[0].netfilter = Ok(table(Family::Ip, NetfilterHook::Forward, Vec::new()));
                facts.sites[0].bridge_nf = false;
                link_of(facts, BRIDGE).bridge = Some(BridgeOptions { vlan_filtering: false, nf_call: true });
            },
            "table t has rules",
        ),
    ];
    for (change, part) in changes {
        let mut facts = facts();
        change(&mut facts);
        assert_refused(&facts, part);
    }
}

#[test]
fn iptables_rules_do_not_matter_where_bridges_do_not_call_them() {
    let mut facts = facts();
    facts.sites[0].netfilter = Ok(table(Family::Ip, NetfilterHook::Forward, Vec::new()));
    facts.sites[0].bridge_nf = false;
    assert_eq!(network(&facts).refused, None);
}

#[test]
fn ports_that_the_bridge_treats_in_a_special_way_are_left_out() {
    let changes: [Change; 8] = [
        (|facts| link_of(facts, PORT).up = false, "down"),
        (|facts| link_of(facts, PORT).bridge_port.as_mut().unwrap().forwarding = false, "does not let it forward"),
        (|facts| link_of(facts, PORT).bridge_port.as_mut().unwrap().isolated = true, "isolated"),
        (|facts| link_of(facts, PORT).bridge_port.as_mut().unwrap().locked = true, "locked"),
        (|facts| link_of(facts, PORT).bridge_port.as_mut().unwrap().vlan_tunnel = true, "VLANs"),
        (|facts| link_of(facts, PORT).mtu = 1400, "MTU"),
        (|facts| _ = facts.sites[0].tc.as_mut().unwrap().egress.insert(PORT), "egress"),
        (|facts| _ = facts.sites[0].tc.as_mut().unwrap().shaped.insert(PORT, "tbf".into()), "tbf"),
    ];
    for (change, part) in changes {
        let mut facts = facts();
        change(&mut facts);
        let decision = decide(&facts, &Settings::default());
        let network = &decision.mirrored.networks[&vni()];
        assert!(network.refused.is_none() && network.ports.is_empty(), "{part}");
        let reason = decision.report.networks[0].ports[0].finding.as_ref().unwrap().reason();
        assert!(reason.contains(part), "{reason:?} does not say {part:?}");
    }
}

#[test]
fn a_port_of_another_bridge_is_nobodys() {
    let mut facts = facts();
    link_of(&mut facts, PORT).master = Some(BRIDGE + 90);
    assert!(network(&facts).ports.is_empty());
}

#[test]
fn two_devices_with_one_vni_are_both_refused() {
    let mut facts = facts();
    let mut second = sandbox();
    second.site = Site::Netns { path: "/var/run/docker/netns/1-other".into(), inode: 2 };
    facts.sites.push(second);
    let decision = decide(&facts, &Settings::default());
    assert_eq!(decision.report.networks.len(), 2);
    for report in &decision.report.networks {
        assert!(
            report.finding.as_ref().unwrap().problem.contains("VNI 4097 is also the one of vxlan0 in"),
            "{report:?}"
        );
    }
    assert_eq!(decision.mirrored.networks.len(), 1);
}

#[test]
fn networks_that_disagree_with_the_others_about_the_address_or_have_a_fifth_port_are_refused() {
    let mut facts = facts();
    for index in 1..=5 {
        let mut site = sandbox();
        site.site = Site::Netns { path: format!("/n/{index}").into(), inode: u64::from(index) + 1 };
        let LinkKind::Vxlan(info) = &mut site.links[1].kind else { unreachable!() };
        (info.vni, info.port) = (VNI + index, 4789 + u16::try_from(index).unwrap());
        if index == 1 {
            info.local = Some(Ipv4Addr::new(172, 16, 0, 1));
        }
        facts.sites.push(site);
    }
    let decision = decide(&facts, &Settings::default());
    let refused: Vec<_> = decision.report.networks.iter().map(|report| report.finding.clone()).collect();
    assert_eq!(decision.mirrored.address, Some(HERE));
    assert!(refused[1].as_ref().unwrap().problem.contains("sent from 172.16.0.1"));
    assert!(refused[5].as_ref().unwrap().problem.contains("UDP port 4794 is one too many"));
    assert_eq!(refused.iter().flatten().count(), 2);
}

#[test]
fn lists_say_what_is_accelerated() {
    let by_name = Selector::Name("my-overlay-network".into());
    let (by_vni, other) = (Selector::Vni(vni()), Selector::Name("other".into()));
    let refused = |allow: &[&Selector], deny: &[&Selector]| {
        let list = |selectors: &[&Selector]| selectors.iter().map(|selector| (*selector).clone()).collect();
        let settings = Settings { allow: list(allow), deny: list(deny), ..Settings::default() };
        decide(&facts(), &settings).mirrored.networks[&vni()].refused.is_some()
    };
    assert!(refused(&[], &[&by_name]) && refused(&[], &[&by_vni]) && refused(&[&other], &[]));
    assert!(refused(&[&by_name], &[&by_vni]), "deny is stronger");
    assert!(!refused(&[&by_name], &[]) && !refused(&[&by_vni], &[]) && !refused(&[], &[&other]));
}
