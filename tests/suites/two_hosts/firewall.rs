//! Rules of the hosts that drop packets on the kernel path. The fast path carries the packets; past the heartbeat
//! deadline the connections are lost, and with the rule that `overlay status` prints they go on.

use std::net::Ipv6Addr;

use overlay_tests::{
    check::{assert_lossless, until},
    lab::{Lab, firewall, traffic::TcpFlow},
    testbed::Testbed,
};
use serde_json::Value;

/// Seconds: long enough for a daemon on a busy machine to extend the deadline in time.
const DEADLINE: u32 = 3;

/// `fd00::6`, an address of gindemo2.
const GINDEMO2_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 6);

/// The rules of Docker on a host where it has enabled forwarding. `TOOL` is the command.
const DOCKER: &str = "TOOL -P FORWARD DROP
    TOOL -N DOCKER-USER
    TOOL -A FORWARD -j DOCKER-USER
    TOOL -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    TOOL -A FORWARD -i docker0 ! -o docker0 -j ACCEPT";

/// A stateful firewall that lets every connection begin.
const STATEFUL: &str = "add table inet fw { chain forward { type filter hook forward priority 0; policy accept; \
                        ct state invalid drop; ct state established,related accept; }; }";

fn rules_of_docker(variant: &str) -> String {
    ["iptables", "ip6tables"].map(|tool| DOCKER.replace("TOOL", &format!("{tool}-{variant}"))).join("\n")
}

/// Two hosts with these rules and a daemon each.
fn start(rules: &str) -> Testbed {
    let mut setup = Testbed::new(Lab::two_hosts());
    setup.deadline = Some(DEADLINE);
    for host in setup.lab.hosts() {
        host.try_script(rules).unwrap();
    }
    setup.run()
}

fn stateful() -> Testbed {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules");
    std::fs::write(&file, STATEFUL).unwrap();
    start(&format!("nft -f {}", file.display()))
}

/// Findings about the network in the status of a host.
fn findings(setup: &Testbed, host: usize) -> Vec<Value> {
    let report = setup.daemon(host).overlay(&["status", "--problems", "--json"]).unwrap();
    let problems = report["problems"].as_array().unwrap().iter();
    problems.filter(|problem| problem["object"] == "network \"my-overlay-network\"").cloned().collect()
}

/// Adds the printed rules on both hosts, until there is no finding.
fn add_printed_rules(setup: &Testbed) {
    for host in [1, 2] {
        for finding in findings(setup, host) {
            firewall::run(setup.lab.host(host), &firewall::command(&finding));
        }
        until("the findings are solved", || findings(setup, host).is_empty());
    }
}

/// Kills the daemons, and waits until the programs pass all packets to the kernel.
fn let_deadline_expire(setup: &mut Testbed) {
    for host in [1, 2] {
        setup.daemon_mut(host).kill9().unwrap();
    }
    for host in [1, 2] {
        until(&format!("the deadline of node0{host} has expired"), || {
            setup.daemon(host).overlay(&["status", "--json"]).unwrap()["heartbeat"]["expired"] == true
        });
    }
}

/// The kernel path, and only it, carries packets while `traffic` runs.
fn by_kernel_path(setup: &Testbed, packets: u64, traffic: impl FnOnce()) {
    let before = [1, 2].map(|host| setup.counts(host));
    traffic();
    for host in [1, 2] {
        let counts = setup.counts(host).since(&before[host - 1]);
        assert_eq!((counts.of("encap"), counts.received()), (0, 0), "{counts:?}");
        assert!(counts.of("stale") >= packets && counts.vxlan >= packets, "{counts:?}");
    }
}

/// Connections go on past the deadline after the printed rules were added.
fn assert_kept(rules: &str) {
    let mut setup = start(rules);
    for host in [1, 2] {
        // One for each IP version.
        assert_eq!(findings(&setup, host).len(), 2);
    }
    add_printed_rules(&setup);
    setup.add_ipv6();
    let load = setup.load(500);
    let ipv6 = TcpFlow::start(setup.first(1), setup.first(2), GINDEMO2_IPV6.into(), Some(1_000_000)).unwrap();
    setup.by_fast_path(300, 300, || {
        load.wait_for(300).unwrap();
        ipv6.wait_for(100_000).unwrap();
    });
    let_deadline_expire(&mut setup);
    by_kernel_path(&setup, 600, || {
        load.wait_for(300).unwrap();
        ipv6.wait_for(100_000).unwrap();
    });
    ipv6.stop().unwrap();
    assert_lossless(&load.stop().unwrap());
}

#[test]
fn printed_rules_beside_docker_keep_connections_past_deadline() {
    assert_kept(&rules_of_docker("nft"));
}

#[test]
fn printed_rules_of_iptables_legacy_keep_connections_past_deadline() {
    assert_kept(&rules_of_docker("legacy"));
}

#[test]
fn connections_beside_docker_are_lost_past_deadline_without_printed_rules() {
    let mut setup = start(&rules_of_docker("nft"));
    let load = setup.load(500);
    setup.by_fast_path(300, 300, || load.wait_for(300).unwrap());
    let_deadline_expire(&mut setup);
    let vxlan = setup.vxlan(1);
    load.stream.wait_for(1_000_000).unwrap_err();
    assert_eq!(setup.vxlan(1), vxlan, "the kernel drops every packet before the VXLAN device");
    let _ = load.stop();
}

/// A connection that began on the kernel path, whose next 60 MB the fast path carries, past the deadline.
fn tracked_connection(setup: &mut Testbed) -> TcpFlow {
    let_deadline_expire(setup);
    let to = setup.first(2);
    let stream = TcpFlow::start(setup.first(1), to, to.ip().into(), Some(20_000_000)).unwrap();
    by_kernel_path(setup, 50, || stream.wait_for(1_000_000).unwrap());
    for host in [1, 2] {
        setup.daemon_mut(host).restart().unwrap();
    }
    // Far beyond the window that connection tracking expects.
    stream.wait_for(60_000_000).unwrap();
    let_deadline_expire(setup);
    stream
}

#[test]
fn stateful_firewall_drops_connections_past_deadline_without_printed_rule() {
    let mut setup = stateful();
    for host in [1, 2] {
        let findings = findings(&setup, host);
        let [finding] = findings.as_slice() else { panic!("{findings:?}") };
        let problem = finding["problem"].as_str().unwrap();
        assert!(problem.contains("connection tracking does not see the packets of the fast path"), "{problem}");
    }
    let stream = tracked_connection(&mut setup);
    stream.wait_for(1_000_000).unwrap_err();
    let _ = stream.stop();
}

#[test]
fn printed_rule_keeps_connections_of_stateful_firewall_past_deadline() {
    let mut setup = stateful();
    add_printed_rules(&setup);
    let stream = tracked_connection(&mut setup);
    by_kernel_path(&setup, 50, || stream.wait_for(10_000_000).unwrap());
    stream.stop().unwrap();
}
