//! Which parts of a cluster have to go for it to keep the rules.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Parts, Violation,
    rule::{PartRef, Rule},
};

/// [`PartRef`], as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Part {
    Cluster,
    Host(usize),
    Network(usize),
    Endpoint(usize),
}

impl From<PartRef> for Part {
    fn from(object: PartRef) -> Self {
        match object {
            PartRef::Cluster => Self::Cluster,
            PartRef::Host(index) => Self::Host(index),
            PartRef::Network(index) => Self::Network(index),
            PartRef::Endpoint(index) => Self::Endpoint(index),
        }
    }
}

/// What must go for these to keep the rules, and why. Of two parts that exclude each other the later one goes.
pub(super) fn reject(parts: &Parts) -> BTreeMap<Part, String> {
    let mut rejected: BTreeMap<Part, String> = BTreeMap::new();
    let (mut kept, mut indices) = (parts.clone(), None::<Indices>);
    while let Err(violations) = kept.validate() {
        let violations: Vec<Violation> = violations.into_iter().collect();
        let all: BTreeSet<Part> = violations.iter().map(|violation| violation.object.into()).collect();
        let mut goes: BTreeMap<Part, String> = BTreeMap::new();
        for Violation { object, rule, .. } in violations {
            // A claim of a part that goes itself may be nobody's in the next round.
            if !other(&rule).is_some_and(|other| all.contains(&other)) {
                goes.entry(object.into()).or_insert_with(|| rule.to_string());
            }
        }
        if goes.is_empty() || goes.contains_key(&Part::Cluster) {
            break;
        }
        let indices = indices.get_or_insert_with(|| Indices::all(parts));
        rejected.extend(goes.iter().map(|(part, reason)| (indices.original(*part), reason.clone())));
        indices.hosts = keep(&mut kept.hosts, &indices.hosts, |index| !goes.contains_key(&Part::Host(index)));
        indices.networks =
            keep(&mut kept.networks, &indices.networks, |index| !goes.contains_key(&Part::Network(index)));
        indices.endpoints =
            keep(&mut kept.endpoints, &indices.endpoints, |index| !goes.contains_key(&Part::Endpoint(index)));
    }
    rejected
}

/// Where the parts that are left were at first.
struct Indices {
    hosts: Vec<usize>,
    networks: Vec<usize>,
    endpoints: Vec<usize>,
}

impl Indices {
    fn all(parts: &Parts) -> Self {
        Self {
            hosts: (0..parts.hosts.len()).collect(),
            networks: (0..parts.networks.len()).collect(),
            endpoints: (0..parts.endpoints.len()).collect(),
        }
    }

    fn original(&self, part: Part) -> Part {
        match part {
            Part::Cluster => Part::Cluster,
            Part::Host(index) => Part::Host(self.hosts[index]),
            Part::Network(index) => Part::Network(self.networks[index]),
            Part::Endpoint(index) => Part::Endpoint(self.endpoints[index]),
        }
    }
}

fn keep<T>(parts: &mut Vec<T>, indices: &[usize], stays: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut index = 0;
    parts.retain(|_| {
        index += 1;
        stays(index - 1)
    });
    indices.iter().enumerate().filter(|(index, _)| stays(*index)).map(|(_, original)| *original).collect()
}

fn other(rule: &Rule) -> Option<Part> {
    match rule {
        Rule::Taken { by, .. } | Rule::Overlap { by, .. } => Some(by.object.into()),
        _ => None,
    }
}
