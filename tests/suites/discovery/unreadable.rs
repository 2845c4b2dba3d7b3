//! What discovery cannot see is not accelerated.

use std::fs;

use overlay_tests::check::until;

use crate::{
    host::Host,
    node::{GINDEMO1, GINDEMO2, VNI},
};

#[test]
fn networks_of_unreadable_namespaces_leave_the_maps() {
    let faults = tempfile::NamedTempFile::new().unwrap();
    let host = Host::start(&[&format!("OVERLAY_FAULTS={}", faults.path().display())]);
    let entries = || {
        let pairs = [VNI, VNI + 1].map(|vni| [GINDEMO1, GINDEMO2].map(|mac| host.has_entry(vni, mac)));
        pairs.concat().into_iter().filter(|has_entry| *has_entry).count()
    };
    until("all entries are in the maps", || entries() == 4);
    // ENOMEM.
    fs::write(faults.path(), "dump 12\n").unwrap();
    // An event, or else the next periodic read.
    host.sandboxes[0].netns.run(&["ip", "link", "set", "lo", "up"]);
    until("no entry is in the maps", || entries() == 0);
    fs::write(faults.path(), "").unwrap();
    until("all entries are in the maps again", || entries() == 4);
}
