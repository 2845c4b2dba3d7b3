use std::collections::BTreeMap;

use super::*;
use crate::kernel::{ChainRule, Interface, Test};

fn packet(is_received: bool) -> OuterPacket {
    OuterPacket {
        is_received,
        local: [192, 168, 1, 9].into(),
        vtep: [192, 168, 1, 10].into(),
        port: 4789,
        vni: None,
        device: ("enp0s3".into(), 2),
    }
}

fn rule(tests: Vec<Test>, effects: Vec<Effect>, verdict: Verdict) -> ChainRule {
    ChainRule { tests, effects, verdict, number: 0 }
}

fn verdict(tests: Vec<Test>, verdict: Verdict) -> ChainRule {
    rule(tests, vec![], verdict)
}

fn marks(tests: Vec<Test>, mark: u32) -> ChainRule {
    rule(tests, vec![Effect::Mark { keep: 0, xor: mark }], Verdict::Next)
}

fn state(mask: u32) -> Test {
    Test::has_bit(Field::State, mask, false)
}

/// A base chain: name, hook and priority, rules.
type BaseChain<'a> = (&'a str, (NetfilterHook, i32), &'a [ChainRule]);

/// A table with chains, whose policies are to accept.
fn chains(list: &[BaseChain<'_>]) -> Chains {
    let chain = |(name, (hook, priority), rules): &BaseChain<'_>| {
        let base = Some(Base { hook: *hook, drops: false, priority: *priority, is_nat: false, devices: vec![] });
        let rules = (1..).zip(*rules).map(|(number, rule)| ChainRule { number, ..rule.clone() }).collect();
        ((*name).to_owned(), Chain { base, rules, number: 0 })
    };
    let tool = Tool::Nft { family: "inet", version: None };
    let table = ChainTable { tool, name: "fw".into(), chains: list.iter().map(chain).collect() };
    Chains { tables: vec![table], ..Chains::default() }
}

const INPUT: (NetfilterHook, i32) = (NetfilterHook::Input, 0);

/// The problem with these rules in a chain at the hook `input`.
fn problem(rules: &[ChainRule]) -> Option<String> {
    judge(&chains(&[("c", INPUT, rules)]), &packet(true)).err().map(|refusing| refusing.problem)
}

const DROP: Verdict = Verdict::Drop;
const ACCEPT: Verdict = Verdict::Accept;

#[test]
fn first_rule_that_may_not_accept_is_named() {
    let other = || vec![Test::Other];
    let udp = || vec![Test::is(Field::Protocol, 17)];
    for (rules, expected) in [
        (vec![], None),
        (vec![verdict(other(), ACCEPT)], None),
        (vec![verdict(udp(), ACCEPT), verdict(vec![], DROP)], None),
        (vec![verdict(vec![Test::is(Field::Protocol, 6), Test::Other], DROP)], None),
        (vec![verdict(vec![], DROP)], Some("rule 1 in chain c of nft table inet fw drops packets from it")),
        (vec![verdict(other(), DROP)], Some("rule 1 in chain c of nft table inet fw can drop packets from it")),
        (
            vec![verdict(other(), ACCEPT), verdict(vec![], DROP)],
            Some("rule 2 in chain c of nft table inet fw can drop packets from it"),
        ),
        (
            vec![rule(vec![], vec![Effect::Changed("payload".into())], Verdict::Next)],
            Some("rule 1 in chain c of nft table inet fw (payload) changes packets from it"),
        ),
        (vec![verdict(udp(), Verdict::Return), verdict(vec![], DROP)], None),
        (vec![verdict(vec![], Verdict::Jump("missing".into())), verdict(udp(), ACCEPT)], None),
    ] {
        assert_eq!(problem(&rules).as_deref(), expected, "{rules:?}");
    }
}

#[test]
fn new_and_established_packets_must_be_accepted() {
    let drop = || verdict(vec![], DROP);
    assert_eq!(problem(&[verdict(vec![state(NEW | ESTABLISHED)], ACCEPT), drop()]), None);
    assert_eq!(problem(&[verdict(vec![state(NEW)], ACCEPT), verdict(vec![state(ESTABLISHED)], ACCEPT), drop()]), None);
    assert_eq!(problem(&[verdict(vec![state(INVALID)], DROP)]), None);
    for alone in [NEW, ESTABLISHED] {
        assert!(problem(&[verdict(vec![state(alone)], ACCEPT), drop()]).is_some());
    }
}

#[test]
fn state_of_packets_depends_on_tracking() {
    let raw = |rules: &[ChainRule], input: &[ChainRule]| {
        let raw = (NetfilterHook::Prerouting, -300);
        judge(&chains(&[("r", raw, rules), ("c", INPUT, input)]), &packet(true)).is_ok()
    };
    let untracked = |tests| rule(tests, vec![Effect::Untracked], Verdict::Next);
    let only = |mask| [verdict(vec![state(mask)], ACCEPT), verdict(vec![], DROP)];
    // No connection is known before it.
    assert!(!raw(&[verdict(vec![state(INVALID)], DROP)], &[]));
    assert!(raw(&only(INVALID), &[]));
    // Nor after it if the chain runs beside it.
    for (priority, expected) in [(TRACKING - 1, true), (TRACKING, false), (TRACKING + 1, false)] {
        let rules = only(INVALID);
        let chains = self::chains(&[("r", (NetfilterHook::Prerouting, priority), &rules)]);
        assert_eq!(judge(&chains, &packet(true)).is_ok(), expected, "{priority}");
        let rules = only(NEW | ESTABLISHED);
        let chains = self::chains(&[("r", (NetfilterHook::Prerouting, priority), &rules)]);
        assert_eq!(judge(&chains, &packet(true)).is_ok(), priority > TRACKING, "{priority}");
    }
    assert!(raw(&[untracked(vec![])], &only(UNTRACKED)));
    assert!(!raw(&[untracked(vec![])], &only(NEW | ESTABLISHED)));
    assert!(!raw(&[untracked(vec![Test::Other])], &only(UNTRACKED)));
    assert!(!raw(&[untracked(vec![Test::Other])], &only(NEW | ESTABLISHED)));
}

