//! Detection of encrypted networks. Fail-closed: a network whose encryption is unknown is refused.

use overlay_common::Vni;

use super::{
    docker::DockerNetwork,
    facts::{Facts, NetnsFacts},
};
use crate::{
    kernel::{Link, Netfilter, NetfilterHook, NetfilterTable, PolicyMark},
    model::{
        discovery::{NetnsRef, Selector, Settings},
        network::{Cause, Refusal},
    },
};

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
    match &facts.host.netfilter {
        Ok(netfilter) => Ok(named(vni, netfilter).or_else(|| selected(vni, policies, netfilter))),
        // Any rules may set any mark.
        Err(_) if !policies.is_empty() => Ok(Some(unmarked())),
        Err(error) => Err(format!("the netfilter rules cannot be read ({error})")),
    }
}

/// The first table with a rule for the network.
fn named(vni: Vni, netfilter: &Netfilter) -> Option<Refusal> {
    let NetfilterTable { label, .. } = netfilter.tables.iter().find(|table| table.vnis.contains(&vni.get()))?;
    Some(Refusal::new(
        Cause::Encrypted,
        format!("{label} has a rule for VNI {vni}, like Docker's rules for encrypted networks"),
        "recreate the network without --opt encrypted, or remove the rule",
    ))
}

/// The first XFRM policy that may select packets of the network: those without a mark, or with marks that the rules may
/// set. The programs pass a packet that has a mark before the rules to the kernel. A state encrypts only what a policy
/// selects (`xfrm_tmpl_resolve_one` in net/xfrm/xfrm_policy.c).
fn selected(vni: Vni, policies: &[PolicyMark], netfilter: &Netfilter) -> Option<Refusal> {
    // The host does not forward VXLAN packets. Chains of type `nat` translate addresses, and see one packet of a flow.
    let sees = |table: &&NetfilterTable| {
        table.hooks.iter().any(|hooked| hooked.acts && !hooked.nat && hooked.hook != NetfilterHook::Forward)
    };
    let marks =
        netfilter.tables.iter().filter(sees).flat_map(|table| table.marks.iter().map(move |mark| (table, mark)));
    let marks: Vec<_> = marks
        .filter(|(_, mark)| mark.vnis.as_ref().is_none_or(|vnis| vnis.contains(&vni.get())))
        .map(|(table, mark)| (&table.label, mark.bits))
        .collect();
    let settable = marks.iter().fold(0, |bits, (_, mark)| bits | mark);
    let wanted = |policy: &PolicyMark| policy.value & policy.mask;
    let policy = policies.iter().find(|policy| wanted(policy) & !settable == 0)?;
    let Some((label, _)) = marks.iter().find(|(_, bits)| bits & wanted(policy) != 0) else { return Some(unmarked()) };
    Some(Refusal::new(
        Cause::Encrypted,
        format!("{label} marks packets that may belong to this network, and an XFRM policy selects this mark"),
        "limit the rule to a VNI, or remove it or the policy (`ip xfrm policy list`)",
    ))
}

fn unmarked() -> Refusal {
    Refusal::new(
        Cause::Encrypted,
        "XFRM (IPsec) policies may match its packets",
        "remove the policies (`ip xfrm policy list`, `ip xfrm policy getdefault`), or keep the kernel path",
    )
}
