//! Convergence of a host: configuration, kernel objects and maps agree in every field.
//!
//! The expected state is derived from the configuration of the lab and from what the daemon does not set: devices,
//! routes and addresses of the hosts, read with iproute2. It is compared with the pinned maps, entry by entry and field
//! by field ([`TABLES`]), and with the kernel's objects (`objects`) and the attached programs (`hooks`).

mod external;
mod fields;
mod hooks;
mod kernel;
mod objects;
mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use aya::maps::MapInfo;
use overlay_common::maps;

pub use external::External;
pub use fields::{EXCEPTIONS, Field, Rows, TABLES, Table};
pub use hooks::programs;

use self::{
    kernel::Links,
    plan::{Clock, Contents},
};
use crate::lab::{Cluster, Endpoint, Host, Lab, Network};

/// The expected state of a host.
#[derive(Clone, Debug)]
pub struct Expected<'a> {
    /// The lab of the host: MAC addresses of the VTEPs.
    pub lab: &'a Lab,
    /// The host.
    pub host: &'a Host,
    /// The pin root of its daemon.
    pub pin_root: PathBuf,
    /// Configuration of its daemon, by file or by command. Every endpoint of the host has a veth or a port.
    pub cluster: &'a Cluster,
    /// The external networks that its daemon accelerates.
    pub external: Vec<External>,
    /// Heartbeat deadline of its daemon; `None`: unlimited.
    pub deadline: Option<Duration>,
    /// The programs are filters of a clsact qdisc, not TCX links.
    pub clsact: bool,
}

impl Expected<'_> {
    /// Differences between expected and found state, one line each; empty if the host has converged.
    ///
    /// # Errors
    /// When kernel tables or maps cannot be read.
    pub fn differences(&self) -> Result<Vec<String>> {
        let links = Links::read(self.host)?;
        let plan = self.plan(&links)?;
        let found = Contents::read(&self.pin_root)?;
        let wanted = plan.contents(&found, Clock::read()?)?;
        let places = self.places(links, &plan)?;
        let mut facts = [self.wanted_objects(&plan)?, self.found_objects(&places)?];
        for (facts, contents) in facts.iter_mut().zip([&wanted, &found]) {
            facts.add_entries(contents);
        }
        let [wanted, found] = &mut facts;
        self.add_sizes(wanted, found)?;
        wanted.extend(self.wanted_hooks(&plan));
        found.extend(self.found_hooks(&places)?);
        let name = self.host.name();
        Ok(wanted.differences(found).into_iter().map(|line| format!("{name}: {line}")).collect())
    }

    /// Waits until there is no difference, and returns how long that took.
    ///
    /// # Errors
    /// After `limit`, with the differences.
    pub fn wait(&self, limit: Duration) -> Result<Duration> {
        wait_until_equal(limit, || self.differences())
    }

    /// Networks with endpoints on the host, and the endpoints: on the host, on others.
    fn networks(&self) -> impl Iterator<Item = (&Network, Vec<&Endpoint>, Vec<&Endpoint>)> {
        let networks = self.cluster.networks.iter().map(|network| {
            let members = self.cluster.endpoints.iter().filter(|endpoint| endpoint.network == network.name);
            let (local, remote) = members.partition(|endpoint| endpoint.host == self.host.name());
            (network, local, remote)
        });
        networks.filter(|(_, local, _): &(_, Vec<_>, Vec<_>)| !local.is_empty())
    }

    /// The sizes of all maps.
    fn add_sizes(&self, wanted: &mut Facts, found: &mut Facts) -> Result<()> {
        for map in maps::MAPS {
            let entries = if map == maps::FDB { self.cluster.fdb_size.unwrap_or(map.entries) } else { map.entries };
            wanted.add(map.name, "max_entries", entries);
            found.add(map.name, "max_entries", MapInfo::from_pin(self.pin_root.join(map.name))?.max_entries());
        }
        Ok(())
    }
}

/// Calls `differences` until there are none, and returns how long that took.
///
/// # Errors
/// After `limit`, with the differences or the error of the last call.
pub(crate) fn wait_until_equal(
    limit: Duration,
    mut differences: impl FnMut() -> Result<Vec<String>>,
) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let found = differences().unwrap_or_else(|error| vec![format!("{error:#}")]);
        if found.is_empty() {
            return Ok(start.elapsed());
        }
        ensure!(start.elapsed() < limit, "not converged after {limit:?}:\n{}", found.join("\n"));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Values by object and field. A field can have several values: attached programs, destinations of an FDB entry.
