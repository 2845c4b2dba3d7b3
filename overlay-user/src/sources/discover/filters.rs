//! What sees a network's frames on the kernel path. The fast path must not bypass it.

use super::facts::NetnsFacts;
use crate::{
    kernel::{Link, VethPeer},
    model::{
        Finding,
        network::{Cause, Refusal},
    },
    plan::device_state::{judge_egress, judge_frames, judge_port},
};

/// The first object that applies to the network's frames.
pub(super) fn refusal(netns: &NetnsFacts, vxlan: &Link, bridge: &Link) -> Option<Refusal> {
    let found = match netns.rules.as_ref() {
        Ok(rules) => judge_frames(bridge, vxlan, &netns.links, (&netns.tc, rules))?,
        Err(error) => {
            Finding::unnamed(format!("the netfilter rules cannot be read ({error})"), "wait, they are read again")
        }
    };
    Some(Refusal::new(Cause::Filtered, found.problem, found.remedy))
}

/// The reason why a bridge port falls back to the kernel path.
pub(super) fn port_refusal(netns: &NetnsFacts, port: &Link, peer: Option<&VethPeer>, mtu: u32) -> Option<Finding> {
    let found = judge_port(port, peer, mtu).or_else(|| judge_egress(port, &netns.tc))?;
    Some(found.about(format!("port {}", port.name)))
}
