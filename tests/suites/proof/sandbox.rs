//! Docker's place for a network: bridge, VXLAN device and ports in a sandbox, the NIC in the host's namespace, and a
//! VXLAN device with UDP checksums that learns.

use std::{fs, time::Duration};

use aya::programs::{LinkOrder, TcAttachType, tc::TcAttachOptions};
use overlay_common::names;
use overlay_tests::{
    check::until,
    lab::{
        NIC, NetNs,
        traffic::{Ping, ping, tcp_transfer},
    },
};
use overlay_user::testing::sys::ticks;

use super::{
    replica::{Plan, Replica, VNI},
    setup::{Counts, OBJECT, VALIDITY, interface, load, program, replace_port_in, set_window},
};

#[test]
fn claim_is_proven_from_sandbox_to_nic() {
    let replica = Replica::new(Plan::default()).run();
    let (node, cluster) = (replica.node(1), replica.cluster(1));
    let pin_root = replica.expected(1, &cluster).pin_root;
    let links = fs::read_dir(pin_root.join("links")).unwrap().map(|entry| entry.unwrap().file_name());
    let port = links.map(|name| name.into_string().unwrap()).find(|name| name.starts_with("port-")).unwrap();
    let (netns_id, _) = port["port-".len()..].split_once('-').unwrap();
    let shim = node.sandbox.enter(|| interface(&format!("ovlsh{VNI}")));
    let constants = [
        ("OVL_NETNS_ID", netns_id.parse().unwrap()),
        ("OVL_SHIM", shim),
        ("OVL_VNI", VNI),
        ("OVL_VALIDITY", u32::try_from(ticks(VALIDITY)).unwrap()),
    ];
    let mut ebpf = load(&pin_root, OBJECT, &constants, &[names::PORT_IN, "ovl_vxlan_out", "ovl_nic_out"]);
    replace_port_in(&mut ebpf, &pin_root.join("links").join(&port));
    let host: &NetNs = &node.host;
    for (name, ns, device) in [("ovl_vxlan_out", &node.sandbox, "vxlan0"), ("ovl_nic_out", host, NIC)] {
        let program = program(&mut ebpf, name);
        let options = TcAttachOptions::TcxOrder(LinkOrder::last());
        ns.enter(|| program.attach_with_options(device, TcAttachType::Egress, options)).unwrap();
    }
    set_window(&mut ebpf, 1);
    let pings = || {
        let before = Counts::read(&ebpf);
        let to = replica.first(2).ip().into();
        let plan = Ping { count: 10, timeout: Duration::from_millis(300), ..Ping::default() };
        let received = ping(replica.first(1), to, plan).unwrap().received;
        (received, Counts::read(&ebpf).since(before))
    };
    let (received, counts) = pings();
    assert!(received == 10 && counts.proven >= 1 && counts.encap >= 7, "{counts:?}");
    assert_eq!((counts.refuted(), counts.forged), (0, 0), "{counts:?}");
    tcp_transfer(replica.first(1), replica.first(2), replica.first(2).ip().into(), 8 << 20).unwrap();
    assert_eq!(Counts::read(&ebpf).refuted(), 0, "{:?}", Counts::read(&ebpf));
    // The outer packet is filtered in the host's namespace.
    node.host.run(&["iptables-nft", "-A", "OUTPUT", "-p", "udp", "--dport", "4789", "-j", "DROP"]);
    std::thread::sleep(VALIDITY);
    pings();
    until("the entry is not used", || {
        let (received, counts) = pings();
        (received, counts.encap) == (0, 0)
    });
}
