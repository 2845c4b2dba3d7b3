//! Sandboxes are added and removed; those of other hosts are ignored.

use std::time::Duration;

use overlay_tests::lab::NetNs;
use overlay_user::testing::model::{NetnsRef, Selector, Settings};

use crate::node::{GINDEMO2, Node, REMOTE_VTEP, SANDBOX, VNI, mac};

#[test]
fn discovery_does_not_hold_removed_sandbox() {
    let node = Node::new();
    let watched = node.watch();
    assert!(watched.networks().is_empty());
    let sandbox = node.sandbox(SANDBOX, VNI);
    watched
        .until("the network is discovered", || watched.network(VNI).is_some_and(|network| network.remote.len() == 1));
    sandbox.remove();
    watched.until("the network is removed", || watched.network(VNI).is_none());
    // An open reference to the netns would keep the VXLAN device and its VNI.
    let add = ["ip", "link", "add", "again", "type", "vxlan", "id", "4097", "dstport", "4789"];
    watched.until("the namespace is gone", || node.host.try_run(&add).is_ok());
}

#[test]
fn new_sandbox_waits_for_encryption_setup() {
    let node = Node::new();
    let watched = node.watch();
    std::thread::sleep(Duration::from_millis(600));
    let _sandbox = node.sandbox(SANDBOX, VNI);
    watched.until("the network is discovered", || watched.network(VNI).is_some());
    assert!(watched.refusal().unwrap().contains("is new"));
    watched.within(Duration::from_secs(5), "the network is accelerated", || watched.refusal().is_none());
}

#[test]
fn new_sandbox_with_allowed_vni_does_not_wait() {
    let node = Node::new();
    let allow = [Selector::Vni(overlay_common::Vni::new(VNI).unwrap())].into();
    let watched = node.watch_with(Settings { allow, ..node.settings() }, 1 << 20);
    std::thread::sleep(Duration::from_millis(600));
    let _sandbox = node.sandbox(SANDBOX, VNI);
    watched
        .until("the network is accelerated", || watched.network(VNI).is_some_and(|network| network.refusal.is_none()));
}

#[test]
fn vxlan_device_created_in_another_netns_is_ignored() {
    let (node, _sandbox) = Node::with_sandbox();
    // A sandbox of another host in the same directory.
    let other = Node::new();
    let other_host = other.sandbox("1-other_host", VNI + 1);
    std::os::unix::fs::symlink(other_host.netns.path(), node.netns_dir.path().join("1-other_host")).unwrap();
    // A device that was created in the sandbox itself.
    let inside = NetNs::anonymous("inside").unwrap();
    inside.run(&["ip", "link", "add", "vxlan0", "type", "vxlan", "id", "4099", "dstport", "4789"]);
    std::os::unix::fs::symlink(inside.path(), node.netns_dir.path().join("1-inside")).unwrap();
    let watched = node.watch();
    let vnis: Vec<_> =
        watched.networks().iter().filter_map(|network| network.vni).map(overlay_common::Vni::get).collect();
    assert_eq!(vnis, [VNI]);
    watched.always("ignored", || watched.networks().len() == 1);
}

#[test]
fn networks_in_host_netns_are_discovered() {
    let node = Node::new();
    let container = NetNs::anonymous("gindemo1").unwrap();
    let path = container.path().display();
    node.host
        .try_script(&format!(
            "ip link add flannel type vxlan id {VNI} dev enp0s3 local 192.168.1.9 dstport 8472 nolearning
             ip link add cni0 type bridge
             ip link set flannel mtu 1450 master cni0 up
             ip link set cni0 up
             ip link add p0 mtu 1450 type veth peer name eth0 netns {path}
             ip link set p0 master cni0 up
             bridge fdb add {GINDEMO2} dev flannel dst 192.168.1.10 self permanent
             bridge fdb append 00:00:00:00:00:00 dev flannel dst 192.168.1.11 self permanent"
        ))
        .unwrap();
    container.run(&["ip", "link", "set", "eth0", "up"]);
    node.host.wait_for_devices().unwrap();
    let watched = node.watch();
    let network = watched.network(VNI).unwrap();
    assert_eq!((network.refusal, network.netns, watched.found(VNI).unwrap().port), (None, NetnsRef::Own, 8472));
    assert_eq!(network.remote, [(mac(GINDEMO2), REMOTE_VTEP)].into());
    assert_eq!(network.peers, [REMOTE_VTEP, "192.168.1.11".parse().unwrap()].into());
    assert!(network.ports.values().all(|port| port.name == "p0" && port.mac.is_some()));
    assert_eq!(network.ports.len(), 1);
}

#[test]
fn vni_shared_by_two_netns_refuses_both_networks() {
    let (node, _sandbox) = Node::with_sandbox();
    let second = node.sandbox("1-second", VNI + 1);
    let watched = node.watch();
    assert_eq!((watched.refusal(), watched.networks().len()), (None, 2));
    // The kernel permits the same VNI on another UDP port.
    node.host.run(&["ip", "link", "add", "second", "type", "vxlan", "id", "4097", "dstport", "4790"]);
    watched.until_refused("VNI 4097 is also used by");
    assert_eq!(watched.networks().len(), 3);
    node.host.run(&["ip", "link", "delete", "second"]);
    watched.until_accelerated();
    second.remove();
    watched.until("one is left", || watched.networks().len() == 1);
}
