//! Filters and programs of other owners on the hooks, before and after the daemon's: they see what they would see
//! without it, and the rest takes the fast path.

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use overlay_tests::{
    check::{assert_lossless, until},
    lab::{
        Container, Lab, NIC, NetNs,
        traffic::{Ping, ping, tcp_transfer},
    },
    testbed::Testbed,
};
use serde_json::Value;
use std::time::Duration;

/// Device to which filters mirror or redirect packets.
const MONITOR: &str = "mon0";
const EVERYTHING: &str = "u32 match u32 0 0";
const ICMP: &str = "u32 match ip protocol 1 0xff";
const MIRROR: &str = "action mirred egress mirror dev mon0";
/// The packet goes to the monitor only.
const STEAL: &str = "action mirred egress redirect dev mon0";

/// Runs a command line in a namespace.
fn run(ns: &NetNs, line: &str) -> String {
    ns.run(&line.split_whitespace().collect::<Vec<_>>())
}

/// A device in a namespace that counts the packets that filters send to it.
struct Monitor<'a>(&'a NetNs);

impl<'a> Monitor<'a> {
    fn new(ns: &'a NetNs) -> Self {
        run(ns, "ip link add mon0 type veth peer name mon1");
        for device in [MONITOR, "mon1"] {
            ns.sysctl(&format!("net.ipv6.conf.{device}.disable_ipv6"), "1").unwrap();
            run(ns, &format!("ip link set {device} up"));
        }
        Self(ns)
    }

