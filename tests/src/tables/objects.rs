//! The kernel's objects: devices, bridge ports, FDB entries, neighbours and the containers' interfaces.
//!
//! Not compared, because the kernel or another program chooses them: interface indices, the MAC addresses of VXLAN
//! devices, of host ends of veths, and of bridges of networks with `overlap`; all properties of an endpoint's existing
//! port except its bridge; timers and statistics.

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::{
    Expected, Facts,
    kernel::{Links, Place, container, has_flag, label, list, mark, port_label, text},
    plan::{Plan, PlannedNetwork},
};
use crate::lab::{Endpoint, NIC, NetNs, Network, docker_mac};

/// Options of bridges that change forwarding.
const BRIDGE: [&str; 4] = ["stp_state", "mcast_snooping", "vlan_filtering", "group_fwd_mask"];
/// Options of bridge ports that change forwarding.
const PORT: [&str; 11] = [
    "state",
    "learning",
    "neigh_suppress",
    "flood",
    "mcast_flood",
    "bcast_flood",
    "hairpin",
    "guard",
    "isolated",
    "locked",
    "vlan_tunnel",
];
/// Options of VXLAN devices that are not compared: IPv6, aging of learned entries, and the default of newer kernels.
const VXLAN_OTHER: [&str; 3] = ["port_range", "ageing", "localbypass"];

