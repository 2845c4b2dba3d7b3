//! Rules, programs and queueing disciplines that apply to a network's frames on the kernel path. The fast path must not
//! bypass them.

use super::facts::NetnsFacts;
use crate::{
    kernel::{Family, Hooked, Link, NetfilterHook, VethPeer},
    model::{
        Finding,
        network::{Cause, Refusal},
    },
    plan::device_state::{judge_egress, judge_port, judge_traffic_control, judge_xdp},
};

/// The first object that applies to the network's frames.
pub(super) fn refusal(netns: &NetnsFacts, vxlan: &Link, bridge: &Link) -> Option<Refusal> {
    let filtered = |problem: String, remedy: String| Some(Refusal::new(Cause::Filtered, problem, remedy));
    for device in [vxlan, bridge] {
        if let Some(found) = judge_xdp(device).or_else(|| judge_traffic_control(device, &netns.tc)) {
            return filtered(found.problem, found.remedy);
        }
    }
    let netfilter = match &netns.netfilter {
        Ok(netfilter) => netfilter,
        Err(error) => {
            return filtered(
                format!("the netfilter rules cannot be read ({error})"),
                "give the daemon CAP_NET_ADMIN and the group root, or run it as root".into(),
            );
        }
    };
    let is_inside = |name: &String| {
        let link = netns.links.iter().find(|link| link.name == *name);
        link.is_none_or(|link| link.index == bridge.index || link.master == Some(bridge.index))
    };
    let sees = |family: Family, hooked: &Hooked| match (family, hooked.hook) {
        (Family::Bridge, _) => true,
        (Family::Netdev, _) | (_, NetfilterHook::Ingress) => hooked.devices.iter().any(is_inside),
        (Family::Ip, NetfilterHook::Prerouting | NetfilterHook::Forward | NetfilterHook::Postrouting) => {
            netns.bridge_nf || bridge.bridge.is_some_and(|options| options.nf_call)
        }
        _ => false,
    };
    for table in &netfilter.tables {
        if table.hooks.iter().any(|hooked| hooked.acts && sees(table.family, hooked)) {
            let (label, name) = (&table.label, &bridge.name);
            let remedy = if table.family == Family::Ip {
                "remove the rules, or set net.bridge.bridge-nf-call-iptables and -ip6tables to 0 in this namespace"
            } else {
                "remove the rules"
            };
            return filtered(format!("{label} has rules that apply to frames of {name}"), remedy.into());
        }
    }
    None
}

/// The reason why a bridge port falls back to the kernel path.
pub(super) fn port_refusal(netns: &NetnsFacts, port: &Link, peer: Option<&VethPeer>, mtu: u32) -> Option<Finding> {
    let found = judge_port(port, peer, mtu).or_else(|| judge_egress(port, &netns.tc))?;
    Some(found.about(format!("port {}", port.name)))
}
