//! Without a daemon the heartbeat deadline expires, and the kernel path forwards until a daemon restarts.

use std::{fs, thread::sleep, time::Duration};

use aya::maps::{Array, Map, MapData};
use overlay_common::maps::{self, Heartbeat, LAYOUT};
use overlay_tests::lab::Lab;
use serde_json::json;

use overlay_tests::check::{Counts, assert_lossless, end_lossless, until};

use overlay_tests::testbed::Testbed;

/// Seconds: long enough for a daemon on a busy machine to extend the deadline in time.
const DEADLINE: u32 = 3;

fn start(deadline: u32) -> Testbed {
    let mut setup = Testbed::new(Lab::two_hosts());
    setup.deadline = Some(deadline);
    setup.run()
}

fn wait_until_expired(setup: &Testbed, host: usize) {
    until(&format!("the deadline of node0{host} has expired"), || {
        let status = setup.daemon(host).overlay(&["status", "--json"]).unwrap();
        status["heartbeat"]["expired"] == true
    });
}

/// Packets that a host counts while `traffic` runs.
fn counted(setup: &Testbed, host: usize, traffic: impl FnOnce()) -> Counts {
    let before = setup.counts(host);
    traffic();
    setup.counts(host).since(&before)
}

#[track_caller]
fn assert_by_kernel(counts: &Counts, packets: u64) {
    assert_eq!((counts.of("encap"), counts.received(), counts.of("local")), (0, 0, 0), "{counts:?}");
    assert!(counts.of("stale") >= packets && counts.vxlan >= packets, "{counts:?}");
}

#[test]
fn kernel_forwards_after_deadline_until_daemon_restarts() {
    let mut setup = start(DEADLINE);
    let load = setup.load(1000);
    setup.by_fast_path(4000, 4000, || sleep(Duration::from_secs(u64::from(2 * DEADLINE))));

    for host in [1, 2] {
        setup.daemon_mut(host).kill9().unwrap();
    }
    for host in [1, 2] {
        wait_until_expired(&setup, host);
        let text = setup.daemon(host).output(&["status"]).unwrap();
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(text.contains("deadline expired: "), "{text}");
        assert_by_kernel(&counted(&setup, host, || load.datagrams.wait_for(300).unwrap()), 600);
    }

    // One host at a time: the two paths interoperate.
    setup.daemon_mut(1).restart().unwrap();
    let counts = counted(&setup, 1, || load.datagrams.wait_for(300).unwrap());
    assert!(counts.of("encap") >= 300 && counts.received() >= 300, "{counts:?}");
    assert_eq!(counts.of("stale"), 0, "{counts:?}");
    assert_by_kernel(&counted(&setup, 2, || load.datagrams.wait_for(300).unwrap()), 600);
    setup.daemon_mut(2).restart().unwrap();
    setup.by_fast_path(300, 300, || load.datagrams.wait_for(300).unwrap());
    end_lossless(load);
}

#[test]
fn hanging_daemon_lets_deadline_expire() {
    let mut setup = start(DEADLINE);
    let load = setup.load(1000);
    setup.daemon_mut(1).hang().unwrap();
    wait_until_expired(&setup, 1);
    assert_by_kernel(&counted(&setup, 1, || load.datagrams.wait_for(300).unwrap()), 600);
    setup.daemon_mut(1).resume().unwrap();
    until("the deadline is extended", || {
        setup.daemon(1).overlay(&["status", "--json"]).unwrap()["heartbeat"]["expired"] == false
    });
    setup.by_fast_path(300, 300, || load.datagrams.wait_for(300).unwrap());
    assert_lossless(&load.datagrams.stop());
}

fn heartbeat(setup: &Testbed) -> (Array<MapData, Heartbeat>, Heartbeat) {
    let path = setup.daemon(1).pin_root().join(maps::HEARTBEAT.name);
    let map: Array<_, Heartbeat> = Map::Array(MapData::from_pin(path).unwrap()).try_into().unwrap();
    let value = map.get(&0, 0).unwrap();
    (map, value)
}

#[test]
fn heartbeat_epoch_survives_restarts_and_layout_changes() {
    let mut setup = start(DEADLINE);
    let (mut map, first) = heartbeat(&setup);
    assert_eq!(first.epoch, Heartbeat::FIRST_EPOCH);
    map.set(0, Heartbeat { epoch: 7, ..first }, 0).unwrap();
    until("the deadline is extended", || heartbeat(&setup).1.deadline_ns > first.deadline_ns);
    assert_eq!(heartbeat(&setup).1.epoch, 7);
    for layout in [LAYOUT, LAYOUT + 7] {
        setup.daemon_mut(1).kill9().unwrap();
        let record = setup.daemon(1).pin_root().join("record");
        fs::rename(record.join(format!("layout:{LAYOUT}")), record.join(format!("layout:{layout}"))).unwrap();
        setup.daemon_mut(1).restart().unwrap();
        assert_eq!(heartbeat(&setup).1.epoch, 7, "layout {layout}");
    }
}

#[test]
fn fast_path_without_deadline_never_expires() {
    let mut setup = start(0);
    setup.daemon_mut(1).kill9().unwrap();
    let status = setup.daemon(1).overlay(&["status", "--json"]).unwrap();
    assert_eq!(status["heartbeat"], json!({ "left_s": null, "expired": false }));
    setup.ping_both_ways();
}
