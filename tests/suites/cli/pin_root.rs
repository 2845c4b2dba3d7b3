//! `--pin-root`.

use std::{ffi::CString, fs, io, path::Path};

use overlay_tests::lab::{BPFFS, Daemon, Lab, NetNs, snapshot::tree};

use crate::setup::{Setup, assert_message, assert_same};

fn run_at(setup: &Setup, pin_root: &Path, code: i32, parts: &[&str]) {
    let config = setup.config(|_| {});
    let before = setup.snapshot();
    let mut command = setup.wrapped(&[], &["run", "--config"]);
    let output = command.arg(&config).arg("--pin-root").arg(pin_root).output().unwrap();
    assert_message(&output, code, parts);
    assert_same(&before, &setup.snapshot());
}

#[test]
fn pin_root_outside_bpffs_is_refused_and_removed() {
    let setup = Setup::new();
    let pin_root = setup.directory().join("pins");
    let name = pin_root.to_str().unwrap().to_owned();
    // The temporary directory has a dot in its name, which is permitted outside bpffs.
    let parts = [name.as_str(), "is not on a BPF filesystem", "choose a --pin-root below /sys/fs/bpf"];
    run_at(&setup, &pin_root, 1, &parts);
    assert!(!pin_root.exists());

    // An existing directory is kept.
    fs::create_dir_all(pin_root.join("existing")).unwrap();
    run_at(&setup, &pin_root, 1, &parts);
    assert!(pin_root.join("existing").is_dir());
}

#[test]
fn pin_root_name_with_dot_is_refused() {
    let setup = Setup::new();
    let pin_root = Path::new(BPFFS).join("overlay.1");
    run_at(&setup, &pin_root, 1, &["/sys/fs/bpf/overlay.1", "reserves names with dots", "choose a name without"]);
}

#[test]
fn pin_root_in_use_is_refused() {
    let setup = Setup::new();
    let config = setup.config(|_| {});
    let daemon = Daemon::start(setup.host(), &config, setup.pin_root()).unwrap();
    let pid = daemon.overlay(&["status", "--json"]).unwrap()["daemon"].as_u64().unwrap();
    let parts = ["/sys/fs/bpf/overlay is in use by another overlay daemon", &format!("(pid {pid})"), "--pin-root"];
    run_at(&setup, setup.pin_root(), 1, &parts);
    // The running daemon is not affected.
    assert_eq!(daemon.overlay(&["status", "--json"]).unwrap()["ready"], true);
}

#[test]
fn pin_root_of_another_netns_is_refused() {
    let setup = Setup::new();
    let config = setup.config(|_| {});
    let _daemon = Daemon::start(setup.host(), &config, setup.pin_root()).unwrap();
    let before = setup.snapshot();
    for subcommand in ["status", "fdb", "ports", "counters", "down"] {
        let other_host: &NetNs = setup.lab.host(2);
        let mut command = other_host.command(overlay_tests::lab::overlay_binary().unwrap());
        let output = command.arg(subcommand).arg("--pin-root").arg(setup.pin_root()).output().unwrap();
        let parts = ["/sys/fs/bpf/overlay belongs to another network namespace", "nsenter --net="];
        assert_message(&output, 1, &parts);
    }
    assert_same(&before, &setup.snapshot());
}

/// Unmounts bpffs in this thread's mount namespace.
fn unmount_bpffs() {
    let target = CString::new(BPFFS).unwrap();
    // Twice: the private mount and the machine's below it.
    // SAFETY: the string ends in NUL and outlives the calls.
    while unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) } == 0 {}
    assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EINVAL), "nothing is mounted");
}

fn is_mounted() -> bool {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    mounts.lines().any(|line| line.split(' ').skip(1).take(2).eq([BPFFS, "bpf"]))
}

#[test]
fn run_mounts_missing_bpffs() {
    let setup = Setup::new();
    unmount_bpffs();
    assert!(!is_mounted());
    let config = setup.config(|_| {});
    // Without bpffs nothing is loaded, and `status` does not mount it.
    let output = setup.wrapped(&[], &["status"]).output().unwrap();
    assert_message(&output, 3, &["nothing is loaded at /sys/fs/bpf/overlay"]);
    assert!(!is_mounted());

    let daemon = Daemon::start(setup.host(), &config, Path::new(BPFFS).join("overlay").as_path()).unwrap();
    assert!(is_mounted());
    // The default pin root of every subcommand.
    assert!(setup.wrapped(&[], &["status"]).output().unwrap().status.success());
    daemon.down().unwrap();
    assert!(!setup.pin_root().exists());
}

/// `check` neither mounts nor creates anything.
#[test]
fn check_does_not_mount_missing_bpffs() {
    let setup = Setup::new();
    unmount_bpffs();
    let config = setup.config(|_| {});
    let output = setup.overlay(&["check", "--config", config.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!is_mounted() && fs::read_dir(BPFFS).unwrap().next().is_none());
}

/// Two labs: the daemons share only the BPF filesystem.
#[test]
fn two_daemons_use_separate_pin_roots() {
    let setup = Setup::new();
    let before = tree(Path::new(BPFFS));
    let other = Lab::two_hosts();
    let config = setup.config(|_| {});
    let first = Daemon::start(setup.host(), &config, setup.pin_root()).unwrap();
    let second_config = setup.directory().join("second.toml");
    overlay_tests::lab::Cluster::example(&other).write(&second_config).unwrap();
    let second = Daemon::start(other.host(1), &second_config, &Path::new(BPFFS).join("overlay2")).unwrap();
    first.down().unwrap();
    assert_eq!(second.overlay(&["status", "--json"]).unwrap()["ready"], true);
    second.down().unwrap();
    assert_eq!(tree(Path::new(BPFFS)), before);
}
