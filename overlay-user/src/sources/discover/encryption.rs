//! Whether the kernel would encrypt a network's packets. Fail-closed: what cannot be known is refused.

use overlay_common::Vni;

use super::{
    docker::DockerNetwork,
    facts::{Facts, NetnsFacts},
};
use crate::{
    kernel::{Link, Netfilter, NetfilterHook, PolicyMark},
    model::{
        discovery::{NetnsRef, Selector, Settings},
        network::{Cause, Refusal},
    },
};

/// The mark of packets that Docker encrypts (libnetwork, `drivers/overlay/encryption.go`).
const DOCKERS_MARK: PolicyMark = PolicyMark { value: 0x00d0_c4e3, mask: u32::MAX };

/// Why a network must be taken for encrypted; `None`: its packets are sent in the clear.
pub(super) fn refusal(
    vni: Vni,
    (netns, link): (&NetnsFacts, &Link),
    docker: Option<&DockerNetwork>,
    facts: &Facts,
    settings: &Settings,
) -> Option<Refusal> {
    let encrypted = |problem: &str, remedy: &str| Some(Refusal::new(Cause::Encrypted, problem, remedy));
    if facts.docker.networks.iter().any(|network| network.encrypted && network.vnis.contains(&vni.get()))
        || docker.is_some_and(|network| network.encrypted)
    {
        return encrypted("Docker encrypts it", "leave it to the kernel, or make the network without --opt encrypted");
    }
    match in_kernel(vni, facts) {
        Ok(Some(reason)) => return Some(reason),
        Ok(None) if docker.is_some() => return None,
        Ok(None) => {}
        Err(_) if docker.is_some() || settings.allow.contains(&Selector::Vni(vni)) => return None,
        Err(reason) => {
            return encrypted(
                &format!("whether it is encrypted cannot be known: {reason}, and Docker does not know it"),
                &format!("run the daemon as root, or put VNI {vni} on the allow list"),
            );
        }
    }
    // An encrypted network's device is there before the rules that encrypt it.
    (netns.netns_ref != NetnsRef::Own
        && !netns.settled.contains(&link.index)
        && !settings.allow.contains(&Selector::Vni(vni)))
    .then(|| Refusal::new(Cause::New, "it is new, and Docker has not said whether it is encrypted", "wait a moment"))
}

/// What the kernel's tables say; the error is why they cannot be read.
fn in_kernel(vni: Vni, facts: &Facts) -> Result<Option<Refusal>, String> {
    let policies = facts.host.xfrm.as_ref().map_err(|error| format!("the XFRM policies cannot be read ({error})"))?;
    if policies.iter().any(|mark| *mark != DOCKERS_MARK) {
        return Ok(Some(Refusal::new(
            Cause::Encrypted,
            "there are XFRM (IPsec) policies that may be for its packets",
            "it is accelerated when they are gone; `ip xfrm policy list` and `ip xfrm policy getdefault` show them",
        )));
    }
    let netfilter =
        facts.host.netfilter.as_ref().map_err(|error| format!("the netfilter rules cannot be read ({error})"))?;
    Ok(marked(vni, netfilter))
}

/// Whether rules for what this host sends mark the network's packets, or may.
fn marked(vni: Vni, netfilter: &Netfilter) -> Option<Refusal> {
    for table in &netfilter.tables {
        if table.vnis.contains(&vni.get()) {
            let label = &table.label;
            return Some(Refusal::new(
                Cause::Encrypted,
                format!("{label} has a rule for VNI {vni}, as Docker makes them for encrypted networks"),
                "make the network without --opt encrypted, or remove the rule",
            ));
        }
        let sends = table.hooks.iter().any(|hooked| {
            hooked.acts
                && !hooked.nat
                && matches!(hooked.hook, NetfilterHook::Output | NetfilterHook::Postrouting | NetfilterHook::Other)
        });
        if sends && table.marks.contains(&None) {
            let label = &table.label;
            return Some(Refusal::new(
                Cause::Encrypted,
                format!("{label} marks packets, perhaps its own, and marked packets may be encrypted"),
                "limit the rule to a VNI, or remove it",
            ));
        }
    }
    None
}
