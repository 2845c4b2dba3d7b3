//! External networks: the expected state follows from their kernel objects and from the shims into their namespaces.

use std::{fs, net::Ipv4Addr};

use anyhow::{Context, Result};
use overlay_common::{MacAddr, maps::PortKey};

use super::{
    Expected,
    kernel::{Links, index, list, number, text, udp_sources},
    plan::{Local, PlannedNetwork, Remote},
};
use crate::lab::NetNs;

/// An external network with endpoints on the host.
#[derive(Clone, Debug)]
pub struct External {
    /// Network namespace of its bridge.
    pub netns: NetNs,
    /// Its VXLAN device.
    pub device: String,
    /// Its ports with the MAC addresses of their containers.
    pub ports: Vec<(String, MacAddr)>,
}

/// The place of an external network, and its cross-netns veth (shim).
#[derive(Debug)]
pub(super) struct Sandbox {
    /// Its network namespace; `None`: the host's.
    pub(super) ns: Option<NetNs>,
    pub(super) vni: u32,
    /// The netns id.
    pub(super) id: u32,
    /// Interface indices of the shim's ends: in the host's namespace, in this one; 0: there is none.
    pub(super) shim: [u32; 2],
    pub(super) ports: Vec<String>,
}

impl Sandbox {
    /// Appended to the names of devices.
    pub(super) fn suffix(&self) -> String {
        self.ns.as_ref().map_or_else(String::new, |ns| format!(" in {}", ns.name()))
    }
}

impl Expected<'_> {
    /// The network as the maps should have it, and its place.
    pub(super) fn external(
        &self,
        external: &External,
        host: &Links,
        default_ttl: u8,
    ) -> Result<(PlannedNetwork, Sandbox)> {
        let links = Links::read(&external.netns)?;
        let device = links.get(&external.device).context("the external network has no VXLAN device")?;
        let options = &device["linkinfo"]["info_data"];
        let vni = number(&options["id"]);
        let ports = external.ports.iter().map(|(port, _)| port.clone()).collect();
        let sandbox = if external.netns.inode()? == self.host.inode()? {
            Sandbox { ns: None, vni, id: 0, shim: [0; 2], ports }
        } else {
            let shim = [host, &links].map(|links| index(links.get(&format!("ovlsh{vni}"))));
            Sandbox { ns: Some(external.netns.clone()), vni, id: self.netns_id(&external.netns)?, shim, ports }
        };
        let (netns_id, shim) = (sandbox.id, sandbox.shim[0]);
        let local = external.ports.iter().map(|(port, mac)| {
            let link = links.get(port);
            let has_peer = link.is_some_and(|link| !link["link_netnsid"].is_null());
            let port = PortKey { netns_id, ifindex: index(link) };
            Local { mac: *mac, ip: Ipv4Addr::UNSPECIFIED, port, has_peer, shim, xdp: self.has_xdp() && has_peer }
        });
        let mut remote = Vec::new();
        for entry in list(&external.netns, &["bridge", "-j", "fdb", "show", "dev", &external.device])? {
            let mac: MacAddr = text(&entry, "mac").parse()?;
            if let (Ok(vtep), true) = (text(&entry, "dst").parse(), mac != MacAddr::default()) {
                remote.push(Remote { mac, ip: Ipv4Addr::UNSPECIFIED, vtep });
            }
        }
        let ttl = number(&options["ttl"]);
        let [low, high] = ["low", "high"].map(|end| number(&options["port_range"][end]) as u16);
        let udp_sources = if low < high { (low, high - low) } else { external.netns.enter(udp_sources)? };
        let network = PlannedNetwork {
            vni,
            udp_port: number(&options["port"]).try_into()?,
            mtu: number(&device["mtu"]).try_into()?,
            ttl: if ttl == 0 { default_ttl } else { ttl.try_into()? },
            udp_sources,
            has_udp_checksum: options["udp_csum"] == true,
            device_mac: text(device, "address").parse()?,
            learns: options["learning"] == true,
            is_strict: false,
            local: local.collect(),
            remote,
        };
        Ok((network, sandbox))
    }

    /// The netns id that the ownership record has for a namespace; 0: none.
    fn netns_id(&self, ns: &NetNs) -> Result<u32> {
        let inode = ns.inode()?.to_string();
        for entry in fs::read_dir(self.pin_root.join("record")).context("there is no ownership record")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let ["netns_id", id, number, ..] = *name.split(':').collect::<Vec<_>>()
                && number == inode
            {
                return Ok(id.parse()?);
            }
        }
        Ok(0)
    }
}
