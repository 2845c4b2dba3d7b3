//! Networks and ports that fall back to the kernel path.

use super::*;
use crate::{
    kernel::{BridgeOptions, BridgePort},
    model::discovery::Selector,
};

const TSO_OFF: Deviation = Deviation::FeatureOff { name: "tx-tcp-segmentation" };

/// An attribute that the table lacks.
fn unknown() -> Deviation {
    Deviation::Unknown { object: "IFLA_VXLAN 99".into(), value: vec![1], remedy: "keep the kernel path" }
}

const BRIDGE_FAMILY: Tool = Tool::Bridge { label: "nft table bridge" };
const INET: Tool = Tool::Nft { family: "inet", version: None };
const NETDEV: Tool = Tool::Nft { family: "netdev", version: None };

/// A change of the facts, and a part of the expected problem.
type Change = (fn(&mut Facts), &'static str);

#[test]
fn unsupported_options_are_refused() {
    let changes: [Change; 19] = [
        (|facts| deviate(vxlan(facts).0, Set::Vxlan, 25, &[1]), "collect-metadata"),
        (|facts| deviate(vxlan(facts).0, Set::Vxlan, 23, &[]), "gbp"),
        (|facts| deviate(vxlan(facts).0, Set::Vxlan, 17, &[1; 16]), "IPv6"),
        (|facts| deviate(vxlan(facts).0, Set::Vxlan, 2, &[239, 1, 1, 1]), "multicast group"),
        (|facts| deviate(vxlan(facts).0, Set::Vxlan, 28, &[1]), "ttl inherit"),
        (|facts| deviate(vxlan(facts).0, Set::Vxlan, 29, &[2, 0, 0, 0]), "df 2"),
        (|facts| deviate(vxlan(facts).0, Set::Vxlan, 6, &[1]), "of the inner packet"),
        (|facts| deviate(vxlan(facts).0, Set::Flag, 1, &[0]), "vxlan0 is down"),
        (|facts| deviate(vxlan(facts).0, Set::Link, 41, &1000_u32.to_ne_bytes()), "gso_max_size 1000"),
        (|facts| vxlan(facts).0.deviations.push(TSO_OFF), "tx-tcp-segmentation of vxlan0 is off"),
        (|facts| vxlan(facts).0.deviations.push(unknown()), "IFLA_VXLAN 99"),
        (|facts| vxlan(facts).0.master = None, "not in a bridge"),
        (|facts| deviate(link_of(facts, BRIDGE), Set::Flag, 1, &[0]), "br0 is down"),
        (|facts| deviate(link_of(facts, BRIDGE), Set::Bridge, 7, &[1]), "VLANs"),
        (|facts| deviate(link_of(facts, BRIDGE), Set::Bridge, 4, &[0; 4]), "ageing_time 0"),
        (|facts| deviate(vxlan(facts).0, Set::Port, 1, &[0]), "disabled state"),
        (|facts| deviate(vxlan(facts).0, Set::Port, 33, &[1]), "isolated"),
        (|facts| vxlan(facts).0.mtu = 70_000, "MTU"),
        (
            |facts| {
                let second = port(VXLAN + 50, "gre1", LinkKind::Other("gretap".into()));
                facts.namespaces[0].links.push(second);
            },
            "two tunnels, vxlan0 and gre1",
        ),
    ];
    for (change, part) in changes {
        let mut facts = facts();
        change(&mut facts);
        assert_refused(&facts, part);
    }
}

#[test]
fn harmless_options_are_accepted() {
    let changes: [fn(&mut Facts); 5] = [
        |facts| info(facts).ttl = 64,
        |facts| info(facts).ttl = 8,
        // The kernel does not restrict the route to the bound device.
        |facts| info(facts).underlay = Some(NIC + 5),
        // Rows of a port.
        |facts| link_of(facts, PORT).deviations.push(TSO_OFF),
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
    let seen = [
        (dropping(BRIDGE_FAMILY, NetfilterHook::Forward, &[]), "nft table bridge t has rules"),
        (dropping(BRIDGE_FAMILY, NetfilterHook::Prerouting, &[]), "nft table bridge t has rules"),
        (dropping(INET, NetfilterHook::Forward, &[]), "chain c of nft table inet t drops its packets"),
        (dropping(NETDEV, NetfilterHook::Ingress, &["veth0"]), "nft table netdev t has rules"),
        (dropping(NETDEV, NetfilterHook::Egress, &["vxlan0"]), "nft table netdev t has rules"),
        (dropping(NETDEV, NetfilterHook::Ingress, &["gone"]), "nft table netdev t has rules"),
    ];
    for (chains, part) in seen {
        let mut facts = facts();
        facts.namespaces[0].rules = Arc::new(Ok(BridgedRules::new(chains)));
        assert_refused(&facts, part);
    }
    let mut idle = dropping(BRIDGE_FAMILY, NetfilterHook::Forward, &[]);
    idle.tables[0].chains.get_mut("c").unwrap().rules.clear();
    for chains in [idle, dropping(INET, NetfilterHook::Input, &[])] {
        let mut facts = facts();
        facts.namespaces[0].rules = Arc::new(Ok(BridgedRules::new(chains)));
        assert_eq!(network(&facts).refusal, None);
    }
    let changes: [Change; 7] = [
        (|facts| facts.namespaces[0].rules = Arc::new(Err("EAGAIN".into())), "cannot be read"),
        (|facts| facts.namespaces[0].tc = Err("EAGAIN".into()), "filters cannot be read"),
        (|facts| _ = facts.namespaces[0].tc.as_mut().unwrap().egress.insert(VXLAN), "traffic control"),
        (|facts| _ = facts.namespaces[0].tc.as_mut().unwrap().ingress.insert(BRIDGE), "traffic control"),
        (|facts| _ = facts.namespaces[0].tc.as_mut().unwrap().shaped.insert(VXLAN, "tbf".into()), "tbf"),
        (|facts| vxlan(facts).0.xdp = true, "XDP"),
        (
            |facts| {
                let chains = Chains { ipv4: false, ..dropping(INET, NetfilterHook::Forward, &[]) };
                facts.namespaces[0].rules = Arc::new(Ok(BridgedRules::new(chains)));
                link_of(facts, BRIDGE).bridge = Some(BridgeOptions { nf_call: true });
            },
            "chain c of nft table inet t drops its packets",
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
    let chains = Chains { ipv4: false, ..dropping(INET, NetfilterHook::Forward, &[]) };
    facts.namespaces[0].rules = Arc::new(Ok(BridgedRules::new(chains)));
    assert_eq!(network(&facts).refusal, None);
}

#[test]
fn special_bridge_ports_fall_back_to_kernel() {
    let changes: [Change; 14] = [
        (|facts| deviate(link_of(facts, PORT), Set::Flag, 1, &[0]), "veth0 is down"),
        (|facts| deviate(link_of(facts, PORT), Set::Port, 1, &[4]), "blocking state"),
        (|facts| deviate(link_of(facts, PORT), Set::Port, 33, &[1]), "isolated"),
        (|facts| deviate(link_of(facts, PORT), Set::Port, 39, &[1]), "locked"),
        (|facts| deviate(link_of(facts, PORT), Set::Port, 29, &[1]), "VLANs"),
        (|facts| deviate(link_of(facts, PORT), Set::Port, 34, &[9, 0, 0, 0]), "backup port"),
        (|facts| link_of(facts, PORT).deviations.push(unknown()), "IFLA_VXLAN 99"),
        (|facts| link_of(facts, PORT).ethernet = false, "Ethernet"),
        (|facts| link_of(facts, PORT).mtu = 1400, "veth0 has the MTU 1400"),
        (
            |facts| facts.namespaces[0].veth_peers.get_mut(&PORT).unwrap().mtu = 1300,
            "container's interface has the MTU",
        ),
        (
            |facts| facts.namespaces[0].veth_peers.get_mut(&PORT).unwrap().deviations.push(unknown()),
            "the container's interface has IFLA_VXLAN 99",
        ),
        (|facts| link_of(facts, PORT).bridge_port.as_mut().unwrap().flood = false, "static entry"),
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

/// A port that does not learn, or to which nothing is flooded, has the addresses of its static entries only.
#[test]
fn closed_bridge_ports_need_static_entries() {
    let closed = [
        BridgePort { learning: true, ..BridgePort::default() },
        BridgePort { flood: true, ..BridgePort::default() },
        BridgePort { learning: true, flood: true, proxy_arp: true, ..BridgePort::default() },
    ];
    for options in closed {
        for index in [PORT, VXLAN] {
            let mac = if index == PORT { LOCAL } else { REMOTE };
            let has = |facts: &Facts| {
                let network = network(facts);
                if index == PORT { network.ports[&PORT].mac.is_some() } else { !network.remote.is_empty() }
            };
            let mut facts = facts();
            link_of(&mut facts, index).bridge_port = Some(options);
            assert!(!has(&facts), "{options:?}");
            facts.namespaces[0].fdb.push(entry(index, mac, FdbState::Learned));
            assert!(!has(&facts), "{options:?}: an entry that ages");
            facts.namespaces[0].fdb.pop();
            facts.namespaces[0].fdb.push(entry(index, mac, FdbState::Static));
            assert!(has(&facts), "{options:?}");
        }
    }
}

#[test]
fn port_without_offloads_is_not_passed_by() {
    let mut facts = facts();
    link_of(&mut facts, PORT).deviations.push(TSO_OFF);
    let port = &network(&facts).ports[&PORT];
    assert_eq!((port.mac, port.redirect_peer, &port.finding), (Some(LOCAL), false, &None));
    link_of(&mut facts, PORT).deviations = Vec::new();
    deviate(link_of(&mut facts, PORT), Set::Link, 41, &1000_u32.to_ne_bytes());
    assert!(!network(&facts).ports[&PORT].redirect_peer);
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
