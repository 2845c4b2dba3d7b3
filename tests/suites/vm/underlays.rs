//! Underlay devices that the kernel of the test machine lacks: bonds and ports of VRFs.
//!
//! `cargo xtask vm` also runs tests of other suites with a VLAN and a bond as NIC.

use overlay_tests::{
    check::until,
    lab::{
        Flavour, Lab, NIC, Nic, kernel_vxlan,
        traffic::{Ping, ping, tcp_transfer},
    },
    testbed::{GINDEMO2, Testbed},
};

#[test]
fn fast_path_continues_after_failover_of_bond() {
    let setup = Testbed::new(Lab::builder(2).nic(Nic::Bond).build().unwrap()).run();
    setup.ping_both_ways();
    for (down, up) in [("wire1", "wire2"), ("wire2", "wire1")] {
        // The other host's end loses its carrier.
        setup.lab.host(1).run(&["ip", "link", "set", down, "down"]);
        for host in setup.lab.hosts() {
            until("the other link is active", || {
                host.run(&["cat", "/proc/net/bonding/enp0s3"]).contains(&format!("Currently Active Slave: {up}"))
            });
        }
        setup.wait_until_resolved().unwrap();
        setup.ping_both_ways();
        setup.tcp_both_ways(1_000_001);
        setup.lab.host(1).run(&["ip", "link", "set", down, "up"]);
    }
}

/// Entries of the VXLAN device name the port, so that the kernel looks up the VTEP in the table of the VRF
/// (`vxlan_xmit_one` in `drivers/net/vxlan/vxlan_core.c`). The main table has another route.
#[test]
fn port_of_vrf_falls_back_to_kernel_with_reason() {
    let mut setup = Testbed::new(Lab::builder(2).nic(Nic::Vrf).build().unwrap());
    for host in setup.lab.hosts() {
        kernel_vxlan(host, &setup.cluster, "my-overlay-network", Flavour::Static).unwrap();
        let other = if host.name() == "node01" { ("02:42:0a:00:01:06", 10) } else { ("02:42:0a:00:01:02", 9) };
        for mac in [other.0, "00:00:00:00:00:00"] {
            let entry = format!("{mac} dev vx-4097 dst 192.168.1.{} self permanent", other.1);
            host.try_script(&format!("bridge fdb del {entry}\nbridge fdb append {entry} via {NIC}")).unwrap();
        }
    }
    let lure = "ip link add lure type veth peer name other
        ip addr add 192.168.1.200/24 dev lure
        ip neigh add 192.168.1.10 lladdr 02:00:00:00:00:66 dev lure
        ip link set lure up
        ip link set other up";
    setup.lab.host(1).try_script(lure).unwrap();
    for host in [1, 2] {
        setup.start_with(host, &["--discover"]).unwrap();
    }
    until("the kernel delivers", || {
        ping(setup.first(1), GINDEMO2.into(), Ping { count: 1, ..Ping::default() }).unwrap().all()
    });
    let before = [1, 2].map(|host| setup.counts(host));
    for (from, to) in [(1, 2), (2, 1)] {
        assert!(ping(setup.first(from), setup.first(to).ip().into(), Ping::default()).unwrap().all());
        tcp_transfer(setup.first(from), setup.first(to), setup.first(to).ip().into(), 1_000_001).unwrap();
    }
    for (host, before) in [1, 2].into_iter().zip(before) {
        let counts = setup.counts(host).since(&before);
        assert_eq!((counts.of("encap"), counts.received()), (0, 0), "{counts:?}");
        let network = &setup.daemon(host).overlay(&["status", "--json"]).unwrap()["networks"][0];
        assert_eq!(network["state"], "kernel", "{network}");
        assert!(network.to_string().contains("VRF vrf7"), "{network}");
    }
}
