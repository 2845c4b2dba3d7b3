//! Convergence of a host: configuration, kernel tables and maps agree.
//!
//! Configuration (from the lab), kernel tables (with iproute2) and maps (from their pins) are read independently and
//! converted to sets of facts, one line each. A fact that is missing on one side is a difference.

use std::{collections::BTreeSet, net::Ipv4Addr, path::Path};

use anyhow::{Context, Result};
use aya::programs::{SchedClassifier, TcAttachType};
use overlay_common::{
    MacAddr,
    maps::{FdbEntry, PortKey},
};
use overlay_user::testing::apply::Maps;
use serde_json::Value;

use crate::lab::{Cluster, Endpoint, Host, Lab, NIC, Network};

/// Prefix of the owner mark in the alias of a device.
const ALIAS: &str = "overlay ";

/// The expected state of a host.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The lab of the host: MAC addresses of the VTEPs.
    pub lab: &'a Lab,
    /// The host.
    pub host: &'a Host,
    /// The pin root of its daemon.
    pub pin_root: &'a Path,
    /// Configuration of its daemon, by file or by command. Every endpoint of the host has a veth or a port.
    pub cluster: &'a Cluster,
}

impl Expected<'_> {
    /// Differences between configuration, kernel tables and maps, one line each; empty if the host has converged.
    ///
    /// Covers devices with the owner mark, the FDB of the VXLAN device, static FDB entries of the bridge, permanent
    /// neighbours, all maps except the counters, and the programs at TC ingress (if the kernel has TCX).
    ///
    /// # Errors
    /// When kernel tables or maps cannot be read.
    pub fn differences(&self) -> Result<Vec<String>> {
        let devices = Devices::read(self.host)?;
        let expected = self.facts(&devices)?;
        let mut found = self.in_maps(&devices)?;
        found.extend(self.in_kernel(&devices)?);
        let missing = expected.difference(&found).map(|fact| format!("{}: missing: {fact}", self.host.name()));
        let extra = found.difference(&expected).map(|fact| format!("{}: unexpected: {fact}", self.host.name()));
        Ok(missing.chain(extra).collect())
    }

    fn facts(&self, devices: &Devices) -> Result<BTreeSet<String>> {
        let mut facts = BTreeSet::new();
        let tcx = has_tcx(self.host);
        let mut hooks = false;
        for network in &self.cluster.networks {
            let here = |endpoint: &&Endpoint| endpoint.host == self.host.name();
            let members = self.cluster.endpoints.iter().filter(|endpoint| endpoint.network == network.name);
            let (local, remote): (Vec<_>, Vec<_>) = members.partition(here);
            if local.is_empty() {
                continue;
            }
            hooks = tcx;
            let vni = network.vni;
            facts.extend([format!("device ovlbr{vni}"), format!("device ovlvx{vni}"), format!("map network {vni}")]);
            for endpoint in local {
                let (mac, device) = (endpoint.mac(), port_name(network, endpoint));
                facts.insert(format!("map port {device}: VNI {vni}, {mac}, {}", endpoint.ip));
                facts.insert(format!("map fdb {vni} {mac}: port {device}"));
                facts.insert(format!("bridge fdb {vni} {mac}: port {device}"));
                if tcx {
                    facts.insert(format!("hook {device}: ovl_port_in"));
                }
                if endpoint.port.is_none() {
                    facts.insert(format!("device {device}"));
                }
            }
            for endpoint in remote {
                let (mac, vtep) = (endpoint.mac(), self.cluster.address(&endpoint.host)?);
                facts.insert(format!("map fdb {vni} {mac}: VTEP {vtep}"));
                facts.insert(format!("vxlan fdb {vni} {mac}: VTEP {vtep}"));
                facts.insert(format!("vxlan fdb {vni} 00:00:00:00:00:00: VTEP {vtep}"));
                facts.insert(format!("bridge fdb {vni} {mac}: port ovlvx{vni}"));
                facts.insert(format!("neighbour {vni} {}: {mac}", endpoint.ip));
                facts.insert(format!("map peer {vni} {vtep}"));
                facts.insert(vtep_fact(vtep, network.udp_port(), &self.next_hop(vtep, devices)?));
            }
        }
        if hooks {
            facts.insert(format!("hook {NIC}: ovl_nic_in"));
        }
        Ok(facts)
    }

    /// Next hop of a VTEP. All hosts of the lab are on the same wire.
    fn next_hop(&self, vtep: Ipv4Addr, devices: &Devices) -> Result<String> {
        let Some(host) = self.lab.hosts().iter().find(|host| host.address() == vtep) else {
            return Ok("not resolved".to_owned());
        };
        let remote = Devices::read(host)?;
        Ok(format!("{NIC}, {} to {}", devices.mac(NIC)?, remote.mac(NIC)?))
    }

    fn in_maps(&self, devices: &Devices) -> Result<BTreeSet<String>> {
        let tables = Maps::open(self.pin_root)?.read()?;
        let port = |key: PortKey| devices.by_index(key.ifindex);
        let mut facts = BTreeSet::new();
        facts.extend(tables.networks.keys().map(|vni| format!("map network {vni}")));
        for (key, entry) in &tables.ports {
            let (mac, ip) = (MacAddr(entry.mac), Ipv4Addr::from(entry.ip));
            facts.insert(format!("map port {}: VNI {}, {mac}, {ip}", port(*key), entry.vni));
        }
        for (key, entry) in &tables.fdb {
            let destination = if entry.kind == FdbEntry::REMOTE {
                let vtep = tables.vteps.get(&entry.target).map(|vtep| Ipv4Addr::from(vtep.outer.dst));
                vtep.map_or_else(|| format!("VTEP #{}", entry.target), |vtep| format!("VTEP {vtep}"))
            } else {
                format!("port {}", port(PortKey { netns_id: entry.netns_id.into(), ifindex: entry.target }))
            };
            facts.insert(format!("map fdb {} {}: {destination}", key.vni, MacAddr(key.mac)));
        }
        facts.extend(tables.peers.keys().map(|key| format!("map peer {} {}", key.vni, Ipv4Addr::from(key.addr))));
        for vtep in tables.vteps.values() {
            let next_hop = if vtep.resolved == 0 {
                "not resolved".to_owned()
            } else {
                let device = devices.by_index(vtep.ifindex);
                format!("{device}, {} to {}", MacAddr(vtep.outer.eth_src), MacAddr(vtep.outer.eth_dst))
            };
            facts.insert(vtep_fact(vtep.outer.dst.into(), u16::from_be_bytes(vtep.outer.udp_dst), &next_hop));
        }
        Ok(facts)
    }

    fn in_kernel(&self, devices: &Devices) -> Result<BTreeSet<String>> {
        let mut facts = BTreeSet::new();
        for (name, alias) in devices.marked() {
            facts.insert(format!("device {}", if alias.contains('/') { alias } else { name }));
        }
        for entry in list(self.host, &["bridge", "-j", "fdb", "show"])? {
            let (mac, device) = (text(&entry, "mac"), text(&entry, "ifname"));
            let own = entry["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "self"));
            if let (Some(vni), true) = (device.strip_prefix("ovlvx"), own) {
                facts.insert(format!("vxlan fdb {vni} {mac}: VTEP {}", text(&entry, "dst")));
            } else if let Some(vni) = text(&entry, "master").strip_prefix("ovlbr")
                && entry["state"] == "static"
            {
                facts.insert(format!("bridge fdb {vni} {mac}: port {}", devices.label(device)));
            }
        }
        for entry in list(self.host, &["ip", "-j", "neigh", "show", "nud", "permanent"])? {
            if let Some(vni) = text(&entry, "dev").strip_prefix("ovlbr") {
                facts.insert(format!("neighbour {vni} {}: {}", text(&entry, "dst"), text(&entry, "lladdr")));
            }
        }
        facts.extend(self.hooks(devices));
        Ok(facts)
    }

    /// Programs of overlay at TC ingress, by TCX. A second attachment of the same program is a separate fact.
    fn hooks(&self, devices: &Devices) -> BTreeSet<String> {
        let names = devices.0.iter().map(|device| text(device, "ifname"));
        let query = |device: &str| SchedClassifier::query_tcx(device, TcAttachType::Ingress).map(|found| found.1);
        let found: Vec<_> = self.host.enter(|| names.map(|name| (name, query(name).unwrap_or_default())).collect());
        let mut facts = BTreeSet::new();
        for (device, programs) in found {
            for program in programs.iter().filter_map(|program| program.name_as_str()) {
                let fact = format!("hook {}: {program}", devices.label(device));
                if program.starts_with("ovl_") && !facts.insert(fact.clone()) {
                    facts.insert(format!("{fact}, attached twice"));
                }
            }
        }
        facts
    }
}

