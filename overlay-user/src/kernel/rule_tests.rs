use super::*;

const VTEP: VtepAddr = VtepAddr::new(Ipv4Addr::new(192, 168, 1, 10));
const QUERY: RouteQuery = RouteQuery {
    source: Some(VtepAddr::new(Ipv4Addr::new(192, 168, 1, 9))),
    port: 4789,
    source_ports: (32_768, 60_999),
};

/// A rule: lengths of source and destination, action, flags, and attributes.
fn rule((source, destination): (u8, u8), (action, flags): (u8, u32), attributes: &[(u16, &[u8])]) -> Rule {
    let mut body = [&[2, destination, source, 0, 0, 0, 0, action][..], &flags.to_ne_bytes()].concat();
    for (kind, value) in attributes {
        body.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    Rule::new(&body)
}

fn ports(first: u16, last: u16) -> [u8; 4] {
    let [a, b] = first.to_ne_bytes();
    let [c, d] = last.to_ne_bytes();
    [a, b, c, d]
}

fn matched(attributes: &[(u16, &[u8])]) -> Match {
    rule((32, 32), (1, 0), attributes).matches(QUERY, VTEP)
}

#[test]
fn source_ports_of_the_device_decide() {
    for (first, last, expected) in [
        (1, 32_767, Match::No),
        (61_000, 65_534, Match::No),
        (32_768, 60_999, Match::Yes),
        (1, 65_534, Match::Yes),
        (32_768, 60_998, Match::Maybe),
        (1, 32_768, Match::Maybe),
        (40_000, 40_000, Match::Maybe),
    ] {
        assert_eq!(matched(&[(fra::SPORT_RANGE, &ports(first, last))]), expected, "{first}-{last}");
    }
    let single = ports(40_000, 40_000);
    assert_eq!(matched(&[(fra::SPORT_RANGE, &single), (fra::SPORT_MASK, &[0xff, 0xff])]), Match::Maybe);
    assert_eq!(matched(&[(fra::SPORT_RANGE, &ports(1, 1)), (fra::SPORT_MASK, &[0xff, 0xff])]), Match::No);
    assert_eq!(matched(&[(fra::SPORT_RANGE, &ports(1, 1)), (fra::SPORT_MASK, &[0xff, 0])]), Match::Maybe);
}

#[test]
fn other_selectors_exclude_a_rule() {
    let maybe: (u16, &[u8]) = (fra::SPORT_RANGE, &ports(40_000, 40_000));
    let one = 1_u32.to_ne_bytes();
    for (selector, expected) in [
        ((fra::SRC, &[192, 168, 1, 9][..]), Match::Maybe),
        ((fra::SRC, &[192, 168, 1, 8]), Match::No),
        ((fra::DST, &[192, 168, 1, 10]), Match::Maybe),
        ((fra::DST, &[192, 168, 1, 11]), Match::No),
        ((fra::IP_PROTO, &[17]), Match::Maybe),
        ((fra::IP_PROTO, &[6]), Match::No),
        ((fra::DPORT_RANGE, &ports(4789, 4790)), Match::Maybe),
        ((fra::DPORT_RANGE, &ports(4790, 4790)), Match::No),
        ((fra::FWMARK, &one), Match::No),
    ] {
        assert_eq!(matched(&[maybe, selector]), expected, "{selector:?}");
    }
    assert_eq!(matched(&[maybe, (fra::FWMARK, &one), (fra::FWMASK, &2_u32.to_ne_bytes())]), Match::Maybe);
    let masked = (fra::DPORT_MASK, &[0, 0xff][..]);
    assert_eq!(matched(&[maybe, (fra::DPORT_RANGE, &ports(4790, 4790)), masked]), Match::Maybe);
    // A device without `local` has no source address.
    let any = RouteQuery { source: None, ..QUERY };
    assert_eq!(rule((32, 0), (1, 0), &[(fra::SRC, &[192, 168, 1, 9])]).matches(any, VTEP), Match::No);
}

#[test]
fn inverted_rule_matches_what_its_selectors_exclude() {
    let inverted = |attributes: &[(u16, &[u8])]| rule((32, 32), (1, 2), attributes).matches(QUERY, VTEP);
    assert_eq!(inverted(&[(fra::SRC, &[192, 168, 1, 8])]), Match::Yes);
    assert_eq!(inverted(&[(fra::SRC, &[192, 168, 1, 9])]), Match::No);
    assert_eq!(inverted(&[(fra::SPORT_RANGE, &ports(40_000, 40_000))]), Match::Maybe);
}

#[test]
fn unknown_selector_is_an_obstacle_until_a_rule_has_answered() {
    const TABLE: u32 = 254;
    let table = TABLE.to_ne_bytes();
    let main = || rule((0, 0), (1, 0), &[(fra::TABLE, &table), (fra::PRIORITY, &32_766_u32.to_ne_bytes())]);
    for unknown in [
        rule((0, 0), (1, 0), &[(fra::LAST + 1, &[1])]),
        rule((0, 0), (9, 0), &[]),
        rule((0, 0), (1, 0x20), &[]),
        Rule::new(&[2, 0]),
    ] {
        let found = obstacle(&[unknown.clone(), main()], QUERY, VTEP, TABLE).expect("an obstacle");
        assert!(found.problem.contains("rule 0") && found.problem.contains("unknown"), "{found:?}");
        assert!(found.remedy.contains("pref 0"), "{found:?}");
        assert_eq!(obstacle(&[main(), unknown.clone()], QUERY, VTEP, TABLE).is_some(), unknown.table.is_none());
        assert!(obstacle(std::slice::from_ref(&unknown), QUERY, VTEP, TABLE).is_some(), "no rule with the table");
    }
    // A rule with another table does not end the lookup that found its result in this one.
    let maybe = rule((0, 0), (1, 0), &[(fra::TABLE, &[7, 0, 0, 0]), (fra::SPORT_RANGE, &ports(40_000, 40_000))]);
    assert!(obstacle(&[maybe.clone(), main()], QUERY, VTEP, TABLE).is_some());
    assert_eq!(obstacle(&[main(), maybe], QUERY, VTEP, TABLE), None);
    assert_eq!(obstacle(&[main()], QUERY, VTEP, TABLE), None);
}
