//! Differences of kernel objects, one per object.

use std::collections::BTreeSet;

use super::Difference;
use crate::{
    model::Finding,
    plan::{
        change::{Change, ChangeOf},
        host::{Bridges, HostChanges, HostState, Members, Object, ObjectVisitor, Veths, Vxlans},
    },
};

/// Differences between the desired and the actual objects. `plan` leads from the actual to the desired ones.
///
/// Entries of a missing device are not reported. `last_error`: the daemon's last error when it changed the objects.
#[must_use]
pub(crate) fn kernel(found: &HostState, plan: &HostChanges, last_error: Option<&str>) -> Vec<Difference> {
    let mut missing = missing_devices::<Bridges>(&plan.bridges);
    missing.extend(missing_devices::<Vxlans>(&plan.vxlans));
    missing.extend(missing_devices::<Veths>(&plan.veths));
    missing.extend(missing_devices::<Members>(&plan.ports));
    let mut comparison = KernelComparison { found, missing, last_error, differences: Vec::new() };
    plan.visit(&mut comparison);
    comparison.differences
}

/// The names of missing devices.
fn missing_devices<T: Object>(changes: &[ChangeOf<T>]) -> BTreeSet<String> {
    changes.iter().filter(|change| change.old.is_none()).map(|change| T::name(&change.key)).collect()
}

struct KernelComparison<'a> {
    found: &'a HostState,
    missing: BTreeSet<String>,
    last_error: Option<&'a str>,
    differences: Vec<Difference>,
}

impl ObjectVisitor for KernelComparison<'_> {
    fn table<T: Object>(&mut self, changes: &[ChangeOf<T>]) {
        for Change { key, new, .. } in changes {
            let found = T::rows(self.found).get(key);
            let is_entry = T::TABLE != Bridges::TABLE;
            let is_on_missing_device = is_entry
                && new.as_ref().is_some_and(|value| {
                    T::parents(key, value).iter().flatten().any(|parent| self.missing.contains(&parent.device()))
                });
            // A present entry is in the plan when its device is created again.
            if is_on_missing_device || found == new.as_ref() {
                continue;
            }
            let [wanted, found] = [new.as_ref(), found].map(|value| value.map(|value| T::text(key, value)));
            let mut finding = Finding::new(T::name(key), cause(T::TABLE), "");
            if let Some(last_error) = self.last_error {
                let Finding { problem, remedy, .. } = Finding::from_reason("", last_error);
                finding.problem += &format!("; or the daemon could not create it: {problem}");
                finding.remedy = remedy;
            }
            self.differences.push(Difference::new(T::TABLE, wanted, found, finding));
        }
    }
}

fn cause(table: &str) -> &'static str {
    match table {
        "fdb" | "flood" | "bridge_fdb" => "another program changed the device's FDB, for example `bridge fdb`",
        "neighbours" => {
            "another program changed the bridge's neighbours or its MAC address, for example `ip neighbour`"
        }
        _ => "another program changed it, for example `ip link` or `ip address`",
    }
}
