//! Detection of encrypted networks. Fail-closed: a network whose encryption is unknown is refused.

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
const DOCKER_MARK: PolicyMark = PolicyMark { value: 0x00d0_c4e3, mask: u32::MAX };

/// The reason to treat a network as encrypted; `None`: its packets are sent in the clear.
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
        return encrypted(
            "Docker encrypts the network",
            "keep the kernel path, or recreate the network without --opt encrypted",
        );
    }
    match in_kernel(vni, facts) {
        Ok(Some(reason)) => return Some(reason),
        Ok(None) if docker.is_some() => return None,
        Ok(None) => {}
        Err(_) if docker.is_some() || settings.allow.contains(&Selector::Vni(vni)) => return None,
        Err(reason) => {
            return encrypted(
                &format!("encryption is unknown: {reason}, and Docker does not report the network"),
                &format!("run the daemon as root, or put VNI {vni} on the allow list"),
            );
        }
    }
    // Docker creates the device of an encrypted network before the rules that encrypt it.
    (netns.netns_ref != NetnsRef::Own
        && !netns.aged.contains(&link.index)
        && !settings.allow.contains(&Selector::Vni(vni)))
    .then(|| {
        Refusal::new(Cause::New, "the network is new, and Docker has not reported whether it is encrypted", "wait")
    })
}

/// Looks for encryption in the kernel's tables. Error: the reason why they cannot be read.
fn in_kernel(vni: Vni, facts: &Facts) -> Result<Option<Refusal>, String> {
    let policies = facts.host.xfrm.as_ref().map_err(|error| format!("the XFRM policies cannot be read ({error})"))?;
    if policies.iter().any(|mark| *mark != DOCKER_MARK) {
        return Ok(Some(Refusal::new(
            Cause::Encrypted,
            "XFRM (IPsec) policies may match its packets",
            "remove the policies (`ip xfrm policy list`, `ip xfrm policy getdefault`), or keep the kernel path",
        )));
    }
    let netfilter =
        facts.host.netfilter.as_ref().map_err(|error| format!("the netfilter rules cannot be read ({error})"))?;
    Ok(marked(vni, netfilter))
}

/// The first rule for sent packets that marks, or may mark, packets of the network.
fn marked(vni: Vni, netfilter: &Netfilter) -> Option<Refusal> {
    for table in &netfilter.tables {
        if table.vnis.contains(&vni.get()) {
            let label = &table.label;
            return Some(Refusal::new(
                Cause::Encrypted,
                format!("{label} has a rule for VNI {vni}, like Docker's rules for encrypted networks"),
                "recreate the network without --opt encrypted, or remove the rule",
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
                format!("{label} marks packets that may belong to this network, and marked packets may be encrypted"),
                "limit the rule to a VNI, or remove it",
            ));
        }
    }
    None
}
