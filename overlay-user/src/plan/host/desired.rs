//! The desired kernel objects of one host. Pure.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use overlay_common::{MacAddr, Vni, VtepAddr, outer::TTL, wire};

use super::objects::{Bridge, DesiredHost, FdbPort, Veth, Vxlan};
use crate::{
    kernel::names,
    model::{Attachment, Endpoint, NetworkSpec, NetworkView, View},
};

/// The device that carries the outer packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnderlayDevice {
    /// Interface index.
    pub ifindex: u32,
    /// Layer-3 MTU, in bytes.
    pub mtu: u32,
    /// Address of this VTEP.
    pub addr: VtepAddr,
}

/// A conflict between the model and this host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DesiredError {
    /// The network's MTU exceeds that of the underlay.
    #[error(
        "network {network:?}: MTU {mtu} and 50 bytes of VXLAN headers do not fit the underlay's MTU {underlay}; \
         set the network's mtu to {} or less, or raise the underlay's", wire::inner_mtu(*underlay)
    )]
    Mtu {
        /// The network's name.
        network: String,
        /// The network's MTU.
        mtu: u32,
        /// The underlay device's MTU.
        underlay: u32,
    },
    /// The underlay's MTU leaves less than the 68 bytes that IPv4 needs (RFC 791).
    #[error("network {network:?}: the underlay's MTU {underlay} is too small for VXLAN; raise it to 118 or more")]
    Underlay {
        /// The network's name.
        network: String,
        /// The underlay device's MTU.
        underlay: u32,
    },
    /// Two endpoints of this host have the same interface name.
    #[error(
        "endpoint \"{network}/{endpoint}\": its interface name {name} is already used by another endpoint; \
         rename the endpoint"
    )]
    VethTwice {
        /// The network's name.
        network: String,
        /// The endpoint's name.
        endpoint: String,
        /// The common interface name.
        name: String,
    },
}

/// Smallest MTU of an IPv4 link (RFC 791).
const MIN_MTU: u16 = 68;

/// The kernel objects for this host's view of the cluster.
///
/// # Errors
/// [`DesiredError`].
pub(crate) fn desired(view: &View, underlay: &UnderlayDevice) -> Result<DesiredHost, DesiredError> {
    let mut host = DesiredHost::default();
    for (&vni, network) in view.networks() {
        add_network(&mut host, vni, network, underlay)?;
    }
    Ok(host)
}

fn add_network(
    host: &mut DesiredHost,
    vni: Vni,
    view: &NetworkView,
    underlay: &UnderlayDevice,
) -> Result<(), DesiredError> {
    let network = view.network();
    let mtu = mtu(network, underlay)?;
    let alias = names::network_alias(&network.name);
    let gateway = (!network.overlap).then_some(network.gateway);
    let bridge = Bridge {
        alias: alias.clone(),
        mtu,
        mac: gateway.map(|gateway| MacAddr::from_ipv4(gateway.octets())),
        addresses: gateway.map(|gateway| in_subnet(network, gateway)).into_iter().collect(),
        up: true,
    };
    let vxlan = Vxlan {
        alias,
        mtu,
        port: network.port,
        local: underlay.addr,
        underlay: underlay.ifindex,
        ttl: TTL,
        plain: true,
        enslaved: true,
        up: true,
    };
    host.bridges.insert(vni, bridge);
    host.vxlans.insert(vni, vxlan);

    host.flood.extend(view.remote().hosts().map(|address| ((vni, address), ())));
    for endpoint in view.remote().iter() {
        host.fdb.insert((vni, endpoint.mac), endpoint.host);
        host.bridge_fdb.insert((vni, endpoint.mac), FdbPort::Vxlan);
        host.neighbours.insert((vni, endpoint.ip), endpoint.mac);
    }
    for endpoint in view.local() {
        let port = match &endpoint.attachment {
            Attachment::Netns(path) => {
                let name = names::veth_name(&network.name, &endpoint.name);
                let veth = Veth {
                    alias: names::endpoint_alias(&network.name, &endpoint.name),
                    vni: Some(vni),
                    netns: Some(path.clone()),
                    mtu,
                    mac: endpoint.mac,
                    address: Some(in_subnet(network, endpoint.ip)),
                    gateway,
                    checked: network.strict,
                    up: true,
                };
                add_veth(host, network, endpoint, &name, veth)?;
                name
            }
            Attachment::Port(name) => {
                host.ports.insert(name.clone(), vni);
                name.clone()
            }
            Attachment::Unspecified => continue,
        };
        host.bridge_fdb.insert((vni, endpoint.mac), FdbPort::Interface(port));
    }
    Ok(())
}

fn add_veth(
    host: &mut DesiredHost,
    network: &NetworkSpec,
    endpoint: &Endpoint,
    name: &str,
    veth: Veth,
) -> Result<(), DesiredError> {
    match host.veths.insert(name.to_owned(), veth) {
        None => Ok(()),
        Some(_) => Err(DesiredError::VethTwice {
            network: network.name.clone(),
            endpoint: endpoint.name.clone(),
            name: name.to_owned(),
        }),
    }
}

/// The network's MTU in bytes: as configured, or the underlay's less the headers.
fn mtu(network: &NetworkSpec, underlay: &UnderlayDevice) -> Result<u16, DesiredError> {
    let room = wire::inner_mtu(underlay.mtu);
    if room < MIN_MTU {
        return Err(DesiredError::Underlay { network: network.name.clone(), underlay: underlay.mtu });
    }
    match network.mtu {
        Some(mtu) if mtu > room => {
            Err(DesiredError::Mtu { network: network.name.clone(), mtu: mtu.into(), underlay: underlay.mtu })
        }
        Some(mtu) => Ok(mtu),
        None => Ok(room),
    }
}

/// An address with the prefix length of its network.
fn in_subnet(network: &NetworkSpec, address: Ipv4Addr) -> Ipv4Net {
    // The prefix length comes from a valid Ipv4Net.
    Ipv4Net::new(address, network.subnet.prefix_len()).unwrap_or_else(|_| address.into())
}
