//! The table is complete and consistent, and knows what it lacks.

use std::{collections::BTreeSet, fs, path::Path};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage},
};
use rtnetlink::packet_core::NetlinkSerializable as _;

use super::{
    deviation::{Class, Deviation},
    fresh::Fresh,
    page::page,
    read::deviations,
    table::{Role, Roles, Rule, Set},
};
use crate::sys::ethtool::Features;

/// The highest numbers in Linux 6.18 (include/uapi/linux/{if_link,neighbour,rtnetlink}.h), and the roles of each set.
const HIGHEST: [(Set, u16, Roles); 6] = [
    (Set::Link, 69, Roles::DEVICES),
    (Set::Vxlan, 34, Roles::VXLAN),
    (Set::Bridge, 49, Roles::BRIDGE),
    (Set::Port, 44, Roles::PORTS),
    (Set::Entry, 17, Roles::NONE),
    (Set::Route, 31, Roles::NONE),
];

#[test]
fn every_attribute_has_one_row_for_each_role() {
    for (set, highest, roles) in HIGHEST {
        let numbers: Vec<u16> = set.rows().iter().map(|row| row.number).collect();
        assert!(numbers.is_sorted(), "{set:?}");
        assert_eq!(numbers.iter().copied().collect::<BTreeSet<_>>(), (1..=highest).collect(), "{set:?}");
        for number in 1..=highest {
            for role in Role::ALL {
                let rows = set.rows_of(number).iter().filter(|row| row.roles.has(role)).count();
                assert_eq!(rows, usize::from(roles.has(role)), "{set:?} {number} {role:?}");
            }
            let names: BTreeSet<_> = set.rows_of(number).iter().map(|row| row.name).collect();
            assert!(names.len() == 1 && names.iter().all(|name| name.starts_with(set.prefix())), "{names:?}");
        }
    }
}

#[test]
fn every_feature_of_the_kernel_has_one_row_for_each_device() {
    for name in Features::names().unwrap().iter().filter(|name| !name.is_empty()) {
        for role in [Role::Vxlan, Role::Bridge, Role::Port, Role::Container, Role::Nic] {
            let rows = Set::Feature.rows().iter().filter(|row| row.name == name && row.roles.has(role)).count();
            assert_eq!(rows, 1, "{name} {role:?}");
        }
    }
}

#[test]
fn rows_have_reasons_and_remedies() {
    for row in Set::ALL.iter().flat_map(|set| set.rows()) {
        let text = match &row.rule {
            Rule::Honoured(text) | Rule::Irrelevant(text) | Rule::Differs(text) => text,
            Rule::Plain(must) => must.wanted,
            Rule::Must(must) => {
                assert!(must.problem.contains("{dev}") && !must.remedy.is_empty(), "{}", row.name);
                must.wanted
            }
        };
        assert!(!text.is_empty() && !text.contains('|') && !text.ends_with('.'), "{}", row.name);
    }
}

#[test]
fn page_lists_every_row() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/device-state.md"));
    if std::env::var_os("OVERLAY_BLESS").is_some() {
        fs::write(path, page()).unwrap();
    }
    assert!(fs::read_to_string(path).unwrap_or_default() == page(), "run this test with OVERLAY_BLESS=1");
}

/// Needs root: makes devices in a network namespace of its own.
#[test]
fn new_devices_have_all_sets_and_are_accepted() {
    let fresh = Fresh::read().unwrap();
    for (class, set, number) in [
        (Class::Vxlan, Set::Vxlan, 1),
        (Class::Vxlan, Set::Port, 1),
        (Class::Bridge, Set::Bridge, 4),
        (Class::Other, Set::Link, 4),
        (Class::Other, Set::Port, 9),
    ] {
        assert!(fresh.attribute(class, set, number).is_some(), "{class:?} {set:?} {number}");
    }
    assert_eq!(fresh.attribute(Class::Other, Set::Port, 9), Some(vec![1]), "flood on");
    assert_eq!(fresh.feature(Class::Vxlan, "tx-checksum-ip-generic"), Some(vec![1]));
    assert!(fresh.entry(2, &[2, 0, 0, 0, 0, 1]).is_some(), "NDA_LLADDR");
    let unknown: Vec<_> = fresh.unknown().collect();
    assert_eq!(unknown, Vec::<String>::new(), "the table lacks attributes of this kernel");
}

/// The link message of a VXLAN device with one more attribute in each set.
fn message(link: Option<(u16, &[u8])>, vxlan: InfoVxlan) -> Vec<u8> {
    let mut message = LinkMessage::default();
    message.header.flags = netlink_packet_route::link::LinkFlags::Up;
    let other = |(number, value): (u16, &[u8])| {
        LinkAttribute::Other(rtnetlink::packet_core::DefaultNla::new(number, value.to_vec()))
    };
    message.attributes.extend(link.map(other));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Vxlan),
        LinkInfo::Data(InfoData::Vxlan(vec![vxlan])),
    ]));
    let message = RouteNetlinkMessage::NewLink(message);
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[test]
fn values_that_rows_do_not_accept_are_kept() {
    let tos = |tos| deviations(&message(None, InfoVxlan::Tos(tos)));
    assert_eq!(tos(0), []);
    assert_eq!(tos(4), [Deviation::Value { set: Set::Vxlan, number: 6, value: vec![4] }]);
    let down = {
        let mut bytes = message(None, InfoVxlan::Tos(0));
        bytes[8] = 0;
        deviations(&bytes)
    };
    assert_eq!(down, [Deviation::Value { set: Set::Flag, number: 1, value: vec![0] }]);
}

/// Needs root. No device of this kernel has the attribute, so it differs from that of a new device.
#[test]
fn attribute_that_table_and_kernel_lack_is_kept() {
    let found = deviations(&message(Some((999, &[7])), InfoVxlan::Tos(0)));
    let [Deviation::Unknown { object, value, remedy }] = &found[..] else { panic!("{found:?}") };
    assert_eq!((object.as_str(), &value[..]), ("IFLA 999", &[7][..]));
    assert!(remedy.contains("new device"), "{remedy}");
}

#[test]
fn unknown_value_is_compared_with_new_device() {
    use super::fresh::differs;
    let object = || "IFLA 999".to_owned();
    assert_eq!(differs(object(), &[1], Some(Some(vec![1]))), None);
    for fresh in [Some(Some(vec![0])), Some(None), None] {
        let without_device = fresh.is_none();
        let Some(Deviation::Unknown { remedy, .. }) = differs(object(), &[1], fresh) else { panic!("accepted") };
        assert_eq!(remedy.contains("CAP_SYS_ADMIN"), without_device);
    }
}
