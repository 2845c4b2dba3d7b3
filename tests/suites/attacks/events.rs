//! `overlay events` during an attack.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use overlay_common::MacAddr;
use overlay_tests::frame::Station;
use serde_json::Value;

use crate::setup::{GINDEMO1, GINDEMO2, Setup, frame, repeated};

fn spoofed_mac(number: u8) -> Vec<u8> {
    frame(Station { mac: MacAddr([2, 0, 0, 0, 0, number]), ..GINDEMO1 }, GINDEMO2).bytes()
}

#[test]
fn flood_is_counted_exactly_and_sampled_at_limited_rate() {
    let setup = Setup::start(true, "tc");
    let from = setup.socket(1, "gindemo1");
    let before = setup.counts(1);
    for _ in 0..4000 {
        from.send(&spoofed_mac(9)).unwrap();
    }
    assert_eq!(setup.counts(1).since(&before).of("strict_mac"), 4000);
    std::thread::sleep(std::time::Duration::from_millis(150));
    // The next sample of each CPU reports the skipped packets.
    for _ in 0..2 {
        from.send(&spoofed_mac(9)).unwrap();
    }
    let report = setup.daemon(1).overlay(&["events", "--json"]).unwrap();
    let events: Vec<_> =
        report["events"].as_array().unwrap().iter().filter(|row| row["reason"] == "strict_mac").collect();
    assert!(!events.is_empty() && events.len() < 100, "{}", events.len());
    let numbers: Vec<_> = events.iter().map(|event| event["number"].as_u64().unwrap()).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    assert_eq!(report["lost"], 0);
}

#[test]
fn events_follow_prints_events_as_they_occur() {
    let mut setup = Setup::start(true, "tc");
    let from = setup.socket(1, "gindemo1");
    let follow = |json: bool| {
        let binary = overlay_tests::lab::overlay_binary().unwrap();
        let mut command = setup.lab.host(1).command(&binary);
        command.args(["events", "--follow"]).args(json.then_some("--json"));
        command.arg("--pin-root").arg(setup.daemon(1).pin_root()).stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    let [mut text, mut json] = [false, true].map(follow);
    for frame in repeated(&spoofed_mac(8)) {
        from.send(&frame).unwrap();
    }
    let mut lines = [&mut text, &mut json].map(|child| BufReader::new(child.stdout.take().unwrap()).lines());
    let line = lines[0].next().unwrap().unwrap();
    assert!(line.contains(" drop strict_mac port ovl"), "{line}");
    assert!(line.contains(" vni 4097 02:00:00:00:00:08 (10.0.1.2) > 02:42:0a:00:01:06 (10.0.1.6) "), "{line}");
    let event: Value = serde_json::from_str(&lines[1].next().unwrap().unwrap()).unwrap();
    assert_eq!((&event["reason"], &event["src_mac"]), (&"strict_mac".into(), &"02:00:00:00:00:08".into()));

    // Following continues with new events.
    std::thread::sleep(std::time::Duration::from_millis(150));
    from.send(&spoofed_mac(7)).unwrap();
    assert!(lines[0].next().unwrap().unwrap().contains("02:00:00:00:00:07"));
    for child in [&mut text, &mut json] {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    // The next daemon reads the events that occurred without a daemon.
    setup.daemon_mut(1).kill9().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(150));
    from.send(&spoofed_mac(6)).unwrap();
    setup.daemon_mut(1).restart().unwrap();
    let report = setup.daemon(1).overlay(&["events", "--json"]).unwrap();
    let found = report["events"].as_array().unwrap().iter().any(|event| event["src_mac"] == "02:00:00:00:00:06");
    assert!(found, "{report}");
}
