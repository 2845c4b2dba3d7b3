//! Names from Docker's API, and discovery without it.

use std::{thread, time::Duration};

use overlay_tests::lab::{Docker, DockerApi};
use overlay_user::testing::model::Settings;

use crate::node::{GINDEMO1, Node, SANDBOX, VNI, Watched};

fn start() -> DockerApi {
    DockerApi::start(VNI, GINDEMO1).unwrap()
}

fn watch(docker: &DockerApi, node: &Node) -> Watched {
    node.watch_with(Settings { docker: Some(docker.socket()), ..node.settings() }, 1 << 20)
}

#[test]
fn docker_names_network_and_admits_it_without_delay() {
    let node = Node::new();
    let docker = start();
    let watched = watch(&docker, &node);
    thread::sleep(Duration::from_millis(600));
    let _sandbox = node.sandbox(SANDBOX, VNI);
    watched
        .until("the network is accelerated", || watched.network(VNI).is_some_and(|network| network.refusal.is_none()));
    assert_eq!(watched.found(VNI).unwrap().name.as_deref(), Some("my-overlay-network"));
    assert!(watched.docker().error.is_none());
}

#[test]
fn docker_names_containers_behind_ports() {
    let (node, _sandbox) = Node::with_sandbox();
    let docker = start();
    let watched = watch(&docker, &node);
    let container = || watched.container();
    watched.within(Duration::from_secs(3), "the container is named", || container().as_deref() == Some("gindemo1"));
    docker.set_behaviour(Docker::Closes);
    let is_down = || watched.docker().error.is_some();
    watched.within(Duration::from_secs(5), "Docker is down", is_down);
    watched.always("the last answer of Docker stays", || container().as_deref() == Some("gindemo1"));
}

#[test]
fn hanging_network_inspection_leaves_network_names() {
    let (node, _sandbox) = Node::with_sandbox();
    let docker = start();
    docker.set_behaviour(Docker::HangsLater);
    let watched = watch(&docker, &node);
    watched.until("the network is named", || watched.found(VNI).is_some_and(|network| network.name.is_some()));
    watched.until_accelerated();
    let is_unnamed = || watched.container().is_none();
    watched.always("its port is not named", || is_unnamed() && watched.docker().error.is_none());
}

#[test]
fn network_encrypted_by_docker_is_refused_before_kernel_policies_exist() {
    let (node, _sandbox) = Node::with_sandbox();
    let docker = start();
    docker.set_behaviour(Docker::Encrypts);
    let watched = watch(&docker, &node);
    assert!(watched.refusal().unwrap().contains("Docker encrypts the network"));
    docker.set_behaviour(Docker::Closes);
    let is_down = || watched.docker().error.is_some();
    watched.within(Duration::from_secs(5), "Docker is down", is_down);
    watched.always("the last answer of Docker stays", || watched.refusal().is_some());
}

#[test]
fn discovery_works_while_docker_hangs_or_is_down() {
    for state in [Docker::Hangs, Docker::Closes] {
        let (node, sandbox) = Node::with_sandbox();
        let docker = start();
        docker.set_behaviour(state);
        let watched = watch(&docker, &node);
        watched.until_accelerated();
        sandbox.fdb("add 02:42:0a:00:01:07 dev vxlan0 dst 192.168.1.10 self permanent");
        watched.until("discovery follows the FDB", || watched.network(VNI).unwrap().remote.len() == 2);
    }
}
