//! A part of the fast path is missing: packets fall back to the kernel path, and the daemon restores the part.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use overlay_common::{MacAddr, maps::FdbKey};
use overlay_tests::lab::{
    Lab, NetNs,
    traffic::{Datagrams, Ping, UdpFlow, ping},
};
use overlay_tests::maps::WritableMaps;
use overlay_user::testing::plan::{Changes, Fdb};

use overlay_tests::check::{assert_lossless, end_lossless, until};
use overlay_tests::testbed::{GINDEMO1, GINDEMO2, Testbed, endpoint};

fn delete_fdb_entry(setup: &Testbed, host: usize, mac: MacAddr) {
    let mut maps = WritableMaps::open(&setup.pin_root(host)).unwrap();
    assert!(maps.read().unwrap().fdb.contains_key(&FdbKey::new(4097, mac)));
    maps.write(&Changes::remove::<Fdb>(FdbKey::new(4097, mac))).unwrap();
}

/// Deletes the FDB entry of `mac` on node01: the kernel path delivers its packets without loss and to the right host
/// only, until the daemon restarts.
fn delete_entry_under_traffic(mac: MacAddr) {
    let mut setup = Testbed::new(Lab::builder(3).build().unwrap());
    setup.start(3).unwrap();
    let mut setup = setup.run();
    let load = setup.load(1000);
    let (before, node03_before) = (setup.counts(1), setup.counts(3));

    delete_fdb_entry(&setup, 1, mac);
    load.datagrams.wait_for(300).unwrap();
    load.stream.wait_for(500_000).unwrap();
    let counts = setup.counts(1).since(&before);
    assert!(counts.of("unknown_mac") >= 300 && counts.vxlan >= 300, "{counts:?}");
    let node03 = setup.counts(3).since(&node03_before);
    assert!(node03.vxlan <= 12, "flooded to node03: {node03:?}");

    setup.daemon_mut(1).sigterm().unwrap();
    setup.daemon_mut(1).restart().unwrap();
    setup.by_fast_path(200, 200, || load.datagrams.wait_for(250).unwrap());
    end_lossless(load);
}

#[test]
fn deleted_entry_of_remote_mac_costs_no_packet() {
    delete_entry_under_traffic(MacAddr::from_ipv4(GINDEMO2.octets()));
}

#[test]
fn deleted_entry_of_local_mac_costs_no_packet() {
    delete_entry_under_traffic(MacAddr::from_ipv4(GINDEMO1.octets()));
}

#[test]
fn entry_can_be_deleted_with_bpftool() {
    let setup = Testbed::two_hosts();
    let pin = setup.pin_root(1).join("OVL_FDB");
    // VNI 4097 in host order, the MAC, two zero bytes.
    let vni = 4097_u32.to_ne_bytes().map(|byte| format!("{byte:02x}"));
    let key = [&vni[..], &["02", "42", "0a", "00", "01", "06", "00", "00"].map(str::to_owned)].concat();
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["map", "delete", "pinned"]).arg(&pin).args(["key", "hex"]).args(key);
    assert!(bpftool.status().unwrap().success());
    let before = setup.counts(1);
    assert!(ping(setup.first(1), GINDEMO2.into(), Ping::default()).unwrap().all());
    assert_eq!(setup.counts(1).since(&before).of("unknown_mac"), 5);
}

/// A path of a netns in the test's mount namespace.
struct Name(PathBuf);

impl Name {
    fn mount(path: &Path, namespace: &NetNs) -> Self {
        fs::write(path, "").unwrap();
        let status = Command::new("mount").arg("--bind").arg(namespace.path()).arg(path).status();
        assert!(status.unwrap().success());
        Self(path.to_owned())
    }

    fn unmount(self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
        fs::remove_file(&self.0).unwrap();
    }
}

#[test]
fn recreated_container_is_served_again() {
    let mut setup = Testbed::new(Lab::two_hosts());
    let path = setup.config().with_file_name("gindemo3");
    let three = [10, 0, 1, 3].into();
    let mut entry = endpoint("gindemo3", three, "node01");
    entry.netns = Some(path.clone());
    setup.cluster.endpoints.push(entry);
    let first = NetNs::anonymous("gindemo3").unwrap();
    let name = Name::mount(&path, &first);
    let setup = setup.run();
    assert!(ping(&first, GINDEMO2.into(), Ping::default()).unwrap().all());

    let flow = UdpFlow::start(setup.first(1), setup.first(2), GINDEMO2.into(), Datagrams::steady(500)).unwrap();
    flow.wait_for(50).unwrap();

    let ports = || setup.daemon(1).overlay(&["ports", "--json"]).unwrap()["ports"].as_array().unwrap().len();
    assert_eq!(ports(), 2);
    name.unmount();
    drop(first);
    until("the port of the container is gone", || ports() == 1);

    let second = NetNs::anonymous("gindemo3, again").unwrap();
    let _name = Name::mount(&path, &second);
    until("the new container has its port", || ports() == 2);
    let quick = Ping { count: 1, ..Ping::default() };
    until("the new container is reached", || ping(setup.first(2), three.into(), quick).unwrap().all());
    setup.by_fast_path(5, 5, || {
        assert!(ping(&second, GINDEMO2.into(), Ping::default()).unwrap().all());
    });
    // Other containers lose no packet.
    assert_lossless(&flow.stop());
}
