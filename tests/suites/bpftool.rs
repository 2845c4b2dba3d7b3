//! Output of `bpftool`: names of maps, programs and fields, and addresses as lists of numbers.
//!
//! Needs root.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::{collections::BTreeSet, path::Path};

use overlay_common::{maps, names};
use overlay_tests::{
    lab::{Lab, NIC, NetNs},
    testbed::Testbed,
};
use serde_json::{Value, json};

/// node01 with at least one entry in every map.
struct Loaded(Testbed);

impl Loaded {
    fn new() -> Self {
        let mut testbed = Testbed::new(Lab::two_hosts());
        testbed.receive_by("xdp").unwrap();
        testbed.start(1).unwrap();
        Self(testbed)
    }

    fn host(&self) -> &NetNs {
        self.0.lab.host(1)
    }

    /// Output of `bpftool` for a pinned map.
    fn map(&self, options: &[&str], verb: &str, map: &str) -> String {
        let path = self.0.pin_root(1).join(map);
        let words = ["map", verb, "pinned"].map(Path::new);
        let options = options.iter().map(Path::new);
        let command: Vec<&Path> =
            [Path::new("bpftool")].into_iter().chain(options).chain(words).chain([path.as_path()]).collect();
        self.host().run(&command)
    }

    fn map_json(&self, verb: &str, map: &str) -> Value {
        serde_json::from_str(&self.map(&["-j"], verb, map)).expect("bpftool prints JSON")
    }
}

/// Structure of a value: a number becomes 0, a list of numbers its length.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
        Value::Array(numbers) if numbers.iter().all(Value::is_number) => numbers.len().into(),
        Value::Array(others) => others.iter().map(shape).collect(),
        Value::Number(_) => 0.into(),
        other => other.clone(),
    }
}

/// Key and value of every map, except `OVL_TXPORTS`, for which the kernel accepts no BTF, and `OVL_EVENTS`, which has
/// neither.
fn shapes() -> Vec<(&'static str, Value, Value)> {
    let amount = json!({ "packets": 0, "bytes": 0 });
    let traffic = json!({ "tx": amount, "rx": amount });
    let outer = json!({
        "eth_dst": 6, "eth_src": 6, "eth_type": 2,
        "version_ihl": 0, "tos": 0, "total_len": 2, "id": 2, "fragment": 2, "ttl": 0, "protocol": 0, "checksum": 2,
        "src": 4, "dst": 4,
        "udp_src": 2, "udp_dst": 2, "udp_len": 2, "udp_checksum": 2,
        "vxlan_flags": 0, "vxlan_reserved1": 3, "vni": 3, "vxlan_reserved2": 0,
    });
    let number = json!(0);
    vec![
        (
            maps::PORTS.name,
            json!({ "netns_id": 0, "ifindex": 0 }),
            json!({ "vni": 0, "slot": 0, "flags": 0, "ip": 4, "mac": 6, "mtu": 0, "udp_src_first": 0, "udp_src_span": 0 }),
        ),
        (
            maps::FDB.name,
            json!({ "vni": 0, "mac": 6, "padding": 2 }),
            json!({ "kind": 0, "netns_id": 0, "target": 0, "shim_or_ip": 0, "tx": 0 }),
        ),
        (
            maps::VTEPS.name,
            number.clone(),
            json!({ "outer": outer, "mtu": 0, "ifindex": 0, "ip_sum": 0, "resolved": 0 }),
        ),
        (maps::IP_IDS.name, number.clone(), json!({ "next": 0, "unused": 7 })),
        (
            maps::PEERS.name,
            json!({ "vni": 0, "addr": 4 }),
            json!({ "vtep": 0, "slot": 0, "device_mac": 6, "mtu": 0, "port": 0, "flags": 0 }),
        ),
        (maps::NETWORKS.name, number.clone(), json!({ "slot": 0, "flags": 0, "mtu": 0, "port": 0 })),
        (maps::UNDERLAY.name, number.clone(), json!({ "addr": 4, "mac": 6, "ports": 4, "flags": 0, "ifindex": 0 })),
        (maps::FLOWS.name, number.clone(), json!({ "jiffies": 0, "packets": 0 })),
        (maps::HEARTBEAT.name, number.clone(), json!({ "epoch": 0, "deadline_jiffies": 0, "deadline_ns": 0 })),
        (maps::REASONS.name, number.clone(), amount),
        (maps::SAMPLED.name, number.clone(), json!({ "next_jiffies": 0, "skipped": 0, "lost": 0 })),
        (maps::VNI_STATS.name, number.clone(), traffic.clone()),
        (maps::VTEP_STATS.name, number, traffic),
    ]
}

/// Collects every field name of a shape.
fn field_names(shape: &Value, found: &mut BTreeSet<String>) {
    for (name, inner) in shape.as_object().into_iter().flatten() {
        found.insert(name.clone());
        field_names(inner, found);
    }
}

