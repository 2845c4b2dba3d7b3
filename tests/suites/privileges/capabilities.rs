//! Capabilities of the daemon.

use std::{ffi::OsString, fs, os::unix::fs::MetadataExt as _};

use overlay_tests::{
    check::{Counts, until},
    lab::{
        Daemon, DaemonHost as _, Unprivileged, User, overlay_binary,
        traffic::{Datagrams, udp_transfer},
    },
    testbed::prepare_xdp,
};

use crate::setup::{OVERLAY, Pair, THREE, assert_capabilities, capability_bits, process_status};

/// A netns below `/proc/PID/fd` of a process of root needs two more capabilities than one below `/run/netns`.
const SIX: [&str; 6] = ["net_admin", "bpf", "perfmon", "sys_admin", "sys_ptrace", "dac_read_search"];

/// Entries of a directory.
fn list(path: &std::path::Path) -> Vec<String> {
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn three_capabilities_suffice_to_run_restart_and_take_down() {
    let pair = Pair::new();
    let mut daemons = pair.run(&THREE);
    pair.by_fast_path(&daemons);
    for daemon in &daemons {
        let pid = daemon.pid().unwrap();
        assert_capabilities(pid, &THREE);
        assert!(process_status(pid, "Uid").starts_with("64321\t64321"), "{pid}");
        for subcommand in ["status", "fdb", "ports", "counters"] {
            daemon.overlay(&[subcommand, "--json"]).unwrap();
        }
    }
    // A restart replaces the attached programs in their links.
    for daemon in &mut daemons {
        daemon.kill9().unwrap();
        daemon.restart().unwrap();
    }
    pair.by_fast_path(&daemons);
    for (number, daemon) in (1..).zip(daemons) {
        daemon.down().unwrap();
        // The directory stays, because the user cannot create it again.
        let root = Pair::pin_root(number);
        assert_eq!((list(&root), fs::metadata(&root).unwrap().uid()), (vec![], OVERLAY.uid));
        let links = pair.lab.host(number).run(&["ip", "-o", "link"]);
        assert!(!links.contains("ovl"), "{links}");
    }
}

/// The kernel may have the tables of iptables-legacy built in.
#[test]
fn rules_of_iptables_legacy_are_read_with_the_group_root_and_never_bypassed() {
    let pair = Pair::new();
    let mut daemons = pair.run(&THREE);
    pair.by_fast_path(&daemons);
    let problems = |daemon: &Daemon| {
        let output = daemon.output(&["status", "--problems"]).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let legacy = |action: &str, rule: &str| {
        let command = format!("iptables-legacy {action} {rule}");
        pair.lab.host(1).run(&command.split(' ').collect::<Vec<_>>());
    };
    for (rule, words) in [
        ("INPUT -p udp --dport 4789 -j DROP", "chain INPUT of iptables-legacy table filter drops packets from it"),
        ("FORWARD -p tcp --dport 25 -j DROP", "chain FORWARD of iptables-legacy table filter can drop its packets"),
    ] {
        legacy("-A", rule);
        until("the rule is read", || problems(&daemons[0]).contains(words));
        legacy("-D", rule);
        until("the rule is gone", || !problems(&daemons[0]).contains("iptables-legacy"));
        daemons[0].wait_until_resolved(&pair.lab).unwrap();
        pair.by_fast_path(&daemons);
    }
    // Without the group, the tables may have any rules.
    let [first, _second] = &mut daemons;
    first.sigterm().unwrap();
    let arguments = ["--config".into(), pair.config().into_os_string()];
    let account = Unprivileged { groups: Vec::new(), ..pair.user(1, &THREE) };
    let daemon = pair.start_with(1, &account, &arguments);
    until("the tables cannot be read", || {
        problems(&daemon).contains("the rules of iptables-legacy cannot be read (Permission denied")
    });
    let before = Counts::read(&daemon, 0);
    pair.ping(1, 2);
    let moved = Counts::read(&daemon, 0).since(&before);
    assert_eq!((moved.of("encap"), moved.received()), (0, 0), "{moved:?}");
}

#[test]
fn xdp_needs_no_additional_capability() {
    let mut pair = Pair::new();
    pair.cluster.rx = Some("xdp".to_owned());
    pair.lab.hosts().iter().for_each(|host| prepare_xdp(host).unwrap());
    // XDP redirects only to interfaces that the daemon has created.
    pair.by_netns(2);
    let daemons = [pair.start(1, &pair.user(1, &THREE)), pair.start(2, &pair.user(2, &SIX))];
    daemons.iter().for_each(|daemon| daemon.wait_until_resolved(&pair.lab).unwrap());
    pair.ping(1, 2);
    let before = [0, 1].map(|index| Counts::read(&daemons[index], 0));
    for (from, to) in [(1, 2), (2, 1)] {
        let [from, to] = [from, to].map(|host| &pair.lab.host(host).containers()[0]);
        let plan = Datagrams { size: 100, count: 50, per_second: Some(1000), ..Datagrams::default() };
        assert_eq!(udp_transfer(from, to, to.ip().into(), plan).unwrap().received, 50);
    }
    let moved = [0, 1].map(|index| Counts::read(&daemons[index], 0).since(&before[index]));
    assert!(moved[0].of("xdp_port") >= 50 && moved[1].of("decap_xdp") >= 50, "{moved:?}");
}

#[test]
fn daemon_started_as_root_drops_unneeded_capabilities() {
    let pair = Pair::new();
    let pins = std::path::Path::new("/sys/fs/bpf/root");
    let arguments: [OsString; 4] =
        ["--config".into(), pair.config().into(), "--socket".into(), pair.directory.join("socket").into()];
    let daemon = Daemon::start_with(&pair.binary, pair.lab.host(1), &arguments, pins).unwrap();
    let pid = daemon.pid().unwrap();
    let capabilities = [&THREE[..], &["sys_admin", "sys_ptrace", "dac_read_search"]].concat();
    assert_capabilities(pid, &capabilities);
    let bounding = u64::from_str_radix(&process_status(pid, "CapBnd"), 16).unwrap();
    assert_eq!(bounding, capability_bits(&capabilities));
    daemon.down().unwrap();
    assert!(!pins.exists());
}

#[test]
fn missing_capability_is_named_and_nothing_is_created() {
    let pair = Pair::new();
    let before = pair.lab.host(1).run(&["ip", "-o", "link"]);
    for missing in THREE {
        let rest: Vec<_> = THREE.into_iter().filter(|name| *name != missing).collect();
        let text = pair.refused(1, &pair.user(1, &rest));
        assert!(text.contains(&format!("missing capabilities CAP_{}", missing.to_uppercase())), "{text}");
        assert_eq!(text.matches("CAP_").count(), 1, "{text}");
        assert_eq!(list(&Pair::pin_root(1)), Vec::<String>::new());
        assert_eq!(pair.lab.host(1).run(&["ip", "-o", "link"]), before);
    }
}

#[test]
fn entering_container_netns_needs_named_capabilities() {
    let mut pair = Pair::new();
    pair.by_netns(1);
    let text = pair.refused(1, &pair.user(1, &THREE));
    assert!(text.contains("missing capabilities CAP_SYS_ADMIN"), "{text}");
    let four = [&THREE[..], &["sys_admin"]].concat();
    let text = pair.refused(1, &pair.user(1, &four));
    assert!(text.contains("permission denied") && text.contains("CAP_SYS_PTRACE"), "{text}");
    let daemons = [pair.start(1, &pair.user(1, &SIX)), pair.start(2, &pair.user(2, &THREE))];
    daemons.iter().for_each(|daemon| daemon.wait_until_resolved(&pair.lab).unwrap());
    pair.ping(1, 2);
    pair.by_fast_path(&daemons);
}

#[test]
fn change_without_needed_capability_is_refused() {
    let mut pair = Pair::new();
    let daemons = pair.run(&THREE);
    let running = pair.cluster.clone();
    // The path is readable, but entering the netns is not permitted.
    let path = pair.directory.join("netns");
    fs::write(&path, "").unwrap();
    let container = pair.lab.host(2).containers()[0].path().to_str().unwrap().to_owned();
    pair.lab.host(1).run(&["mount", "--bind", &container, path.to_str().unwrap()]);
    let mut endpoint = running.endpoints[0].clone();
    (endpoint.name, endpoint.ip) = ("more".to_owned(), [10, 0, 1, 9].into());
    (endpoint.port, endpoint.netns) = (None, Some(path));
    pair.cluster.endpoints.push(endpoint);
    pair.config();
    until("the change is rejected", || daemons[0].log().contains("the configuration is rejected"));
    let text = daemons[0].log();
    assert!(text.contains("missing capabilities CAP_SYS_ADMIN"), "{text}");
    pair.by_fast_path(&daemons);
}

#[test]
fn pin_root_of_another_user_is_refused() {
    let pair = Pair::new();
    let other_user = User { uid: 64322, gid: 64322 };
    let text = pair.refused(1, &other_user.on(pair.lab.host(1), &THREE));
    assert!(text.contains("/sys/fs/bpf/node01: permission denied"), "{text}");
    // Root is refused too: its pins would block the other user.
    let arguments: [OsString; 4] =
        ["--config".into(), pair.config().into(), "--socket".into(), pair.directory.join("socket").into()];
    let error = Daemon::start_with(&overlay_binary().unwrap(), pair.lab.host(1), &arguments, &Pair::pin_root(1));
    let text = format!("{:#}", error.expect_err("it is another user's"));
    assert!(text.contains("belongs to user 64321") && text.contains("user 0"), "{text}");
    assert_eq!(list(&Pair::pin_root(1)), Vec::<String>::new());
}

#[test]
fn unprivileged_status_reports_missing_permission() {
    let pair = Pair::new();
    let _daemon = pair.start(1, &pair.user(1, &THREE));
    let other_user = User { uid: 64322, gid: 64322 };
    for (account, expected) in
        [(other_user.on(pair.lab.host(1), &[]), "permission denied"), (pair.user(1, &[]), "CAP_BPF")]
    {
        for subcommand in ["status", "fdb", "ports", "counters"] {
            let mut command = account.command(pair.binary.as_os_str());
            let output = command.arg(subcommand).arg("--pin-root").arg(Pair::pin_root(1)).output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{subcommand}: {text}");
            assert!(text.contains(expected) && text.contains("as root"), "{subcommand}: {text}");
        }
    }
}
