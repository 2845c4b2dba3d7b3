//! Removed sandboxes, restarts of daemons, and `overlay down`.

use std::{fs, path::Path};

use aya::maps::MapInfo;
use overlay_common::maps::{self, LAYOUT};
use overlay_tests::{
    check::{assert_lossless, interfaces, until},
    lab::{
        NIC, NetNs,
        traffic::{Datagrams, Load, UdpFlow},
    },
};
use overlay_user::testing::{apply::TcFlavour, sources::Discovered};
use serde_json::Value;

use super::replica::{Plan, Replica, VNI};

fn shim() -> String {
    format!("ovlsh{VNI}")
}

/// Links, qdiscs and addresses of a netns, without timers.
fn state(ns: &NetNs) -> (Vec<Value>, String, String) {
    let mut links: Vec<Value> = serde_json::from_str(&ns.run(&["ip", "-d", "-j", "link", "show"])).unwrap();
    for link in &mut links {
        for timer in [
            "hello_timer",
            "tcn_timer",
            "topology_change_timer",
            "gc_timer",
            "hold_timer",
            "message_age_timer",
            "forward_delay_timer",
        ] {
            for part in ["info_data", "info_slave_data"] {
                if let Some(data) = link.pointer_mut(&format!("/linkinfo/{part}")).and_then(Value::as_object_mut) {
                    data.remove(timer);
                }
            }
        }
    }
    (links, ns.run(&["tc", "qdisc", "show"]), ns.run(&["ip", "addr", "show"]))
}

#[test]
fn shim_has_no_addresses_and_no_bridge() {
    let replica = Replica::new(Plan::default()).run();
    let node = replica.node(1);
    for ns in [&*node.host, &node.sandbox] {
        let links: Vec<Value> =
            serde_json::from_str(&ns.run(&["ip", "-d", "-j", "link", "show", "dev", &shim()])).unwrap();
        let [link] = links.as_slice() else { panic!("one shim") };
        let flags: Vec<_> = link["flags"].as_array().unwrap().iter().map(|flag| flag.as_str().unwrap()).collect();
        assert!(flags.contains(&"UP") && flags.contains(&"NOARP"), "{link}");
        assert_eq!(
            (&link["inet6_addr_gen_mode"], &link["master"], &link["mtu"]),
            (&"none".into(), &Value::Null, &65535.into())
        );
        assert!(link["ifalias"].as_str().unwrap().starts_with("overlay "), "{link}");
        assert_eq!(ns.run(&["ip", "-o", "addr", "show", "dev", &shim()]), "");
    }
    let hooks = node.hooks();
    let kinds: Vec<_> = hooks.iter().map(|hook| hook.split_once('-').unwrap().0).collect();
    assert_eq!(kinds, ["nic", "port", "shimin", "shimout"], "{hooks:?}");
}

#[test]
fn packet_injected_into_shim_is_dropped() {
    let replica = Replica::new(Plan::default()).run();
    let node = replica.node(1);
    let before = node.counts();
    node.sandbox.try_script(&format!("ip addr add 192.168.77.1/24 dev {}", shim())).unwrap();
    node.sandbox.run(&["sh", "-c", "ping -c 3 -i 0.01 -W 1 192.168.77.2 || true"]);
    let counts = node.counts().since(&before);
    assert!(counts.of("shim_out") >= 3, "{counts:?}");
}

fn down_leaves_nothing(flavour: Option<TcFlavour>) {
    let mut replica = Replica::new(Plan { flavour, ..Plan::default() });
    let states = |replica: &Replica| {
        let all = replica.nodes.iter().flat_map(|node| [state(&node.host), state(&node.sandbox)]);
        all.collect::<Vec<_>>()
    };
    let before = states(&replica);
    for number in [1, 2] {
        replica.start(number);
    }
    replica.wait_until_fast();
    let (one, two) = (replica.first(1), replica.first(2));
    let load = Load::start(one, two, two.ip().into(), 1000).unwrap();
    for node in &mut replica.nodes {
        node.down();
    }
    load.wait_for(1000).unwrap();
    let report = load.stop().unwrap();
    if flavour == Some(TcFlavour::Clsact) {
        // The kernel deactivates a device while a clsact qdisc is added or removed (`qdisc_graft` in
        // net/sched/sch_api.c): for some RCU grace periods, which are longer on a busy machine.
        assert!(report.lost() <= 200, "{report:?}");
    } else {
        assert_lossless(&report);
    }
    for (after, before) in states(&replica).iter().zip(&before) {
        assert_eq!(after, before);
    }
}

