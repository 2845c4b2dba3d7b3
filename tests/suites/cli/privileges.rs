//! Without root or without some of its capabilities.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use overlay_tests::lab::{Daemon, overlay_binary};

use crate::setup::{Setup, assert_message, assert_same};

/// Runs a world-executable copy of the binary through `setpriv` with these options.
fn overlay_as(setup: &Setup, setpriv: &[&str], arguments: &[&str]) -> std::process::Output {
    let binary: PathBuf = setup.directory().join("overlay");
    if !binary.exists() {
        fs::copy(overlay_binary().unwrap(), &binary).unwrap();
        for path in [setup.directory(), &binary] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    let mut command = setup.host().command("timeout");
    command.args(["--kill-after=1", "20", "setpriv"]).args(setpriv).arg(binary).args(arguments);
    command.arg("--pin-root").arg(setup.pin_root()).output().unwrap()
}

const UNPRIVILEGED: [&str; 6] = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"];

#[test]
fn run_without_root_is_refused() {
    let setup = Setup::new();
    let config = setup.config(|_| {});
    let before = setup.snapshot();
    let output = overlay_as(&setup, &UNPRIVILEGED, &["run", "--config", config.to_str().unwrap()]);
    let parts = ["missing capabilities CAP_", "CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF", "run overlay as root"];
    assert_message(&output, 1, &parts);
    assert_same(&before, &setup.snapshot());
}

#[test]
fn run_names_each_missing_capability() {
    let setup = Setup::new();
    let config = setup.config(|_| {});
    let before = setup.snapshot();
    for (bounds, named) in [
        ("-net_admin", "CAP_NET_ADMIN"),
        ("-bpf,-sys_admin", "CAP_BPF"),
        ("-perfmon,-sys_admin", "CAP_PERFMON"),
        ("-sys_admin", "CAP_SYS_ADMIN"),
    ] {
        let output = overlay_as(&setup, &["--bounding-set", bounds], &["run", "--config", config.to_str().unwrap()]);
        assert_message(&output, 1, &[named, "run overlay as root, or grant them"]);
        assert_same(&before, &setup.snapshot());
    }
}

/// Checking a file needs no privileges.
#[test]
fn check_without_root_reports_configuration_errors() {
    let setup = Setup::new();
    let config = setup.config(|cluster| cluster.networks[0].vni = 0);
    let output = overlay_as(&setup, &UNPRIVILEGED, &["check", "--config", config.to_str().unwrap()]);
    assert_message(&output, 2, &["0 is not a VNI"]);
}

#[test]
fn status_and_down_without_root_are_refused() {
    let setup = Setup::new();
    let config = setup.config(|_| {});
    let daemon = Daemon::start(setup.host(), &config, setup.pin_root()).unwrap();
    let before = setup.snapshot();
    for subcommand in ["status", "fdb", "ports", "counters", "down"] {
        let output = overlay_as(&setup, &UNPRIVILEGED, &[subcommand]);
        assert_message(&output, 1, &["as root"]);
    }
    assert_same(&before, &setup.snapshot());
    assert_eq!(daemon.overlay(&["status", "--json"]).unwrap()["ready"], true);
}
