//! Configurations that do not fit the host.

use std::net::UdpSocket;

use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, XdpMode},
};
use overlay_common::{maps, names};
use overlay_tests::{lab::NIC, world::without_checksum_offload};

use crate::bench::Bench;

#[test]
fn a_missing_port_is_refused() {
    let bench = Bench::new();
    let config = bench.config(|cluster| {
        cluster.endpoints[0].netns = None;
        cluster.endpoints[0].port = Some("tap0".to_owned());
    });
    let parts = ["endpoint my-overlay-network/gindemo1", "no interface tap0", "create it, or correct `port`"];
    bench.assert_checked(&config, &parts);
}

#[test]
fn a_missing_namespace_is_refused() {
    let bench = Bench::new();
    let config = bench.config(|cluster| cluster.endpoints[0].netns = Some("/run/netns/no-such-container".into()));
    let parts = [
        "endpoint my-overlay-network/gindemo1",
        "no network namespace /run/netns/no-such-container",
        "create it (ip netns add), or correct `netns`",
    ];
    bench.assert_checked(&config, &parts);
}

#[test]
fn a_file_that_is_no_namespace_is_refused() {
    let bench = Bench::new();
    let config = bench.config(|cluster| cluster.endpoints[0].netns = Some("/etc/passwd".into()));
    bench.assert_checked(&config, &["/etc/passwd", "not a network namespace", "/run/netns/NAME"]);
}

#[test]
fn the_hosts_own_namespace_is_refused() {
    let bench = Bench::new();
    let own = bench.host().path().to_owned();
    let config = bench.config(|cluster| cluster.endpoints[0].netns = Some(own));
    let parts = ["my-overlay-network/gindemo1", "the host's own network namespace", "give the container's"];
    bench.assert_checked(&config, &parts);
}

#[test]
fn an_mtu_that_does_not_fit_the_underlay_is_refused() {
    let bench = Bench::new();
    let config = bench.config(|cluster| cluster.networks[0].mtu = Some(1451));
    let parts = ["network my-overlay-network", "MTU 1451", "underlay's MTU 1500", "mtu to 1450 or less"];
    bench.assert_checked(&config, &parts);

    bench.host().run(&["ip", "link", "set", NIC, "mtu", "100"]);
    let config = bench.config(|_| {});
    bench.assert_checked(&config, &["network my-overlay-network", "underlay's MTU 100 is too small", "raise it"]);
}

#[test]
fn a_port_in_another_bridge_is_refused() {
    let bench = Bench::new();
    bench.host().try_script("ip link add br7 type bridge\nip link add tap0 type veth peer name tap1").unwrap();
    bench.host().try_script("ip link set tap0 master br7").unwrap();
    let config = bench.config(|cluster| {
        cluster.endpoints[0].netns = None;
        cluster.endpoints[0].port = Some("tap0".to_owned());
    });
    let parts =
        ["endpoint my-overlay-network/gindemo1", "interface tap0 is already in br7", "ip link set dev tap0 nomaster"];
    bench.assert_checked(&config, &parts);
}

#[test]
fn a_socket_on_our_udp_port_is_refused() {
    let bench = Bench::new();
    let _socket = bench.host().enter(|| UdpSocket::bind("0.0.0.0:4789")).unwrap();
    let config = bench.config(|_| {});
    let pid = format!("(PID {})", std::process::id());
    let parts = ["UDP port 4789 of VNI 4097 is taken by process", &pid, "stop it, or change the network's port"];
    bench.assert_checked(&config, &parts);
}

#[test]
fn a_vxlan_device_with_our_vni_is_refused() {
    let bench = Bench::new();
    bench.host().run(&["ip", "link", "add", "vx7", "type", "vxlan", "id", "4097", "dev", NIC, "dstport", "4789"]);
    let config = bench.config(|_| {});
    let parts = ["VNI 4097 on UDP port 4789", "interface vx7", "remove it, or change the network's VNI or port"];
    bench.assert_checked(&config, &parts);
}

#[test]
fn a_device_of_our_name_is_refused() {
    let bench = Bench::new();
    bench.host().run(&["ip", "link", "add", "ovlbr4097", "type", "bridge"]);
    let config = bench.config(|_| {});
    let parts = ["interface ovlbr4097", "overlay did not make it", "ip link delete ovlbr4097"];
    bench.assert_checked(&config, &parts);
}

/// Any XDP program will do; this one passes everything, because its maps are empty.
fn somebodys_xdp(bench: &Bench) -> Ebpf {
    bench.host().enter(|| {
        let mut loader = EbpfLoader::new();
        let sized = [maps::UNDERLAY, maps::HEARTBEAT, maps::REASONS, maps::EVENTS, maps::SAMPLED];
        for map in maps::MAPS.iter().filter(|map| !sized.contains(map)) {
            loader.map_max_entries(map.name, 1);
        }
        let mut object = loader.load(overlay_user::testing::apply::OBJECT).unwrap();
        let program: &mut Xdp = object.program_mut(names::NIC_XDP).unwrap().try_into().unwrap();
        program.load().unwrap();
        program.attach(NIC, XdpMode::Driver).unwrap();
        object
    })
}

#[test]
fn an_xdp_program_of_somebody_else_is_refused_and_stays() {
    let bench = Bench::new();
    without_checksum_offload(&bench.lab).unwrap();
    let _theirs = somebodys_xdp(&bench);
    let config = bench.config(|cluster| cluster.rx = Some("xdp".to_owned()));
    let parts = ["another XDP program is on enp0s3", "ip link set dev enp0s3 xdp off", "rx = \"tc\""];
    bench.assert_checked(&config, &parts);
}

#[test]
fn xdp_on_a_veth_without_checksums_is_refused() {
    let bench = Bench::new();
    let config = bench.config(|cluster| cluster.rx = Some("xdp".to_owned()));
    let parts = ["enp0s3 is a veth with TX checksum offload", "ethtool -K enp0s3 tx off", "rx = \"tc\""];
    bench.assert_checked(&config, &parts);
}

#[test]
fn a_host_that_is_not_in_the_cluster_is_refused() {
    let bench = Bench::new();
    let config = bench.config(|cluster| cluster.hosts[0].address = [192, 168, 1, 77].into());
    let parts = ["no interface of this host", "node01 192.168.1.77, node02 192.168.1.10", "add this host to [[hosts]]"];
    bench.assert_refused(&config, &parts);
    // The rules can be checked on any machine.
    let output = bench.overlay(&["check", "--config", config.to_str().unwrap()]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && stdout.contains("this host is not one of the hosts in the file"), "{stdout}");
}

#[test]
fn a_host_that_is_in_the_cluster_twice_is_refused() {
    let bench = Bench::new();
    bench.host().run(&["ip", "addr", "add", "192.168.1.10/24", "dev", NIC]);
    let config = bench.config(|_| {});
    let parts =
        ["several of the cluster's hosts (node01 192.168.1.9, node02 192.168.1.10)", "one daemon in each one's"];
    bench.assert_checked(&config, &parts);
}

#[test]
fn an_underlay_that_is_not_ethernet_is_refused() {
    let bench = Bench::new();
    let config = bench.config(|cluster| cluster.hosts[0].address = [192, 168, 7, 7].into());
    bench.host().run(&["ip", "addr", "add", "192.168.7.7/32", "dev", "lo"]);
    bench.assert_checked(&config, &["underlay device lo is not an Ethernet device"]);
}
