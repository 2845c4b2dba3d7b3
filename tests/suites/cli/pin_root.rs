//! Where pins go.

use std::{ffi::CString, fs, io, path::Path};

use overlay_tests::lab::{BPFFS, Daemon, Lab, NetNs, snapshot::tree};

use crate::bench::{Bench, assert_message, assert_same};

fn run_at(bench: &Bench, pin_root: &Path, code: i32, parts: &[&str]) {
    let config = bench.config(|_| {});
    let before = bench.snapshot();
    let mut command = bench.wrapped(&[], &["run", "--config"]);
    let output = command.arg(&config).arg("--pin-root").arg(pin_root).output().unwrap();
    assert_message(&output, code, parts);
    assert_same(&before, &bench.snapshot());
}

#[test]
fn a_directory_that_is_on_no_bpf_filesystem_is_refused_and_not_left() {
    let bench = Bench::new();
    let pin_root = bench.directory().join("pins");
    let name = pin_root.to_str().unwrap().to_owned();
    // This directory has a dot in its name, which is no harm there.
    let parts = [name.as_str(), "is not on a BPF filesystem", "choose a --pin-root below /sys/fs/bpf"];
    run_at(&bench, &pin_root, 1, &parts);
    assert!(!pin_root.exists());

    // Somebody's directory stays.
    fs::create_dir_all(pin_root.join("theirs")).unwrap();
    run_at(&bench, &pin_root, 1, &parts);
    assert!(pin_root.join("theirs").is_dir());
}

#[test]
fn a_name_with_a_dot_is_refused() {
    let bench = Bench::new();
    let pin_root = Path::new(BPFFS).join("overlay.1");
    run_at(&bench, &pin_root, 1, &["/sys/fs/bpf/overlay.1", "reserves names with dots", "choose a name without"]);
}

#[test]
fn the_pin_root_of_a_running_daemon_is_refused() {
    let bench = Bench::new();
    let config = bench.config(|_| {});
    let daemon = Daemon::start(bench.host(), &config, bench.pin_root()).unwrap();
    let pid = daemon.overlay(&["status", "--json"]).unwrap()["daemon"].as_u64().unwrap();
    let parts = ["/sys/fs/bpf/overlay is in use by another overlay daemon", &format!("(pid {pid})"), "--pin-root"];
    run_at(&bench, bench.pin_root(), 1, &parts);
    // The one that runs is not harmed.
    assert_eq!(daemon.overlay(&["status", "--json"]).unwrap()["ready"], true);
}

#[test]
fn the_pin_root_of_another_namespace_is_refused() {
    let bench = Bench::new();
    let config = bench.config(|_| {});
    let _daemon = Daemon::start(bench.host(), &config, bench.pin_root()).unwrap();
    let before = bench.snapshot();
    for subcommand in ["status", "fdb", "ports", "counters", "down"] {
        let elsewhere: &NetNs = bench.lab.host(2);
        let mut command = elsewhere.command(overlay_tests::lab::overlay_binary().unwrap());
        let output = command.arg(subcommand).arg("--pin-root").arg(bench.pin_root()).output().unwrap();
        let parts = ["/sys/fs/bpf/overlay belongs to another network namespace", "nsenter --net="];
        assert_message(&output, 1, &parts);
    }
    assert_same(&before, &bench.snapshot());
}

/// In this thread's mount namespace alone.
fn unmount_bpffs() {
    let target = CString::new(BPFFS).unwrap();
    // Once for the private one, again for the machine's below it.
    // SAFETY: the string ends in NUL and outlives the calls.
    while unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) } == 0 {}
    assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EINVAL), "nothing is mounted any more");
}

fn is_mounted() -> bool {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    mounts.lines().any(|line| line.split(' ').skip(1).take(2).eq([BPFFS, "bpf"]))
}

#[test]
fn the_bpf_filesystem_is_mounted_where_it_is_missing() {
    let bench = Bench::new();
    unmount_bpffs();
    assert!(!is_mounted());
    let config = bench.config(|_| {});
    // Without it nothing is loaded, and looking does not mount it.
    let output = bench.wrapped(&[], &["status"]).output().unwrap();
    assert_message(&output, 3, &["nothing is loaded at /sys/fs/bpf/overlay"]);
    assert!(!is_mounted());

    let daemon = Daemon::start(bench.host(), &config, Path::new(BPFFS).join("overlay").as_path()).unwrap();
    assert!(is_mounted());
    // It is where every subcommand looks by default.
    assert!(bench.wrapped(&[], &["status"]).output().unwrap().status.success());
    daemon.down().unwrap();
    assert!(!bench.pin_root().exists());
}

/// `check` mounts and makes nothing either.
#[test]
fn check_leaves_a_missing_bpf_filesystem_missing() {
    let bench = Bench::new();
    unmount_bpffs();
    let config = bench.config(|_| {});
    let output = bench.overlay(&["check", "--config", config.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!is_mounted() && fs::read_dir(BPFFS).unwrap().next().is_none());
}

/// Two labs, so that nothing but the pin root keeps the two daemons apart.
#[test]
fn two_daemons_have_a_pin_root_each() {
    let bench = Bench::new();
    let before = tree(Path::new(BPFFS));
    let other = Lab::two_hosts();
    let config = bench.config(|_| {});
    let first = Daemon::start(bench.host(), &config, bench.pin_root()).unwrap();
    let second_config = bench.directory().join("second.toml");
    overlay_tests::lab::Cluster::example(&other).write(&second_config).unwrap();
    let second = Daemon::start(other.host(1), &second_config, &Path::new(BPFFS).join("overlay2")).unwrap();
    first.down().unwrap();
    assert_eq!(second.overlay(&["status", "--json"]).unwrap()["ready"], true);
    second.down().unwrap();
    assert_eq!(tree(Path::new(BPFFS)), before);
}
