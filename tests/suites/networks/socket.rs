//! Access to the socket.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    process::Output,
};

use overlay_tests::lab::{Daemon, overlay_binary};

use crate::setup::{Single, ok, socket};

/// `daemon` on Debian: a group that exists.
const GROUP: u32 = 1;

/// Runs `overlay node ls` as a user that is not root, with this group.
fn as_user(single: &Single, gid: u32) -> Output {
    let binary = std::path::Path::new("/mnt/overlay");
    if !binary.exists() {
        fs::copy(overlay_binary().unwrap(), binary).unwrap();
        fs::set_permissions(binary, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let gid = gid.to_string();
    let mut command = single.lab.host(1).command("setpriv");
    command.args(["--reuid", "65534", "--regid", &gid, "--clear-groups", "--no-new-privs"]).arg(binary);
    command.args(["node", "ls", "--json", "--socket"]).arg(socket()).output().unwrap()
}

#[test]
fn socket_serves_its_group_only() {
    let single = Single::start_with(&["--socket-group", "daemon"]);
    let found = fs::metadata(socket()).unwrap();
    assert_eq!((found.permissions().mode() & 0o777, found.uid(), found.gid()), (0o660, 0, GROUP));
    let directory = fs::metadata("/run/overlay").unwrap();
    assert_eq!((directory.permissions().mode() & 0o777, directory.gid()), (0o750, GROUP));

    let member = ok(&as_user(&single, GROUP));
    assert_eq!(member["nodes"][0]["name"], "node01");
    let other = as_user(&single, 65534);
    assert_eq!(other.status.code(), Some(1));
    let stderr = String::from_utf8(other.stderr).unwrap();
    assert!(stderr.contains("permission denied") && stderr.contains("--socket-group"), "{stderr}");
}

#[test]
fn down_removes_socket_and_lock_after_sigkill() {
    let files = || fs::read_dir("/run/overlay").unwrap().map(|file| file.unwrap().file_name()).collect::<Vec<_>>();
    let mut single = Single::start();
    assert_eq!(files().len(), 2, "the socket and its lock: {:?}", files());
    single.daemon.sigterm().unwrap();
    assert!(files().is_empty(), "{:?}", files());

    single.daemon.restart().unwrap();
    single.daemon.kill9().unwrap();
    assert_eq!(files().len(), 2, "{:?}", files());
    let output = single.daemon.output(&["down"]).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(files().is_empty(), "{:?}", files());
}

#[test]
fn malformed_request_does_not_affect_daemon() {
    let single = Single::start();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\0\0\n", b"{\"request\":\"status\"", &[b'x'; 200_000]] {
        let mut stream = UnixStream::connect(socket()).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(single.json(&["status"])["control"]["source"], "store");
}

#[test]
fn daemon_refuses_socket_of_another_daemon() {
    let single = Single::start();
    let before = single.snapshot();
    let path = socket();
    let arguments = ["--data-dir", "/mnt/other", "--socket", path.to_str().unwrap()];
    let error = Daemon::start_with(
        &overlay_binary().unwrap(),
        single.lab.host(2),
        &arguments,
        std::path::Path::new("/sys/fs/bpf/other"),
    );
    let stderr = format!("{:#}", error.expect_err("the socket is taken"));
    assert!(stderr.contains("another daemon listens on it") && stderr.contains("--socket"), "{stderr}");
    assert!(!std::path::Path::new("/sys/fs/bpf/other").exists());
    assert_eq!(single.snapshot(), before);
}

/// A daemon with a configuration file names the remedy.
#[test]
fn network_create_without_store_is_refused() {
    let single = Single::start();
    let config = std::path::Path::new("/mnt/cluster.toml");
    overlay_tests::lab::Cluster::example(&single.lab).write(config).unwrap();
    let daemon = Daemon::start(single.lab.host(2), config, std::path::Path::new("/sys/fs/bpf/node02")).unwrap();
    let output = daemon.output(&["network", "create", "blue"]).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("/mnt/cluster.toml") && stderr.contains("--store"), "{stderr}");
    let status = daemon.overlay(&["status", "--json"]).unwrap();
    assert_eq!((&status["control"]["source"], &status["control"]["node"]), (&"file".into(), &"node02".into()));
}
