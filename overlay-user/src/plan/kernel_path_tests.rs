use overlay_common::Vni;

use super::*;
use crate::kernel::{Base, ChainRule, Interface, Test};

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
    ChainRule { tests, verdict, ..ChainRule::default() }
}

/// An invalid state.
fn state() -> Test {
    Test::has_bit(Field::State, 1, false)
}

fn base(hook: NetfilterHook, drops: bool) -> Base {
    Base { hook, drops, priority: 0, is_nat: false, devices: Vec::new() }
}

fn interface(name: &str) -> Interface {
    Interface { name: name.to_owned(), is_prefix: false, is_inverted: false }
}

/// The findings with these chains of iptables; the first is at the hook FORWARD.
fn found(drops: bool, chains: &[(&str, Vec<ChainRule>)]) -> Vec<Finding> {
    let chain = |(index, (name, rules)): (usize, &(&str, Vec<ChainRule>))| {
        let base = (index == 0).then(|| base(NetfilterHook::Forward, drops));
        ((*name).to_owned(), Chain { base, rules: rules.clone(), ..Chain::default() })
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
    let invalid = rule(vec![state()], Verdict::Drop);
    let first = found(true, &[("FORWARD", vec![user.clone(), invalid.clone()]), returns.clone()]);
    assert_eq!(problem(&first), (ALL, DOCKER_USER));
    let second = found(true, &[("FORWARD", vec![invalid, user]), returns]);
    assert_eq!(problem(&second), (ALL, "FORWARD"));
}

#[test]
fn drop_by_state_names_connection_tracking() {
    let invalid = rule(vec![state()], Verdict::Drop);
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
    let from = |network: &str, inverted| {
        rule(vec![Test::network(Field::Source, network.parse().unwrap(), inverted)], Verdict::Drop)
    };
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
    let base = Some(base(NetfilterHook::Forward, true));
    chains.tables.push(ChainTable {
        tool: Tool::Nft { family: "inet", version: None },
        name: "firewall".to_owned(),
        chains: [("forward".to_owned(), Chain { base, ..Chain::default() })].into(),
    });
    let count = |chains: &BridgeChains, is_passed| findings(chains, [(&network(), is_passed)]).len();
    assert_eq!(count(&chains, false), 1);
    chains.ipv4 = false;
    assert_eq!((count(&chains, false), count(&chains, true)), (0, 1));
}

/// The findings with one chain of this table at a hook.
fn found_at(hook: NetfilterHook, tool: Tool, (table, chain): (&str, &str), tests: Vec<Test>) -> Vec<Finding> {
    let rules = vec![rule(tests, Verdict::Drop)];
    let chain = (chain.to_owned(), Chain { base: Some(base(hook, false)), rules, ..Chain::default() });
    let table = ChainTable { tool, name: table.to_owned(), chains: [chain].into() };
    let chains = BridgeChains { ipv4: true, ipv6: true, tables: vec![table], ..BridgeChains::default() };
    findings(&chains, [(&network(), false)])
}

const IPTABLES: Tool = Tool::Iptables { command: "iptables", version: 4 };
const NFT: Tool = Tool::Nft { family: "inet", version: None };

#[test]
fn remedy_accepts_packets_before_the_drop() {
    let remedy = |hook, tool, name| {
        let [finding] = found_at(hook, tool, name, vec![]).try_into().unwrap();
        assert_eq!(finding.object, "network \"blue\"");
        (finding.problem, finding.remedy)
    };
    let text = |place: &str, command: &str| (format!("chain {place} {ALL}"), format!("run `{command}`"));
    assert_eq!(
        remedy(NetfilterHook::Forward, IPTABLES, ("filter", "FORWARD")),
        text("FORWARD of iptables table filter", "iptables -I FORWARD -i ovlbr4097 -o ovlbr4097 -j ACCEPT")
    );
    assert_eq!(
        remedy(NetfilterHook::Prerouting, IPTABLES, ("raw", "PREROUTING")),
        text("PREROUTING of iptables table raw", "iptables -t raw -I PREROUTING -i ovlbr4097 -j ACCEPT")
    );
    assert_eq!(
        remedy(NetfilterHook::Postrouting, IPTABLES, ("mangle", "POSTROUTING")),
        text("POSTROUTING of iptables table mangle", "iptables -t mangle -I POSTROUTING -o ovlbr4097 -j ACCEPT")
    );
    assert_eq!(
        remedy(NetfilterHook::Forward, NFT, ("firewall", "forward")),
        text(
            "forward of nft table inet firewall",
            "nft insert rule inet firewall forward iifname ovlbr4097 oifname ovlbr4097 accept"
        )
    );
}

/// Packets to and from the host itself do not fall back to the kernel path.
#[test]
fn chains_see_packets_only_at_the_hooks_of_forwarding() {
    let (input, output) = (Test::Input(interface("ovlbr4097")), Test::Output(interface("ovlbr4097")));
    for (hook, by_input, by_output) in [
        (NetfilterHook::Prerouting, true, false),
        (NetfilterHook::Forward, true, true),
        (NetfilterHook::Postrouting, false, true),
        (NetfilterHook::Input, false, false),
        (NetfilterHook::Output, false, false),
    ] {
        let is_found = |test: &Test| !found_at(hook, NFT, ("firewall", "chain"), vec![test.clone()]).is_empty();
        assert_eq!((is_found(&input), is_found(&output)), (by_input, by_output), "{hook:?}");
    }
}

#[test]
fn table_sees_only_its_ip_versions() {
    let nft = |version| Tool::Nft { family: "inet", version };
    let iptables = |version| Tool::Iptables { command: "iptables", version };
    let all = [nft(None), nft(Some(4)), nft(Some(6)), iptables(4), iptables(6)];
    let seen = |ipv4, ipv6, is_passed, tests: &[Test]| {
        all.map(|tool| {
            let base = Some(base(NetfilterHook::Forward, false));
            let chain = Chain { base, rules: vec![rule(tests.to_vec(), Verdict::Drop)], ..Chain::default() };
            let chains = [("forward".to_owned(), chain)].into();
            let tables = vec![ChainTable { tool, name: "filter".to_owned(), chains }];
            let chains = BridgeChains { ipv4, ipv6, tables, ..BridgeChains::default() };
            findings(&chains, [(&network(), is_passed)]).first().map(|found| found.problem.ends_with(ALL))
        })
    };
    let yes = Some(true);
    assert_eq!(seen(true, false, false, &[]), [yes, yes, None, yes, None]);
    assert_eq!(seen(false, true, false, &[]), [yes, None, yes, None, yes]);
    assert_eq!(seen(false, false, true, &[]), [yes; 5]);
    assert_eq!(seen(true, true, false, &[Test::is(Field::Family, 2)]), [yes, yes, None, yes, None]);
    assert_eq!(seen(true, true, false, &[Test::is(Field::Family, 10)]), [yes, None, yes, None, yes]);
    // IPv6 packets of a network have any addresses.
    let some = Some(false);
    let ours = [Test::network(Field::Destination, "10.0.0.0/8".parse().unwrap(), false)];
    assert_eq!(seen(true, true, false, &ours), [yes, yes, some, yes, some]);
    let others = [Test::network(Field::Destination, "10.2.0.0/16".parse().unwrap(), false)];
    assert_eq!(seen(true, true, false, &others), [some, None, some, None, some]);
}

/// The kernel refuses deeper chains.
#[test]
fn sixteen_nested_chains_are_followed() {
    let names: Vec<_> = (0..=17).map(|depth| format!("c{depth}")).collect();
    for (depth, count) in [(16, 1), (17, 0)] {
        let jump = |number: usize| (&*names[number], vec![rule(vec![], Verdict::Jump(names[number + 1].clone()))]);
        let mut chains: Vec<_> = (0..depth).map(jump).collect();
        chains.push((&names[depth], vec![rule(vec![], Verdict::Drop)]));
        assert_eq!(found(false, &chains).len(), count, "{depth}");
    }
}

/// Packets that do not pass it reach the drop, too.
#[test]
fn remedy_is_not_in_docker_user_if_only_some_packets_pass_it() {
    let some = rule(vec![Test::Other], Verdict::Jump(DOCKER_USER.to_owned()));
    let other = rule(vec![], Verdict::Jump("DOCKER-FORWARD".to_owned()));
    let chains = [("FORWARD", vec![some, other]), (DOCKER_USER, vec![]), ("DOCKER-FORWARD", vec![])];
    assert_eq!(problem(&found(true, &chains)), (ALL, "FORWARD"));
}

#[test]
fn rules_that_cannot_be_read_are_a_finding() {
    let unreadable = vec![("nft", "Operation not permitted".to_owned())];
    let chains = BridgeChains { unreadable, ..BridgeChains::default() };
    let [finding] = findings(&chains, []).try_into().unwrap();
    assert!(finding.problem.contains("the rules of nft cannot be read (Operation not permitted)"), "{finding}");
}
