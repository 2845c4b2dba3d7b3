//! The BPF maps: the plan from what they hold to what they should, told entry by entry.

use super::{Difference, Names};
use crate::{
    model::Finding,
    plan::{
        change::Change,
        tables::{Changes, Planned, Tables, Visitor},
    },
};

/// What differs between what the maps should hold and what they do. `changes` lead from there to here.
///
/// `written` is what the daemon knows to have written: what is right there and wrong in the map was changed by another
/// program. `last_error`: why the daemon could not write, if it could not.
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
                // In something that is not worth a word in any other case.
                texts = [wanted, found].map(|value| value.map(|value| format!("{value:?}")));
            }
            let what = match (found, wanted) {
                (None, _) => "removed",
                (Some(_), Some(_)) => "changed",
                (Some(_), None) => "wrote",
            };
            let cause = match self.last_error {
                // The daemon believes that the entry is right.
                _ if T::rows(self.written).get(key) == wanted.as_ref() => {
                    format!("somebody else {what} it: another program, or a person with bpftool")
                }
                Some(last_error) => format!("the daemon could not write it: {last_error}"),
                None => "the daemon has not written it yet".to_owned(),
            };
            let [wanted, found] = texts;
            let finding = Finding::of_reason(T::object(*key, self.names), &cause);
            let difference = Difference::new(T::MAP.name, wanted, found, finding);
            self.differences.push(difference.inside(T::netns(*key, self.names)));
        }
    }
}
