//! An ownership record of a newer version.

use std::fs;

use crate::setup::{Upgrade, names, programs};

#[test]
fn newer_ownership_record_is_refused_and_data_path_keeps_forwarding() {
    let mut setup = Upgrade::start("tc");
    let host = setup.lab.host(1).clone();
    let daemon = setup.daemon_mut(1);
    daemon.sigterm().unwrap();
    let record = daemon.pin_root().join("record");
    fs::remove_dir(record.join("record:2")).unwrap();
    fs::create_dir(record.join("record:3")).unwrap();
    let before = (names(daemon.pin_root()), names(&record), programs(&host));

    let (code, log) = daemon.restart_refused().unwrap();
    let message = "was created by a newer version of overlay: its record has version 3 and this version reads 2; use that version";
    assert!(code == Some(1) && log.contains(message), "{code:?} {log}");
    for command in ["status", "down"] {
        let output = daemon.output(&[command]).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && stderr.contains(message), "{command}: {stderr}");
    }
    assert_eq!((names(daemon.pin_root()), names(&record), programs(&host)), before);

    // The newer version continues.
    fs::remove_dir(record.join("record:3")).unwrap();
    fs::create_dir(record.join("record:2")).unwrap();
    setup.change(|_, daemon| {
        if daemon.pid().is_err() {
            daemon.restart().unwrap();
        }
    });
    setup.finish();
}
