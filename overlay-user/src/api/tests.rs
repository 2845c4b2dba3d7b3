//! The socket with a handler that is not the daemon.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    types::{Failure, Request},
    *,
};
use crate::{apply::socket::*, model::Finding};

struct Echo;

impl Handler for Echo {
    async fn handle(&self, request: Request) -> Result<Value, Failure> {
        match request {
            Request::Status => Ok(json!({ "echo": "status" })),
            request => Err(Failure::refused(Finding::new(format!("{request:?}"), "no", "request the status"))),
        }
    }
}

fn socket_file() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("overlay.sock");
    (directory, path)
}

fn start(path: &Path) {
    Server::start(Listener::bind(path, None).expect("a socket"), Arc::new(Echo)).expect("it listens");
}

/// Sends bytes and returns the answer, on a thread of its own.
async fn raw(path: &Path, bytes: Vec<u8>) -> String {
    let path = path.to_owned();
    let work = move || {
        let mut stream = UnixStream::connect(path).expect("a connection");
        // The server may have closed the connection.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

#[test]
fn each_pin_root_has_a_socket_of_its_own() {
    let at = |path: &str| socket_path(Path::new(path)).to_str().map(str::to_owned).expect("text");
    assert_eq!(at("/sys/fs/bpf/overlay"), "/run/overlay/overlay.sock");
    assert_eq!(at("/sys/fs//bpf/overlay/"), "/run/overlay/overlay.sock");
    assert!(at("/sys/fs/bpf/node01").starts_with("/run/overlay/node01-"));
    assert_ne!(at("/sys/fs/bpf/a/node01"), at("/sys/fs/bpf/b/node01"));
    assert!(at(&format!("/sys/fs/bpf/{}", "long".repeat(60))).len() < 100);
}

#[tokio::test]
async fn request_is_answered() {
    let (_directory, path) = socket_file();
    start(&path);
    assert_eq!(call(&path, &Request::Status).await.expect("an answer"), json!({ "echo": "status" }));
    let refused = call(&path, &Request::NodeList).await.expect_err("a refusal");
    assert_eq!(refused.to_string(), "NodeList: no; request the status");
    let CallError::Failure(failure) = refused else { panic!("{refused:?}") };
    let finding = json!({ "object": "NodeList", "problem": "no", "remedy": "request the status" });
    assert_eq!(json!(failure), json!({ "kind": "refused", "findings": [finding] }));
}

#[tokio::test]
async fn socket_without_listener_is_no_daemon() {
    let (_directory, path) = socket_file();
    assert!(matches!(call(&path, &Request::Status).await, Err(CallError::NoDaemon(_))));
    let starting = Listener::bind(&path, None).expect("a socket");
    assert!(matches!(call(&path, &Request::Status).await, Err(CallError::NoDaemon(_))));
    drop(starting);
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(matches!(call(&path, &Request::Status).await, Err(CallError::NoDaemon(_))));
}

#[tokio::test]
async fn broken_clients_do_not_affect_others() {
    let (_directory, path) = socket_file();
    start(&path);
    for (bytes, part) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "cannot be read"),
        (b"\xff\xfe\n".to_vec(), "cannot be read"),
        (b"{\"request\":\"fly\"}\n".to_vec(), "fly"),
        (b"{\"request\":\"network_inspect\"}\n".to_vec(), "name"),
        (b"{\"request\":\"network_inspect\",\"name\":\"a\",\"more\":1}\n".to_vec(), "more"),
        (vec![b'['; 60_000], ""),
        (vec![b'['; 60_000].into_iter().chain([b'\n']).collect(), "cannot be read"),
        (vec![b'x'; 1 << 20], ""),
        (b"{\"request\":".to_vec(), ""),
        (Vec::new(), ""),
    ] {
        let answer = raw(&path, bytes.clone()).await;
        assert!(answer.contains(part), "{:?}: {answer}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
    }
    // More silent clients than are served concurrently delay others only until their timeout.
    let silent: Vec<_> = (0..100).map(|_| UnixStream::connect(&path).expect("a connection")).collect();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    drop(silent);
    assert!(call(&path, &Request::Status).await.is_ok());
}

#[tokio::test]
async fn only_owner_and_group_may_connect() {
    let (_directory, path) = socket_file();
    let listener = Listener::bind(&path, Some("65534")).expect("a socket");
    let found = fs::symlink_metadata(listener.path()).expect("it is there");
    assert_eq!((found.permissions().mode() & 0o777, found.gid()), (0o660, 65534));
    let error = Listener::bind(&path.with_extension("other"), Some("no-such-group")).expect_err("no group");
    assert!(matches!(error, ListenError::NoGroup(_)), "{error}");
}

#[tokio::test]
async fn stale_socket_is_replaced_and_a_listening_one_is_not() {
    let (_directory, path) = socket_file();
    drop(UnixListener::bind(&path).expect("a stale socket"));
    let first = Listener::bind(&path, None).expect("the stale socket is replaced");
    assert!(matches!(Listener::bind(&path, None), Err(ListenError::Busy(_))));
    drop(first);
    assert!(!path.exists(), "the listener removes its socket");

    let other = UnixListener::bind(&path).expect("the socket of another program");
    assert!(matches!(Listener::bind(&path, None), Err(ListenError::Busy(_))));
    drop(other);
    fs::remove_file(&path).expect("the socket's file remains");
    fs::write(&path, "precious").expect("a file");
    assert!(matches!(Listener::bind(&path, None), Err(ListenError::NotASocket(_))));
    assert_eq!(fs::read_to_string(&path).expect("the file still exists"), "precious");
}
