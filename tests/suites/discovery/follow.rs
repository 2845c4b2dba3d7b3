//! Discovery follows the kernel's tables.

use aya::{
    EbpfLoader,
    programs::{Xdp, XdpMode as Mode},
};
use overlay_tests::{bench::OBJECT, lab::NetNs};

use crate::node::{GINDEMO1, GINDEMO2, LOCAL_VTEP, Node, REMOTE_VTEP, VNI, mac};

#[test]
fn docker_sandbox_is_discovered() {
    let (node, _sandbox) = Node::with_sandbox();
    let watched = node.watch();
    let found = watched.found(VNI).unwrap();
    assert_eq!((found.underlay, found.port), (Some(LOCAL_VTEP), 4789));
    let network = watched.network(VNI).unwrap();
    assert_eq!((network.refusal, network.mtu), (None, 1450));
    assert_eq!(network.remote, [(mac(GINDEMO2), REMOTE_VTEP)].into());
    assert_eq!(network.peers, [REMOTE_VTEP].into());
    let ports: Vec<_> = network.ports.values().collect();
    assert_eq!(ports.len(), 1);
    assert_eq!((ports[0].name.as_str(), ports[0].mac, ports[0].redirect_peer), ("veth0", Some(mac(GINDEMO1)), true));
    assert!(network.netns.path().unwrap().ends_with("1-abcdefghij"));
}

#[test]
fn remote_entries_follow_kernel_fdb() {
    let (node, sandbox) = Node::with_sandbox();
    let watched = node.watch();
    let (moved, third) = ("02:42:0a:00:01:07", "192.168.1.11".parse().unwrap());
    let remote = |text: &str| watched.network(VNI).unwrap().remote.get(&mac(text)).copied();
    for _ in 0..20 {
        sandbox.fdb(&format!("add {moved} dev vxlan0 dst 192.168.1.10 self permanent"));
        watched.until("added", || remote(moved) == Some(REMOTE_VTEP));
        sandbox.fdb(&format!("replace {moved} dev vxlan0 dst 192.168.1.11 self permanent"));
        watched.until("moved", || remote(moved) == Some(third));
        assert!(watched.network(VNI).unwrap().peers.contains(&third));
        sandbox.fdb(&format!("del {moved} dev vxlan0 self"));
        watched.until("removed", || remote(moved).is_none());
    }
    assert!(!watched.network(VNI).unwrap().peers.contains(&third));
    assert_eq!(remote(GINDEMO2), Some(REMOTE_VTEP));
}

#[test]
fn ports_follow_containers_and_their_mac_addresses() {
    let (node, sandbox) = Node::with_sandbox();
    let watched = node.watch();
    let macs = || -> Vec<_> { watched.network(VNI).unwrap().ports.values().filter_map(|port| port.mac).collect() };
    let second = NetNs::anonymous("second").unwrap();
    // Without IPv6 it sends no frames from which the bridge could learn.
    second.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
    sandbox.plug("veth1", "02:42:0a:00:01:03", &second);
    watched.until("the second container is discovered", || macs() == [mac(GINDEMO1), mac("02:42:0a:00:01:03")]);
    second.run(&["ip", "link", "set", "eth0", "address", "02:42:0a:00:01:04"]);
    watched.until("another address", || macs() == [mac(GINDEMO1), mac("02:42:0a:00:01:04")]);
    second.run(&["ip", "link", "set", "eth0", "address", GINDEMO1]);
    watched.until("a duplicate address has no port", || macs().is_empty());
    sandbox.netns.run(&["ip", "link", "delete", "veth1"]);
    watched.until("the second container is removed", || macs() == [mac(GINDEMO1)]);
    sandbox.netns.run(&["ip", "link", "set", "veth0", "nomaster"]);
    watched.until("the port has left the bridge", || watched.network(VNI).unwrap().ports.is_empty());
}

