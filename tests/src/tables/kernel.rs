//! Devices, addresses and routes, as iproute2 prints them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    path::Path,
};

use anyhow::{Context, Result};
use overlay_common::{MacAddr, maps::PortKey};
use serde_json::Value;

use super::{
    Expected,
    objects::gro,
    plan::{Local, NextHop, Nic, Plan, PlannedNetwork, Remote, inner_mtu},
};
use crate::lab::{Endpoint, NETNS_DIR, NIC, NetNs, Network};

/// Prefix of the owner mark in the alias of a device.
const ALIAS: &str = "overlay ";

/// The interfaces of a namespace, as `ip -j -d addr` lists them.
pub(super) struct Links(pub(super) Vec<Value>);

impl Links {
    pub(super) fn read(ns: &NetNs) -> Result<Self> {
        Ok(Self(list(ns, &["ip", "-j", "-d", "addr", "show"])?))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|link| text(link, "ifname") == name)
    }

    /// The host-side interface of an endpoint: the veth with its mark, or its port.
    pub(super) fn of_endpoint(&self, network: &Network, endpoint: &Endpoint) -> Option<&Value> {
        let label = port_label(network, endpoint);
        self.0.iter().find(|link| self::label(link) == label)
    }

    pub(super) fn mac(&self, name: &str) -> Option<MacAddr> {
        text(self.get(name)?, "address").parse().ok()
    }
}

/// A network namespace with objects of overlay.
pub(super) struct Place {
    pub(super) ns: NetNs,
    pub(super) links: Links,
    /// Empty for the host's namespace; otherwise appended to the names of objects.
    pub(super) suffix: String,
}

/// The owner mark of a device, without its prefix.
pub(super) fn mark(link: &Value) -> Option<&str> {
    text(link, "ifalias").strip_prefix(ALIAS)
}

/// Name of a device in differences: the mark of a managed veth, or the interface name.
pub(super) fn label(link: &Value) -> &str {
    mark(link).filter(|mark| mark.contains('/')).unwrap_or_else(|| text(link, "ifname"))
}

/// [`label`] of an endpoint's host-side interface.
pub(super) fn port_label(network: &Network, endpoint: &Endpoint) -> String {
    endpoint.port.clone().unwrap_or_else(|| format!("{}/{}", network.name, endpoint.name))
}

/// Interface index; 0 if there is no interface.
pub(super) fn index(link: Option<&Value>) -> u32 {
    number(link.map_or(&Value::Null, |link| &link["ifindex"]))
}

pub(super) fn number(value: &Value) -> u32 {
    value.as_u64().and_then(|number| number.try_into().ok()).unwrap_or_default()
}

pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