#[test]
fn every_map_is_dumped_with_field_names() {
    let loaded = Loaded::new();
    let shapes = shapes();
    let covered: BTreeSet<_> =
        shapes.iter().map(|(map, ..)| *map).chain([maps::TXPORTS.name, maps::EVENTS.name]).collect();
    assert_eq!(covered, maps::MAPS.into_iter().map(|map| map.name).collect(), "every map is checked");

    for (map, key, value) in &shapes {
        let dump = loaded.map_json("dump", map);
        let entries = dump.as_array().expect("a list of entries");
        assert!(!entries.is_empty(), "{map} has no entry");
        for entry in entries {
            let formatted = &entry["formatted"];
            assert_eq!(&shape(&formatted["key"]), key, "{map}");
            match formatted["values"].as_array() {
                // Per-CPU values.
                Some(values) => {
                    let shapes = values.iter().map(|one| shape(&one["value"]));
                    assert!(
                        !values.is_empty() && shapes.into_iter().all(|found| found == *value),
                        "{map}: {formatted}"
                    );
                }
                None => assert_eq!(&shape(&formatted["value"]), value, "{map}"),
            }
        }
        let text = loaded.map(&[], "dump", map);
        let mut fields = BTreeSet::new();
        field_names(key, &mut fields);
        field_names(value, &mut fields);
        for field in fields {
            assert!(text.contains(&format!("\"{field}\": ")), "{map}: no {field} in the plain dump");
        }
        assert!(!text.contains("__0"), "{map} shows a Rust tuple");
    }
}

#[test]
fn map_entries_show_addresses_in_readable_byte_order() {
    let loaded = Loaded::new();
    let find = |map, matches: &dyn Fn(&Value) -> bool| -> Value {
        let dump = loaded.map_json("dump", map);
        let mut entries = dump.as_array().expect("a list of entries").iter().map(|entry| entry["formatted"].clone());
        entries.find(matches).unwrap_or_else(|| panic!("{map}: {dump}"))
    };
    let gindemo2 = json!([0x02, 0x42, 10, 0, 1, 6]);
    let entry = find(maps::FDB.name, &|entry| entry["key"]["mac"] == gindemo2);
    assert_eq!(entry["key"]["vni"], 4097);
    let vtep = find(maps::VTEPS.name, &|vtep| vtep["key"] == entry["value"]["target"]);
    assert_eq!(vtep["value"]["outer"]["dst"], json!([192, 168, 1, 10]));
    let port = find(maps::PORTS.name, &|_| true);
    assert_eq!(port["value"]["mac"], json!([0x02, 0x42, 10, 0, 1, 2]));
    assert_eq!((&port["value"]["ip"], &port["value"]["mtu"]), (&json!([10, 0, 1, 2]), &json!(1450)));
    let network = find(maps::NETWORKS.name, &|_| true);
    assert_eq!((&network["key"], &network["value"]["port"]), (&json!(4097), &json!(4789)));
    let peer = find(maps::PEERS.name, &|_| true);
    assert_eq!(peer["key"], json!({ "vni": 4097, "addr": [192, 168, 1, 10] }));
    let underlay = find(maps::UNDERLAY.name, &|_| true);
    assert_eq!(underlay["value"]["addr"], json!([192, 168, 1, 9]));
    assert_eq!(underlay["value"]["ports"], json!([4789, 4789, 4789, 4789]));

    // Without BTF: the key is the port's interface index in host byte order.
    let devices = loaded.map_json("dump", maps::TXPORTS.name);
    let bytes =
        devices[0]["key"].as_array().expect("the key's bytes").iter().map(|byte| {
            u8::from_str_radix(byte.as_str().expect("as 0x..").trim_start_matches("0x"), 16).expect("a byte")
        });
    let ifindex = u32::from_ne_bytes(bytes.collect::<Vec<_>>().try_into().expect("four bytes"));
    assert_eq!(json!(ifindex), port["key"]["ifindex"]);
}

#[test]
fn maps_and_programs_have_names() {
    let loaded = Loaded::new();
    let mut ids = BTreeSet::new();
    for map in maps::MAPS.map(|map| map.name) {
        let shown = loaded.map_json("show", map);
        assert_eq!(shown["name"], map);
        ids.insert(shown["id"].as_u64().expect("a number"));
    }
    let reasons = loaded.map_json("show", maps::REASONS.name);
    assert_eq!(reasons["max_entries"], maps::REASONS.entries);

    // Programs of the machine that use these maps.
    let all: Value = serde_json::from_str(&loaded.host().run(&["bpftool", "-j", "prog", "show"])).unwrap();
    let uses = |program: &Value| {
        let maps = program["map_ids"].as_array().into_iter().flatten();
        maps.filter_map(Value::as_u64).any(|id| ids.contains(&id))
    };
    let programs: Vec<&Value> = all.as_array().expect("a list").iter().filter(|program| uses(program)).collect();
    let found: BTreeSet<_> = programs.iter().filter_map(|program| program["name"].as_str()).collect();
    assert_eq!(found, BTreeSet::from([names::PORT_IN, names::NIC_IN, names::NIC_XDP, names::SHIM_OUT]));

    // `bpftool net` prints device and program id. Version 7.1 (Debian 12) does not list TCX, only XDP.
    let net: Value = serde_json::from_str(&loaded.host().run(&["bpftool", "-j", "net", "show"])).unwrap();
    let xdp = net[0]["xdp"].as_array().expect("a list").iter().find(|entry| entry["devname"] == NIC);
    let id = &xdp.expect("the NIC has an XDP program")["id"];
    let program = programs.iter().find(|program| program["id"] == *id).expect("the program uses the maps of overlay");
    assert_eq!(program["name"], names::NIC_XDP);
}
