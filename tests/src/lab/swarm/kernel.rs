//! The kernel's tables of a sandbox, read with iproute2.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    ops::Deref,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::NetNs;

/// A network namespace with the bridge and the VXLAN device of one network.
#[derive(Clone, Debug)]
pub struct Sandbox(NetNs);

/// A snapshot of the tables of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxFdb {
    /// VNI of the VXLAN device.
    pub vni: u32,
    /// `self permanent` FDB entries of the VXLAN device: MAC address and VTEP.
    pub remote: BTreeMap<String, Ipv4Addr>,
    /// MAC addresses of the permanent neighbours of the VXLAN device.
    pub neighbours: BTreeSet<String>,
    /// MAC addresses that the bridge has learned on its veths.
    pub learned: BTreeSet<String>,
    /// The veths of the bridge: ifindex, and ifindex of the other end.
    pub ports: BTreeMap<u32, u32>,
}

impl Sandbox {
    pub(super) fn new(ns: NetNs) -> Self {
        Self(ns)
    }

    /// Reads the tables; `None` if there is no VXLAN device, because the network is being created or removed.
    ///
    /// # Errors
    /// When iproute2 fails.
    pub fn fdb(&self) -> Result<Option<SandboxFdb>> {
        let links = self.json(&["ip", "-d", "-j", "link", "show"])?;
        let kind = |link: &Value| link["linkinfo"]["info_kind"].as_str().unwrap_or_default().to_owned();
        let Some(vxlan) = links.iter().find(|link| kind(link) == "vxlan") else { return Ok(None) };
        let device = vxlan["ifname"].as_str().context("a link has a name")?;
        let vni = vxlan["linkinfo"]["info_data"]["id"].as_u64().context("a VXLAN device has a VNI")?;
        let index = |link: &Value, field: &str| link[field].as_u64().and_then(|index| u32::try_from(index).ok());
        let is_port = |link: &&Value| kind(link) == "veth" && link["master"].is_string();
        let ports = links.iter().filter(is_port).filter_map(|link| {
            // For a peer in the same namespace, iproute2 prints its name instead of its ifindex.
            Some((index(link, "ifindex")?, index(link, "link_index")?))
        });

        let (mut remote, mut learned) = (BTreeMap::new(), BTreeSet::new());
        for entry in self.json(&["bridge", "-j", "fdb", "show"])? {
            let mac = entry["mac"].as_str().unwrap_or_default().to_owned();
            let has = |flag: &str| entry["flags"].as_array().is_some_and(|flags| flags.iter().any(|one| one == flag));
            let of_vxlan = entry["ifname"] == device;
            match entry["dst"].as_str().map(str::parse) {
                Some(Ok(vtep)) if of_vxlan && has("self") && entry["state"] == "permanent" => {
                    remote.insert(mac, vtep);
                }
                _ if !of_vxlan && entry["master"].is_string() && entry["state"] != "permanent" => {
                    learned.insert(mac);
                }
                _ => {}
            }
        }
        // The default entry, for unknown MAC addresses.
        remote.remove("00:00:00:00:00:00");

        let neighbours = self.json(&["ip", "-j", "neigh", "show", "dev", device, "nud", "permanent"])?;
        let neighbours = neighbours.iter().filter_map(|entry| entry["lladdr"].as_str().map(str::to_owned));
        Ok(Some(SandboxFdb {
            vni: u32::try_from(vni)?,
            remote,
            neighbours: neighbours.collect(),
            learned,
            ports: ports.collect(),
        }))
    }

    /// Packets that the VXLAN device has sent and received: the kernel path.
    ///
    /// # Errors
    /// When iproute2 fails.
    pub fn vxlan_packets(&self) -> Result<u64> {
        let links = self.json(&["ip", "-s", "-d", "-j", "link", "show"])?;
        let vxlan = links.iter().filter(|link| link["linkinfo"]["info_kind"] == "vxlan");
        let packets = vxlan.flat_map(|link| ["rx", "tx"].map(|way| link["stats64"][way]["packets"].as_u64()));
        Ok(packets.flatten().sum())
    }

    /// VTEP of a MAC address in the kernel's FDB.
    ///
    /// # Errors
    /// When iproute2 fails.
    pub fn vtep_of(&self, mac: &str) -> Result<Option<Ipv4Addr>> {
        Ok(self.fdb()?.and_then(|fdb| fdb.remote.get(mac).copied()))
    }

    fn json(&self, command: &[&str]) -> Result<Vec<Value>> {
        match self.0.try_run(command)?.trim() {
            "" => Ok(Vec::new()),
            text => serde_json::from_str(text).with_context(|| format!("cannot parse the output of {command:?}")),
        }
    }
}

/// A sandbox dereferences to its namespace.
impl Deref for Sandbox {
    type Target = NetNs;

    fn deref(&self) -> &NetNs {
        &self.0
    }
}
