//! Many changes at once are the same changes one by one. Needs root.

use overlay_common::{
    MacAddr,
    maps::{FdbEntry, FdbKey, SenderKey},
};
use overlay_tests::lab::private_bpffs;
use overlay_user::{
    datapath::{Datapath, PinRoot},
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
        datapath.maps.apply_all(&changes).unwrap();
        assert_eq!(datapath.maps.read().unwrap().fdb, expected.fdb);
    });
}

#[test]
fn a_batch_that_does_not_fit_says_how_much_of_it_was_done() {
    with_maps(|datapath| {
        let changes = fill(0..ROOM + 20);
        let stopped = datapath.maps.apply_all(&changes).unwrap_err();
        assert_eq!(stopped.done, ROOM as usize, "{stopped}");
        assert!(stopped.to_string().contains("OVL_FDB"), "{stopped}");
        let mut expected = Tables::default();
        changes[..stopped.done].iter().for_each(|change| expected.apply(change));
        assert_eq!(datapath.maps.read().unwrap().fdb, expected.fdb);
    });
}
