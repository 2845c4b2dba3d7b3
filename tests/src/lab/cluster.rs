//! The cluster file: configuration of the daemons and of [`KernelVxlan`](super::KernelVxlan).

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::Serialize;

use super::Lab;

/// Contents of a cluster file, with the keys of the file format.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cluster {
    /// `tc` or `xdp`; `None` leaves the key out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx: Option<String>,
    /// Maximum number of entries of `OVL_FDB`; `None` leaves the key out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fdb_size: Option<u32>,
    /// `[[hosts]]`.
    pub hosts: Vec<ClusterHost>,
    /// `[[networks]]`.
    pub networks: Vec<Network>,
    /// `[[endpoints]]`.
    pub endpoints: Vec<Endpoint>,
}

/// One of `[[hosts]]`.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterHost {
    /// Unique.
    pub name: String,
    /// Address of the underlay device.
    pub address: Ipv4Addr,
}

/// One of `[[networks]]`. Fields that are `None` or `false` are left out of the file.
#[derive(Clone, Debug, Serialize)]
pub struct Network {
    /// Unique.
    pub name: String,
    /// Unique.
    pub vni: u32,
    /// As `10.0.1.0/24`.
    pub subnet: String,
    /// Inside the subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// In bytes; the daemon's default is the underlay MTU minus 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// UDP port; the daemon's default is 4789.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Drop frames with a spoofed source.
    #[serde(skip_serializing_if = "is_false")]
    pub strict: bool,
    /// Other networks may use the same addresses.
    #[serde(skip_serializing_if = "is_false")]
    pub overlap: bool,
}

/// One of `[[endpoints]]`.
#[derive(Clone, Debug, Serialize)]
pub struct Endpoint {
    /// Name of the network.
    pub network: String,
    /// Unique in the network.
    pub name: String,
    /// Inside the subnet of the network.
    pub ip: Ipv4Addr,
    /// The default is [`docker_mac`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Name of the host.
    pub host: String,
    /// The namespace to create a veth in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// Instead of `netns`: an existing interface of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

impl Cluster {
    /// The running example: `my-overlay-network` with every container of the lab in it.
    #[must_use]
    pub fn example(lab: &Lab) -> Self {
        let network = Network::example();
        let endpoints = lab.hosts().iter().flat_map(|host| {
            host.containers().iter().map(|container| Endpoint {
                netns: Some(container.path().to_owned()),
                ..Endpoint::new(&network.name, container.name(), container.ip(), host.name())
            })
        });
        Self {
            rx: None,
            fdb_size: None,
            hosts: lab
                .hosts()
                .iter()
                .map(|host| ClusterHost { name: host.name().to_owned(), address: host.address() })
                .collect(),
            endpoints: endpoints.collect(),
            networks: vec![network],
        }
    }

    /// The text of the file.
    ///
    /// # Errors
    /// Errors of the TOML serializer.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).context("cannot write the cluster as TOML")
    }

    /// Writes the file to `path`; an existing file is replaced atomically.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        replace(path, &self.to_toml()?)
    }

    /// The address of the host called `name`.
    pub(crate) fn address(&self, name: &str) -> Result<Ipv4Addr> {
        let host = self.hosts.iter().find(|host| host.name == name);
        Ok(host.with_context(|| format!("the cluster has no host {name}"))?.address)
    }
}

impl Network {
    /// `my-overlay-network`: VNI 4097, 10.0.1.0/24 with gateway 10.0.1.1.
    #[must_use]
    pub fn example() -> Self {
        Self {
            name: "my-overlay-network".to_owned(),
            vni: 4097,
            subnet: "10.0.1.0/24".to_owned(),
            gateway: Some(Ipv4Addr::new(10, 0, 1, 1)),
            mtu: None,
            port: None,
            strict: false,
            overlap: false,
        }
    }

    /// The UDP port, or the default.
    #[must_use]
    pub fn udp_port(&self) -> u16 {
        self.port.unwrap_or(4789)
    }

    /// Prefix length of the subnet, as text.
    pub(crate) fn prefix_length(&self) -> Result<&str> {
        let (_, length) = self.subnet.split_once('/').with_context(|| format!("{} is no subnet", self.subnet))?;
        Ok(length)
    }
}

impl Endpoint {
    /// An endpoint without an attachment, with the default MAC address.
    #[must_use]
    pub fn new(network: &str, name: &str, ip: Ipv4Addr, host: &str) -> Self {
        let [network, name, host] = [network, name, host].map(str::to_owned);
        Self { network, name, ip, mac: None, host, netns: None, port: None }
    }

    /// The MAC address, or the default.
    #[must_use]
    pub fn mac(&self) -> String {
        self.mac.clone().unwrap_or_else(|| docker_mac(self.ip))
    }
}

/// Replaces a file atomically, by renaming a new file over it.
///
/// # Errors
/// When the file cannot be written.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// `02:42` and the address: the MAC that Docker assigns to a container.
#[must_use]
pub fn docker_mac(ip: Ipv4Addr) -> String {
    let [a, b, c, d] = ip.octets();
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}
