//! Differences of BPF maps, one per entry.

use super::{Difference, Names};
use crate::{
    model::Finding,
    plan::{
        change::Change,
        tables::{Changes, Planned, Tables, Visitor},
    },
};

/// Differences between the desired and the actual entries. `changes` lead from the actual to the desired ones.
///
/// `written`: the entries that the daemon has written. A desired entry that is in `written` but not in the map was
/// changed by another program. `last_error`: the daemon's last error when it wrote the maps.
#[must_use]
pub(crate) fn maps(changes: &Changes, written: &Tables, names: &Names, last_error: Option<&str>) -> Vec<Difference> {
    let mut comparison = Comparison { written, names, last_error, differences: Vec::new() };
    changes.visit_reversed(&mut comparison);
    comparison.differences
}

struct Comparison<'a> {
    written: &'a Tables,
    names: &'a Names,
    last_error: Option<&'a str>,
    differences: Vec<Difference>,
}

impl Visitor for Comparison<'_> {
    fn table<T: Planned>(&mut self, changes: &[Change<T::Key, T::Value>]) {
        for Change { key, old, new } in changes {
            let (wanted, found) = (*new, old.or_else(T::unwritten));
            let mut texts = [wanted, found].map(|value| value.map(|value| T::text(&value, self.names)));
            if texts[0] == texts[1] {
                // The difference is in a field that the short text omits.
                texts = [wanted, found].map(|value| value.map(|value| format!("{value:?}")));
            }
            let verb = match (found, wanted) {
                (None, _) => "removed",
                (Some(_), Some(_)) => "changed",
                (Some(_), None) => "wrote",
            };
            let cause = match self.last_error {
                // The daemon has written the desired entry.
                _ if T::rows(self.written).get(key) == wanted.as_ref() => {
                    format!("another program {verb} it, for example bpftool")
                }
                Some(last_error) => format!("the daemon could not write it: {last_error}"),
                None => "the daemon has not written it yet".to_owned(),
            };
            let [wanted, found] = texts;
            let finding = Finding::from_reason(T::object(*key, self.names), &cause);
            let difference = Difference::new(T::MAP.name, wanted, found, finding);
            self.differences.push(difference.inside(T::netns(*key, self.names)));
        }
    }
}
