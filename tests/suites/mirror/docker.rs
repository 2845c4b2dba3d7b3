//! What Docker's API adds, and that nothing depends on it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use overlay_user::model::mirror::Settings;
use serde_json::{Value, json};

use crate::node::{GINDEMO1, Node, SANDBOX, VNI, Watched};

const ANSWERS: u8 = 0;
const ENCRYPTS: u8 = 1;
const HANGS: u8 = 2;
const DEAD: u8 = 3;
/// Lists its networks and does not say what is in them.
const HANGS_LATER: u8 = 4;

/// A socket that answers as Docker 20.10 does.
struct Docker {
    state: Arc<AtomicU8>,
    directory: tempfile::TempDir,
}

impl Docker {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("docker.sock")).unwrap();
        let state = Arc::new(AtomicU8::new(ANSWERS));
        let says = Arc::clone(&state);
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let says = says.load(Ordering::Relaxed);
                thread::spawn(move || serve(&stream, says));
            }
        });
        Self { state, directory }
    }

    fn becomes(&self, state: u8) {
        self.state.store(state, Ordering::Relaxed);
    }

    fn watch(&self, node: &Node) -> Watched {
        node.watch_with(
            Settings { docker: Some(self.directory.path().join("docker.sock")), ..node.settings() },
            1 << 20,
        )
    }
}

fn serve(mut stream: &UnixStream, says: u8) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        // The headers; none of these requests has a body.
        while lines.next().is_some_and(|line| !line.is_empty()) {}
        match says {
            HANGS => thread::sleep(Duration::from_secs(3600)),
            DEAD => return,
            _ => {}
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        if says == HANGS_LATER && path.contains("/networks/") {
            thread::sleep(Duration::from_secs(3600));
        }
        let body = answer(path, says == ENCRYPTS).to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all(format!("{head}{body}").as_bytes()).is_err() {
            return;
        }
    }
}

fn answer(path: &str, encrypts: bool) -> Value {
    let mut options = json!({ "com.docker.network.driver.overlay.vxlanid_list": VNI.to_string() });
    if encrypts {
        options["encrypted"] = json!("");
    }
    match path.rsplit('/').next().unwrap_or_default() {
        "version" => json!({ "Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12" }),
        "abcdefghijklmnopqrstuvwxy" => json!({
            "Name": "my-overlay-network", "Id": "abcdefghijklmnopqrstuvwxy", "Driver": "overlay", "Options": options,
            "Containers": {
                "c0ffee": { "Name": "gindemo1", "EndpointID": "e1", "MacAddress": GINDEMO1, "IPv4Address": "10.0.1.2/24", "IPv6Address": "" },
                "lb-n": { "Name": "my-overlay-network-endpoint", "EndpointID": "e2", "MacAddress": "02:42:0a:00:01:03", "IPv4Address": "10.0.1.3/24", "IPv6Address": "" },
            },
        }),
        "info" => json!({ "Swarm": { "NodeID": "n", "NodeAddr": "192.168.1.9", "LocalNodeState": "active" } }),
        _ => json!([
            { "Name": "bridge", "Id": "b0", "Driver": "bridge", "Options": {} },
            { "Name": "my-overlay-network", "Id": "abcdefghijklmnopqrstuvwxy", "Driver": "overlay", "Options": options },
        ]),
    }
}

#[test]
fn docker_names_the_network_and_vouches_for_it_at_once() {
    let node = Node::new();
    let docker = Docker::start();
    let watched = docker.watch(&node);
    thread::sleep(Duration::from_millis(600));
    let _sandbox = node.sandbox(SANDBOX, VNI);
    watched.until("it is accelerated", || watched.network(VNI).is_some_and(|network| network.refused.is_none()));
    assert_eq!(watched.network(VNI).unwrap().name.as_deref(), Some("my-overlay-network"));
    assert!(watched.report().docker.unwrap().error.is_none());
}

#[test]
fn docker_names_the_containers_behind_the_ports() {
    let (node, _sandbox) = Node::with_sandbox();
    let docker = Docker::start();
    let watched = docker.watch(&node);
    let container = || watched.report().networks[0].ports[0].container.clone();
    watched.within(Duration::from_secs(3), "it is known", || container().as_deref() == Some("gindemo1"));
    docker.becomes(DEAD);
    let is_dead = || watched.report().docker.is_some_and(|docker| docker.error.is_some());
    watched.within(Duration::from_secs(5), "Docker is dead", is_dead);
    watched.always("its last word stays", || container().as_deref() == Some("gindemo1"));
}

#[test]
fn a_docker_that_does_not_say_what_is_in_its_networks_still_names_them() {
    let (node, _sandbox) = Node::with_sandbox();
    let docker = Docker::start();
    docker.becomes(HANGS_LATER);
    let watched = docker.watch(&node);
    watched.until("it has its name", || watched.network(VNI).is_some_and(|network| network.name.is_some()));
    watched.until_accelerated();
    let is_unnamed = || watched.report().networks[0].ports[0].container.is_none();
    watched.always("its port has none", || is_unnamed() && watched.report().docker.unwrap().error.is_none());
}

#[test]
fn a_network_that_docker_encrypts_is_refused_before_the_kernel_knows() {
    let (node, _sandbox) = Node::with_sandbox();
    let docker = Docker::start();
    docker.becomes(ENCRYPTS);
    let watched = docker.watch(&node);
    assert!(watched.refusal().unwrap().contains("Docker encrypts it"));
    docker.becomes(DEAD);
    let dead = || watched.report().docker.is_some_and(|docker| docker.error.is_some());
    watched.within(Duration::from_secs(5), "Docker is dead", dead);
    watched.always("its last word stays", || watched.refusal().is_some());
}

#[test]
fn a_docker_that_hangs_or_is_dead_stops_nothing() {
    for state in [HANGS, DEAD] {
        let (node, sandbox) = Node::with_sandbox();
        let docker = Docker::start();
        docker.becomes(state);
        let watched = docker.watch(&node);
        watched.until_accelerated();
        sandbox.fdb("add 02:42:0a:00:01:07 dev vxlan0 dst 192.168.1.10 self permanent");
        watched.until("the tables are followed", || watched.network(VNI).unwrap().remote.len() == 2);
    }
}
