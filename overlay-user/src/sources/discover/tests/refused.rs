//! Networks and ports that fall back to the kernel path.

use super::*;
use crate::{
    kernel::{BridgeOptions, BridgePort},
    model::discovery::Selector,
};

/// A change of the facts, and a part of the expected problem.
type Change = (fn(&mut Facts), &'static str);

#[test]
fn unsupported_options_are_refused() {
    let changes: [Change; 14] = [
        (|facts| info(facts).external = true, "collect-metadata"),
        (|facts| info(facts).special = Some("gbp"), "gbp"),
        (|facts| info(facts).ipv6 = true, "IPv6"),
        (|facts| info(facts).group = Some([239, 1, 1, 1].into()), "multicast group"),
        (|facts| info(facts).ttl = 8, "TTL 8"),
        (|facts| facts.host.default_ttl = 128, "TTL 128"),
        (|facts| info(facts).tos = 1, "of the inner packet"),
        (|facts| vxlan(facts).0.up = false, "is down"),
        (|facts| vxlan(facts).0.master = None, "not in a bridge"),
        (|facts| link_of(facts, BRIDGE).up = false, "br0 is down"),
        (|facts| link_of(facts, BRIDGE).bridge = Some(BridgeOptions { vlan_filtering: true, nf_call: false }), "VLANs"),
        (|facts| vxlan(facts).0.bridge_port = Some(BridgePort::default()), "forwarding state"),
        (|facts| vxlan(facts).0.bridge_port.as_mut().unwrap().isolated = true, "isolated"),
        (|facts| vxlan(facts).0.mtu = 70_000, "MTU"),
    ];
    for (change, part) in changes {
        let mut facts = facts();
        change(&mut facts);
        assert_refused(&facts, part);
    }
}

#[test]
fn harmless_options_are_accepted() {
    let changes: [fn(&mut Facts); 4] = [
        |facts| info(facts).ttl = 64,
        // The kernel does not restrict the route to the bound device.
        |facts| info(facts).underlay = Some(NIC + 5),
        |facts| info(facts).group = Some(THERE),
        |facts| info(facts).udp_csum = false,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut facts = facts();
        change(&mut facts);
        assert_eq!(network(&facts).refusal, None, "change {index}");
    }
}

#[test]
fn rules_and_programs_on_the_frames_path_are_refused() {
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
        facts.namespaces[0].netfilter = Ok(netfilter);
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
        facts.namespaces[0].netfilter = Ok(netfilter);
        assert_eq!(network(&facts).refusal, None);
    }
    let changes: [Change; 7] = [
        (|facts| facts.namespaces[0].netfilter = Err("EPERM".into()), "cannot be read"),
        (|facts| facts.namespaces[0].tc = Err("EAGAIN".into()), "filters cannot be read"),
        (|facts| _ = facts.namespaces[0].tc.as_mut().unwrap().egress.insert(VXLAN), "traffic control"),
        (|facts| _ = facts.namespaces[0].tc.as_mut().unwrap().ingress.insert(BRIDGE), "traffic control"),
        (|facts| _ = facts.namespaces[0].tc.as_mut().unwrap().shaped.insert(VXLAN, "tbf".into()), "tbf"),
        (|facts| vxlan(facts).0.xdp = true, "XDP"),
        (
            |facts| {
                facts.namespaces[0].netfilter = Ok(table(Family::Ip, NetfilterHook::Forward, Vec::new()));
                facts.namespaces[0].bridge_nf = false;
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
fn iptables_rules_are_ignored_without_bridge_nf() {
    let mut facts = facts();
    facts.namespaces[0].netfilter = Ok(table(Family::Ip, NetfilterHook::Forward, Vec::new()));
    facts.namespaces[0].bridge_nf = false;
    assert_eq!(network(&facts).refusal, None);
}

#[test]
fn special_bridge_ports_fall_back_to_kernel() {
    let changes: [Change; 8] = [
        (|facts| link_of(facts, PORT).up = false, "down"),
        (|facts| link_of(facts, PORT).bridge_port.as_mut().unwrap().forwarding = false, "forwarding state"),
        (|facts| link_of(facts, PORT).bridge_port.as_mut().unwrap().isolated = true, "isolated"),
        (|facts| link_of(facts, PORT).bridge_port.as_mut().unwrap().locked = true, "locked"),
        (|facts| link_of(facts, PORT).bridge_port.as_mut().unwrap().vlan_tunnel = true, "VLANs"),
        (|facts| link_of(facts, PORT).mtu = 1400, "MTU"),
        (|facts| _ = facts.namespaces[0].tc.as_mut().unwrap().egress.insert(PORT), "egress"),
        (|facts| _ = facts.namespaces[0].tc.as_mut().unwrap().shaped.insert(PORT, "tbf".into()), "tbf"),
    ];
    for (change, part) in changes {
        let mut facts = facts();
        change(&mut facts);
        let network = network(&facts);
        let port = &network.ports[&PORT];
        assert!(network.refusal.is_none() && port.mac.is_none(), "{part}");
        let finding = port.finding.as_ref().unwrap();
        assert!(finding.problem.contains(part) && finding.object == "port veth0", "{finding} lacks {part:?}");
    }
}

#[test]
fn port_of_another_bridge_is_ignored() {
    let mut facts = facts();
    link_of(&mut facts, PORT).master = Some(BRIDGE + 90);
    assert!(network(&facts).ports.is_empty());
}

/// A collect-metadata device has no VNI of its own.
#[test]
fn device_without_vni_is_discovered_and_refused() {
    let mut facts = facts();
    info(&mut facts).vni = 0;
    let networks = decide(&facts, &Settings::default()).networks;
    let [network] = &networks[..] else { panic!("{networks:?}") };
    let external = network.kind.external().unwrap();
    assert_eq!((network.vni, network.label().as_str()), (None, "VXLAN device vxlan0"));
    assert!(external.refusal.as_ref().unwrap().finding.problem.contains("collect-metadata"));
}

#[test]
fn deny_list_precedes_allow_list() {
    let by_name = Selector::Name("my-overlay-network".into());
    let (by_vni, other) = (Selector::Vni(vni()), Selector::Name("other".into()));
    let refused = |allow: &[&Selector], deny: &[&Selector]| {
        let list = |selectors: &[&Selector]| selectors.iter().map(|selector| (*selector).clone()).collect();
        let settings = Settings { allow: list(allow), deny: list(deny), ..Settings::default() };
        refusal(&facts(), &settings).is_some()
    };
    assert!(refused(&[], &[&by_name]) && refused(&[], &[&by_vni]) && refused(&[&other], &[]));
    assert!(refused(&[&by_name], &[&by_vni]), "deny is stronger");
    assert!(!refused(&[&by_name], &[]) && !refused(&[&by_vni], &[]) && !refused(&[], &[&other]));
}
