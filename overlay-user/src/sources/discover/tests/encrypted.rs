//! Encrypted networks, and networks of unknown encryption, are never accelerated.

use super::*;
use crate::{kernel::PolicyMark, model::discovery::Selector};

const DOCKER_POLICY: PolicyMark = PolicyMark { value: 0x00d0_c4e3, mask: u32::MAX };

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

#[test]
fn kernel_state_overrides_docker() {
    for mut facts in [facts(), without_docker()] {
        facts.host.xfrm = Ok(vec![DOCKER_POLICY]);
        assert_eq!(network(&facts).refusal, None, "another network is encrypted");
        facts.host.netfilter = Ok(table(Family::Ip, NetfilterHook::Output, vec![Some(VNI + 1)]));
        assert_eq!(network(&facts).refusal, None, "another network is encrypted");
        facts.host.netfilter = Ok(table(Family::Ip, NetfilterHook::Output, vec![Some(VNI)]));
        assert_refused(&facts, "has a rule for VNI 4097");
        facts.host.netfilter = Ok(table(Family::Ip, NetfilterHook::Output, vec![None]));
        assert_refused(&facts, "marks packets");
        facts.host.netfilter = Ok(Netfilter::default());
        for mark in [PolicyMark { value: 0, mask: 0 }, PolicyMark { mask: 0xff, ..DOCKER_POLICY }] {
            facts.host.xfrm = Ok(vec![DOCKER_POLICY, mark]);
            assert_refused(&facts, "XFRM");
        }
    }
}

#[test]
fn marks_of_unsent_packets_are_ignored() {
    let mut facts = facts();
    let mut nat = table(Family::Ip, NetfilterHook::Output, vec![None]);
    nat.tables[0].hooks[0].nat = true;
    for netfilter in [
        nat,
        table(Family::Ip, NetfilterHook::Forward, vec![None]),
        table(Family::Ip, NetfilterHook::Input, vec![None]),
    ] {
        facts.host.netfilter = Ok(netfilter);
        assert_eq!(network(&facts).refusal, None);
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
fn new_sandbox_waits_for_docker_or_its_rules() {
    let mut facts = facts();
    facts.namespaces[0].aged.clear();
    assert_eq!(network(&facts).refusal, None, "Docker reports that it is not encrypted");
    facts.docker.networks.clear();
    assert_refused(&facts, "is new");
    facts.namespaces[0].aged.insert(VXLAN);
    assert_eq!(network(&facts).refusal, None);
}
