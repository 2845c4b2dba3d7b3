//! The data path keeps forwarding after daemons exit or crash, until `overlay down`.

use overlay_tests::lab::{NIC, NetNs};

use overlay_tests::check::{end_lossless, interfaces, until};
use overlay_tests::tables;
use overlay_tests::testbed::Testbed;

/// Ids of the programs that are attached on a host, by hook.
fn programs(setup: &Testbed, host: usize) -> Vec<(String, u32)> {
    let programs = tables::programs(setup.lab.host(host)).unwrap().into_iter();
    programs.map(|(hook, _, id)| (hook, id)).collect()
}

/// Names of the programs at a device.
fn at_device(host: &NetNs, device: &str) -> Vec<String> {
    let programs = tables::programs(host).unwrap().into_iter();
    programs.filter(|(hook, ..)| hook.ends_with(&format!(" of {device}"))).map(|(_, name, _)| name).collect()
}

/// A crash can leave a device without its alias, which is set after creation.
#[test]
fn restarted_daemon_adopts_devices_without_alias() {
    let mut setup = Testbed::two_hosts();
    setup.daemon_mut(1).kill9().unwrap();
    let host = setup.lab.host(1).clone();
    let port = interfaces(&host).into_iter().find(|name| name.starts_with("ovl") && name.len() == 13).unwrap();
    for device in [&port, "ovlbr4097", "ovlvx4097"] {
        host.try_run(&["ip", "link", "set", device, "alias", ""]).unwrap();
    }
    setup.daemon_mut(1).restart().unwrap();
    setup.wait_until_resolved().unwrap();
    setup.by_fast_path(3, 3, || setup.ping_both_ways());

    setup.daemon_mut(1).kill9().unwrap();
    host.try_run(&["ip", "link", "set", &port, "alias", ""]).unwrap();
    setup.daemon(1).overlay(&["down", "--json"]).unwrap();
    assert!(!interfaces(&host).iter().any(|name| name.starts_with("ovl")), "{:?}", interfaces(&host));
}

#[test]
fn killing_and_restarting_daemons_costs_no_packet() {
    let mut setup = Testbed::two_hosts();
    let load = setup.load(1000);
    for host in [1, 2] {
        setup.daemon_mut(host).kill9().unwrap();
    }
    setup.by_fast_path(300, 300, || load.datagrams.wait_for(300).unwrap());
    let programs_before = [programs(&setup, 1), programs(&setup, 2)];
    for host in [1, 2] {
        let before = setup.counts(host);
        setup.daemon_mut(host).restart().unwrap();
        // Reused maps keep their counters, or `since` would fail.
        let counts = setup.counts(host).since(&before);
        assert!(before.of("encap") > 500 && counts.of("encap") > 0, "{before:?} {counts:?}");
    }
    setup.by_fast_path(300, 300, || load.datagrams.wait_for(300).unwrap());
    for (host, before) in [1, 2].into_iter().zip(programs_before) {
        let after = programs(&setup, host);
        assert_eq!(after.len(), 2, "{after:?}");
        for ((link, old), (same, new)) in before.iter().zip(&after) {
            assert_eq!(link, same);
            assert_ne!(old, new, "{link} of node0{host} still has the old program");
        }
        assert_eq!(at_device(setup.lab.host(host), NIC), ["ovl_nic_in"]);
    }
    end_lossless(load);
}

#[test]
fn sigterm_keeps_data_path_forwarding() {
    let mut setup = Testbed::two_hosts();
    let load = setup.load(1000);
    for host in [1, 2] {
        assert!(setup.daemon_mut(host).sigterm().unwrap().success());
        let status = setup.daemon(host).overlay(&["status", "--json"]).unwrap();
        assert_eq!((&status["ready"], status["daemon"].is_null()), (&false.into(), true), "{status}");
    }
    setup.by_fast_path(300, 300, || load.datagrams.wait_for(300).unwrap());
    setup.tcp_both_ways(10_000_001);
    end_lossless(load);
}

#[test]
fn down_under_traffic_removes_everything() {
    let mut setup = Testbed::two_hosts();
    let load = setup.load(1000);
    let before = setup.lab.host(1).run(&["ip", "-br", "link", "show", "dev", NIC]);
    assert_eq!(at_device(setup.lab.host(1), NIC), ["ovl_nic_in"]);

    for host in [1, 2] {
        let output = setup.daemon(host).output(&["down", "--json"]).unwrap();
        assert!(output.status.success(), "{output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["removed"], setup.pin_root(host).to_str().unwrap());
        assert!(setup.daemon_mut(host).wait().unwrap().success(), "`down` stops the daemon cleanly");

        let ns = setup.lab.host(host);
        assert_eq!(interfaces(ns), ["lo", NIC]);
        assert_eq!(interfaces(setup.first(host)), ["lo"]);
        assert_eq!(at_device(ns, NIC), [""; 0]);
        let qdiscs = ns.run(&["tc", "qdisc", "show"]);
        assert!(!qdiscs.contains("clsact"), "{qdiscs}");
        let xdp = ns.run(&["ip", "-d", "link", "show", "dev", NIC]);
        assert!(!xdp.contains("xdp"), "{xdp}");
        let neighbours = ns.run(&["ip", "neigh", "show", "nud", "permanent"]);
        assert_eq!(neighbours, "");
        assert!(!setup.pin_root(host).exists());

        for command in ["down", "status", "fdb", "ports", "counters"] {
            assert_eq!(setup.daemon(host).output(&[command]).unwrap().status.code(), Some(3), "{command}");
        }
    }
    assert_eq!(setup.lab.host(1).run(&["ip", "-br", "link", "show", "dev", NIC]), before);
    let report = load.datagrams.stop();
    assert!(report.received > 0 && (report.corrupt, report.duplicates) == (0, 0), "{report:?}");

    // Start again after `down`.
    for host in [1, 2] {
        setup.daemon_mut(host).restart().unwrap();
    }
    setup.wait_until_resolved().unwrap();
    for (from, to) in [(1, 2), (2, 1)] {
        let plan = overlay_tests::lab::traffic::Ping::default();
        overlay_tests::lab::traffic::ping(setup.first(from), setup.first(to).ip().into(), plan).unwrap();
    }
    setup.ping_both_ways();
}

/// An open handle to a pinned link would keep its program attached after the pin is removed.
#[test]
fn restarted_daemon_detaches_programs_of_earlier_daemon() {
    let mut setup = Testbed::two_hosts();
    setup.daemon_mut(1).kill9().unwrap();
    setup.daemon_mut(1).restart().unwrap();
    assert_eq!(at_device(setup.lab.host(1), NIC), ["ovl_nic_in"]);
    let mut cluster = setup.cluster.clone();
    cluster.endpoints.retain(|endpoint| endpoint.name != "gindemo1");
    cluster.write(setup.config()).unwrap();
    until("the NIC is free", || at_device(setup.lab.host(1), NIC).is_empty());
}
