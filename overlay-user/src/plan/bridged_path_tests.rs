use super::*;
use crate::{
    kernel::{Base, ChainRule, Interface, Test},
    model::Finding,
};

const BRIDGE: &str = "ovlbr4097";

/// What the rules do with frames of the bridge, which has the port veth0.
fn judged(chains: &Chains, is_passed: bool) -> Option<Finding> {
    let rules = BridgedRules::new(chains.clone());
    let judge = || rules.judge(BRIDGE, is_passed, |pattern| pattern.matches(BRIDGE) || pattern.matches("veth0"));
    let first = judge();
    assert_eq!(judge(), first);
    first
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

/// The finding with these chains of iptables; the first is at the hook FORWARD.
fn found(drops: bool, chains: &[(&str, Vec<ChainRule>)]) -> Option<Finding> {
    let chain = |(index, (name, rules)): (usize, &(&str, Vec<ChainRule>))| {
        let base = (index == 0).then(|| base(NetfilterHook::Forward, drops));
        ((*name).to_owned(), Chain { base, rules: rules.clone(), ..Chain::default() })
    };
    let table = ChainTable {
        tool: Tool::Iptables { command: "iptables", version: 4 },
        name: "filter".to_owned(),
        chains: chains.iter().enumerate().map(chain).collect(),
    };
    judged(&Chains { ipv4: true, tables: vec![table], ..Chains::default() }, false)
}

/// The problem and the chain of the remedy.
fn problem(finding: &Option<Finding>) -> (&str, &str) {
    let finding = finding.as_ref().unwrap();
    let (_, chain) = finding.remedy.split_once("-I ").unwrap();
    (finding.problem.split_once(" table filter ").unwrap().1, chain.split(' ').next().unwrap())
}

const ALL: &str = "drops its packets";
const SOME: &str = "can drop its packets";
const OFF: &str = "set net.bridge.bridge-nf-call-iptables and -ip6tables to 0";

#[test]
fn accepted_packets_have_no_finding() {
    assert_eq!(found(false, &[("FORWARD", vec![])]), None);
    let accept = rule(vec![Test::Input(interface("ovlbr4097"))], Verdict::Accept);
    assert_eq!(found(true, &[("FORWARD", vec![accept])]), None);
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
fn drop_by_state_is_not_certain() {
    let invalid = rule(vec![state()], Verdict::Drop);
    assert_eq!(problem(&found(false, &[("FORWARD", vec![invalid])])), (SOME, "FORWARD"));
}

#[test]
fn changes_are_no_plain_acceptance() {
    let with = |tests, effect| ChainRule { effects: vec![effect], ..rule(tests, Verdict::Next) };
    for effect in [Effect::Changed("DNAT".to_owned()), Effect::Masquerade, Effect::UnknownMark] {
        let all = found(false, &[("FORWARD", vec![with(vec![], effect.clone())])]);
        assert_eq!(problem(&all), ("changes its packets", "FORWARD"));
        let some = [("FORWARD", vec![with(vec![Test::Other], effect.clone()), rule(vec![Test::Other], Verdict::Drop)])];
        assert_eq!(problem(&found(false, &some)), (SOME, "FORWARD"));
        let other = with(vec![Test::Input(interface("docker0"))], effect);
        assert_eq!(found(false, &[("FORWARD", vec![other])]), None);
    }
    assert_eq!(found(false, &[("FORWARD", vec![with(vec![], Effect::Untracked)])]), None);
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
    assert_eq!(found(false, &[("FORWARD", vec![goto, drop]), empty]), None);
}

#[test]
fn chains_that_call_each_other_end() {
    let jump = rule(vec![], Verdict::Jump("FORWARD".to_owned()));
    assert_eq!(problem(&found(true, &[("FORWARD", vec![jump])])), (ALL, "FORWARD"));
}

#[test]
fn packets_have_any_address() {
    for inverted in [false, true] {
        let from = Test::network(Field::Source, "10.0.1.0/24".parse().unwrap(), inverted);
        let finding = found(false, &[("FORWARD", vec![rule(vec![from], Verdict::Drop)])]);
        assert_eq!(problem(&finding), (SOME, "FORWARD"));
    }
}

#[test]
fn chains_are_ignored_without_bridge_netfilter() {
    let mut chains = Chains { ipv4: true, ..Chains::default() };
    let base = Some(base(NetfilterHook::Forward, true));
    chains.tables.push(ChainTable {
        tool: Tool::Nft { family: "inet", version: None },
        name: "firewall".to_owned(),
        chains: [("forward".to_owned(), Chain { base, ..Chain::default() })].into(),
    });
    let is_refused = |chains: &Chains, is_passed| judged(chains, is_passed).is_some();
    assert!(is_refused(&chains, false));
    chains.ipv4 = false;
    assert_eq!((is_refused(&chains, false), is_refused(&chains, true)), (false, true));
}

/// The finding with one chain of this table at a hook.
fn found_at(hook: NetfilterHook, tool: Tool, (table, chain): (&str, &str), tests: Vec<Test>) -> Option<Finding> {
    let rules = vec![rule(tests, Verdict::Drop)];
    let chain = (chain.to_owned(), Chain { base: Some(base(hook, false)), rules, ..Chain::default() });
    let table = ChainTable { tool, name: table.to_owned(), chains: [chain].into() };
    judged(&Chains { ipv4: true, ipv6: true, tables: vec![table], ..Chains::default() }, false)
}

const IPTABLES: Tool = Tool::Iptables { command: "iptables", version: 4 };
const NFT: Tool = Tool::Nft { family: "inet", version: None };

#[test]
fn remedy_accepts_packets_before_the_drop() {
    let remedy = |hook, tool, name| {
        let finding = found_at(hook, tool, name, vec![]).unwrap();
        (finding.problem, finding.remedy)
    };
    let text = |place: &str, command: &str| (format!("chain {place} {ALL}"), format!("run `{command}`, or {OFF}"));
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
        let is_found = |test: &Test| found_at(hook, NFT, ("firewall", "chain"), vec![test.clone()]).is_some();
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
            let chains = Chains { ipv4, ipv6, tables, ..Chains::default() };
            judged(&chains, is_passed)
                .map(|found| found.problem.ends_with(&format!(" {ALL}")) && !found.problem.contains(SOME))
        })
    };
    let yes = Some(true);
    assert_eq!(seen(true, false, false, &[]), [yes, yes, None, yes, None]);
    assert_eq!(seen(false, true, false, &[]), [yes, None, yes, None, yes]);
    assert_eq!(seen(false, false, true, &[]), [yes; 5]);
    assert_eq!(seen(true, true, false, &[Test::is(Field::Family, 2)]), [yes, yes, None, yes, None]);
    assert_eq!(seen(true, true, false, &[Test::is(Field::Family, 10)]), [yes, None, yes, None, yes]);
}

