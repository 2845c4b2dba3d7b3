//! The kernel's VXLAN set up by hand: the test oracle, and a peer without overlay.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Cluster, Endpoint, Host, NIC, NetNs, Network};

/// Options of the VXLAN device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavour {
    /// Like flannel and manual setups: static entries, `nolearning`, broadcasts copied to every other host.
    #[default]
    Static,
    /// Like Docker: `proxy l2miss l3miss learning udpcsum`, static entries for MACs and neighbours, no broadcasts.
    ///
    /// A device with `proxy` sends no ARP into the tunnel, replies included (`arp_reduce` in
    /// `drivers/net/vxlan/vxlan_core.c`): its peers need neighbour entries, too. So `Docker` and `Static` cannot be
    /// combined.
    Docker,
}

/// Devices of one network on one host, without overlay: a bridge `br-VNI`, a VXLAN device `vx-VNI` and a veth `p-VNI-N`
/// for each endpoint of the host, whose other end is `eth0` in the container.
///
/// The devices are removed with the namespace of the host, not when this value is dropped.
#[derive(Debug)]
pub struct KernelVxlan {
    vni: u32,
}

/// Sets up the network called `network` of `cluster` on `host`. Endpoints of this host need `netns`.
///
/// # Errors
/// When the cluster has no such network, or a device name is in use.
pub fn kernel_vxlan(host: &Host, cluster: &Cluster, network: &str, flavour: Flavour) -> Result<KernelVxlan> {
    let network = cluster
        .networks
        .iter()
        .find(|candidate| candidate.name == network)
        .with_context(|| format!("the cluster has no network {network}"))?;
    let (vni, mtu) = (network.vni, network.mtu.unwrap_or(1450));
    devices(host, network, mtu, flavour)?;

    let endpoints = cluster.endpoints.iter().filter(|endpoint| endpoint.network == network.name);
    let (local, remote): (Vec<_>, Vec<_>) = endpoints.partition(|endpoint| endpoint.host == host.name());
    for (index, endpoint) in local.into_iter().enumerate() {
        let port = format!("p-{vni}-{index}");
        attach(host, network, endpoint, &port, mtu)?;
    }
    let mut flooded = Vec::new();
    for endpoint in remote {
        let (mac, ip, vtep) = (endpoint.mac(), endpoint.ip, cluster.address(&endpoint.host)?);
        host.try_script(&format!("bridge fdb add {mac} dev vx-{vni} dst {vtep} self permanent"))?;
        if flavour == Flavour::Docker {
            host.try_script(&format!("ip neigh add {ip} lladdr {mac} dev vx-{vni} nud permanent"))?;
        } else if !flooded.contains(&vtep) {
            host.try_script(&format!("bridge fdb append 00:00:00:00:00:00 dev vx-{vni} dst {vtep} self permanent"))?;
            flooded.push(vtep);
        }
    }
    host.wait_for_all_devices()?;
    Ok(KernelVxlan { vni })
}

/// Creates the bridge and the VXLAN device.
fn devices(host: &Host, network: &Network, mtu: u16, flavour: Flavour) -> Result<()> {
    let (vni, udp_port, local) = (network.vni, network.udp_port(), host.address());
    let options = match flavour {
        Flavour::Static => "nolearning",
        Flavour::Docker => "learning proxy l2miss l3miss udpcsum",
    };
    host.try_script(&format!(
        "ip link add br-{vni} mtu {mtu} type bridge
        ip link add vx-{vni} mtu {mtu} type vxlan id {vni} local {local} dev {NIC} dstport {udp_port} {options}
        ip link set vx-{vni} master br-{vni} up
        ip link set br-{vni} up"
    ))?;
    match network.gateway {
        Some(gateway) if !network.overlap => {
            let length = network.prefix_length()?;
            host.try_script(&format!("ip addr add {gateway}/{length} dev br-{vni}"))
        }
        _ => Ok(()),
    }
}

/// Creates the veth of one endpoint, and its default route.
fn attach(host: &Host, network: &Network, endpoint: &Endpoint, port: &str, mtu: u16) -> Result<()> {
    let path = endpoint.netns.as_deref().with_context(|| format!("{} has no netns", endpoint.name))?;
    let container = host
        .containers()
        .iter()
        .find(|container| is_at(container, path))
        .with_context(|| format!("{} has no container at {}", host.name(), path.display()))?;
    let address = format!("{}/{}", endpoint.ip, network.prefix_length()?);
    host.plug(port, container, &address, &endpoint.mac(), mtu)?;
    host.try_script(&format!("ip link set {port} master br-{}", network.vni))?;
    match network.gateway {
        Some(gateway) if !network.overlap => container.try_script(&format!("ip route add default via {gateway}")),
        _ => Ok(()),
    }
}

/// `netns` is an absolute path or a name below `/run/netns`.
fn is_at(container: &NetNs, netns: &Path) -> bool {
    container.path() == netns || container.path() == Path::new(super::NETNS_DIR).join(netns)
}

impl KernelVxlan {
    /// Name of the VXLAN device.
    #[must_use]
    pub fn device(&self) -> String {
        format!("vx-{}", self.vni)
    }
}
