//! Changes between this build and the release build of the previous commit.

use crate::{
    changes::{kill9, replace_daemons, sigterm},
    setup::{Build, Upgrade, names},
};

/// Versions of the ownership records.
fn records(setup: &Upgrade) -> Vec<String> {
    let names = setup.daemons().flat_map(|daemon| names(&daemon.pin_root().join("record")));
    names.filter(|name| name.starts_with("record:")).collect()
}

/// A downgrade is supported unless this build writes a newer ownership record; then the previous build refuses it.
#[test]
fn upgrade_from_previous_commit_and_downgrade_lose_no_packet() {
    let mut setup = Upgrade::start_previous();
    let previous = records(&setup);
    replace_daemons(&mut setup, sigterm, Build::This);
    if records(&setup) == previous {
        replace_daemons(&mut setup, kill9, Build::Previous);
        replace_daemons(&mut setup, kill9, Build::This);
    } else {
        setup.change(|_, daemon| {
            sigterm(daemon);
            daemon.replace_binary(&Build::Previous.binary());
            let (code, log) = daemon.restart_refused().unwrap();
            assert!(code == Some(1) && log.contains("was created by a newer version of overlay"), "{code:?} {log}");
            daemon.replace_binary(&Build::This.binary());
            daemon.restart().unwrap();
        });
    }
    setup.finish().down();
}