#[derive(Debug, Default)]
struct Facts(BTreeMap<String, BTreeMap<String, Vec<String>>>);

impl Facts {
    #[expect(clippy::needless_pass_by_value, reason = "most values are temporary")]
    fn add(&mut self, object: impl Into<String>, field: impl Into<String>, value: impl ToString) {
        let values = self.0.entry(object.into()).or_default().entry(field.into()).or_default();
        values.push(value.to_string());
        values.sort();
    }

    /// [`Self::add`], unless the field has the value.
    fn add_once(&mut self, object: &str, field: &str, value: &impl ToString) {
        let value = value.to_string();
        let known = self.0.get(object).and_then(|fields| fields.get(field));
        if known.is_none_or(|values| !values.contains(&value)) {
            self.add(object, field, value);
        }
    }

    fn add_entries(&mut self, contents: &Contents) {
        for table in TABLES {
            for (key, value) in contents.rows(table.map) {
                for Field { name, text, .. } in (table.value)(value) {
                    self.add(table.object(key), name, text);
                }
            }
        }
    }

    fn extend(&mut self, other: Self) {
        for (object, fields) in other.0 {
            for (field, values) in fields {
                values.into_iter().for_each(|value| self.add(&object, &field, value));
            }
        }
    }

    /// One line per object that only one side has, and per field that differs.
    fn differences(&self, found: &Self) -> Vec<String> {
        let one_side = |a: &Self, b: &Self, problem: &str| {
            let list = |fields: &BTreeMap<String, Vec<String>>| {
                let fields = fields.iter().map(|(field, values)| format!("{field} {}", values.join(" and ")));
                fields.collect::<Vec<_>>().join(", ")
            };
            let objects = a.0.iter().filter(|(object, _)| !b.0.contains_key(*object));
            objects.map(|(object, fields)| format!("{object}: {problem} ({})", list(fields))).collect::<Vec<_>>()
        };
        let mut lines = one_side(self, found, "missing");
        lines.extend(one_side(found, self, "unexpected"));
        for (object, wanted) in &self.0 {
            let Some(found) = found.0.get(object) else { continue };
            let text = |fields: &BTreeMap<String, Vec<String>>, field: &str| {
                fields.get(field).map_or_else(|| "none".to_owned(), |values| values.join(" and "))
            };
            let fields: BTreeSet<_> = wanted.keys().chain(found.keys()).collect();
            for field in fields.into_iter().filter(|field| wanted.get(*field) != found.get(*field)) {
                lines.push(format!(
                    "{object}: {field}: expected {}, found {}",
                    text(wanted, field),
                    text(found, field)
                ));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn facts(facts: &[(&str, &str, u16)]) -> Facts {
        let mut all = Facts::default();
        facts.iter().for_each(|(object, field, value)| all.add(*object, *field, value));
        all
    }

    #[test]
    fn differences_name_object_and_field() {
        let wanted = facts(&[("a", "mtu", 1450), ("a", "slot", 0), ("b", "mtu", 1), ("d", "x", 1), ("d", "x", 2)]);
        let found = facts(&[("a", "mtu", 1370), ("a", "slot", 0), ("c", "mtu", 1), ("d", "x", 2)]);
        let expected = [
            "b: missing (mtu 1)",
            "c: unexpected (mtu 1)",
            "a: mtu: expected 1450, found 1370",
            "d: x: expected 1 and 2, found 2",
        ];
        assert_eq!(wanted.differences(&found), expected);
        assert_eq!(wanted.differences(&wanted), [""; 0]);
    }

    #[test]
    fn host_has_converged_only_without_difference() {
        let wait = |answers: &[fn() -> Result<Vec<String>>]| {
            let mut answers = answers.iter();
            wait_until_equal(Duration::from_secs(60), || answers.next().expect("an answer")())
        };
        assert!(wait(&[|| Ok(vec!["mtu".into()]), || bail!("no map"), || Ok(Vec::new())]).is_ok());
        let stale = wait_until_equal(Duration::ZERO, || Ok(vec!["OVL_PORTS: mtu".into()]));
        assert!(stale.is_err_and(|error| error.to_string().contains("OVL_PORTS: mtu")));
        assert!(wait_until_equal(Duration::ZERO, || bail!("no map")).is_err());
    }
}
