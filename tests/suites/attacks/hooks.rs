//! Programs of other owners, other devices and new ports do not turn the checks of strict networks off.

use aya::{
    Ebpf, EbpfLoader,
    programs::{LinkOrder, ProgramInfo, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use overlay_common::MacAddr;
use overlay_tests::{
    bench::OBJECT,
    check::until,
    frame::{Outer, Station},
    lab::{Lab, NIC, NetNs, PacketSocket},
    testbed::Testbed,
};

use crate::setup::{Attack, BLUE1, GINDEMO1, GINDEMO2, NEIGHBOUR, RED3, Setup, frame, mac, outer, repeated, vtep};

/// Address of an unknown VTEP.
const UNKNOWN_VTEP: [u8; 4] = [192, 168, 1, 66];

/// Attaches a program that ends the chain (`TC_ACT_OK`) to TC ingress of a device, until it is dropped.
fn end_chain(ns: &NetNs, device: &str, order: LinkOrder) -> Ebpf {
    let mut other = EbpfLoader::new().load(OBJECT).unwrap();
    let program: &mut SchedClassifier = other.program_mut("bench_ok").unwrap().try_into().unwrap();
    program.load().unwrap();
    let options = TcAttachOptions::TcxOrder(order);
    ns.enter(|| program.attach_with_options(device, TcAttachType::Ingress, options)).unwrap();
    other
}

/// The names of the TCX programs at ingress of a device.
fn chain(ns: &NetNs, device: &str) -> Vec<String> {
    let (_, programs) = ns.enter(|| SchedClassifier::query_tcx(device, TcAttachType::Ingress)).unwrap();
    programs.iter().filter_map(ProgramInfo::name_as_str).map(str::to_owned).collect()
}

fn port(setup: &Setup, name: &str) -> String {
    let ports = setup.daemon(1).overlay(&["ports", "--json"]).unwrap();
    let port = ports["ports"].as_array().unwrap().iter().find(|port| port.to_string().contains(name)).unwrap();
    port["device"].as_str().unwrap().to_owned()
}

/// Spoofed packets from the underlay and from a container are dropped.
fn assert_strict(setup: &Setup) {
    let spoofed = Station { ipv4: NEIGHBOUR.ipv4, ..GINDEMO1 };
    setup.assert_refused(&Attack {
        from: &setup.socket(1, "gindemo1"),
        frames: repeated(&frame(spoofed, GINDEMO2).bytes()),
        host: 1,
        hook: "port",
        reason: "strict_ip",
        victim: (2, "gindemo2"),
    });
    let unknown = Outer { src: UNKNOWN_VTEP, ..outer(3, 1) };
    for (outer, from, reason) in [(unknown, GINDEMO2, "strict_peer"), (outer(3, 1), GINDEMO2, "strict_vtep")] {
        setup.assert_refused(&Attack {
            from: &setup.socket(3, NIC),
            frames: repeated(&outer.encapsulate(&frame(from, GINDEMO1).bytes())),
            host: 1,
            hook: "nic",
            reason,
            victim: (1, "gindemo1"),
        });
    }
}

#[test]
fn program_that_ends_the_chain_ahead_does_not_turn_the_checks_off() {
    let setup = Setup::start(true, "tc");
    let (host, device) = (setup.lab.host(1), port(&setup, "10.0.1.2"));
    for order in [LinkOrder::first, LinkOrder::last] {
        let others = [NIC, &device].map(|device| end_chain(host, device, order()));
        for (device, check, forward) in
            [(NIC, "ovl_nic_check", "ovl_nic_in"), (device.as_str(), "ovl_port_check", "ovl_port_in")]
        {
            until("the checks are the first program", || chain(host, device) == [check, "bench_ok", forward]);
        }
        assert_strict(&setup);
        // Valid packets take the kernel path.
        let watch = setup.watch((1, "gindemo1"));
        setup.socket(3, NIC).send(&outer(3, 1).encapsulate(&frame(RED3, GINDEMO1).bytes())).unwrap();
        assert_eq!(watch.seen(), [frame(RED3, GINDEMO1).bytes()]);
        let audit = setup.daemon(1).overlay(&["audit", "--json"]).unwrap();
        assert_eq!(audit["differences"], serde_json::json!([]), "{audit}");
        drop(others);
    }
}

#[test]
fn detached_checks_are_attached_again() {
    let setup = Setup::start(true, "tc");
    let (host, device) = (setup.lab.host(1), port(&setup, "10.0.1.2"));
    let devices = [(NIC, "ovl_nic_check", "ovl_nic_in"), (device.as_str(), "ovl_port_check", "ovl_port_in")];
    let are_attached = || devices.iter().all(|(device, check, forward)| chain(host, device) == [*check, *forward]);
    assert!(are_attached());
    // The second time, the daemon waits before it attaches them.
    for _ in 0..2 {
        for entry in std::fs::read_dir(setup.daemon(1).pin_root().join("links")).unwrap() {
            host.run(&["bpftool", "link", "detach", "pinned", entry.unwrap().path().to_str().unwrap()]);
        }
        until("the checks are attached, ahead of the forwarding programs", are_attached);
        assert_strict(&setup);
    }
}

/// Only hosts with a strict network pay for the checks: there, on all ports, because a container of another network could
/// send VXLAN into the strict one.
#[test]
fn checks_are_attached_where_a_strict_network_needs_them() {
    let setup = Setup::with(true, false, "tc");
    let host = setup.lab.host(1);
    for name in ["10.0.1.2", "10.0.2.2"] {
        assert_eq!(chain(host, &port(&setup, name)), ["ovl_port_check", "ovl_port_in"]);
    }
    assert_eq!(chain(host, NIC), ["ovl_nic_check", "ovl_nic_in"]);
    let device = port(&setup, "10.0.2.2");
    let other = end_chain(host, &device, LinkOrder::first());
    until("the checks are the first program", || chain(host, &device)[0] == "ovl_port_check");
    let red = outer(3, 1).encapsulate(&frame(GINDEMO2, GINDEMO1).bytes());
    // To the gateway, which is the host.
    let gateway = Station { ipv4: vtep(1), ..Station::container([10, 0, 2, 1]) };
    let injected = overlay_tests::frame::Inner::new(
        BLUE1,
        gateway,
        overlay_tests::frame::Version::V4,
        overlay_tests::frame::L4::Udp(5000, crate::setup::RED_PORT),
    );
    setup.assert_refused(&Attack {
        from: &setup.socket(1, "blue1"),
        frames: repeated(&injected.payload(&red[42..]).bytes()),
        host: 1,
        hook: "port",
        reason: "strict_vxlan",
        victim: (1, "gindemo1"),
    });
    drop(other);

    let setup = Setup::start(false, "tc");
    let host = setup.lab.host(1);
    assert_eq!(chain(host, &port(&setup, "10.0.1.2")), ["ovl_port_in"]);
    assert_eq!(chain(host, NIC), ["ovl_nic_in"]);
}

/// The kernel receives packets for any of its addresses on any device.
#[test]
fn packets_that_arrive_on_another_device_are_checked() {
    let setup = Setup::start(true, "tc");
    let [node01, node03] = [1, 3].map(|host| setup.lab.host(host));
    let path = node03.path().display().to_string();
    node01.run(&["ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1", "netns", &path]);
    for (host, device, last) in [(node01, "other0", 1), (node03, "other1", 3)] {
        host.run(&["ip", "link", "set", device, "address", &format!("52:54:00:00:01:{last:02x}"), "up"]);
        host.run(&["ip", "addr", "add", &format!("172.16.0.{last}/24"), "dev", device]);
    }
    until("the device is checked", || chain(node01, "other0") == ["ovl_nic_check"]);
    let wire = PacketSocket::open(node03, "other1").unwrap();
    let other0 = MacAddr([0x52, 0x54, 0, 0, 1, 1]);
    for (outer, reason) in [(Outer { src: UNKNOWN_VTEP, ..outer(3, 1) }, "strict_peer"), (outer(3, 1), "strict_vtep")] {
        let packet = Outer { eth_dst: other0, ..outer }.encapsulate(&frame(GINDEMO2, GINDEMO1).bytes());
        setup.assert_refused(&Attack {
            from: &wire,
            frames: repeated(&packet),
            host: 1,
            hook: "nic",
            reason,
            victim: (1, "gindemo1"),
        });
    }
    node01.run(&["ip", "link", "del", "other0"]);
    assert_eq!(setup.daemon(1).overlay(&["audit", "--json"]).unwrap()["differences"], serde_json::json!([]));
}

/// The VTEP's address is on a device that no packet arrives on.
#[test]
fn strict_network_is_checked_with_the_address_on_another_device() {
    let mut testbed = Testbed::new(Lab::builder(3).build().unwrap());
    for host in testbed.lab.hosts() {
        let number = host.name().trim_start_matches("node").parse::<u8>().unwrap();
        host.run(&["ip", "link", "set", NIC, "address", &mac(number).to_string()]);
    }
    let node01 = testbed.lab.host(1).clone();
    node01.run(&["ip", "link", "add", "stub", "type", "bridge"]);
    node01.run(&["ip", "link", "set", "stub", "up"]);
    node01.run(&["ip", "addr", "flush", "dev", NIC]);
    node01.run(&["ip", "addr", "add", "192.168.1.9/32", "dev", "stub"]);
    node01.run(&["ip", "addr", "add", "192.168.1.201/24", "dev", NIC]);
    testbed.cluster.networks[0].strict = true;
    testbed.start(1).unwrap();
    until("the NIC is checked", || chain(&node01, NIC) == ["ovl_nic_check"]);
    let wire = PacketSocket::open(testbed.lab.host(3), NIC).unwrap();
    let before = testbed.counts(1);
    let unknown = Outer { src: UNKNOWN_VTEP, ..outer(3, 1) };
    for packet in repeated(&unknown.encapsulate(&frame(GINDEMO2, GINDEMO1).bytes())) {
        wire.send(&packet).unwrap();
    }
    until("the packets are dropped", || testbed.counts(1).since(&before).of("strict_peer") == 5);
}