impl Expected<'_> {
    /// The expected objects.
    pub(super) fn wanted_objects(&self, plan: &Plan) -> Result<Facts> {
        let mut facts = Facts::default();
        for ((network, local, remote), planned) in self.networks().zip(&plan.networks) {
            self.add_devices(&mut facts, network, planned);
            let (vni, vxlan, bridge) = (network.vni, format!("ovlvx{}", network.vni), format!("ovlbr{}", network.vni));
            let on_bridge = |facts: &mut Facts, mac: &str, port: &str| {
                let entry = json!({"flags": ["sticky"], "master": bridge, "state": "static"});
                facts.add(format!("bridge FDB {vni} {mac}"), port, entry);
            };
            for endpoint in local {
                let port = port_label(network, endpoint);
                on_bridge(&mut facts, &endpoint.mac(), &port);
                facts.add(format!("bridge port {port}"), "bridge", &bridge);
                if endpoint.port.is_none() {
                    self.add_veth(&mut facts, network, endpoint, planned.mtu)?;
                }
            }
            let mut flooded = BTreeSet::new();
            for endpoint in remote {
                let (mac, vtep) = (endpoint.mac(), self.cluster.address(&endpoint.host)?);
                let in_fdb = json!({"dst": vtep, "flags": ["self"], "state": "permanent"});
                facts.add(format!("VXLAN FDB {vni} {mac}"), "entry", &in_fdb);
                if flooded.insert(vtep) {
                    facts.add(format!("VXLAN FDB {vni} 00:00:00:00:00:00"), "entry", &in_fdb);
                }
                on_bridge(&mut facts, &mac, &vxlan);
                let neighbour = json!({"lladdr": mac, "state": ["PERMANENT"]});
                facts.add(format!("neighbour {bridge} {}", endpoint.ip), "entry", neighbour);
            }
        }
        for sandbox in plan.sandboxes.iter().filter(|sandbox| sandbox.ns.is_some()) {
            let (name, mark) = (format!("ovlsh{}", sandbox.vni), format!("shim {}", sandbox.vni));
            for end in [format!("device {name}"), format!("device {name}{}", sandbox.suffix())] {
                add_device(&mut facts, &end, ("veth", &mark, 65_535));
                facts.add(&end, "ARP", "false");
            }
        }
        Ok(facts)
    }

    /// Bridge and VXLAN device.
    fn add_devices(&self, facts: &mut Facts, network: &Network, planned: &PlannedNetwork) {
        let (vni, mtu) = (network.vni, planned.mtu);
        let (bridge, vxlan) = (format!("device ovlbr{vni}"), format!("device ovlvx{vni}"));
        for (device, kind) in [(&bridge, "bridge"), (&vxlan, "vxlan")] {
            add_device(facts, device, (kind, &network.name, mtu));
        }
        if let Some(gateway) = gateway(network) {
            facts.add(&bridge, "address", docker_mac(gateway));
            let length = network.subnet.split('/').nth(1).unwrap_or_default();
            facts.add(&bridge, "addresses", format!("{gateway}/{length}"));
        }
        BRIDGE.iter().for_each(|option| facts.add(&bridge, *option, "0"));
        let options = json!({
            "id": vni, "local": self.host.address(), "link": NIC, "port": network.udp_port(), "ttl": 64, "df": "unset",
        });
        facts.add(&vxlan, "options", options);
        add_port(facts, &format!("bridge port ovlvx{vni}"), true);
        facts.add(format!("bridge port ovlvx{vni}"), "bridge", format!("ovlbr{vni}"));
    }

    /// The veth of an endpoint, both ends.
    fn add_veth(&self, facts: &mut Facts, network: &Network, endpoint: &Endpoint, mtu: u16) -> Result<()> {
        let name = port_label(network, endpoint);
        add_device(facts, &format!("device {name}"), ("veth", &name, mtu));
        add_port(facts, &format!("bridge port {name}"), false);
        let inside = format!("container end of {name}");
        let length = network.subnet.split('/').nth(1).unwrap_or_default();
        facts.add(&inside, "address", endpoint.mac());
        facts.add(&inside, "addresses", format!("{}/{length}", endpoint.ip));
        for (field, value) in [("mtu", mtu.to_string()), ("up", "true".into()), ("GRO", "true".into())] {
            facts.add(&inside, field, value);
        }
        // A container in several networks has the gateway of one of them.
        let mut gateways = self.cluster.networks.iter().filter_map(|network| {
            let is_member = |other: &&Endpoint| other.network == network.name && other.netns == endpoint.netns;
            self.cluster.endpoints.iter().any(|other| is_member(&other)).then(|| gateway(network))?
        });
        let found = default_routes(endpoint)?;
        let route = gateways.clone().find(|gateway| found == [gateway.to_string()]).or_else(|| gateways.next());
        if let Some(route) = route {
            facts.add(&inside, "default route", route);
        }
        Ok(())
    }

    /// The objects in the kernel.
    pub(super) fn found_objects(&self, places: &[Place]) -> Result<Facts> {
        let mut facts = Facts::default();
        for Place { links, suffix, .. } in places {
            for link in &links.0 {
                if let Some(mark) = mark(link) {
                    found_device(&mut facts, &format!("device {}{suffix}", label(link)), link, mark);
                }
            }
        }
        let links = &places[0].links;
        for link in &links.0 {
            let bridge = text(link, "master");
            if bridge.starts_with("ovlbr") {
                let (port, options) = (format!("bridge port {}", label(link)), &link["linkinfo"]["info_slave_data"]);
                facts.add(&port, "bridge", bridge);
                if mark(link).is_some() {
                    PORT.iter().for_each(|option| facts.add(&port, *option, &options[*option]));
                }
            }
        }
        for (network, local, _) in self.networks() {
            for endpoint in local.into_iter().filter(|endpoint| endpoint.port.is_none()) {
                if let Some(link) = links.of_endpoint(network, endpoint) {
                    found_inside(&mut facts, &port_label(network, endpoint), endpoint, link)?;
                }
            }
        }
        self.found_entries(&mut facts, links)?;
        Ok(facts)
    }

    fn found_entries(&self, facts: &mut Facts, links: &Links) -> Result<()> {
        for entry in list(self.host, &["bridge", "-j", "fdb", "show"])? {
            let (mac, device) = (text(&entry, "mac").to_owned(), text(&entry, "ifname").to_owned());
            let own = entry["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "self"));
            if let (Some(vni), true) = (device.strip_prefix("ovlvx"), own) {
                facts.add(format!("VXLAN FDB {vni} {mac}"), "entry", without(&entry, &["mac", "ifname"]));
            } else if let Some(vni) = text(&entry, "master").strip_prefix("ovlbr")
                && entry["state"] == "static"
            {
                let port = links.get(&device).map_or(&*device, label);
                facts.add(format!("bridge FDB {vni} {mac}"), port, without(&entry, &["mac", "ifname"]));
            }
        }
        for entry in list(self.host, &["ip", "-j", "neigh", "show", "nud", "permanent"])? {
            let bridge = text(&entry, "dev");
            if bridge.starts_with("ovlbr") {
                let object = format!("neighbour {bridge} {}", text(&entry, "dst"));
                facts.add(object, "entry", without(&entry, &["dev", "dst"]));
            }
        }
        for port in list(self.host, &["bridge", "-j", "vlan", "show"])? {
            // The daemon's bridges have no VLANs.
            if let Some(link) = links.get(text(&port, "ifname")).filter(|link| mark(link).is_some()) {
                facts.add(format!("device {}", label(link)), "VLANs", &port["vlans"]);
            }
        }
        Ok(())
    }
}

