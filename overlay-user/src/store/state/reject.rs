//! Selection of the parts to remove so that a cluster becomes valid.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Finding, Located, Parts, rule::PartRef};

/// The parts to remove so that these become valid, with the findings. Of two conflicting parts the later one is
/// removed.
pub(super) fn reject(parts: &Parts) -> BTreeMap<PartRef, Finding> {
    let mut rejected: BTreeMap<PartRef, Finding> = BTreeMap::new();
    let (mut kept, mut indices) = (parts.clone(), None::<Indices>);
    while let Err(broken) = kept.validate() {
        let broken: Vec<Located> = broken.into_iter().collect();
        let all: BTreeSet<PartRef> = broken.iter().map(|located| located.part).collect();
        let mut removed: BTreeMap<PartRef, Finding> = BTreeMap::new();
        for Located { part, other, finding, .. } in broken {
            // The conflict disappears if the other part is removed in this round.
            if !other.is_some_and(|other| all.contains(&other)) {
                removed.entry(part).or_insert(finding);
            }
        }
        if removed.is_empty() || removed.contains_key(&PartRef::Cluster) {
            break;
        }
        let indices = indices.get_or_insert_with(|| Indices::all(parts));
        rejected.extend(removed.iter().map(|(part, reason)| (indices.original(*part), reason.clone())));
        indices.hosts = keep(&mut kept.hosts, &indices.hosts, |index| !removed.contains_key(&PartRef::Host(index)));
        indices.networks =
            keep(&mut kept.networks, &indices.networks, |index| !removed.contains_key(&PartRef::Network(index)));
        indices.endpoints =
            keep(&mut kept.endpoints, &indices.endpoints, |index| !removed.contains_key(&PartRef::Endpoint(index)));
    }
    rejected
}

/// The original indices of the remaining parts.
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

    fn original(&self, part: PartRef) -> PartRef {
        match part {
            PartRef::Cluster => PartRef::Cluster,
            PartRef::Host(index) => PartRef::Host(self.hosts[index]),
            PartRef::Network(index) => PartRef::Network(self.networks[index]),
            PartRef::Endpoint(index) => PartRef::Endpoint(self.endpoints[index]),
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
