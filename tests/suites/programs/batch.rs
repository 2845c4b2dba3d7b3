//! Many changes at once are the same changes one by one. Needs root.
#![allow(clippy::unwrap_used, reason = "a test may")]

use overlay_common::{
    MacAddr,
    maps::{FdbEntry, FdbKey, SenderKey},
};
use overlay_tests::lab::private_bpffs;
use overlay_user::{
    datapath::{Datapath, PinRoot, runs},
    plan::tables::{TableChange, Tables},
};

const ROOM: u32 = 100;

fn key(number: u32) -> FdbKey {
    let [a, b, c, d] = number.to_be_bytes();
    FdbKey::new(4097, MacAddr([2, 0x42, a, b, c, d]))
}

fn fill(numbers: std::ops::Range<u32>) -> Vec<TableChange> {
    numbers.map(|number| TableChange::Fdb(key(number), FdbEntry::remote(number))).collect()
}

/// On a thread of its own, which has mounts of its own.
fn with_maps(test: impl FnOnce(&mut Datapath) + Send + 'static) {
    let run = move || {
        let root = PinRoot::create(&private_bpffs().unwrap().join("batch")).unwrap();
        test(&mut Datapath::load(&root, Some(ROOM), None).unwrap());
        root.remove().unwrap();
    };
    std::thread::spawn(run).join().unwrap();
}

/// Makes changes as the daemon does; returns how many it made before the first that could not be made.
fn make(datapath: &mut Datapath, changes: &[TableChange]) -> usize {
    let mut made = 0;
    for run in runs(changes) {
        let batched = datapath.maps.apply_run(run);
        made += batched;
        for change in &run[batched..] {
            match datapath.maps.apply(change) {
                Ok(()) => made += 1,
                Err(error) => {
                    assert!(error.to_string().contains("OVL_FDB"), "{error}");
                    return made;
                }
            }
        }
    }
    made
}

#[test]
fn a_batch_leaves_what_its_changes_leave() {
    with_maps(|datapath| {
        let mut changes = fill(0..50);
        changes.push(TableChange::RemoveSender(SenderKey { vni: 1, addr: [0; 4] }));
        changes.extend(fill(40..60));
        // 200 was never there.
        changes.extend([3, 200, 4, 59].map(|number| TableChange::RemoveFdb(key(number))));
        let mut expected = Tables::default();
        changes.iter().for_each(|change| expected.apply(change));
        assert_eq!(make(datapath, &changes), changes.len());
        assert_eq!(datapath.maps.read().unwrap().fdb, expected.fdb);
    });
}

#[test]
fn the_kernel_makes_a_run_with_one_call() {
    with_maps(|datapath| assert_eq!(datapath.maps.apply_run(&fill(0..50)), 50));
}

#[test]
fn a_batch_that_does_not_fit_is_made_as_far_as_it_fits() {
    with_maps(|datapath| {
        let changes = fill(0..ROOM + 20);
        assert_eq!(make(datapath, &changes), ROOM as usize);
        let mut expected = Tables::default();
        changes[..ROOM as usize].iter().for_each(|change| expected.apply(change));
        assert_eq!(datapath.maps.read().unwrap().fdb, expected.fdb);
    });
}
