//! Devices, forwarding entries and neighbours of a network namespace, in the fields that overlay sets.

use overlay_tests::lab::NetNs;
use serde_json::{Map, Value, json};

use crate::{normaliser::Normaliser, recorder::pretty};

/// Recorded fields of `ip -d link`.
const LINK: [&str; 7] = ["ifindex", "ifname", "link", "master", "mtu", "address", "ifalias"];
/// Recorded fields of `linkinfo.info_data`.
const INFO: [&str; 14] = [
    "id", "local", "link", "port", "learning", "proxy", "rsc", "l2miss", "l3miss", "ttl", "tos", "df", "udp_csum",
    "external",
];
/// Recorded fields of `bridge fdb`.
const ENTRY: [&str; 5] = ["ifname", "mac", "dst", "flags", "state"];
/// Recorded fields of `ip neigh`.
const NEIGHBOUR: [&str; 4] = ["dev", "dst", "lladdr", "state"];

/// The objects as JSON, without learned entries and multicast memberships.
pub(crate) fn objects(ns: &NetNs, normaliser: &Normaliser) -> String {
    let mut normaliser = normaliser.clone();
    let links = list(ns, &["ip", "-d", "-j", "link"]);
    for link in &links {
        let (name, address) = (link["ifname"].as_str().unwrap(), link["address"].as_str().unwrap_or_default());
        // A bridge has its gateway's MAC address; the kernel chooses the others.
        if name.starts_with("ovl") && !name.starts_with("ovlbr") {
            normaliser.add(address, format!("<MAC of {name}>"));
        }
    }
    let links = links.iter().map(|link| {
        let mut fields = pick(link, &LINK);
        let is_up = link["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP"));
        fields.insert("up".into(), is_up.into());
        fields.insert("kind".into(), link["linkinfo"]["info_kind"].clone());
        fields.extend(pick(&link["linkinfo"]["info_data"], &INFO));
        Value::Object(fields)
    });
    let addresses = list(ns, &["ip", "-j", "-4", "addr"]).into_iter().flat_map(|device| {
        let addresses = device["addr_info"].as_array().cloned().unwrap_or_default();
        addresses.into_iter().map(move |address| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (name, local) = (text(&device["ifname"]), text(&address["local"]));
            Value::from(format!("{name} {local}/{}", address["prefixlen"]))
        })
    });
    let entries = list(ns, &["bridge", "-j", "fdb"]).into_iter().filter(|entry| {
        let mac = entry["mac"].as_str().unwrap();
        entry["state"] != "" && !mac.starts_with("01:00:5e") && !mac.starts_with("33:33")
    });
    let neighbours =
        list(ns, &["ip", "-j", "neigh"]).into_iter().filter(|entry| entry["state"] == json!(["PERMANENT"]));
    normaliser.apply(&pretty(&json!({
        "links": links.collect::<Vec<_>>(),
        "addresses": addresses.collect::<Vec<_>>(),
        "fdb": sorted(entries.map(|entry| pick(&entry, &ENTRY))),
        "neighbours": sorted(neighbours.map(|entry| pick(&entry, &NEIGHBOUR))),
    })))
}

/// Sorts entries, which the kernel lists in hash order.
fn sorted(objects: impl Iterator<Item = Map<String, Value>>) -> Value {
    let text = |object: &Value, key: &str| object[key].as_str().unwrap_or_default().to_owned();
    let mut list: Vec<Value> = objects.map(Value::Object).collect();
    list.sort_by_key(|entry| ["ifname", "dev", "flags", "dst", "state"].map(|key| text(entry, key)));
    list.into()
}

fn pick(object: &Value, keys: &[&str]) -> Map<String, Value> {
    keys.iter().filter(|key| !object[**key].is_null()).map(|key| ((*key).to_owned(), object[*key].clone())).collect()
}

fn list(ns: &NetNs, command: &[&str]) -> Vec<Value> {
    match ns.run(command).trim() {
        "" => Vec::new(),
        text => serde_json::from_str(text).unwrap(),
    }
}
