//! Configurations that conflict with the host.

use std::net::UdpSocket;

use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, XdpMode},
};
use overlay_common::{maps, names};
use overlay_tests::{lab::NIC, testbed::prepare_xdp};

use crate::setup::Setup;

#[test]
fn missing_port_is_refused() {
    let setup = Setup::new();
    let config = setup.config(|cluster| {
        cluster.endpoints[0].netns = None;
        cluster.endpoints[0].port = Some("tap0".to_owned());
    });
    let parts =
        ["endpoint my-overlay-network/gindemo1", "interface tap0 does not exist", "create it, or correct `port`"];
    setup.assert_checked(&config, &parts);
}

#[test]
fn missing_netns_is_refused() {
    let setup = Setup::new();
    let config = setup.config(|cluster| cluster.endpoints[0].netns = Some("/run/netns/no-such-container".into()));
    let parts = [
        "endpoint my-overlay-network/gindemo1",
        "network namespace /run/netns/no-such-container does not exist",
        "create it (ip netns add), or correct `netns`",
    ];
    setup.assert_checked(&config, &parts);
}

#[test]
fn file_that_is_not_a_netns_is_refused() {
    let setup = Setup::new();
    let config = setup.config(|cluster| cluster.endpoints[0].netns = Some("/etc/passwd".into()));
    setup.assert_checked(&config, &["/etc/passwd", "not a network namespace", "/run/netns/NAME"]);
}

#[test]
fn host_netns_is_refused_as_container_netns() {
    let setup = Setup::new();
    let own = setup.host().path().to_owned();
    let config = setup.config(|cluster| cluster.endpoints[0].netns = Some(own));
    let parts = ["my-overlay-network/gindemo1", "the host's own network namespace", "give the container's"];
    setup.assert_checked(&config, &parts);
}

#[test]
fn mtu_too_large_for_underlay_is_refused() {
    let setup = Setup::new();
    let config = setup.config(|cluster| cluster.networks[0].mtu = Some(1451));
    let parts = ["network \"my-overlay-network\"", "MTU 1451", "underlay's MTU 1500", "mtu to 1450 or less"];
    setup.assert_checked(&config, &parts);

    setup.host().run(&["ip", "link", "set", NIC, "mtu", "100"]);
    let config = setup.config(|_| {});
    setup.assert_checked(&config, &["network \"my-overlay-network\"", "underlay's MTU 100 is too small", "raise it"]);
}

#[test]
fn port_in_another_bridge_is_refused() {
    let setup = Setup::new();
    setup.host().try_script("ip link add br7 type bridge\nip link add tap0 type veth peer name tap1").unwrap();
    setup.host().try_script("ip link set tap0 master br7").unwrap();
    let config = setup.config(|cluster| {
        cluster.endpoints[0].netns = None;
        cluster.endpoints[0].port = Some("tap0".to_owned());
    });
    let parts = [
        "endpoint my-overlay-network/gindemo1",
        "interface tap0 is already a port of br7",
        "ip link set dev tap0 nomaster",
    ];
    setup.assert_checked(&config, &parts);
}

#[test]
fn udp_port_in_use_by_a_process_is_refused() {
    let setup = Setup::new();
    let _socket = setup.host().enter(|| UdpSocket::bind("0.0.0.0:4789")).unwrap();
    let config = setup.config(|_| {});
    let pid = format!("(PID {})", std::process::id());
    let parts = ["UDP port 4789 of VNI 4097 is already used by process", &pid, "stop it, or change the network's port"];
    setup.assert_checked(&config, &parts);
}

#[test]
fn vni_in_use_by_another_vxlan_device_is_refused() {
    let setup = Setup::new();
    setup.host().run(&["ip", "link", "add", "vx7", "type", "vxlan", "id", "4097", "dev", NIC, "dstport", "4789"]);
    let config = setup.config(|_| {});
    let parts = ["VNI 4097 on UDP port 4789", "interface vx7", "remove it, or change the network's VNI or port"];
    setup.assert_checked(&config, &parts);
}

#[test]
fn existing_device_with_overlay_name_is_refused() {
    let setup = Setup::new();
    setup.host().run(&["ip", "link", "add", "ovlbr4097", "type", "bridge"]);
    let config = setup.config(|_| {});
    let parts = ["interface ovlbr4097", "was not created by overlay", "ip link delete ovlbr4097"];
    setup.assert_checked(&config, &parts);
}

/// An XDP program that passes everything, because its maps are empty.
fn attach_other_xdp(setup: &Setup) -> Ebpf {
    setup.host().enter(|| {
        let mut loader = EbpfLoader::new();
        let sized = [maps::UNDERLAY, maps::HEARTBEAT, maps::REASONS, maps::EVENTS, maps::SAMPLED];
        for map in maps::MAPS.iter().filter(|map| !sized.contains(map)) {
            loader.map_max_entries(map.name, 1);
        }
        let mut object = loader.load(overlay_user::testing::apply::object()).unwrap();
        let program: &mut Xdp = object.program_mut(names::NIC_XDP).unwrap().try_into().unwrap();
        program.load().unwrap();
        program.attach(NIC, XdpMode::Driver).unwrap();
        object
    })
}

#[test]
fn another_xdp_program_is_refused_and_left_attached() {
    let setup = Setup::new();
    setup.lab.hosts().iter().for_each(|host| prepare_xdp(host).unwrap());
    let _other = attach_other_xdp(&setup);
    let config = setup.config(|cluster| cluster.rx = Some("xdp".to_owned()));
    let parts = ["another XDP program is attached to enp0s3", "ip link set dev enp0s3 xdp off", "rx = \"tc\""];
    setup.assert_checked(&config, &parts);
}

#[test]
fn xdp_on_veth_with_checksum_offload_is_refused() {
    let setup = Setup::new();
    let config = setup.config(|cluster| cluster.rx = Some("xdp".to_owned()));
    let parts = ["enp0s3 is a veth with TX checksum offload", "ethtool -K enp0s3 tx off", "rx = \"tc\""];
    setup.assert_checked(&config, &parts);
}

#[test]
fn host_missing_from_cluster_is_refused() {
    let setup = Setup::new();
    let config = setup.config(|cluster| cluster.hosts[0].address = [192, 168, 1, 77].into());
    let parts = ["no interface of this host", "node01 192.168.1.77, node02 192.168.1.10", "add this host to [[hosts]]"];
    setup.assert_refused(&config, &parts);
    // `check` also works on other machines.
    let output = setup.overlay(&["check", "--config", config.to_str().unwrap()]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && stdout.contains("this host is not one of the hosts in the file"), "{stdout}");
}

#[test]
fn host_listed_twice_in_cluster_is_refused() {
    let setup = Setup::new();
    setup.host().run(&["ip", "addr", "add", "192.168.1.10/24", "dev", NIC]);
    let config = setup.config(|_| {});
    let parts =
        ["several of the cluster's hosts (node01 192.168.1.9, node02 192.168.1.10)", "one daemon in each one's"];
    setup.assert_checked(&config, &parts);
}

#[test]
fn non_ethernet_underlay_is_refused() {
    let setup = Setup::new();
    let config = setup.config(|cluster| cluster.hosts[0].address = [192, 168, 7, 7].into());
    setup.host().run(&["ip", "addr", "add", "192.168.7.7/32", "dev", "lo"]);
    setup.assert_checked(&config, &["underlay device lo is not an Ethernet device"]);
}
