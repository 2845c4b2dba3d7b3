//! Reads the state of a link that differs from the table.

use super::{
    deviation::{Class, Deviation, Deviations, Sets},
    fresh,
    table::{Role, Row, Set},
};
use crate::{
    kernel::{Link, LinkKind},
    sys::{
        ethtool::Features,
        netlink::attribute::{attributes, ne32},
    },
};

/// Offset of the flags in `struct ifinfomsg`.
const FLAGS: usize = 8;

/// The deviations of a link, from the payload of its `RTM_NEWLINK`.
pub(crate) fn deviations(payload: &[u8]) -> Deviations {
    let mut found = Vec::new();
    let Some(sets) = Sets::new(payload) else { return found };
    let roles = sets.class.roles();
    if let Some(flags) = ne32(payload, FLAGS) {
        for row in Set::Flag.rows().iter().filter(|row| row.roles.meets(roles)) {
            let value = [u8::from(flags & u32::from(row.number) != 0)];
            refuse(&mut found, Set::Flag, row, &value, &[]);
        }
    }
    for (set, all) in sets.each() {
        for (number, value) in attributes(all) {
            let rows = set.rows_of(number);
            for row in rows.iter().filter(|row| row.roles.meets(roles)) {
                refuse(&mut found, set, row, value, all);
            }
            if rows.is_empty() {
                let object = format!("{} {number}", set.prefix());
                found.extend(fresh::unknown(object, value, |fresh| fresh.attribute(sets.class, set, number)));
            }
        }
    }
    found
}

/// Records a value that the row does not accept.
fn refuse(found: &mut Deviations, set: Set, row: &Row, value: &[u8], all: &[u8]) {
    if row.wanted().is_some_and(|must| !(must.accepts)(value, all)) {
        found.push(Deviation::Value { set, number: row.number, value: value.to_vec() });
    }
}

/// Adds the deviations of the features of links of the calling thread's network namespace.
pub(crate) fn read_features<'l>(links: impl Iterator<Item = &'l mut Link>) {
    for link in links {
        // A link that is gone has an event.
        let Ok(features) = Features::read(&link.name) else { continue };
        let (class, role) = match link.kind {
            LinkKind::Vxlan(_) => (Class::Vxlan, Role::Vxlan),
            _ => (Class::Other, Role::Port),
        };
        for (name, is_on) in features.iter() {
            match Set::feature(name, role) {
                Some(row) if !is_on && row.wanted().is_some() => {
                    link.deviations.push(Deviation::FeatureOff { name: row.name });
                }
                Some(_) => {}
                None => {
                    let unknown = |fresh: &fresh::Fresh| fresh.feature(class, name);
                    let found = fresh::unknown(format!("feature {name}"), &[u8::from(is_on)], unknown);
                    link.deviations.extend(found);
                }
            }
        }
    }
}

/// Whether an attribute of an FDB entry is not in the table, and differs from that of a new entry.
pub(crate) fn entry_is_unknown(number: u16, value: &[u8]) -> bool {
    Set::Entry.rows_of(number).is_empty()
        && fresh::unknown(String::new(), value, |fresh| fresh.entry(number, value)).is_some()
}