/// Linux 6.6 and later.
fn has_tcx(host: &Host) -> bool {
    host.enter(|| SchedClassifier::query_tcx(NIC, TcAttachType::Ingress)).is_ok()
}

fn vtep_fact(vtep: Ipv4Addr, port: u16, next_hop: &str) -> String {
    format!("map vtep {vtep}:{port}: {next_hop}")
}

/// Label of an endpoint's host-side interface: the alias of a managed veth, or the name of an existing port.
fn port_name(network: &Network, endpoint: &Endpoint) -> String {
    endpoint.port.clone().unwrap_or_else(|| format!("{}/{}", network.name, endpoint.name))
}

/// The interfaces of a host, as `ip -j link` lists them.
struct Devices(Vec<Value>);

impl Devices {
    fn read(host: &Host) -> Result<Self> {
        Ok(Self(list(host, &["ip", "-j", "link", "show"])?))
    }

    /// Name and alias (without its prefix) of the devices with the owner mark.
    fn marked(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|device| Some((text(device, "ifname"), text(device, "ifalias").strip_prefix(ALIAS)?)))
    }

    /// Label of a device: the alias of a managed veth, the name of any other device.
    fn label<'a>(&'a self, name: &'a str) -> &'a str {
        let veth = self.marked().find(|(device, alias)| *device == name && alias.contains('/'));
        veth.map_or(name, |(_, alias)| alias)
    }

    fn by_index(&self, index: u32) -> String {
        let device = self.0.iter().find(|device| device["ifindex"] == index);
        device.map_or_else(|| format!("#{index}"), |device| self.label(text(device, "ifname")).to_owned())
    }

    fn mac(&self, name: &str) -> Result<&str> {
        let device = self.0.iter().find(|device| text(device, "ifname") == name);
        Ok(text(device.with_context(|| format!("no interface {name}"))?, "address"))
    }
}

/// Runs a command of iproute2 that prints a JSON list.
fn list(host: &Host, command: &[&str]) -> Result<Vec<Value>> {
    match host.try_run(command)?.trim() {
        "" => Ok(Vec::new()),
        text => serde_json::from_str(text).with_context(|| format!("cannot parse the output of {command:?}")),
    }
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}
