//! Encrypted networks are never accelerated, and what cannot be known counts as encrypted.

use super::*;
use crate::{kernel::PolicyMark, model::discovery::Selector};

const DOCKERS: PolicyMark = PolicyMark { value: 0x00d0_c4e3, mask: u32::MAX };

/// Facts without Docker's word.
fn without_docker() -> Facts {
    Facts { docker: DockerState { asked: true, error: Some("it is dead".into()), ..DockerState::default() }, ..facts() }
}

#[test]
fn docker_says_so_by_the_sandbox_or_by_the_vni() {
    let mut facts = facts();
    facts.docker.networks[0].encrypted = true;
    assert_refused(&facts, "Docker encrypts it");
    facts.docker.networks[0].id = "another".into();
    assert_refused(&facts, "Docker encrypts it");
    facts.docker.networks[0].id = ID.into();
    facts.docker.networks[0].vnis.clear();
    assert_refused(&facts, "Docker encrypts it");
}

#[test]
fn the_kernel_says_so_whatever_docker_says() {
    for mut facts in [facts(), without_docker()] {
        facts.host.xfrm = Ok(vec![DOCKERS]);
        assert_eq!(network(&facts).refusal, None, "the neighbour of an encrypted network");
        facts.host.netfilter = Ok(table(Family::Ip, NetfilterHook::Output, vec![Some(VNI + 1)]));
        assert_eq!(network(&facts).refusal, None, "the neighbour of an encrypted network");
        facts.host.netfilter = Ok(table(Family::Ip, NetfilterHook::Output, vec![Some(VNI)]));
        assert_refused(&facts, "has a rule for VNI 4097");
        facts.host.netfilter = Ok(table(Family::Ip, NetfilterHook::Output, vec![None]));
        assert_refused(&facts, "marks packets");
        facts.host.netfilter = Ok(Netfilter::default());
        for mark in [PolicyMark { value: 0, mask: 0 }, PolicyMark { mask: 0xff, ..DOCKERS }] {
            facts.host.xfrm = Ok(vec![DOCKERS, mark]);
            assert_refused(&facts, "XFRM");
        }
    }
}

#[test]
fn marks_that_sent_packets_do_not_get_do_not_matter() {
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
fn when_nobody_can_be_asked_the_network_is_refused_unless_its_vni_is_allowed() {
    let mut facts = without_docker();
    facts.host.xfrm = Err("EPERM".into());
    assert_refused(&facts, "cannot be known");
    let settings = Settings { allow: [Selector::Vni(vni())].into(), ..Settings::default() };
    assert_eq!(refusal(&facts, &settings), None);
    let mut facts = without_docker();
    facts.host.netfilter = Err("EPERM".into());
    assert_refused(&facts, "cannot be known");
}

#[test]
fn a_new_sandbox_waits_for_docker_or_for_its_rules() {
    let mut facts = facts();
    facts.namespaces[0].settled.clear();
    assert_eq!(network(&facts).refusal, None, "Docker has said that it is not encrypted");
    facts.docker.networks.clear();
    assert_refused(&facts, "it is new");
    facts.namespaces[0].settled.insert(VXLAN);
    assert_eq!(network(&facts).refusal, None);
}