    fn packets(&self) -> u64 {
        let links: Value = serde_json::from_str(&run(self.0, "ip -s -j link show dev mon0")).unwrap();
        links[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
    }

    /// Packets sent to the monitor, and answered pings of ten.
    fn during_pings(&self, from: &Container, to: &Container) -> (u64, u64) {
        let before = self.packets();
        let plan = Ping { count: 10, timeout: Duration::from_millis(500), ..Ping::default() };
        let replies = ping(from, to.ip().into(), plan).unwrap();
        (self.packets() - before, replies.received)
    }
}

/// How the daemon has attached its program to a device: as a filter, by TCX, or both, or not at all.
fn places(ns: &NetNs, device: &str) -> Vec<String> {
    let filters = run(ns, &format!("tc filter show dev {device} ingress"));
    let filters = filters.lines().filter(|line| line.contains("ovl_") && line.contains("pref 65535"));
    let tcx = ns.enter(|| SchedClassifier::query_tcx(device, TcAttachType::Ingress));
    let tcx = tcx.map(|(_, programs)| programs).unwrap_or_default();
    let tcx = tcx.iter().filter_map(ProgramInfo::name_as_str).filter(|name| name.starts_with("ovl_"));
    let tcx = tcx.filter(|name| name.ends_with("_in")).map(|_| "TCX".to_owned());
    filters.map(|_| "filter".to_owned()).chain(tcx).collect()
}

/// TCX came with 6.6. Before, the program is always a filter.
fn has_tcx(ns: &NetNs) -> bool {
    ns.enter(|| SchedClassifier::query_tcx("lo", TcAttachType::Ingress)).is_ok()
}

#[track_caller]
fn wait_for(ns: &NetNs, device: &str, expected: &[&str]) {
    let expected = if has_tcx(ns) || expected.is_empty() { expected } else { &["filter"] };
    until(&format!("{device}: {expected:?}"), || places(ns, device) == expected);
}

fn problems(setup: &Testbed) -> String {
    setup.daemon(1).overlay(&["status", "--json"]).unwrap().to_string()
}

fn port(setup: &Testbed) -> String {
    let ports = setup.daemon(1).overlay(&["ports", "--json"]).unwrap();
    ports["ports"][0]["device"].as_str().unwrap().to_owned()
}

/// `tc filter add dev DEVICE ingress …`.
fn add(ns: &NetNs, device: &str, filter: &str) {
    run(ns, &format!("tc filter add dev {device} ingress {filter}"));
}

/// Filters on the port and on the NIC mirror what they would mirror without the daemon, with every kind of qdisc, several
/// priorities, and chains. What no filter matches takes the fast path, and everything does when the filters are gone.
#[test]
fn mirroring_filters_see_every_packet_and_the_rest_takes_the_fast_path() {
    let setup = Testbed::two_hosts();
    let (host, device) = (setup.lab.host(1), port(&setup));
    let monitor = Monitor::new(host);
    let all = format!("protocol ip pref 20 {EVERYTHING} {MIRROR}");
    for (qdisc, filters, mirrors_pings, passes_tcp) in [
        ("clsact", vec![all.clone()], true, false),
        ("ingress", vec![all], true, false),
        // The kernel chooses the priority: from 0xc000 down, or below the first one from 0x8000 on.
        ("clsact", vec![format!("protocol ip {ICMP} {MIRROR}"), format!("protocol arp {EVERYTHING}")], true, true),
        // The first match ends the chain.
        (
            "ingress",
            vec![format!("protocol all pref 65534 {ICMP} {MIRROR}"), format!("protocol ip pref 1 {ICMP} flowid 1:1")],
            false,
            true,
        ),
        // No packet reaches the chain.
        ("clsact", vec![format!("protocol ip chain 7 pref 3 {ICMP} {MIRROR}")], false, true),
    ] {
        for (target, deletes_qdisc) in [(device.as_str(), true), (NIC, false)] {
            let case = format!("{target} {qdisc} {filters:?}");
            run(host, &format!("tc qdisc add dev {target} {qdisc}"));
            filters.iter().for_each(|filter| add(host, target, filter));
            wait_for(host, target, &["filter"]);
            let (mirrored, received) = monitor.during_pings(setup.first(1), setup.first(2));
            assert_eq!(received, 10, "{case}");
            // On the NIC pings are in UDP.
            let expected = mirrors_pings && (target != NIC || !passes_tcp);
            assert_eq!(mirrored >= 10, expected, "{case}: {mirrored} of 10 are mirrored");
            if passes_tcp {
                let before = setup.counts(1);
                for (from, to) in [(1, 2), (2, 1)] {
                    let to = setup.first(to);
                    tcp_transfer(setup.first(from), to, to.ip().into(), 2_000_000).unwrap();
                }
                let counts = setup.counts(1).since(&before);
                assert!(counts.of("encap") >= 1000 && counts.of("decap") >= 1000, "{case}: {counts:?}");
            }
            if deletes_qdisc {
                run(host, &format!("tc qdisc del dev {target} {qdisc}"));
                wait_for(host, target, &["TCX"]);
            } else {
                // Removes the filters of chain 0, overlay's too.
                run(host, &format!("tc filter del dev {target} ingress"));
                wait_for(host, target, if filters[0].contains("chain") { &["filter"] } else { &["TCX"] });
                run(host, &format!("tc qdisc del dev {target} {qdisc}"));
                wait_for(host, target, &["TCX"]);
            }
        }
        setup.ping_both_ways();
    }
}

/// A filter that takes packets away takes them from the fast path too: on the port, and on the NIC with both receive
/// hooks; whether it was there before the daemon or not.
#[test]
fn filter_that_takes_packets_away_is_not_bypassed() {
    for rx in ["tc", "xdp"] {
        let mut setup = Testbed::new(Lab::two_hosts());
        setup.receive_by(rx).unwrap();
        let host = setup.lab.host(1).clone();
        let monitor = Monitor::new(&host);
        let steal = format!("protocol ip pref 20 u32 match ip src 192.168.1.10 {STEAL}");
        run(&host, &format!("tc qdisc add dev {NIC} clsact"));
        add(&host, NIC, &steal);
        for number in [1, 2] {
            setup.start(number).unwrap();
        }
        let pings = |setup: &Testbed| monitor.during_pings(setup.first(1), setup.first(2)).1;
        wait_for(&host, NIC, &["filter"]);
        assert_eq!(pings(&setup), 0, "{rx}: added before the daemon");
        if rx == "xdp" {
            until("the finding names the filter", || problems(&setup).contains("the u32 filter with priority 20"));
        }
        run(&host, &format!("tc filter del dev {NIC} ingress"));
        wait_for(&host, NIC, &["TCX"]);
        let receives = |setup: &Testbed| {
            let status = setup.daemon(1).overlay(&["status", "--json"]).unwrap();
            status["underlay"]["rx"] == rx
        };
        until("the NIC receives as configured", || receives(&setup));
        setup.wait_until_resolved().unwrap();
        setup.ping_both_ways();
        add(&host, NIC, &steal);
        wait_for(&host, NIC, &["filter"]);
        if rx == "xdp" {
            until("XDP is detached", || !receives(&setup));
        }
        assert_eq!(pings(&setup), 0, "{rx}: added after the daemon");
        run(&host, &format!("tc qdisc del dev {NIC} clsact"));
        wait_for(&host, NIC, &["TCX"]);
        let device = port(&setup);
        run(&host, &format!("tc qdisc add dev {device} clsact"));
        add(&host, &device, &format!("protocol ip pref 20 {ICMP} {STEAL}"));
        wait_for(&host, &device, &["filter"]);
        assert_eq!(pings(&setup), 0, "{rx}: on the port");
        run(&host, &format!("tc qdisc del dev {device} clsact"));
        wait_for(&host, &device, &["TCX"]);
        setup.ping_both_ways();
    }
}

/// Every classifier and action that the kernel has (6.18 of the test machine: u32, bpf and mirred; Debian's, in the suite
/// `vm`: all of these) takes pings away on the port, and nothing else.
#[test]
fn every_kind_of_filter_runs_ahead_of_the_program() {
    // `ldb [23]`, `jeq #1`: the protocol is ICMP.
    const IS_ICMP: &str = "4,48 0 0 23,21 0 1 1,6 0 0 4294967295,6 0 0 0";
    let setup = Testbed::two_hosts();
    let (host, device) = (setup.lab.host(1), port(&setup));
    let _monitor = Monitor::new(host);
    run(host, &format!("tc qdisc add dev {device} clsact"));
    let steal = ["action", "mirred", "egress", "redirect", "dev", MONITOR];
    let icmp = ["u32", "match", "ip", "protocol", "1", "0xff"];
    let mut missing = Vec::new();
    for (name, filter, action) in [
        ("u32", &icmp[..], &steal[..]),
        ("bpf", &["bpf", "bytecode", IS_ICMP], &steal),
        ("flower", &["flower", "ip_proto", "icmp"], &steal),
        ("gact", &icmp, &["action", "drop"]),
        ("police", &icmp, &["action", "police", "rate", "8kbit", "burst", "10", "mtu", "1", "conform-exceed", "drop"]),
    ] {
        let words = ["tc", "filter", "add", "dev", &device, "ingress", "protocol", "ip", "pref", "20"];
        if let Err(error) = host.try_run(&[&words[..], filter, action].concat()) {
            missing.push(format!("{name}: {error}"));
            continue;
        }
        wait_for(host, &device, &["filter"]);
        let plan = Ping { count: 5, timeout: Duration::from_millis(300), ..Ping::default() };
        let replies = ping(setup.first(1), setup.first(2).ip().into(), plan).unwrap();
        assert_eq!(replies.received, 0, "{name}");
        let before = setup.counts(1);
        tcp_transfer(setup.first(1), setup.first(2), setup.first(2).ip().into(), 2_000_000).unwrap();
        assert!(setup.counts(1).since(&before).of("encap") >= 1000, "{name}");
        run(host, &format!("tc filter del dev {device} ingress pref 20"));
        wait_for(host, &device, &["TCX"]);
    }
    eprintln!("absent from this kernel: {missing:?}");
    assert!(missing.iter().all(|line| !line.starts_with("u32") && !line.starts_with("bpf")), "{missing:?}");
}

/// The place of the program survives a restart, and `overlay down` removes the program and nothing else.
#[test]
fn program_that_is_the_last_filter_survives_a_restart() {
    let mut setup = Testbed::two_hosts();
    let (host, device) = (setup.lab.host(1).clone(), port(&setup));
    run(&host, &format!("tc qdisc add dev {device} clsact"));
    add(&host, &device, &format!("protocol ip pref 20 {ICMP} flowid 1:1"));
    wait_for(&host, &device, &["filter"]);
    let load = setup.load(200);
    load.wait_for(50).unwrap();
    setup.daemon_mut(1).kill9().unwrap();
    setup.daemon_mut(1).restart().unwrap();
    assert_eq!(places(&host, &device), ["filter"]);
    let before = setup.counts(1);
    load.wait_for(100).unwrap();
    assert!(setup.counts(1).since(&before).of("encap") >= 100);
    assert_eq!(setup.daemon(1).overlay(&["audit", "--json"]).unwrap()["differences"], serde_json::json!([]));
    assert_lossless(&load.stop().unwrap());
    run(&host, &format!("tc qdisc add dev {NIC} clsact"));
    add(&host, NIC, &format!("protocol ip pref 20 {ICMP} flowid 1:1"));
    wait_for(&host, NIC, &["filter"]);
    let _lab = setup.down().unwrap();
    assert_eq!(places(&host, NIC), [""; 0]);
    let filters = run(&host, &format!("tc filter show dev {NIC} ingress"));
    assert!(filters.contains("pref 20") && !filters.contains("ovl_"), "{filters}");
}

/// Where the program cannot be the last one, the hook has no program, and `status` names the filter.
#[test]
fn filter_in_the_way_is_reported_and_packets_take_the_kernel_path() {
    let setup = Testbed::two_hosts();
    let (host, device) = (setup.lab.host(1), port(&setup));
    let monitor = Monitor::new(host);
    for (qdisc, filter, named) in [
        ("clsact", format!("dev {device} ingress protocol ip pref 65535 {EVERYTHING} {MIRROR}"), "priority 65535"),
        ("ingress_block 22 ingress", format!("block 22 protocol ip pref 20 {EVERYTHING} {MIRROR}"), "shared block"),
    ] {
        run(host, &format!("tc qdisc add dev {device} {qdisc}"));
        run(host, &format!("tc filter add {filter}"));
        wait_for(host, &device, &[]);
        until("the finding names the filter", || {
            let problems = problems(&setup);
            problems.contains(named) && problems.contains(&device)
        });
        let (mirrored, received) = monitor.during_pings(setup.first(1), setup.first(2));
        assert!((10..=12).contains(&mirrored) && received == 10, "{named}: {mirrored} {received}");
        run(host, &format!("tc qdisc del dev {device} {}", qdisc.split_whitespace().last().unwrap()));
        wait_for(host, &device, &["TCX"]);
        until("the problem is solved", || !problems(&setup).contains(named));
        setup.ping_both_ways();
    }
}

/// A change of the place costs no packet.
#[test]
fn several_filters_come_and_go_under_load() {
    let setup = Testbed::two_hosts();
    let (host, device) = (setup.lab.host(1), port(&setup));
    // The kernel deactivates a device while a qdisc is added or removed (`qdisc_graft` in net/sched/sch_api.c).
    run(host, &format!("tc qdisc add dev {device} clsact"));
    let load = setup.load(500);
    load.wait_for(50).unwrap();
    for _ in 0..5 {
        add(host, &device, &format!("protocol ip pref 20 {ICMP} flowid 1:1"));
        wait_for(host, &device, &["filter"]);
        load.wait_for(50).unwrap();
        run(host, &format!("tc filter del dev {device} ingress pref 20"));
        wait_for(host, &device, &["TCX"]);
        load.wait_for(50).unwrap();
    }
    assert_lossless(&load.stop().unwrap());
    setup.ping_both_ways();
}
