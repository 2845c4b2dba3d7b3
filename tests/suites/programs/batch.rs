//! Batched map updates have the same result as single updates. Needs root.
#![allow(clippy::unwrap_used, reason = "a test may")]

use overlay_common::{
    MacAddr,
    maps::{FdbEntry, FdbKey},
};
use overlay_tests::lab::private_bpffs;
use overlay_user::testing::{
    apply::{Datapath, Ledger},
    plan::{Change, Changes, Tables},
};

const CAPACITY: u32 = 100;

fn key(number: u32) -> FdbKey {
    let [a, b, c, d] = number.to_be_bytes();
    FdbKey::new(4097, MacAddr([2, 0x42, a, b, c, d]))
}

fn fill(numbers: std::ops::Range<u32>) -> Vec<Change<FdbKey, FdbEntry>> {
    let change = |number| Change { key: key(number), old: None, new: Some(FdbEntry::remote(number)) };
    numbers.map(change).collect()
}

/// Runs the test on a thread with private mounts.
fn with_maps(test: impl FnOnce(&Ledger, &mut Datapath) + Send + 'static) {
    let run = move || {
        let ledger = Ledger::create(&private_bpffs().unwrap().join("batch")).unwrap();
        test(&ledger, &mut Datapath::load(&ledger, Some(CAPACITY), None).unwrap());
        ledger.remove().unwrap();
    };
    std::thread::spawn(run).join().unwrap();
}

/// Applies changes as the daemon does; returns the number of successful ones.
fn apply(
    ledger: &Ledger,
    datapath: &mut Datapath,
    changes: Vec<Change<FdbKey, FdbEntry>>,
    tables: &mut Tables,
) -> usize {
    let count = changes.len();
    let outcome = datapath.maps.apply(ledger, &Changes { fdb: changes, ..Changes::default() }, tables, &|_| None);
    for error in &outcome.failed {
        assert!(error.to_string().contains("OVL_FDB"), "{error}");
    }
    count - outcome.failed.len()
}

#[test]
fn batch_equals_its_single_changes() {
    with_maps(|ledger, datapath| {
        let (mut tables, mut expected) = (Tables::default(), Tables::default());
        // 200 does not exist.
        let removals = [3, 200, 4, 59].map(|number| Change { key: key(number), old: None, new: None });
        for changes in [fill(0..50), fill(40..60), removals.to_vec()] {
            expected.apply(&Changes { fdb: changes.clone(), ..Changes::default() });
            let count = changes.len();
            assert_eq!(apply(ledger, datapath, changes, &mut tables), count);
        }
        assert_eq!(datapath.maps.read().unwrap().fdb, expected.fdb);
        assert_eq!(tables.fdb, expected.fdb);
    });
}

#[test]
fn oversized_batch_is_applied_until_map_is_full() {
    with_maps(|ledger, datapath| {
        let (mut tables, mut expected) = (Tables::default(), Tables::default());
        assert_eq!(apply(ledger, datapath, fill(0..CAPACITY + 20), &mut tables), CAPACITY as usize);
        expected.apply(&Changes { fdb: fill(0..CAPACITY), ..Changes::default() });
        assert_eq!(datapath.maps.read().unwrap().fdb, expected.fdb);
        assert_eq!(tables.fdb, expected.fdb);
    });
}
