//! Judges the state of a network's devices by the table of [`crate::kernel::Set`]s, and what sees its frames.

use overlay_common::MacAddr;

use super::bridged_path::BridgedRules;
use crate::{
    kernel::{Deviation, Deviations, Interface, Link, LinkKind, Role, Rule, Set, TrafficControl, VethPeer, XdpMode},
    model::{Finding, network::GENERIC_XDP},
};

/// Kinds of devices that send the frames of a bridge to other hosts.
const TUNNELS: [&str; 6] = ["geneve", "gretap", "ip6gretap", "erspan", "ip6erspan", "batadv"];

/// Why a device in this role does not suit the fast path; `None`: it does. The finding has no object.
#[must_use]
pub(crate) fn judge(device: &str, deviations: &Deviations, role: Role) -> Option<Finding> {
    let finding = |deviation: &Deviation| {
        let (problem, remedy) = match deviation {
            Deviation::Value { set, number, value } => {
                set.row(*number, role).and_then(|row| row.refusal(device, value))?
            }
            Deviation::FeatureOff { name } => Set::feature(name, role).and_then(|row| row.refusal(device, &[0]))?,
            Deviation::Unknown { object, value, remedy } => {
                let value: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
                let problem = format!("{device} has {object} = {value}, which this version of overlay does not know");
                (problem, (*remedy).to_owned())
            }
        };
        Some(Finding::unnamed(problem, remedy))
    };
    deviations.iter().find_map(finding)
}

/// Why a bridge does not suit the fast path, as the bridge of the VXLAN device `tunnel`. `links` are all links of the
/// namespace.
#[must_use]
pub(crate) fn judge_bridge(bridge: &Link, tunnel: &Link, links: &[Link]) -> Option<Finding> {
    let of_port = || judge(&tunnel.name, &tunnel.deviations, Role::Tunnel);
    let ambiguous = || {
        let is_other = |link: &&Link| {
            link.master == Some(bridge.index)
                && link.index != tunnel.index
                && (matches!(link.kind, LinkKind::Vxlan(_)) || TUNNELS.contains(&link.kind.name()))
        };
        let other = links.iter().find(is_other)?;
        Some(Finding::unnamed(
            format!("{} has two tunnels, {} and {}", bridge.name, tunnel.name, other.name),
            "give each tunnel its own bridge",
        ))
    };
    judge(&bridge.name, &bridge.deviations, Role::Bridge).or_else(of_port).or_else(ambiguous)
}

/// Why a container's bridge port does not suit the fast path, in a network with this MTU. `peer`: the other end of a
/// veth.
#[must_use]
pub(crate) fn judge_port(port: &Link, peer: Option<&VethPeer>, mtu: u32) -> Option<Finding> {
    let small = |name: &str, found: u32, device: &str| {
        (found < mtu).then(|| {
            let problem = format!("{name} has the MTU {found}, which is less than the network's {mtu}");
            Finding::unnamed(problem, format!("ip link set {device} mtu {mtu}"))
        })
    };
    judge(&port.name, &port.deviations, Role::Port)
        .or_else(|| (!port.ethernet).then(|| Finding::unnamed("it is not an Ethernet device", "")))
        .or_else(|| small(&port.name, port.mtu, &port.name))
        .or_else(|| judge("the container's interface", &peer?.deviations, Role::Container))
        .or_else(|| small("the container's interface", peer?.mtu, "eth0"))
        .or_else(|| match peer_xdp(port, peer) {
            XdpMode::Generic if peer.is_none() => Some(Finding::unnamed(
                "the state of its container's interface cannot be read",
                "run overlay where it can enter the container's network namespace",
            )),
            XdpMode::Generic => {
                let remedy = "attach the program in the driver (ip link set dev eth0 xdpdrv), or detach it";
                Some(Finding::unnamed(GENERIC_XDP, remedy))
            }
            XdpMode::Native | XdpMode::None => None,
        })
}

/// Why an endpoint's port does not suit the fast path: the container has another address, and drops frames for the
/// endpoint's. A redirect to the peer would make them its own (`bpf_redirect_peer` in net/core/filter.c).
#[must_use]
pub(crate) fn judge_address(mac: MacAddr, peer: &VethPeer) -> Option<Finding> {
    let problem = format!("the container's interface has the MAC address {}, and the endpoint has {mac}", peer.mac);
    let remedy = format!("ip link set eth0 address {mac}, or correct the endpoint's `mac`");
    (!peer.enslaved && peer.mac != mac).then(|| Finding::unnamed(problem, remedy))
}