fn add_device(facts: &mut Facts, device: &str, (kind, mark, mtu): (&str, &str, u16)) {
    for (field, value) in [("kind", kind), ("mark", mark), ("mtu", &mtu.to_string()), ("up", "true")] {
        facts.add(device, field, value);
    }
}

/// The options of a bridge port with the owner mark.
fn add_port(facts: &mut Facts, port: &str, is_vxlan: bool) {
    for option in PORT {
        let value = match option {
            "state" => json!("forwarding"),
            "learning" => json!(!is_vxlan),
            "neigh_suppress" => json!(is_vxlan),
            "flood" | "mcast_flood" | "bcast_flood" => json!(true),
            _ => json!(false),
        };
        facts.add(port, option, value);
    }
}

fn found_device(facts: &mut Facts, device: &str, link: &Value, mark: &str) {
    let (kind, data) = (text(&link["linkinfo"], "info_kind"), &link["linkinfo"]["info_data"]);
    add_found(facts, device, link);
    facts.add(device, "kind", kind);
    facts.add(device, "mark", mark);
    match kind {
        // Its MAC address is the gateway's, if it has one.
        "bridge" => {
            if addresses(link).next().is_some() {
                facts.add(device, "address", text(link, "address"));
            }
            BRIDGE.iter().for_each(|option| facts.add(device, *option, data[*option].to_string().replace('"', "")));
        }
        "vxlan" => {
            let is_set = |value: &Value| *value != json!(false) && *value != json!(0);
            let mut options = data.as_object().cloned().unwrap_or_default();
            options.retain(|option, value| is_set(value) && !VXLAN_OTHER.contains(&option.as_str()));
            facts.add(device, "options", Value::Object(options));
        }
        _ if mark.starts_with("shim ") => facts.add(device, "ARP", !has_flag(link, "NOARP")),
        _ => {}
    }
}

/// State, MTU and addresses of a device.
fn add_found(facts: &mut Facts, object: &str, link: &Value) {
    facts.add(object, "mtu", &link["mtu"]);
    facts.add(object, "up", has_flag(link, "UP"));
    addresses(link).for_each(|address| facts.add(object, "addresses", address));
}

/// The addresses of a device, except the link-local one that the kernel adds in a container.
fn addresses(link: &Value) -> impl Iterator<Item = String> {
    let addresses = link["addr_info"].as_array().into_iter().flatten();
    let is_managed = mark(link).is_some();
    let listed = addresses.filter(move |address| is_managed || address["family"] == "inet");
    listed.map(|address| format!("{}/{}", text(address, "local"), address["prefixlen"]))
}

/// The container end of a managed veth.
fn found_inside(facts: &mut Facts, name: &str, endpoint: &Endpoint, host_end: &Value) -> Result<()> {
    let ns = container(endpoint).context("the endpoint has no netns")??;
    let links = Links::read(&ns)?;
    let Some(link) = links.0.iter().find(|link| link["ifindex"] == host_end["link_index"]) else { return Ok(()) };
    let inside = format!("container end of {name}");
    add_found(facts, &inside, link);
    facts.add(&inside, "address", text(link, "address"));
    facts.add(&inside, "GRO", gro(&ns, text(link, "ifname"))?);
    default_routes(endpoint)?.into_iter().for_each(|gateway| facts.add(&inside, "default route", gateway));
    Ok(())
}

pub(super) fn gro(ns: &NetNs, device: &str) -> Result<bool> {
    let features = ns.try_run(&["ethtool", "-k", device])?;
    Ok(features.lines().any(|line| line == "generic-receive-offload: on"))
}

/// Gateways of the container's default routes.
fn default_routes(endpoint: &Endpoint) -> Result<Vec<String>> {
    let Some(Ok(ns)) = container(endpoint) else { return Ok(Vec::new()) };
    let routes = list(&ns, &["ip", "-j", "route", "show", "default"])?;
    Ok(routes.iter().map(|route| text(route, "gateway").to_owned()).collect())
}

/// The anycast gateway: as configured, or the first address of the subnet. Overlapping networks have none.
fn gateway(network: &Network) -> Option<Ipv4Addr> {
    let first = || {
        let base: Ipv4Addr = network.subnet.split('/').next()?.parse().ok()?;
        Some(Ipv4Addr::from(u32::from(base) + 1))
    };
    if network.overlap { None } else { network.gateway.or_else(first) }
}

/// The object without some fields.
fn without(object: &Value, fields: &[&str]) -> Value {
    let object: Map<String, Value> = object.as_object().cloned().unwrap_or_default();
    Value::Object(object.into_iter().filter(|(field, _)| !fields.contains(&field.as_str())).collect())
}