#[test]
fn down_under_traffic_loses_no_packet_and_leaves_nothing() {
    down_leaves_nothing(None);
}

#[test]
fn down_removes_filters_and_qdiscs_from_sandboxes() {
    down_leaves_nothing(Some(TcFlavour::Clsact));
}

/// Restarts node01's daemon three times. With a `layout` other than [`LAYOUT`] in the ownership record, it creates new
/// maps.
fn restart(flavour: Option<TcFlavour>, layout: u32) {
    let mut replica = Replica::new(Plan { flavour, ..Plan::default() }).run();
    let hooks = replica.node(1).hooks();
    let index = |replica: &Replica| replica.node(1).host.run(&["ip", "-o", "link", "show", "dev", &shim()]);
    let shim_before = index(&replica);
    let flow =
        UdpFlow::start(replica.first(1), replica.first(2), replica.first(2).ip().into(), Datagrams::steady(1000))
            .unwrap();
    flow.wait_for(100).unwrap();
    for _ in 0..3 {
        replica.nodes[0].end();
        let before = replica.node(1).counts();
        flow.wait_for(200).unwrap();
        let counts = replica.node(1).counts().since(&before);
        assert!(
            counts.of("encap") >= 200 && counts.received() >= 200,
            "the data path forwards without a daemon: {counts:?}"
        );
        let (map, record) = (replica.node(1).pins().join(maps::FDB.name), replica.node(1).pins().join("record"));
        let id = |path: &Path| MapInfo::from_pin(path).unwrap().id();
        let table = id(&map);
        let before = replica.node(1).counts();
        fs::rename(record.join(format!("layout:{LAYOUT}")), record.join(format!("layout:{layout}"))).unwrap();
        replica.nodes[0].start();
        assert_eq!(id(&map) == table, layout == LAYOUT, "another layout has new maps");
        flow.wait_for(200).unwrap();
        let counts = replica.node(1).counts().since(&before);
        assert_eq!(counts.of("unknown_mac") + counts.of("not_a_port") + counts.of("unknown_vni"), 0, "{counts:?}");
        assert!(counts.vxlan <= 20, "no packet takes the kernel path: {counts:?}");
    }
    assert_lossless(&flow.stop());
    assert_eq!((replica.node(1).hooks(), index(&replica)), (hooks, shim_before));
    replica.wait_until_fast();
}

#[test]
fn restart_loses_no_packet() {
    restart(None, LAYOUT);
}

#[test]
fn restart_with_clsact_filters_loses_no_packet() {
    restart(Some(TcFlavour::Clsact), LAYOUT);
}

#[test]
fn restart_over_another_map_layout_loses_no_packet() {
    restart(None, LAYOUT + 7);
}

#[test]
fn restart_with_clsact_filters_over_another_map_layout_loses_no_packet() {
    restart(Some(TcFlavour::Clsact), LAYOUT + 7);
}

#[test]
fn shim_disappears_with_sandbox_under_traffic_and_new_sandbox_is_accelerated() {
    let mut replica = Replica::new(Plan::default()).run();
    let flow =
        UdpFlow::start(replica.first(2), replica.first(2), replica.first(2).ip().into(), Datagrams::steady(1000))
            .unwrap();
    let pinger =
        replica.first(2).command("ping").args(["-i", "0.01", "10.0.1.2"]).stdout(std::process::Stdio::null()).spawn();
    flow.wait_for(50).unwrap();
    for _ in 0..3 {
        // Drops the last reference: the kernel removes the netns.
        replica.nodes[0].sandbox = NetNs::anonymous("the next sandbox").unwrap();
        until("the shim is gone", || !interfaces(&replica.node(1).host).contains(&shim()));
        replica.nodes[0].updates.send_replace(Discovered::default());
        until("nothing is attached", || replica.node(1).hooks().is_empty());
        assert_eq!(interfaces(&replica.node(1).host), ["lo", NIC]);
        replica.node(1).make_network(replica.lab.hosts());
        let found = replica.found(1);
        replica.nodes[0].updates.send_replace(found);
        replica.wait_until_fast();
    }
    assert_lossless(&flow.stop());
    let mut pinger = pinger.unwrap();
    pinger.kill().unwrap();
    pinger.wait().unwrap();
}

#[test]
fn deleted_shim_is_created_again() {
    let replica = Replica::new(Plan::default()).run();
    replica.node(1).host.run(&["ip", "link", "delete", &shim()]);
    replica.wait_until_fast();
    assert!(interfaces(&replica.node(1).sandbox).contains(&shim()));
}
