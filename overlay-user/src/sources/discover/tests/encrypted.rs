//! Encrypted networks, and networks of unknown encryption, are never accelerated.

use super::*;
use crate::{kernel::PolicyMark, model::discovery::Selector};

/// The mark of packets that Docker encrypts (libnetwork, `drivers/overlay/encryption.go`).
const DOCKER: u32 = 0x00d0_c4e3;
const DOCKER_POLICY: PolicyMark = PolicyMark { value: DOCKER, mask: u32::MAX };

/// Facts without an answer from Docker.
fn without_docker() -> Facts {
    Facts {
        docker: DockerState { enabled: true, error: Some("no answer".into()), ..DockerState::default() },
        ..facts()
    }
}

#[test]
fn docker_reports_encryption_by_sandbox_or_by_vni() {
    let mut facts = facts();
    facts.docker.networks[0].encrypted = true;
    assert_refused(&facts, "Docker encrypts the network");
    facts.docker.networks[0].id = "another".into();
    assert_refused(&facts, "Docker encrypts the network");
    facts.docker.networks[0].id = ID.into();
    facts.docker.networks[0].vnis.clear();
    assert_refused(&facts, "Docker encrypts the network");
}

fn mark(bits: u32, vnis: Option<&[u32]>) -> Mark {
    Mark { bits, vnis: vnis.map(|vnis| vnis.iter().copied().collect()) }
}

/// A table that marks sent packets.
fn marks(marks: Vec<Mark>) -> Netfilter {
    table(NetfilterHook::Output, marks)
}

#[test]
fn kernel_state_overrides_docker() {
    for mut facts in [facts(), without_docker()] {
        facts.host.xfrm = Ok(vec![DOCKER_POLICY]);
        assert_eq!(network(&facts).refusal, None, "another network is encrypted");
        facts.host.netfilter = Ok(marks(vec![mark(DOCKER, Some(&[VNI + 1, VNI + 2]))]));
        assert_eq!(network(&facts).refusal, None, "another network is encrypted");
        facts.host.netfilter = Ok(marks(vec![mark(DOCKER, Some(&[VNI + 1, VNI]))]));
        assert_refused(&facts, "has a rule for VNI 4097");
        facts.host.netfilter = Ok(marks(vec![mark(DOCKER, None)]));
        assert_refused(&facts, "marks packets");
        facts.host.netfilter = Ok(Netfilter::default());
        // Of these, the kernel selects an unmarked packet.
        for policy in [PolicyMark { value: 0, mask: 0 }, PolicyMark { value: 0, mask: 0xff }] {
            facts.host.xfrm = Ok(vec![DOCKER_POLICY, policy]);
            assert_refused(&facts, "XFRM");
        }
    }
}

#[test]
fn mark_without_policy_for_it_does_not_refuse() {
    let kube = || vec![mark(0x4000, None), mark(0x8000, None), mark(0, None)];
    let mut facts = facts();
    facts.host.netfilter = Ok(marks(kube()));
    assert_eq!(network(&facts).refusal, None, "no policies");
    facts.host.xfrm = Ok(vec![DOCKER_POLICY]);
    assert_eq!(network(&facts).refusal, None, "a policy for another mark");
    for (value, mask) in [(0x4000, u32::MAX), (0xc000, 0xc000), (0x8000, 0x8000)] {
        facts.host.xfrm = Ok(vec![DOCKER_POLICY, PolicyMark { value, mask }]);
        assert_refused(&facts, "table t marks packets");
    }
    facts.host.xfrm = Ok(vec![PolicyMark { value: 0x1_4000, mask: u32::MAX }]);
    assert_eq!(network(&facts).refusal, None, "one bit is never set");
    facts.host.netfilter = Ok(marks([kube(), vec![mark(0x1_0000, Some(&[VNI + 1]))]].concat()));
    assert_eq!(network(&facts).refusal, None, "one bit is set for another network");
    facts.host.netfilter = Ok(marks([kube(), vec![mark(u32::MAX, None)]].concat()));
    assert_refused(&facts, "marks packets");
}

#[test]
fn rule_for_vni_refuses_without_policy() {
    // Docker adds the rule and the policy of a peer at different times.
    let mut facts = facts();
    facts.host.netfilter = Ok(marks(vec![mark(DOCKER, Some(&[VNI]))]));
    assert_refused(&facts, "has a rule for VNI 4097");
}

#[test]
fn marks_of_packets_of_other_kinds_are_ignored() {
    let mut facts = facts();
    facts.host.xfrm = Ok(vec![PolicyMark { value: 5, mask: u32::MAX }]);
    let rules = |hook| table(hook, vec![mark(5, None)]);
    let mut nat = rules(NetfilterHook::Output);
    nat.tables[0].hooks[0].nat = true;
    for netfilter in [nat, rules(NetfilterHook::Forward)] {
        facts.host.netfilter = Ok(netfilter);
        assert_eq!(network(&facts).refusal, None);
    }
    // A policy for received packets may select a mark of these.
    for hook in [NetfilterHook::Prerouting, NetfilterHook::Input, NetfilterHook::Output, NetfilterHook::Postrouting] {
        facts.host.netfilter = Ok(rules(hook));
        assert_refused(&facts, "marks packets");
    }
}

#[test]
fn network_of_unknown_encryption_is_refused_unless_its_vni_is_allowed() {
    let mut facts = without_docker();
    facts.host.xfrm = Err("EPERM".into());
    assert_refused(&facts, "encryption is unknown");
    let settings = Settings { allow: [Selector::Vni(vni())].into(), ..Settings::default() };
    assert_eq!(refusal(&facts, &settings), None);
    let mut facts = without_docker();
    facts.host.netfilter = Err("EPERM".into());
    assert_refused(&facts, "encryption is unknown");
}

#[test]
fn policies_refuse_while_rules_cannot_be_read() {
    let mut facts = facts();
    facts.host.netfilter = Err("EPERM".into());
    assert_eq!(network(&facts).refusal, None, "Docker reports that it is not encrypted");
    for policy in [PolicyMark { value: 0, mask: 0 }, DOCKER_POLICY] {
        facts.host.xfrm = Ok(vec![policy]);
        assert_refused(&facts, "XFRM");
    }
}

#[test]
fn new_sandbox_waits_for_docker_or_its_rules() {
    let mut facts = facts();
    facts.namespaces[0].aged.clear();
    assert_eq!(network(&facts).refusal, None, "Docker reports that it is not encrypted");
    facts.docker.networks.clear();
    assert_refused(&facts, "is new");
    facts.namespaces[0].aged.insert(VXLAN);
    assert_eq!(network(&facts).refusal, None);
}