#[test]
fn chains_are_walked_in_the_order_of_hooks_and_priorities() {
    let by_mark = [verdict(vec![Test::is(Field::Mark, 7)], DROP)];
    let set = [marks(vec![], 7)];
    let walk = |priority, hook| {
        judge(&chains(&[("z", (hook, priority), &set), ("a", INPUT, &by_mark)]), &packet(true)).is_ok()
    };
    assert!(!walk(-1, NetfilterHook::Input));
    assert!(walk(1, NetfilterHook::Input));
    assert!(!walk(1, NetfilterHook::Prerouting));
    assert!(walk(-1, NetfilterHook::Output), "not on the path");
}

#[test]
fn mark_at_the_routing_decision_is_known() {
    let mark = |rules: &[ChainRule], hook| {
        let chains = chains(&[("c", (hook, 0), rules)]);
        judge(&chains, &packet(false)).unwrap().mark
    };
    let xor = rule(vec![], vec![Effect::Mark { keep: !4, xor: 6 }], Verdict::Next);
    let output = NetfilterHook::Output;
    assert_eq!(mark(&[], output), Some(0));
    assert_eq!(mark(&[marks(vec![], 5), xor.clone()], output), Some(7));
    assert_eq!(mark(&[marks(vec![], 7), xor.clone()], output), Some(5));
    assert_eq!(mark(&[marks(vec![Test::Other], 5)], output), None);
    assert_eq!(mark(&[marks(vec![Test::Other], 0)], output), Some(0));
    assert_eq!(mark(&[marks(vec![state(NEW)], 5)], output), None);
    assert_eq!(mark(&[xor], NetfilterHook::Postrouting), Some(0), "after the routing decision");
    // Some packets pass a chain without the mark.
    let partial = [verdict(vec![Test::Other], ACCEPT), marks(vec![], 5)];
    assert_eq!(mark(&partial, output), None);
}

#[test]
fn chains_of_devices_see_only_their_devices() {
    for (name, is_prefix, expected) in [("enp0s3", false, false), ("enp", true, false), ("enp0s8", false, true)] {
        let devices = vec![Interface { name: name.into(), is_prefix, is_inverted: false }];
        let base = Base { hook: NetfilterHook::Ingress, drops: true, priority: 0, is_nat: false, devices };
        let chain = Chain { base: Some(base), ..Chain::default() };
        let tool = Tool::Nft { family: "netdev", version: None };
        let chains = BTreeMap::from([("c".to_owned(), chain)]);
        let chains = Chains { tables: vec![ChainTable { tool, name: "fw".into(), chains }], ..Chains::default() };
        assert_eq!(judge(&chains, &packet(true)).is_ok(), expected, "{name}");
        assert!(judge(&chains, &packet(false)).is_ok());
    }
}

#[test]
fn rules_for_another_vni_do_not_concern_a_network() {
    let rules = [verdict(vec![Test::is(Field::Vni, 7)], DROP)];
    let chains = chains(&[("c", INPUT, &rules)]);
    assert!(asks_for_vni(&chains) && !asks_for_vni(&Chains::default()));
    for (vni, expected) in [(None, false), (Some(7), false), (Some(8), true)] {
        let vni = vni.map(|vni| Vni::new(vni).unwrap());
        assert_eq!(judge(&chains, &OuterPacket { vni, ..packet(true) }).is_ok(), expected);
    }
}

#[test]
fn chains_that_rules_name_are_walked() {
    let judged = |rules: &[ChainRule], named: &[ChainRule]| {
        let mut chains = chains(&[("c", INPUT, rules)]);
        let rules = (1..).zip(named).map(|(number, rule)| ChainRule { number, ..rule.clone() }).collect();
        chains.tables[0].chains.insert("named".into(), Chain { base: None, rules, number: 0 });
        judge(&chains, &packet(true)).err().map(|refusing| refusing.problem)
    };
    let (jump, goto) =
        (|| verdict(vec![], Verdict::Jump("named".into())), || verdict(vec![], Verdict::Goto("named".into())));
    let (accept, drop) = (|| verdict(vec![], ACCEPT), || verdict(vec![], DROP));
    let back = || verdict(vec![], Verdict::Return);
    for first in [jump(), goto()] {
        let problem = judged(&[first.clone(), accept()], &[drop()]).unwrap();
        assert!(problem.starts_with("rule 1 in chain named of"), "{problem}");
        assert_eq!(judged(&[first, drop()], &[accept()]), None);
    }
    // The rule after a jump follows, the one after a goto does not.
    for named in [vec![], vec![back(), accept()]] {
        let problem = judged(&[jump(), drop()], &named).unwrap();
        assert!(problem.starts_with("rule 2 in chain c of"), "{problem}");
        assert_eq!(judged(&[goto(), drop()], &named), None);
    }
    // The kernel refuses loops.
    assert_eq!(judged(&[jump()], &[jump()]), None);
}