/// In either mode, on a container that is in another namespace than the bridge.
#[test]
fn xdp_program_of_a_container_is_discovered() {
    let (node, sandbox) = Node::with_sandbox();
    let watched = node.watch();
    let port = || watched.network(VNI).unwrap().ports.values().next().cloned().unwrap();
    assert_eq!((port().redirect_peer, port().xdp, port().finding), (true, false, None));
    for (mode, is_native) in [(Mode::Driver, true), (Mode::Skb, false)] {
        let mut object = EbpfLoader::new().load(OBJECT).unwrap();
        let program: &mut Xdp = object.program_mut("bench_xdp_nothing").unwrap().try_into().unwrap();
        program.load().unwrap();
        // A BPF link has no event: any other change of the interface makes discovery read it.
        let link = sandbox.container.enter(|| program.attach("eth0", mode)).unwrap();
        sandbox.container.run(&["ip", "link", "set", "eth0", "alias", "changed"]);
        watched.until("the program is discovered", || !port().redirect_peer);
        assert_eq!((port().xdp, port().finding.is_some()), (is_native, !is_native));
        program.detach(link).unwrap();
        sandbox.container.run(&["ip", "link", "set", "eth0", "alias", ""]);
        watched.until("the program is gone", || port().redirect_peer && port().finding.is_none());
    }
}

/// The ingress qdisc answers for egress with its ingress filters.
#[test]
fn filters_of_the_ingress_qdisc_are_not_egress_filters() {
    let (node, sandbox) = Node::with_sandbox();
    let watched = node.watch();
    let finding = || watched.network(VNI).unwrap().ports.values().next().unwrap().finding.clone();
    sandbox.netns.run(&["tc", "qdisc", "add", "dev", "veth0", "ingress"]);
    sandbox.netns.run(&["tc", "filter", "add", "dev", "veth0", "ingress", "bpf", "bytecode", "1,6 0 0 0"]);
    watched.always("accelerated", || finding().is_none());
    sandbox.netns.run(&["tc", "qdisc", "del", "dev", "veth0", "ingress"]);
    sandbox.netns.run(&["tc", "qdisc", "add", "dev", "veth0", "clsact"]);
    sandbox.netns.run(&["tc", "filter", "add", "dev", "veth0", "egress", "bpf", "bytecode", "1,6 0 0 0"]);
    watched.until("egress filters are found", || finding().is_some());
}

#[test]
fn mac_that_is_local_and_remote_is_ambiguous_until_resolved() {
    let (node, sandbox) = Node::with_sandbox();
    let watched = node.watch();
    sandbox.fdb(&format!("add {GINDEMO1} dev vxlan0 dst 192.168.1.10 self permanent"));
    let local = || watched.network(VNI).unwrap().ports.values().any(|port| port.mac.is_some());
    let remote = || watched.network(VNI).unwrap().remote.contains_key(&mac(GINDEMO1));
    watched.until("ambiguous", || !local() && !remote());
    watched.always("ambiguous", || !remote());
    sandbox.fdb(&format!("del {GINDEMO1} dev vxlan0 self"));
    watched.until("local", || local() && !remote());
}

#[test]
fn lost_netlink_events_are_recovered() {
    let (node, sandbox) = Node::with_sandbox();
    // The kernel raises this to its minimum.
    let watched = node.watch_with(node.settings(), 1);
    let entries: String = (0..2000)
        .map(|index| {
            format!(
                "fdb add 02:42:0a:01:{:02x}:{:02x} dev vxlan0 dst 192.168.1.10 self permanent\n",
                index >> 8,
                index & 255
            )
        })
        .collect();
    let batch = node.netns_dir.path().join("batch");
    for (verb, count) in [("add", 2001), ("del", 1), ("add", 2001)] {
        std::fs::write(&batch, entries.replace("fdb add", &format!("fdb {verb}"))).unwrap();
        sandbox.netns.run(&["bridge", "-batch", batch.to_str().unwrap()]);
        watched.until(verb, || watched.network(VNI).unwrap().remote.len() == count);
    }
}

#[test]
fn underlay_address_follows_route_source() {
    let (node, _sandbox) = Node::with_sandbox();
    let watched = node.watch();
    node.host.run(&["ip", "address", "add", "192.168.1.99/24", "dev", "enp0s3"]);
    node.host.run(&["ip", "route", "add", "192.168.1.10/32", "dev", "enp0s3", "src", "192.168.1.99"]);
    watched.until("another source", || watched.found(VNI).unwrap().underlay == Some("192.168.1.99".parse().unwrap()));
    node.host.run(&["ip", "route", "delete", "192.168.1.10/32"]);
    watched.until("the first source", || watched.found(VNI).unwrap().underlay == Some(LOCAL_VTEP));
}