pub(super) fn has_flag(link: &Value, name: &str) -> bool {
    link["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == name))
}

/// Runs a command of iproute2 that prints a JSON list.
pub(super) fn list(ns: &NetNs, command: &[&str]) -> Result<Vec<Value>> {
    match ns.try_run(command)?.trim() {
        "" => Ok(Vec::new()),
        text => serde_json::from_str(text).with_context(|| format!("cannot parse the output of {command:?}")),
    }
}

/// The namespace of an endpoint with `netns`.
pub(super) fn container(endpoint: &Endpoint) -> Option<Result<NetNs>> {
    // An absolute path replaces the directory.
    let path = Path::new(NETNS_DIR).join(endpoint.netns.as_ref()?);
    Some(NetNs::open(&endpoint.name, &path))
}

impl Expected<'_> {
    /// Whether XDP receives packets.
    pub(super) fn has_xdp(&self) -> bool {
        self.cluster.rx.as_deref() == Some("xdp")
    }

    /// The host's namespace, then those of external networks.
    pub(super) fn places(&self, links: Links, plan: &Plan) -> Result<Vec<Place>> {
        let mut places = vec![Place { ns: (**self.host).clone(), links, suffix: String::new() }];
        let mut known = BTreeSet::new();
        for sandbox in &plan.sandboxes {
            if let Some(ns) = &sandbox.ns
                && known.insert(ns.inode()?)
            {
                places.push(Place { ns: ns.clone(), links: Links::read(ns)?, suffix: sandbox.suffix() });
            }
        }
        Ok(places)
    }

    pub(super) fn plan(&self, links: &Links) -> Result<Plan> {
        let nic = Nic {
            address: self.cluster.address(self.host.name())?,
            mac: links.mac(NIC).unwrap_or_default(),
            ifindex: index(links.get(NIC)),
            mtu: links.get(NIC).map_or(0, |nic| number(&nic["mtu"])),
            has_gro: gro(self.host, NIC)?,
        };
        let (networks, sandboxes, next_hops) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut plan = Plan { nic, networks, sandboxes, next_hops, deadline: self.deadline };
        let default_ttl = self.host.enter(default_ttl)?;
        let udp_sources = self.host.enter(udp_sources)?;
        for (network, local, remote) in self.networks() {
            let device = links.get(&format!("ovlvx{}", network.vni));
            let ttl = device.map_or(0, |device| number(&device["linkinfo"]["info_data"]["ttl"]));
            let planned = PlannedNetwork {
                vni: network.vni,
                udp_port: network.udp_port(),
                mtu: network.mtu.unwrap_or(inner_mtu(plan.nic.mtu)),
                ttl: if ttl == 0 { default_ttl } else { ttl.try_into()? },
                udp_sources,
                has_udp_checksum: false,
                device_mac: links.mac(&format!("ovlvx{}", network.vni)).unwrap_or_default(),
                learns: false,
                is_strict: network.strict,
                local: local.iter().map(|endpoint| self.local(network, endpoint, links)).collect::<Result<_>>()?,
                remote: remote.iter().map(|endpoint| self.remote(endpoint)).collect::<Result<_>>()?,
            };
            plan.networks.push(planned);
        }
        for external in &self.external {
            let (planned, sandbox) = self.external(external, links, default_ttl)?;
            plan.networks.push(planned);
            plan.sandboxes.push(sandbox);
        }
        for Remote { vtep, .. } in plan.networks.iter().flat_map(|network| &network.remote) {
            if !plan.next_hops.contains_key(vtep) {
                plan.next_hops.extend(self.next_hop(*vtep, plan.nic.mtu)?.map(|hop| (*vtep, hop)));
            }
        }
        Ok(plan)
    }

    fn local(&self, network: &Network, endpoint: &Endpoint, links: &Links) -> Result<Local> {
        let link = links.of_endpoint(network, endpoint);
        let has_peer =
            link.is_some_and(|link| link["linkinfo"]["info_kind"] == "veth" && !link["link_netnsid"].is_null());
        Ok(Local {
            mac: endpoint.mac().parse()?,
            ip: endpoint.ip,
            port: PortKey { netns_id: 0, ifindex: index(link) },
            has_peer,
            shim: 0,
            // The kernel drops frames that XDP redirects to a veth whose peer has no NAPI; veths of the daemon have it.
            xdp: self.has_xdp() && has_peer && endpoint.netns.is_some(),
        })
    }

    fn remote(&self, endpoint: &Endpoint) -> Result<Remote> {
        let (mac, vtep) = (endpoint.mac().parse()?, self.cluster.address(&endpoint.host)?);
        Ok(Remote { mac, ip: endpoint.ip, vtep })
    }

    /// The next hop of a VTEP: all hosts of the lab are on the same wire. `None`: there is no such host.
    fn next_hop(&self, vtep: Ipv4Addr, nic_mtu: u32) -> Result<Option<NextHop>> {
        let Some(host) = self.lab.hosts().iter().find(|host| host.address() == vtep) else { return Ok(None) };
        let Some(mac) = Links::read(host)?.mac(NIC) else { return Ok(None) };
        // Without a route the next hop is not resolved.
        let Ok(routes) = list(self.host, &["ip", "-j", "route", "get", &vtep.to_string()]) else { return Ok(None) };
        let metric = routes.first().map_or(0, |route| number(&route["metrics"][0]["mtu"]));
        Ok(Some(NextHop { mac, mtu: if metric == 0 { nic_mtu } else { metric } }))
    }
}

/// Of the calling thread's network namespace.
fn default_ttl() -> Result<u8> {
    let ttl = fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").context("cannot read ip_default_ttl")?;
    ttl.trim().parse().context("the default TTL has 8 bits")
}

/// Smallest port of `net.ipv4.ip_local_port_range` of the calling thread's network namespace, and the number of ports
/// without the last (`udp_flow_src_port` in `include/net/udp.h`).
pub(super) fn udp_sources() -> Result<(u16, u16)> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").context("cannot read the port range")?;
    let mut ports = range.split_whitespace().map(str::parse::<u16>);
    let mut port = || ports.next().context("the port range has two numbers")?.context("a port has 16 bits");
    let (first, last) = (port()?, port()?);
    Ok((first, last - first))
}
