//! Arbitrary keys and values as a store.

use std::collections::BTreeMap;

use super::StoreState;
use crate::store::{
    Snapshot,
    kv::{Entry, Event, Listing},
};

/// Consecutive changes of keys, one in a line: `<key> <value>`, or `-<key>`. The followed state, with snapshots in
/// between, equals the listed state; it is a valid cluster; and each ignored key has a remedy.
///
/// # Panics
/// When one of these properties does not hold.
pub fn store(bytes: &[u8]) {
    let mut followed = StoreState::new(Listing::default());
    let mut entries = BTreeMap::<String, Entry>::new();
    for (revision, line) in (1..).zip(bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())) {
        let event = event(line, revision, &entries);
        match &event {
            Event::Put(entry) => drop(entries.insert(entry.key.clone(), entry.clone())),
            Event::Delete { key, .. } => drop(entries.remove(key)),
        }
        followed.apply(&event);
        followed.advance(revision);
        // Snapshots in between test the incremental recomputation.
        if revision % 3 == 0 {
            followed.snapshot();
        }
    }
    let revision = followed.revision();
    let mut listed = StoreState::new(Listing { revision, entries: entries.into_values().collect() });
    let snapshot = listed.snapshot();
    assert_eq!(followed.snapshot(), snapshot, "followed, and listed");
    assert_eq!(followed.version().is_ok(), listed.version().is_ok(), "the schema's version");
    check(&mut listed, &snapshot);
}

fn event(line: &[u8], revision: i64, entries: &BTreeMap<String, Entry>) -> Event {
    if let [b'-', key @ ..] = line {
        return Event::Delete { key: String::from_utf8_lossy(key).into_owned(), revision };
    }
    let mut parts = line.splitn(2, |byte| *byte == b' ');
    let key = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let value = parts.next().unwrap_or_default().to_vec();
    let create_revision = entries.get(&key).map_or(revision, |entry| entry.create_revision);
    Event::Put(Entry { key, value, create_revision, mod_revision: revision, lease: 0 })
}

fn check(state: &mut StoreState, snapshot: &Snapshot) {
    for problem in &snapshot.problems {
        assert!(!problem.remedy.is_empty(), "{problem} has no remedy");
    }
    for node in &snapshot.nodes {
        state.cluster(&node.host.name).unwrap_or_else(|error| panic!("the cluster of {}: {error}", node.host.name));
    }
}