/// Why programs, filters, queueing disciplines or rules for the frames of a bridge, with this VXLAN device, do not suit the
/// fast path, which bypasses them. `links` are all links of the namespace.
#[must_use]
pub(crate) fn judge_frames(
    bridge: &Link,
    tunnel: &Link,
    links: &[Link],
    (tc, rules): (&Result<TrafficControl, String>, &BridgedRules),
) -> Option<Finding> {
    let of_device = |device: &Link| {
        let name = &device.name;
        let xdp = || {
            Finding::unnamed(
                format!("{name} has an XDP program"),
                format!("detach it (ip link set dev {name} xdp off)"),
            )
        };
        device.xdp.then(xdp).or_else(|| judge_traffic_control(device, tc))
    };
    // A device that is not in the list is new.
    let is_inside = |pattern: &Interface| {
        let mut named = links.iter().filter(|link| pattern.matches(&link.name)).peekable();
        let is_of_bridge = |link: &Link| link.index == bridge.index || link.master == Some(bridge.index);
        named.peek().is_none() || named.any(is_of_bridge)
    };
    let is_passed = bridge.bridge.is_some_and(|options| options.nf_call);
    let of_rules = || rules.judge(&bridge.name, is_passed, is_inside);
    of_device(tunnel).or_else(|| of_device(bridge)).or_else(of_rules)
}

fn judge_traffic_control(device: &Link, found: &Result<TrafficControl, String>) -> Option<Finding> {
    let name = &device.name;
    let tc = match found {
        Ok(tc) => tc,
        Err(error) => return Some(unread(error)),
    };
    if tc.ingress.contains(&device.index) || tc.egress.contains(&device.index) {
        return Some(Finding::unnamed(
            format!("{name} has traffic control filters"),
            format!("remove them (tc filter show dev {name})"),
        ));
    }
    shaped(device, tc)
}

/// [`judge_traffic_control`] for a container's bridge port, at whose ingress the programs are.
#[must_use]
pub(crate) fn judge_egress(port: &Link, found: &Result<TrafficControl, String>) -> Option<Finding> {
    let name = &port.name;
    match found {
        Ok(tc) if tc.egress.contains(&port.index) => Some(Finding::unnamed(
            format!("{name} has traffic control filters on egress"),
            format!("remove them (tc filter show dev {name} egress)"),
        )),
        Ok(tc) => shaped(port, tc),
        Err(error) => Some(unread(error)),
    }
}

fn shaped(device: &Link, tc: &TrafficControl) -> Option<Finding> {
    let (name, kind) = (&device.name, tc.shaped.get(&device.index)?);
    Some(Finding::unnamed(
        format!("{name} has a {kind} queueing discipline"),
        format!("remove it (tc qdisc del dev {name} root)"),
    ))
}

fn unread(error: &str) -> Finding {
    Finding::unnamed(format!("queueing disciplines and filters cannot be read ({error})"), "wait, they are read again")
}

/// The XDP program of a port's other end. Assumed where that end could not be read.
#[must_use]
pub(crate) fn peer_xdp(port: &Link, peer: Option<&VethPeer>) -> XdpMode {
    let unread = if port.kind == LinkKind::Veth { XdpMode::Generic } else { XdpMode::None };
    peer.map_or(unread, |peer| peer.xdp)
}

/// Whether frames can pass a port by with `bpf_redirect_peer`: the other end is in another network namespace, the kernel
/// would change no packet that it sends to the port, and no program in the driver of the other end is bypassed.
#[must_use]
pub(crate) fn redirects_to_peer(port: &Link, peer: Option<&VethPeer>) -> bool {
    port.peer_netns && peer_xdp(port, peer) == XdpMode::None && !lacks_offloads(&port.deviations)
}

/// Whether the kernel segments packets or fills their checksums when it sends them to a port. Frames for such a port
/// are sent to it, not to its peer.
#[must_use]
fn lacks_offloads(deviations: &Deviations) -> bool {
    let row = |deviation: &Deviation| match deviation {
        Deviation::Value { set, number, .. } => set.row(*number, Role::Port),
        Deviation::FeatureOff { name } => Set::feature(name, Role::Port),
        Deviation::Unknown { .. } => None,
    };
    deviations.iter().filter_map(row).any(|row| matches!(row.rule, Rule::Plain(_)))
}
