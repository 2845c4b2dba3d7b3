use netlink_packet_route::route::RouteFlags;

use super::*;
use crate::kernel::{Link, LinkKind, vrf};

/// An attribute.
fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An answer: type and flags of the route, and attributes.
fn answer(kind: u8, flags: u32, attributes: &[Vec<u8>]) -> Answer {
    let header = [&[2, 32, 0, 0, 254, 0, 0, kind][..], &flags.to_ne_bytes()].concat();
    Answer::new(&[header, attributes.concat()].concat())
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute_of(kind, &value.to_ne_bytes())
}

fn problem(answer: Answer) -> Option<String> {
    answer.obstacle.map(|obstacle| obstacle.problem)
}

#[test]
fn answer_has_device_gateway_source_and_metrics() {
    let metrics = attribute_of(rta::METRICS, &[number(2, 1400), number(10, 33), number(9, 3)].concat());
    let found = answer(
        1,
        RouteFlags::Cloned.bits(),
        &[
            number(rta::OIF, 7),
            attribute_of(rta::GATEWAY, &[192, 168, 1, 1]),
            attribute_of(rta::PREFSRC, &[192, 168, 1, 9]),
            metrics,
            number(rta::TABLE, 1000),
        ],
    );
    assert_eq!(found.table, 1000);
    let route = found.usable(&answer(1, 0, &[])).unwrap();
    let source = Some([192, 168, 1, 9].into());
    let gateway = Some([192, 168, 1, 1].into());
    assert_eq!(route, Route { ifindex: 7, gateway, mtu: Some(1400), hop_limit: Some(33), source });
}

#[test]
fn unknown_properties_are_obstacles() {
    let oif = || number(rta::OIF, 7);
    for (answer, part) in [
        (Answer::new(&[0; 11]), "too short"),
        (answer(2, 0, &[oif()]), "address of this host"),
        (answer(5, 0, &[oif()]), "not a unicast"),
        (answer(6, 0, &[oif()]), "rejects"),
        (answer(1, 1, &[oif()]), "is down"),
        (answer(1, 16, &[oif()]), "is down"),
        (answer(1, 128, &[oif()]), "unknown flags"),
        (answer(1, 0, &[oif(), attribute_of(rta::VIA, &[10, 0, 1])]), "IPv6"),
        (answer(1, 0, &[oif(), attribute_of(rta::ENCAP, &[])]), "encapsulation"),
        (answer(1, 0, &[oif(), number(rta::FLOW, 5)]), "realm"),
        (answer(1, 0, &[oif(), number(99, 0)]), "unknown attribute 99"),
        (answer(1, 0, &[oif(), attribute_of(rta::METRICS, &number(18, 1))]), "unknown metric 18"),
        (answer(1, 0, &[oif(), attribute_of(rta::CACHEINFO, &[1; 32])]), "rejects"),
    ] {
        let found = problem(answer).unwrap_or_else(|| panic!("no obstacle for {part}"));
        assert!(found.contains(part), "{found}");
    }
    assert_eq!(problem(answer(1, 4 | 8 | 64, &[oif(), attribute_of(rta::CACHEINFO, &[0; 32])])), None);
    let obstacle = answer(1, 0, &[]).usable(&answer(1, 0, &[])).unwrap_err();
    assert!(obstacle.problem.contains("no device"), "{obstacle:?}");
    assert!(answer(1, 0, &[oif()]).usable(&answer(1, 16, &[])).is_err(), "of the entry");
}

#[test]
fn several_next_hops_need_a_hash_of_addresses() {
    let entry = || answer(1, 0, &[attribute_of(rta::MULTIPATH, &[])]);
    let routing = |multipath| Routing { rules: Vec::new(), multipath, nexthops: HashMap::new() };
    assert_eq!(routing(Ok(())).obstacle(&entry()), None);
    assert_eq!(routing(Err("it is not")).obstacle(&answer(1, 0, &[])), None);
    assert!(routing(Err("it is not")).obstacle(&entry()).unwrap().problem.contains("it is not"));
    let group = answer(1, 0, &[number(rta::NH_ID, 5)]);
    let nexthops = HashMap::from([(5, Err(Obstacle::route("a group")))]);
    let routing = Routing { nexthops, ..routing(Ok(())) };
    assert_eq!(routing.obstacle(&group).unwrap().problem, "a group");
}

#[test]
fn vrf_of_a_link_is_that_of_its_masters() {
    let link =
        |index, master, kind: &str| Link { index, master, kind: LinkKind::Other(kind.into()), ..Link::default() };
    let links = [link(2, Some(4), "vlan"), link(3, None, "dummy"), link(4, Some(5), "bond"), link(5, None, "vrf")];
    assert_eq!(
        [2, 3, 4, 5, 6].map(|index| vrf(&links, index).map(|link| link.index)),
        [Some(5), None, Some(5), Some(5), None]
    );
    // A list that changed while it was read.
    assert_eq!(vrf(&[link(2, Some(3), "bond"), link(3, Some(2), "bond")], 2), None);
}
