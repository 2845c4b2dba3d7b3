use overlay_common::Vni;

use super::*;
use crate::kernel::{Base, Interface};

fn network() -> NetworkSpec {
    NetworkSpec {
        name: "blue".to_owned(),
        vni: Vni::new(4097).unwrap(),
        subnet: "10.0.1.0/24".parse().unwrap(),
        gateway: [10, 0, 1, 1].into(),
        mtu: None,
        port: 4789,
        strict: false,
        overlap: false,
    }
}

fn rule(tests: Vec<Test>, verdict: Verdict) -> ChainRule {
    ChainRule { tests, verdict }
}

fn interface(name: &str) -> Interface {
    Interface { name: name.to_owned(), is_prefix: false, is_inverted: false }
}

/// The findings with these chains of iptables; the first is at the hook FORWARD.
fn found(drops: bool, chains: &[(&str, Vec<ChainRule>)]) -> Vec<Finding> {
    let chain = |(index, (name, rules)): (usize, &(&str, Vec<ChainRule>))| {
        let base = (index == 0).then_some(Base { hook: NetfilterHook::Forward, drops });
        ((*name).to_owned(), Chain { base, rules: rules.clone() })
    };
    let table = ChainTable {
        tool: Tool::Iptables { command: "iptables", version: 4 },
        name: "filter".to_owned(),
        chains: chains.iter().enumerate().map(chain).collect(),
    };
    let chains = BridgeChains { ipv4: true, tables: vec![table], ..BridgeChains::default() };
    findings(&chains, [(&network(), false)])
}

/// The problem and the chain of the remedy.
fn problem(findings: &[Finding]) -> (&str, &str) {
    let [finding] = findings else { panic!("{findings:?}") };
    let (_, chain) = finding.remedy.split_once("-I ").unwrap();
    (finding.problem.split_once(" table filter ").unwrap().1, chain.split(' ').next().unwrap())
}

const ALL: &str = "drops its packets when they fall back to the kernel path";
const SOME: &str = "can drop its packets when they fall back to the kernel path";

#[test]
fn accepted_packets_have_no_finding() {
    assert_eq!(found(false, &[("FORWARD", vec![])]), []);
    let accept = rule(vec![Test::Input(interface("ovlbr4097"))], Verdict::Accept);
    assert_eq!(found(true, &[("FORWARD", vec![accept])]), []);
}

#[test]
fn policy_drop_is_found_behind_rules_that_accept_only_some() {
    let some = rule(vec![Test::Other], Verdict::Accept);
    let others = rule(vec![Test::Output(interface("docker0"))], Verdict::Accept);
    assert_eq!(problem(&found(true, &[("FORWARD", vec![some, others])])), (ALL, "FORWARD"));
}

#[test]
fn remedy_is_in_docker_user_only_if_it_precedes_the_drop() {
    let user = rule(vec![], Verdict::Jump(DOCKER_USER.to_owned()));
    let returns = (DOCKER_USER, vec![rule(vec![], Verdict::Return)]);
    let invalid = rule(vec![Test::State], Verdict::Drop);
    let first = found(true, &[("FORWARD", vec![user.clone(), invalid.clone()]), returns.clone()]);
    assert_eq!(problem(&first), (ALL, DOCKER_USER));
    let second = found(true, &[("FORWARD", vec![invalid, user]), returns]);
    assert_eq!(problem(&second), (ALL, "FORWARD"));
}

#[test]
fn drop_by_state_names_connection_tracking() {
    let invalid = rule(vec![Test::State], Verdict::Drop);
    let problem = &found(false, &[("FORWARD", vec![invalid])])[0].problem;
    assert!(problem.contains("connection tracking does not see the packets of the fast path"), "{problem}");
}

#[test]
fn drop_in_chain_for_some_packets_is_not_certain() {
    let jump = rule(vec![Test::Other], Verdict::Jump("strange".to_owned()));
    let strange = ("strange", vec![rule(vec![], Verdict::Drop)]);
    assert_eq!(problem(&found(false, &[("FORWARD", vec![jump]), strange])), (SOME, "FORWARD"));
}

#[test]
fn jump_returns_and_goto_does_not() {
    let drop = rule(vec![], Verdict::Drop);
    let empty = ("empty", vec![]);
    let jump = rule(vec![], Verdict::Jump("empty".to_owned()));
    assert_eq!(problem(&found(false, &[("FORWARD", vec![jump, drop.clone()]), empty.clone()])), (ALL, "FORWARD"));
    let goto = rule(vec![], Verdict::Goto("empty".to_owned()));
    assert_eq!(found(false, &[("FORWARD", vec![goto, drop]), empty]), []);
}

#[test]
fn chains_that_call_each_other_end() {
    let jump = rule(vec![], Verdict::Jump("FORWARD".to_owned()));
    assert_eq!(problem(&found(true, &[("FORWARD", vec![jump])])), (ALL, "FORWARD"));
}

#[test]
fn addresses_are_compared_with_the_subnet() {
    let from = |network: &str, inverted| rule(vec![Test::Source(network.parse().unwrap(), inverted)], Verdict::Drop);
    for (network, inverted, expected) in [
        ("10.0.0.0/8", false, Some(ALL)),
        ("10.0.1.0/25", false, Some(SOME)),
        ("10.0.2.0/24", false, None),
        ("10.0.2.0/24", true, Some(ALL)),
        ("10.0.0.0/8", true, None),
    ] {
        let findings = found(false, &[("FORWARD", vec![from(network, inverted)])]);
        assert_eq!(findings.first().map(|_| problem(&findings).0), expected, "{network} {inverted}");
    }
}

#[test]
fn chains_are_ignored_without_bridge_netfilter() {
    let mut chains = BridgeChains { ipv4: true, ..BridgeChains::default() };
    let base = Some(Base { hook: NetfilterHook::Forward, drops: true });
    chains.tables.push(ChainTable {
        tool: Tool::Nft { family: "inet", version: None },
        name: "firewall".to_owned(),
        chains: [("forward".to_owned(), Chain { base, rules: vec![] })].into(),
    });
    let count = |chains: &BridgeChains, is_passed| findings(chains, [(&network(), is_passed)]).len();
    assert_eq!(count(&chains, false), 1);
    chains.ipv4 = false;
    assert_eq!((count(&chains, false), count(&chains, true)), (0, 1));
}
