//! Without root, or without all that root usually may.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use overlay_tests::lab::{Daemon, overlay_binary};

use crate::bench::{Bench, assert_message, assert_same};

/// Runs a copy of the binary that everybody can execute, behind `setpriv` with these options.
fn overlay_as(bench: &Bench, setpriv: &[&str], arguments: &[&str]) -> std::process::Output {
    let binary: PathBuf = bench.directory().join("overlay");
    if !binary.exists() {
        fs::copy(overlay_binary().unwrap(), &binary).unwrap();
        for path in [bench.directory(), &binary] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    let mut command = bench.host().command("timeout");
    command.args(["--kill-after=1", "20", "setpriv"]).args(setpriv).arg(binary).args(arguments);
    command.arg("--pin-root").arg(bench.pin_root()).output().unwrap()
}

const NOBODY: [&str; 6] = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"];

#[test]
fn without_root_run_is_refused() {
    let bench = Bench::new();
    let config = bench.config(|_| {});
    let before = bench.snapshot();
    let output = overlay_as(&bench, &NOBODY, &["run", "--config", config.to_str().unwrap()]);
    let parts = ["needs CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF", "run it as root"];
    assert_message(&output, 1, &parts);
    assert_same(&before, &bench.snapshot());
}

#[test]
fn each_missing_capability_is_named() {
    let bench = Bench::new();
    let config = bench.config(|_| {});
    let before = bench.snapshot();
    for (bounds, named) in [
        ("-net_admin", "CAP_NET_ADMIN"),
        ("-bpf,-sys_admin", "CAP_BPF"),
        ("-perfmon,-sys_admin", "CAP_PERFMON"),
        ("-sys_admin", "CAP_SYS_ADMIN"),
    ] {
        let output = overlay_as(&bench, &["--bounding-set", bounds], &["run", "--config", config.to_str().unwrap()]);
        assert_message(&output, 1, &[named, "run it as root, or give it"]);
        assert_same(&before, &bench.snapshot());
    }
}

/// What can be said about a file needs no privileges.
#[test]
fn without_root_check_says_what_is_wrong_with_the_file() {
    let bench = Bench::new();
    let config = bench.config(|cluster| cluster.networks[0].vni = 0);
    let output = overlay_as(&bench, &NOBODY, &["check", "--config", config.to_str().unwrap()]);
    assert_message(&output, 2, &["0 is not a VNI"]);
}

#[test]
fn without_root_nothing_can_be_seen_or_taken_down() {
    let bench = Bench::new();
    let config = bench.config(|_| {});
    let daemon = Daemon::start(bench.host(), &config, bench.pin_root()).unwrap();
    let before = bench.snapshot();
    for subcommand in ["status", "fdb", "ports", "counters", "down"] {
        let output = overlay_as(&bench, &NOBODY, &[subcommand]);
        assert_message(&output, 1, &["as root"]);
    }
    assert_same(&before, &bench.snapshot());
    assert_eq!(daemon.overlay(&["status", "--json"]).unwrap()["ready"], true);
}
