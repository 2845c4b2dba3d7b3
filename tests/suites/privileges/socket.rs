//! Permissions of the socket and the store, and no listening TCP or UDP sockets.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::Path,
    process::Output,
};

use overlay_tests::lab::{Daemon, DaemonHost as _, NetNs, User};

use crate::setup::{OVERLAY, Pair, THREE};

const SOCKET: &str = "/run/overlay/test.sock";

/// Capabilities of a daemon with a store.
const FOUR: [&str; 4] = ["net_admin", "bpf", "perfmon", "sys_admin"];

fn store(pair: &Pair, more: &[&str], groups: &[u32]) -> Daemon {
    OVERLAY.directory(&pair.directory.join("state"), 0o700).unwrap();
    let words = ["--data-dir", "/mnt/state/data", "--node-name", "node01", "--socket", SOCKET];
    let arguments: Vec<_> = words.iter().chain(more).map(Into::into).collect();
    let mut account = pair.user(1, &FOUR);
    account.groups = groups.to_vec();
    pair.start_with(1, &account, &arguments)
}

/// Sends a request as another user.
fn request_as(pair: &Pair, user: User) -> Output {
    let account = user.on(pair.lab.host(1), &[]);
    let mut command = account.command(pair.binary.as_os_str());
    command.args(["node", "ls", "--json", "--socket", SOCKET]).output().unwrap()
}

fn mode(path: &str) -> (u32, u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.permissions().mode() & 0o7777, found.uid(), found.gid())
}

#[track_caller]
fn assert_served(output: &Output) {
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("node01"), "{output:?}");
}

#[track_caller]
fn assert_denied(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("permission denied") && stderr.contains("--socket-group"), "{stderr}");
}

#[test]
fn socket_serves_daemon_group_and_refuses_others() {
    let pair = Pair::new();
    let _daemon = store(&pair, &[], &[]);
    assert_eq!(mode(SOCKET), (0o660, OVERLAY.uid, OVERLAY.gid));
    assert_eq!(mode("/run/overlay"), (0o750, OVERLAY.uid, OVERLAY.gid));
    assert_eq!(mode(&format!("{SOCKET}.lock")).0, 0o600);
    let (member, other_user) = (User { uid: 64322, ..OVERLAY }, User { uid: 64322, gid: 64322 });
    assert_served(&request_as(&pair, member));
    assert_denied(&request_as(&pair, other_user));
    // The socket's own permissions refuse other users too.
    fs::set_permissions("/run/overlay", fs::Permissions::from_mode(0o755)).unwrap();
    assert_denied(&request_as(&pair, other_user));
    assert_served(&request_as(&pair, member));
}

#[test]
fn socket_group_must_be_a_group_of_the_daemon_user() {
    let pair = Pair::new();
    let group = 64330;
    let daemon = store(&pair, &["--socket-group", &group.to_string()], &[group]);
    assert_eq!(mode(SOCKET), (0o660, OVERLAY.uid, group));
    // The administrator opens the directory to other groups.
    fs::set_permissions("/run/overlay", fs::Permissions::from_mode(0o751)).unwrap();
    assert_served(&request_as(&pair, User { uid: 64322, gid: group }));
    assert_denied(&request_as(&pair, User { uid: 64322, ..OVERLAY }));
    drop(daemon);
    fs::remove_dir_all("/mnt/state").unwrap();
    let mut account = pair.user(1, &FOUR);
    account.groups = vec![];
    let arguments = ["--data-dir", "/mnt/state/data", "--socket", SOCKET, "--socket-group", "64330"];
    let error = Daemon::start_with(&pair.binary, &account, &arguments, &Pair::pin_root(1))
        .expect_err("the user is not in the group");
    assert!(format!("{error:#}").contains("cannot set its group"), "{error:#}");
}

#[test]
fn store_is_accessible_to_its_user_only() {
    let pair = Pair::new();
    let _daemon = store(&pair, &[], &[]);
    assert_eq!(mode("/mnt/state/data"), (0o700, OVERLAY.uid, OVERLAY.gid));
    assert_eq!(mode("/mnt/state/data/overlay.redb"), (0o600, OVERLAY.uid, OVERLAY.gid));
}

/// Sockets of one kind in a netns that a process has open: inode and state.
fn sockets(ns: &NetNs, pid: u32, table: &str) -> Vec<(String, String)> {
    let open: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok()?.to_str().map(str::to_owned))
        .collect();
    let text = ns.enter(|| fs::read_to_string(Path::new("/proc/thread-self/net").join(table)).unwrap());
    let row = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (format!("socket:[{}]", fields[9]), fields[3].to_owned())
    };
    text.lines().skip(1).map(row).filter(|(inode, _)| open.contains(inode)).collect()
}

#[track_caller]
fn assert_nothing_listens(daemon: &Daemon, ns: &NetNs) {
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        assert_eq!(sockets(ns, daemon.pid().unwrap(), table), [], "{table}");
    }
    // The netns has no other listening socket.
    let listening = ns.run(&["ss", "-Hltn"]);
    assert_eq!(listening, "");
}

#[test]
fn daemon_opens_no_tcp_or_udp_socket() {
    let pair = Pair::new();
    let host = pair.lab.host(1);
    let daemon = pair.start(1, &pair.user(1, &THREE));
    assert_nothing_listens(&daemon, host);
    daemon.down().unwrap();
    let daemon = store(&pair, &["--store", "embedded", "--discover"], &[]);
    assert_nothing_listens(&daemon, host);
    // The check detects an existing socket.
    let _listener = host.enter(|| std::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    assert_eq!(sockets(host, std::process::id(), "tcp").len(), 1);
    UnixStream::connect(SOCKET).unwrap();
}
