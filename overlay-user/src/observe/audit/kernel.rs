//! Our objects in the kernel: the plan from what is found to what should be, comparison object by object.

use std::collections::BTreeSet;

use super::Difference;
use crate::{
    model::Finding,
    plan::{
        change::{Change, ChangeOf},
        host::{Bridges, HostChanges, HostState, Members, Object, ObjectVisitor, Veths, Vxlans},
    },
};

/// What differs between the wanted objects and the found ones. `plan` leads from these to those.
///
/// Entries of a device that has to be made are not comparison one by one. `last_error`: what the daemon could not do, if anything.
#[must_use]
pub(crate) fn kernel(found: &HostState, plan: &HostChanges, last_error: Option<&str>) -> Vec<Difference> {
    let mut devices = made::<Bridges>(&plan.bridges);
    devices.extend(made::<Vxlans>(&plan.vxlans));
    devices.extend(made::<Veths>(&plan.veths));
    devices.extend(made::<Members>(&plan.ports));
    let mut comparison = KernelComparison { found, made: devices, last_error, differences: Vec::new() };
    plan.visit(&mut comparison);
    comparison.differences
}

/// The devices that are not there.
fn made<T: Object>(changes: &[ChangeOf<T>]) -> BTreeSet<String> {
    changes.iter().filter(|change| change.old.is_none()).map(|change| T::name(&change.key)).collect()
}

struct KernelComparison<'a> {
    found: &'a HostState,
    made: BTreeSet<String>,
    last_error: Option<&'a str>,
    differences: Vec<Difference>,
}

impl ObjectVisitor for KernelComparison<'_> {
    fn table<T: Object>(&mut self, changes: &[ChangeOf<T>]) {
        for Change { key, new, .. } in changes {
            let found = T::rows(self.found).get(key);
            let is_entry = T::TABLE != Bridges::TABLE;
            let goes_with_device = is_entry
                && new.as_ref().is_some_and(|value| {
                    T::parents(key, value).iter().flatten().any(|parent| self.made.contains(&parent.device()))
                });
            // An entry that has to be written again because its device is.
            if goes_with_device || found == new.as_ref() {
                continue;
            }
            let [wanted, found] = [new.as_ref(), found].map(|value| value.map(|value| T::text(key, value)));
            let mut finding = Finding::new(T::name(key), cause(T::TABLE), "");
            if let Some(last_error) = self.last_error {
                let Finding { problem, remedy, .. } = Finding::of_reason("", last_error);
                finding.problem += &format!("; or it could not be made: {problem}");
                finding.remedy = remedy;
            }
            self.differences.push(Difference::new(T::TABLE, wanted, found, finding));
        }
    }
}

fn cause(table: &str) -> &'static str {
    match table {
        "fdb" | "flood" | "bridge_fdb" => {
            "somebody else changed the device's FDB: another tool, or a person with `bridge fdb`"
        }
        "neighbours" => "somebody else changed the bridge's neighbours (`ip neighbour`), or its MAC address",
        _ => "somebody else changed it: another tool, or a person with `ip link` or `ip address`",
    }
}