/// The kernel refuses deeper chains.
#[test]
fn sixteen_nested_chains_are_followed() {
    let names: Vec<_> = (0..=17).map(|depth| format!("c{depth}")).collect();
    for (depth, is_refused) in [(16, true), (17, false)] {
        let jump = |number: usize| (&*names[number], vec![rule(vec![], Verdict::Jump(names[number + 1].clone()))]);
        let mut chains: Vec<_> = (0..depth).map(jump).collect();
        chains.push((&names[depth], vec![rule(vec![], Verdict::Drop)]));
        assert_eq!(found(false, &chains).is_some(), is_refused, "{depth}");
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
fn remedy_has_a_command_for_each_chain() {
    let one = found(true, &[("FORWARD", vec![])]);
    let table = |command, version| ChainTable {
        tool: Tool::Iptables { command, version },
        name: "filter".to_owned(),
        chains: [("FORWARD".to_owned(), Chain { base: Some(base(NetfilterHook::Forward, true)), ..Chain::default() })]
            .into(),
    };
    let tables = vec![table("iptables", 4), table("ip6tables", 6)];
    let both = judged(&Chains { tables, ..Chains::default() }, true).unwrap();
    let command = "`iptables -I FORWARD -i ovlbr4097 -o ovlbr4097 -j ACCEPT`";
    assert_eq!(one.unwrap().remedy, format!("run {command}, or {OFF}"));
    assert_eq!(both.remedy, format!("run {command} and {}", command.replace("iptables", "ip6tables")));
}

#[test]
fn any_rule_of_the_bridge_family_and_at_hooks_of_its_devices_counts() {
    let accept = rule(vec![Test::Input(interface("docker0"))], Verdict::Accept);
    let with = |tool, hook, devices: &[&str], rules: &[ChainRule], drops| {
        let devices = devices.iter().map(|name| interface(name)).collect();
        let base = Some(Base { devices, ..base(hook, drops) });
        let chains = [("c".to_owned(), Chain { base, rules: rules.to_vec(), ..Chain::default() })].into();
        let tables = vec![ChainTable { tool, name: "t".to_owned(), chains }];
        judged(&Chains { tables, ..Chains::default() }, false).map(|finding| finding.problem)
    };
    let rules = std::slice::from_ref(&accept);
    let found = |label: &str| Some(format!("{label} t has rules that apply to frames of ovlbr4097"));
    for label in ["nft table bridge", "ebtables-legacy table"] {
        let tool = Tool::Bridge { label };
        for hook in [NetfilterHook::Forward, NetfilterHook::Prerouting, NetfilterHook::Other] {
            assert_eq!(with(tool, hook, &[], rules, false), found(label));
            assert_eq!(with(tool, hook, &[], &[], true), found(label));
            assert_eq!(with(tool, hook, &[], &[], false), None);
        }
    }
    let netdev = Tool::Nft { family: "netdev", version: None };
    for hook in [NetfilterHook::Ingress, NetfilterHook::Egress] {
        assert_eq!(with(netdev, hook, &["enp0s3", "veth0"], rules, false), found("nft table netdev"));
        assert_eq!(with(netdev, hook, &["enp0s3"], rules, false), None);
        assert_eq!(with(netdev, hook, &["veth0"], &[], false), None);
    }
}

/// Rules that frames of the bridge do not pass need not be readable.
#[test]
fn rules_that_cannot_be_read_refuse() {
    for (command, is_passed, is_refused) in
        [("nft", false, true), ("iptables-legacy", true, true), ("iptables-legacy", false, false)]
    {
        let unreadable = vec![(command, "Operation not permitted".to_owned())];
        let problem = judged(&Chains { unreadable, ..Chains::default() }, is_passed).map(|finding| finding.problem);
        let expected = format!("the rules of {command} cannot be read (Operation not permitted)");
        assert_eq!(problem, is_refused.then_some(expected));
    }
}
